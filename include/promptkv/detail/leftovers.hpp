// SPDX-License-Identifier: MIT
// Leftovers: payloads that a call is done with. They are destroyed without a lock.
#ifndef PROMPTKV_DETAIL_LEFTOVERS_HPP
#define PROMPTKV_DETAIL_LEFTOVERS_HPP

#include <promptkv/config.hpp>
#include <promptkv/detail/shared_payload.hpp>
#include <promptkv/version.hpp>

#include <array>
#include <cstddef>
#include <optional>
#include <utility>
#include <vector>

namespace promptkv::inline PROMPTKV_ABI::detail {

/// Payloads that a call made, or that were given up for it. Their destructors are the caller's code, so the cache
/// destroys them when it is whole and its mutex is unlocked. Adding one allocates nothing.
template <class KV>
class Leftovers {
public:
    KV& add(KV&& kv) noexcept {
        PROMPTKV_ASSERT(size_ < payloads_.size());
        return payloads_[size_++].emplace(std::move(kv));
    }
    void add_any(std::optional<KV>&& kv) noexcept {
        if (kv)
            add(std::move(*kv));
    }
    void add(PayloadLease<KV>&& lease) noexcept { lease_ = std::move(lease); }

    /// For leases that keep payloads there during the call.
    [[nodiscard]] std::vector<PayloadLease<KV>>& pins() noexcept { return pins_; }

private:
    // A commit: blocks for which it took the prefix's, and the prefix. Its insert: blocks for which it took an
    // entry's, a copy, the part without room, the part that the policy does not want.
    std::array<std::optional<KV>, 6> payloads_;
    std::size_t size_ = 0;
    std::vector<PayloadLease<KV>> pins_; // leases are last, and so end first
    PayloadLease<KV> lease_;
};

} // namespace promptkv::inline PROMPTKV_ABI::detail

#endif
