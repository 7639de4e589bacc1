// SPDX-License-Identifier: MIT
// CacheOrder: one recency queue per tier, and the rule that picks the next victim.
//
// Use it directly only to build another cache; LRUPromptCache is complete.
#ifndef PROMPTKV_CACHE_ORDER_HPP
#define PROMPTKV_CACHE_ORDER_HPP

#include <promptkv/detail/tier_queues.hpp>
#include <promptkv/tier.hpp>
#include <promptkv/version.hpp>

#include <cstddef>
#include <memory>
#include <optional>
#include <type_traits>
#include <utility>

namespace promptkv::inline PROMPTKV_ABI {

/// Recency order of keys, kept apart by tier.
///
///     hot <-> ... <-> cold       a queue per tier; a key enters at the hot end
///
/// The rule: from the least persistent tier up, take from a tier that is not empty and not shorter (in
/// keys) than the next tier that is not empty; else from the last one. So a tier gives until it is
/// shorter than the next one.
///
/// Requires of `Key`: it is moved and destroyed without throwing. A Position stays valid until its key
/// is removed or popped. All functions are O(tiers) at most unless they say otherwise; only `push`
/// allocates, one node.
///
/// Thread safety: none; a const object may be read from several threads.
/// Exceptions: strong guarantee; only `push` can throw.
/// Source: `CacheOrder` of mlx-lm, whose deques are searched linearly for a key.
/// Differs: in mlx-lm an empty tier counts as the next one, so that a tier gives everything.
template <class Key, class TierEnum = Tier>
class CacheOrder {
    static_assert(TierEnumeration<TierEnum>,
                  "tier_traits<TierEnum>::count must say how many tiers there are");

    struct Node {
        Key key;
        TierEnum tier;
        detail::ListHook<Node> hook{};
    };

public:
    /// Where a key stands, or null.
    class Position {
    public:
        Position() = default;
        Position(std::nullptr_t) noexcept {} // NOLINT(google-explicit-constructor): like a pointer

        [[nodiscard]] explicit operator bool() const noexcept { return node_ != nullptr; }
        friend bool operator==(Position, Position) = default;

    private:
        friend CacheOrder;
        explicit Position(Node* node) noexcept : node_(node) {}
        Node* node_ = nullptr;
    };

    static constexpr std::size_t tier_count = tier_traits<TierEnum>::count;

    CacheOrder() = default;
    /// Positions stay valid and belong to the new order; the other one is empty.
    CacheOrder(CacheOrder&& other) noexcept : queues_(std::exchange(other.queues_, Queues())) {}
    CacheOrder& operator=(CacheOrder&& other) noexcept {
        if (this != &other) {
            clear();
            queues_ = std::exchange(other.queues_, Queues());
        }
        return *this;
    }
    ~CacheOrder() { clear(); }

    // modifiers //////////////////////////////////////////////////////////////

    /// Adds a key at the hot end of its tier.
    /// Requires: `tier` is one of the enum's tiers.
    /// Throws:   what the allocation throws; nothing has changed then.
    Position push(Key key, TierEnum tier) {
        static_assert(std::is_nothrow_move_constructible_v<Key>,
                      "a key must be moved without throwing");
        Node* node = new Node{std::move(key), static_cast<TierEnum>(detail::tier_index(tier)), {}};
        queues_.push_hot(*node);
        return Position(node);
    }

    /// Makes the key the most recently used of its tier.
    void touch(Position position) noexcept { touch(position, position.node_->tier); }

    /// Makes the key the most recently used of another tier. Requires: `tier` is one of the enum's tiers.
    void touch(Position position, TierEnum tier) noexcept {
        queues_.remove(*position.node_, false);
        position.node_->tier = static_cast<TierEnum>(detail::tier_index(tier));
        queues_.push_hot(*position.node_);
    }

    /// Makes the key the next victim of its tier.
    void demote(Position position) noexcept {
        queues_.remove(*position.node_, false);
        queues_.push_cold(*position.node_);
    }

    /// Removes the key. Invalidates `position`.
    void remove(Position position) noexcept {
        queues_.remove(*position.node_, false);
        delete position.node_;
    }

    /// Removes the victim by the rule and returns it. Invalidates its position. Empty: the order is empty.
    std::optional<Key> pop() noexcept {
        const Position position = victim();
        if (!position)
            return std::nullopt;
        std::optional<Key> key(std::move(position.node_->key));
        remove(position);
        return key;
    }

    /// Removes everything. Invalidates all positions. O(keys).
    void clear() noexcept {
        const Queues queues = std::exchange(queues_, Queues());
        queues.for_each([](Node& node) { delete std::addressof(node); });
    }

    // observers //////////////////////////////////////////////////////////////

    /// The next victim by the rule. Null: the order is empty.
    [[nodiscard]] Position victim() const noexcept { return Position(queues_.victim()); }

    /// The reference is valid until the key is removed or popped.
    [[nodiscard]] Key& key(Position position) noexcept { return position.node_->key; }
    [[nodiscard]] const Key& key(Position position) const noexcept { return position.node_->key; }
    [[nodiscard]] TierEnum tier(Position position) const noexcept { return position.node_->tier; }

    [[nodiscard]] bool empty() const noexcept { return size() == 0; }
    [[nodiscard]] std::size_t size() const noexcept { return queues_.size(); }
    [[nodiscard]] std::size_t size(TierEnum tier) const noexcept { return queues_.size(tier); }

    /// Bytes of the queues' nodes.
    [[nodiscard]] std::size_t nbytes() const noexcept { return size() * sizeof(Node); }

    /// Calls `f(key, tier)` for every key, tier by tier, within a tier from the coldest to the hottest.
    /// `f` must not change the order. O(keys); throws what `f` throws.
    template <class F>
    void for_each(F f) const {
        queues_.for_each([&](const Node& node) { f(node.key, node.tier); });
    }

    /// Walks all queues and compares them with the sizes that are counted. O(keys).
    [[nodiscard]] bool check_invariants() const noexcept { return queues_.check_invariants(); }

private:
    using Queues = detail::TierQueues<Node, TierEnum>;

    Queues queues_;
};

} // namespace promptkv::inline PROMPTKV_ABI

#endif
