// SPDX-License-Identifier: MIT
// Index: where a key is. A partition per model, a trie of records in each.
#ifndef PROMPTKV_DETAIL_INDEX_HPP
#define PROMPTKV_DETAIL_INDEX_HPP

#include <promptkv/config.hpp>
#include <promptkv/detail/exceptions.hpp>
#include <promptkv/detail/record.hpp>
#include <promptkv/version.hpp>

#include <cstddef>
#include <functional>
#include <memory>
#include <new>
#include <string>
#include <type_traits>
#include <unordered_set>
#include <vector>

namespace promptkv::inline PROMPTKV_ABI::detail {

/// The only writer of where a key is.
///
/// Each node of a trie has a record, or two children or more, except the root; each leaf has a record.
/// A record that is not shown is not found as a longer one.
/// Exceptions: what hashing, comparing or copying a model throws, and allocations of `link`. Strong.
template <class R>
class Index {
public:
    using Node = typename R::Node;
    using Tree = typename R::Tree;
    using Home = Partition<R>;
    using ModelView = typename R::ModelView;
    using Tokens = typename R::Tokens;

    /// Where the way down a key ends. Valid until the index changes.
    struct Spot {
        Home* home = nullptr; // null: the model has no key
        typename Tree::Place place{};

        [[nodiscard]] std::size_t common() const noexcept { return place.common; }
        /// The record at the key of `n` tokens that was located; null: there is none.
        [[nodiscard]] R* record(std::size_t n) const noexcept {
            return place.node != nullptr && place.inside == nullptr && place.common == n
                       ? place.node->value
                       : nullptr;
        }
    };

    Index() = default;
    Index(const Index&) = delete;
    Index& operator=(const Index&) = delete;
    ~Index() { PROMPTKV_ASSERT(homes_.empty()); } // its owner unlinks the records

    // modifiers //////////////////////////////////////////////////////////////

    /// Puts a record at a key, not shown. A record that is there loses its place to it; one that waits to
    /// be reported keeps its tokens.
    /// Requires: `spot` is locate(model, tokens).
    R& link(Spot spot, ModelView model, Tokens tokens, std::unique_ptr<R> record) {
        if (spot.home == nullptr) {
            auto made = std::make_unique<Home>(model, hash_of(model));
            homes_.insert(made.get());
            spot.home = made.release();
        }
        Node* node = nullptr;
        PROMPTKV_TRY {
            node = spot.home->tree.node_at(tokens, spot.place);
        }
        PROMPTKV_CATCH_ALL {
            remove_if_empty(*spot.home);
            PROMPTKV_RETHROW;
        }
        R* linked = record.release();
        linked->home = spot.home;
        linked->node = node;
        R* former = std::exchange(node->value, linked);
        if (former == nullptr) {
            spot.home->tree.value_added(node);
        } else {
            if (former->shown)
                spot.home->tree.visibility_changed(node);
            if (!former->is_entry)
                remember_tokens(*former, *node);
            former->node = nullptr;
        }
        return *linked;
    }

    /// Takes a record out, and its partition with the partition's last one.
    void unlink(R& record) noexcept {
        Home& home = *record.home;
        Node* node = std::exchange(record.node, nullptr);
        node->value = nullptr;
        home.tree.value_removed(node);
        remove_if_empty(home);
    }

    /// Shortens a record's key to its first `n` tokens. False: memory ran out, and nothing has changed.
    /// Requires: n < record.length(), and no entry is at that prefix.
    [[nodiscard]] bool shorten(R& record, std::size_t n) noexcept {
        Tree& tree = record.home->tree;
        Node* node = record.node;
        if (node->children.size() == 0 && n > node->parent->depth) {
            tree.shorten(node, n);
            return true;
        }
        Node* target = node;
        while (target->parent != nullptr && target->parent->depth >= n)
            target = target->parent;
        if (target->depth != n) {
            PROMPTKV_TRY {
                target = tree.split(target, n);
            }
            PROMPTKV_CATCH_ALL {
                return false;
            }
        }
        R* former = std::exchange(target->value, &record);
        record.node = target;
        if (former == nullptr) {
            tree.value_added(target);
        } else {
            PROMPTKV_ASSERT(!former->is_entry);
            remember_tokens(*former, *target);
            former->node = nullptr;
            tree.visibility_changed(target);
        }
        node->value = nullptr;
        tree.value_removed(node);
        return true;
    }

    /// Says whether lookups of other keys may find the record as a longer one.
    void show(R& record, bool shown) noexcept {
        if (record.shown != shown) {
            record.shown = shown;
            record.home->tree.visibility_changed(record.node);
        }
    }

    // lookup /////////////////////////////////////////////////////////////////

    [[nodiscard]] Home* find(ModelView model) const {
        if (homes_.empty())
            return nullptr;
        const auto found = homes_.find(Name{model, hash_of(model)});
        return found != homes_.end() ? *found : nullptr;
    }

    [[nodiscard]] Spot locate(ModelView model, Tokens tokens) const {
        Home* home = find(model);
        return home != nullptr ? locate(*home, tokens) : Spot{};
    }
    [[nodiscard]] static Spot locate(Home& home, Tokens tokens) noexcept {
        return Spot{&home, home.tree.descend(tokens)};
    }

    /// The entry on the longest strict prefix of a record's key; null: there is none. O(nodes above).
    [[nodiscard]] static R* prefix_of(const R& record) noexcept {
        return entry_at_or_above(record.node->parent);
    }
    [[nodiscard]] static R* entry_at_or_above(const Node* node) noexcept {
        while (node != nullptr && (node->value == nullptr || !node->value->is_entry))
            node = node->parent;
        return node != nullptr ? node->value : nullptr;
    }

    /// Calls `f(entry)` for the entries on the prefixes of a key that has `spot`, of at most `n` tokens,
    /// the shortest first. Compares no tokens. O(nodes above the spot).
    template <class F>
    static void for_each_on_path(const Spot& spot, Tokens tokens, std::size_t n, F f) {
        Node* node = spot.home->tree.root();
        for (;;) {
            R* record = node->value;
            Node* next =
                node != spot.place.node ? node->children.find(tokens[node->depth]) : nullptr;
            if (record != nullptr && record->is_entry)
                f(*record);
            if (next == nullptr || next->depth > n)
                return;
            node = next;
        }
    }

    /// Calls `f(entry)` for shown entries that continue the tokens at the spot, nearest first, until `f`
    /// returns false or it has gone far enough. O(1) for the first one.
    template <class F>
    static void for_each_longer(const Spot& spot, std::uint32_t& steps, F f) {
        if (spot.place.inside != nullptr) {
            if (spot.place.inside->visible() && !f(*spot.place.inside->value))
                return;
            Tree::for_each_beyond(spot.place.inside, steps,
                                  [&](Node* node) { return f(*node->value); });
        } else if (spot.place.node != nullptr) {
            Tree::for_each_beyond(spot.place.node, steps,
                                  [&](Node* node) { return f(*node->value); });
        }
    }

    /// An entry that shares spot.common() tokens with the key that was located, shown or not. Null: none
    /// was found within a few steps.
    [[nodiscard]] static R* any_sharing(const Spot& spot) noexcept {
        Node* node = spot.place.below();
        if (node == nullptr)
            return nullptr;
        if (node->nearest != nullptr)
            return node->nearest->value;
        for (int steps = 0; steps < 64; ++steps) {
            if (node->value != nullptr && node->value->is_entry)
                return node->value;
            if (node->children.size() == 0)
                break;
            node = node->children[0];
        }
        return nullptr;
    }

    /// Whether an entry other than `record` serves the first `n` tokens of the record's key, or has exactly
    /// these as its key. Asks the nearest ones.
    [[nodiscard]] static bool others_serve(const R& record, std::size_t n) noexcept {
        const Node* node = record.node;
        if (const Node* longer = node->beyond(); longer != nullptr && longer->value->serves(n))
            return true;
        for (; node->parent != nullptr && node->parent->depth >= n; node = node->parent) {
            const Node* parent = node->parent;
            const R* above = parent->value;
            if (above != nullptr && above->is_entry && (parent->depth == n || above->serves(n)))
                return true;
            const Node* sibling = parent->children.nearest_except(node->slot);
            if (sibling != nullptr && sibling->nearest->value->serves(n))
                return true;
        }
        return false;
    }

    /// Calls `f(record)` for every record at or below a spot at which a whole key of `n` tokens matches.
    /// `f` must not change the index.
    template <class F>
    static void for_each_below(const Spot& spot, std::size_t n, F f) {
        Node* top = spot.common() == n ? spot.place.below() : nullptr;
        if (top == nullptr)
            return;
        const Node* end = top;
        while (end->parent != nullptr && end->slot + 1 == end->parent->children.size())
            end = end->parent;
        end = end->parent != nullptr ? end->parent->children[end->slot + 1] : nullptr;
        for (Node* node = top; node != end; node = node->next()) {
            if (node->value != nullptr)
                f(*node->value);
        }
    }

    template <class F>
    static void for_each(Home& home, F f) {
        for (Node* node = home.tree.root(); node != nullptr; node = node->next()) {
            if (node->value != nullptr)
                f(*node->value);
        }
    }

    template <class F>
    void for_each_home(F f) const {
        for (Home* home : homes_)
            f(*home);
    }

    /// Keeps the tokens of a node for a record that waits to be reported.
    static void remember_tokens(R& record, const Node& node) noexcept {
        PROMPTKV_TRY {
            record.left_tokens = new std::vector<typename R::Token>(node.key());
        }
        PROMPTKV_CATCH_ALL {} // they are reported as empty
    }

    // observers //////////////////////////////////////////////////////////////

    [[nodiscard]] bool empty() const noexcept { return homes_.empty(); }

    /// Bytes of the partitions and tries.
    [[nodiscard]] std::size_t nbytes() const noexcept {
        std::size_t bytes = homes_.empty() ? 0 : homes_.bucket_count() * sizeof(void*);
        for (const Home* home : homes_) {
            bytes += 2 * sizeof(void*) + sizeof(Home) + home->tree.nbytes();
            bytes += home->sessions.size() * (2 * sizeof(void*) + sizeof(std::uint64_t));
            if (!home->sessions.empty())
                bytes += home->sessions.bucket_count() * sizeof(void*);
            if constexpr (std::is_same_v<typename R::Model, std::string>) {
                const std::size_t capacity = home->model.capacity();
                bytes += capacity > std::string().capacity() ? capacity + 1 : 0;
            }
        }
        return bytes;
    }

    [[nodiscard]] bool check_invariants() const {
        bool sound = true;
        for (Home* home : homes_) {
            sound = sound && home->tree.check_invariants() && home->tree.size() > 0;
            for_each(*home, [&](const R& record) {
                sound = sound && record.home == home && record.node->value == &record &&
                        record.shown == (record.is_entry && record.serves_parts());
            });
        }
        return sound;
    }

private:
    struct Name {
        ModelView model;
        std::size_t hash;
    };
    struct Hash {
        using is_transparent = void;
        std::size_t operator()(const Name& name) const noexcept { return name.hash; }
        std::size_t operator()(const Home* home) const noexcept { return home->hash; }
    };
    struct Equal {
        using is_transparent = void;
        bool operator()(const Home* a, const Home* b) const noexcept { return a == b; }
        bool operator()(const Name& name, const Home* home) const {
            return name.hash == home->hash && home->model == name.model;
        }
        bool operator()(const Home* home, const Name& name) const { return (*this)(name, home); }
    };
    using Homes = std::unordered_set<Home*, Hash, Equal>;

    /// Mixed, since hashes of numbers are often the numbers themselves.
    [[nodiscard]] static std::size_t hash_of(ModelView model) {
        const std::uint64_t hash = std::hash<std::remove_cvref_t<ModelView>>{}(model);
        return static_cast<std::size_t>((hash * 0x9e3779b97f4a7c15U) ^ (hash >> 32U));
    }

    void remove_if_empty(Home& home) noexcept {
        if (home.tree.size() > 0)
            return;
        homes_.erase(homes_.find(&home));
        home.release();
        if (homes_.size() * 8 < homes_.bucket_count()) {
            PROMPTKV_TRY {
                if (homes_.empty())
                    Homes().swap(homes_);
                else
                    homes_.rehash(2 * homes_.size());
            }
            PROMPTKV_CATCH_ALL {} // the table stays larger than it has to be
        }
    }

    Homes homes_;
};

} // namespace promptkv::inline PROMPTKV_ABI::detail

#endif
