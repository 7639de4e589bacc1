// SPDX-License-Identifier: MIT
// CacheOrder: one recency queue a tier, and the rule that picks the victim.
//
// Use it directly only to build another cache; LRUPromptCache is the whole thing.
#ifndef PROMPTKV_CACHE_ORDER_HPP
#define PROMPTKV_CACHE_ORDER_HPP

#include <promptkv/tier.hpp>

#include <array>
#include <cstddef>
#include <optional>
#include <type_traits>
#include <utility>

namespace promptkv::inline PROMPTKV_ABI {

/// Recency order of keys, kept apart by tier.
///
///     hot <-> ... <-> cold       a list a tier; a key enters at the hot end
///
/// The rule: from the least persistent tier up, take from tier i where it is not empty and not
/// shorter than tier i + 1, else from the last one. So a tier gives until it is shorter than the
/// next one.
///
/// Requires `Key` to be moved without throwing. A Position stays valid until its key is removed or
/// popped. Functions are O(tiers) at most, unless they say otherwise; only `push` allocates, one node.
///
/// Thread safety: none; a const object may be read from several threads.
/// Exceptions: strong guarantee; only `push` can throw.
/// Source: `CacheOrder` of mlx-lm, whose deques are searched linearly for a key.
template <class Key, class TierEnum = Tier>
class CacheOrder {
    static_assert(TierEnumeration<TierEnum>,
                  "tier_traits<TierEnum>::count must say how many tiers there are");

    struct Node {
        Node* hotter;
        Node* colder;
        Key key;
        TierEnum tier;
    };

public:
    /// Where a key stands. Comparable with nullptr, which a default-constructed one equals.
    class Position {
    public:
        Position() = default;
        Position(std::nullptr_t) noexcept {} // NOLINT(google-explicit-constructor): a pointer

        [[nodiscard]] explicit operator bool() const noexcept { return node_ != nullptr; }
        friend bool operator==(Position, Position) = default;

    private:
        friend CacheOrder;
        explicit Position(Node* node) noexcept : node_(node) {}
        Node* node_ = nullptr;
    };

    static constexpr std::size_t tier_count = tier_traits<TierEnum>::count;

    CacheOrder() = default;
    CacheOrder(CacheOrder&& other) noexcept
        : queues_(std::exchange(other.queues_, {})), size_(std::exchange(other.size_, 0)) {}
    CacheOrder& operator=(CacheOrder&& other) noexcept {
        if (this != &other) {
            clear();
            queues_ = std::exchange(other.queues_, {});
            size_ = std::exchange(other.size_, 0);
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
        PROMPTKV_ASSERT(static_cast<std::size_t>(tier) < tier_count);
        Node* node = new Node{nullptr, nullptr, std::move(key), tier};
        link_hot(node);
        ++size_;
        return Position(node);
    }

    /// Makes the key the most recently used of its tier.
    void touch(Position position) noexcept {
        unlink(position.node_);
        link_hot(position.node_);
    }

    /// The same, in another tier: the key leaves the queue it was in.
    void touch(Position position, TierEnum tier) noexcept {
        unlink(position.node_);
        position.node_->tier = tier;
        link_hot(position.node_);
    }

    /// Makes the key the next victim of its tier.
    void chill(Position position) noexcept {
        Node* node = position.node_;
        unlink(node);
        Queue& queue = queue_of(node->tier);
        node->hotter = queue.coldest;
        node->colder = nullptr;
        (queue.coldest != nullptr ? queue.coldest->colder : queue.hottest) = node;
        queue.coldest = node;
        ++queue.size;
    }

    /// Takes the key out. Invalidates `position`.
    void remove(Position position) noexcept {
        unlink(position.node_);
        delete position.node_;
        --size_;
    }

    /// Takes out the victim by the rule. Nothing: the order is empty.
    std::optional<Key> pop() noexcept {
        const Position position = victim([](const Key&) { return true; });
        if (!position)
            return std::nullopt;
        std::optional<Key> key(std::move(position.node_->key));
        remove(position);
        return key;
    }

    void clear() noexcept {
        const auto queues = std::exchange(queues_, {});
        size_ = 0;
        for (const Queue& queue : queues) {
            for (Node* node = queue.coldest; node != nullptr;)
                delete std::exchange(node, node->hotter);
        }
    }

    // lookup /////////////////////////////////////////////////////////////////

    /// The victim by the rule among the keys for which `may_take(key)` is true. The others count in
    /// the lengths; a tier with nothing to take is passed over; where the rule finds none, it is the
    /// least persistent tier that has one. Null: there is none.
    /// Complexity: O(tiers), and the keys passed over.
    template <class MayTake>
    [[nodiscard]] Position victim(MayTake may_take) const {
        Node* fallback = nullptr;
        for (std::size_t i = 0; i < tier_count; ++i) {
            const bool by_rule = queues_[i].size > 0 &&
                                 (i + 1 == tier_count || queues_[i].size >= queues_[i + 1].size);
            if (!by_rule && fallback != nullptr)
                continue;
            Node* node = queues_[i].coldest;
            while (node != nullptr && !may_take(std::as_const(node->key)))
                node = node->hotter;
            if (node == nullptr)
                continue;
            if (by_rule)
                return Position(node);
            fallback = node;
        }
        return Position(fallback);
    }

    /// The least recently used key of a tier. Null: the tier is empty.
    [[nodiscard]] Position coldest(TierEnum tier) const noexcept {
        return Position(queues_[static_cast<std::size_t>(tier)].coldest);
    }

    // observers //////////////////////////////////////////////////////////////

    [[nodiscard]] Key& key(Position position) noexcept { return position.node_->key; }
    [[nodiscard]] const Key& key(Position position) const noexcept { return position.node_->key; }
    [[nodiscard]] TierEnum tier(Position position) const noexcept { return position.node_->tier; }

    [[nodiscard]] bool empty() const noexcept { return size_ == 0; }
    [[nodiscard]] std::size_t size() const noexcept { return size_; }
    [[nodiscard]] std::size_t size(TierEnum tier) const noexcept {
        return queues_[static_cast<std::size_t>(tier)].size;
    }

    /// Bytes of the queues' nodes.
    [[nodiscard]] std::size_t nbytes() const noexcept { return size_ * sizeof(Node); }

    /// Calls `f(key, tier)` for every key, tier by tier, from the hot end to the cold one.
    template <class F>
    void for_each(F f) const {
        for (const Queue& queue : queues_) {
            for (const Node* node = queue.hottest; node != nullptr; node = node->colder)
                f(node->key, node->tier);
        }
    }

    /// Walks all queues and compares them with what is counted.
    [[nodiscard]] bool check_invariants() const noexcept {
        std::size_t total = 0;
        for (std::size_t i = 0; i < tier_count; ++i) {
            std::size_t size = 0;
            const Node* before = nullptr;
            for (const Node* node = queues_[i].hottest; node != nullptr;
                 before = node, node = node->colder) {
                if (node->hotter != before || static_cast<std::size_t>(node->tier) != i)
                    return false;
                ++size;
            }
            if (queues_[i].coldest != before || queues_[i].size != size)
                return false;
            total += size;
        }
        return total == size_;
    }

private:
    struct Queue {
        Node* hottest = nullptr;
        Node* coldest = nullptr;
        std::size_t size = 0;
    };

    [[nodiscard]] Queue& queue_of(TierEnum tier) noexcept {
        return queues_[static_cast<std::size_t>(tier)];
    }

    void link_hot(Node* node) noexcept {
        Queue& queue = queue_of(node->tier);
        node->hotter = nullptr;
        node->colder = queue.hottest;
        (queue.hottest != nullptr ? queue.hottest->hotter : queue.coldest) = node;
        queue.hottest = node;
        ++queue.size;
    }

    void unlink(Node* node) noexcept {
        Queue& queue = queue_of(node->tier);
        (node->hotter != nullptr ? node->hotter->colder : queue.hottest) = node->colder;
        (node->colder != nullptr ? node->colder->hotter : queue.coldest) = node->hotter;
        --queue.size;
    }

    std::array<Queue, tier_count> queues_{};
    std::size_t size_ = 0;
};

} // namespace promptkv::inline PROMPTKV_ABI

#endif
