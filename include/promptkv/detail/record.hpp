// SPDX-License-Identifier: MIT
// Record: one known key, from first to last.
#ifndef PROMPTKV_DETAIL_RECORD_HPP
#define PROMPTKV_DETAIL_RECORD_HPP

#include <promptkv/cache_types.hpp>
#include <promptkv/detail/radix_tree.hpp>
#include <promptkv/detail/shared_payload.hpp>
#include <promptkv/version.hpp>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

namespace promptkv::inline PROMPTKV_ABI::detail {

template <class R>
struct Partition;

/// One known key: an entry, one that left and waits to be reported, or one that was evicted and is
/// remembered. The comments say who writes what; everybody may read.
template <class KVType, class ModelType, class TokenType, class TierEnumType, class PolicyType>
struct Record {
    using KV = KVType;
    using Model = ModelType;
    using Token = TokenType;
    using TierEnum = TierEnumType;
    using Policy = PolicyType;
    using Node = RadixNode<Record*, Token, typename Policy::NodeHook>;
    using Tree = RadixTree<Record*, Token, typename Policy::NodeHook>;
    using Payload = SharedPayload<KV>;
    using ModelView =
        std::conditional_t<std::is_same_v<Model, std::string>, std::string_view, const Model&>;
    using Tokens = std::span<const Token>;

    // the index
    Partition<Record>* home = nullptr; // its model
    Node* node = nullptr;              // null: the index does not have it

    // the policy; of a remembered key: the index
    typename Policy::template Hook<Record> hook{};

    // the cache
    Payload* payload = nullptr; // of an entry; afterwards what is to be reported, or null
    union {
        Record* next = nullptr;     // in a chain of the call under way
        std::uint32_t set_aside_at; // between calls: when it was set aside, as a running number
    };
    union {
        std::uint64_t stored_at = 0; // an entry's: the last request before it was stored
        std::size_t left_bytes;      // afterwards: what the payload, or the tail, refers to
        std::uint64_t evicted_at;    // of a remembered key: bytes evicted before it was
    };
    union {
        std::uint64_t session = 0;       // the first that stored it; 0: none
        std::vector<Token>* left_tokens; // of what left and has no node: its key
    };
    union {
        std::uint32_t chance = 0; // tokens that a longer match used since its own last use
        std::uint32_t left_kept;  // afterwards, of a cut: tokens that the entry kept
    };
    TierEnum tier{};
    RemovalReason reason{};
    bool shown : 1 = false;      // lookups of other keys may find it; the index writes it
    bool serves_any : 1 = false; // it was shown: it served parts of its key; the index writes it
    bool remembered : 1 = false; // it was evicted and holds a place in the index alone
    bool remember : 1 = false;   // it is to be remembered when the index lets go of it
    bool is_entry : 1 = false;
    bool aside : 1 = false;           // it was set aside
    bool used : 1 = false;            // it, or an entry that it absorbed, served a lookup
    bool superseded : 1 = false;      // by a longer entry, and not used since
    bool many_sessions : 1 = false;   // it was stored by more than one
    bool last_of_session : 1 = false; // its partition's `sessions` points here
    bool keeps_tokens : 1 = false;    // it has `left_tokens`, and no `session` any more

    Record() = default;
    Record(const Record&) = delete;
    Record& operator=(const Record&) = delete;
    ~Record() {
        if (keeps_tokens)
            delete left_tokens;
    }

    /// Keeps the key of what left, unless it is null.
    void keep(std::unique_ptr<std::vector<Token>> key) noexcept {
        keeps_tokens = key != nullptr;
        if (keeps_tokens)
            left_tokens = key.release();
    }

    [[nodiscard]] std::size_t length() const noexcept { return node->depth; }
    [[nodiscard]] bool is_aside() const noexcept { return aside; }
    /// Whether no other entry continues its state, or does so in its place: it was superseded, and cannot be
    /// cut. Dropping its tail frees something.
    [[nodiscard]] bool is_leaf() const noexcept {
        return !shown || superseded || node->beyond() == nullptr;
    }
    /// Requires: it is an entry.
    [[nodiscard]] const KV& kv() const noexcept { return payload->kv; }
    /// Whether it serves the first `n` tokens of its key.
    [[nodiscard]] bool serves(std::size_t n) const noexcept {
        return is_entry && detail::served_prefix(kv(), length(), n) == n;
    }
    /// Whether it may serve less than its whole key. An entry of one token may serve the empty key.
    [[nodiscard]] bool serves_parts() const noexcept {
        if constexpr (PrefixReusable<KV>)
            return length() <= 1 || detail::served_prefix(kv(), length(), length() - 1) > 0;
        else
            return false;
    }
};

} // namespace promptkv::inline PROMPTKV_ABI::detail

#endif
