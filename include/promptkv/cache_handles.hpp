// SPDX-License-Identifier: MIT
// Fetched, Lease, EntryView, SnapshotEntry, Reservation: what a cache hands out.
#ifndef PROMPTKV_CACHE_HANDLES_HPP
#define PROMPTKV_CACHE_HANDLES_HPP

#include <promptkv/cache_types.hpp>
#include <promptkv/config.hpp>
#include <promptkv/detail/shared_payload.hpp>
#include <promptkv/kv_traits.hpp>
#include <promptkv/version.hpp>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <utility>
#include <vector>

namespace promptkv::inline PROMPTKV_ABI {

/// The answer to a fetch or a take.
template <class KV, class Token, class TierEnum>
struct Fetched : Lookup<Token, TierEnum> {
    Fetched() = default;
    explicit Fetched(const Lookup<Token, TierEnum>& answer) noexcept
        : Lookup<Token, TierEnum>(answer) {}
    std::optional<KV> kv; ///< serves `reused()` tokens; empty on a miss
};

/// A payload that is read where it lies.
///
/// While the lease lives its entry is no victim. If the entry leaves meanwhile the payload lives
/// until the lease ends, and its bytes stay in `nbytes()`. A lease is for the time of a copy: one that
/// is held to the end of a request keeps the room that the request's own insert needs. It may outlive
/// the cache, and end on any thread. Move-only.
template <class KV, class Token, class TierEnum>
class Lease : public Lookup<Token, TierEnum> {
public:
    Lease() = default;

    /// True while it holds a payload: something is reused, and the lease was not ended or moved from.
    [[nodiscard]] explicit operator bool() const noexcept { return static_cast<bool>(payload_); }
    /// The payload, which may hold more than `reused()` tokens. The reference is valid until the lease
    /// ends. Requires: *this is true.
    [[nodiscard]] const KV& kv() const noexcept {
        PROMPTKV_ASSERT(payload_);
        return payload_->kv;
    }
    /// Ends the lease before its destructor does. Destroys the payload if its entry left and this is the
    /// last lease. Complexity: O(1), plus that destruction.
    void end() noexcept { payload_.reset(); }

private:
    template <class, class, class, class, class, class>
    friend class BasicPromptCache;
    Lease(Lookup<Token, TierEnum> answer, detail::PayloadLease<KV> payload) noexcept
        : Lookup<Token, TierEnum>(answer), payload_(std::move(payload)) {}
    detail::PayloadLease<KV> payload_;
};

/// An entry as a cache's `for_each` shows it. The references are valid during the call.
template <class KV, class Model, class Token, class TierEnum>
struct EntryView {
    const Model& model;
    std::span<const Token> tokens;
    TierEnum tier;
    std::size_t nbytes; ///< that the payload refers to
    const KV& kv;
    std::uint64_t session; ///< the first that stored it; 0: none
};

/// An entry as a cache's `snapshot` hands it out.
template <class KV, class Model, class Token, class TierEnum>
struct SnapshotEntry {
    Model model;
    std::vector<Token> tokens;
    TierEnum tier;
    Lease<KV, Token, TierEnum> lease;
    std::uint64_t session; ///< the first that stored it; 0: none
};

/// Room for a payload that is not made yet, as an asynchronous copy needs. True where room is held.
///
/// The key is not visible before `commit`. Anything may happen in between. An erase or a clear that covers
/// the key voids the reservation, which keeps its room until it is destroyed. Any thread may destroy it,
/// even after the cache; `commit` is a call on the cache, and follows its thread rules. Move-only.
template <class Cache>
class Reservation {
    using KV = typename Cache::KV;
    using Tokens = typename Cache::Tokens;

public:
    Reservation() = default;

    [[nodiscard]] explicit operator bool() const noexcept { return reserved_.claim != nullptr; }
    /// `stored` or `replaced` where room is held; else why there is none.
    [[nodiscard]] Outcome outcome() const noexcept { return reserved_.outcome; }
    /// For how many tokens of the key there is room, or how many are present.
    [[nodiscard]] std::size_t tokens() const noexcept { return reserved_.tokens; }

    /// What is stored of the key, up to a whole block or the whole key, as a payload that shares its
    /// blocks. It cannot be evicted while the reservation lives. Empty: nothing is stored, or the
    /// payload has no shared blocks.
    /// Throws:     what the clone throws.
    /// Complexity: that of the clone; for shared blocks O(blocks).
    [[nodiscard]] std::optional<KV> prefix() const {
        if constexpr (SharedPrefixPayload<KV> || ClonablePayload<KV>) {
            if (reserved_.prefix)
                return std::optional<KV>(
                    detail::share(std::as_const(reserved_.prefix->kv), reserved_.prefix_tokens));
        }
        return std::nullopt;
    }

    /// Stores the payload, as an insert does. It may hold fewer tokens than `tokens()`, and is stored
    /// under as many then. Larger than reserved, it makes more room; smaller, it gives the rest back.
    /// Requires: it holds no more than `tokens()` tokens.
    /// Returns:  `cancelled` if there is no room held, if the reservation was voided, if the cache is gone,
    ///           or if `kv` holds no token; `present` if the key was stored meanwhile. `kv` is moved from only where it
    ///           is stored. The reservation is used up.
    /// Throws:   what an insert throws; the reservation is as before.
    /// Complexity: as an insert.
    Inserted commit(KV&& kv) { return commit(std::addressof(kv), std::nullopt); }

private:
    template <class, class, class, class, class, class>
    friend class BasicPromptCache;
    Inserted commit(KV* kv, std::optional<Tokens> whole) {
        Inserted inserted;
        inserted.outcome = Outcome::cancelled;
        if (const std::shared_ptr<Cache> cache = cache_.lock()) {
            typename Cache::Call call(*cache);
            inserted = cache->inserting(call).commit(reserved_, kv, whole);
        }
        reserved_ = {};
        return inserted;
    }

    std::weak_ptr<Cache> cache_;
    typename Cache::Reserved reserved_;
};

} // namespace promptkv::inline PROMPTKV_ABI

#endif
