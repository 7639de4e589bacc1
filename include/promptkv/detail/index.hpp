// SPDX-License-Identifier: MIT
// Index: where a key is. A partition per model, a trie of records in each.
#ifndef PROMPTKV_DETAIL_INDEX_HPP
#define PROMPTKV_DETAIL_INDEX_HPP

#include <promptkv/config.hpp>
#include <promptkv/detail/exceptions.hpp>
#include <promptkv/detail/record.hpp>
#include <promptkv/detail/remembered_keys.hpp>
#include <promptkv/version.hpp>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <new>
#include <string>
#include <type_traits>
#include <unordered_set>
#include <utility>
#include <vector>

namespace promptkv::inline PROMPTKV_ABI::detail {

/// The only writer of where a key is.
///
/// Each node of a trie has a record, or two children or more, except the root; each leaf has a record.
/// A record that is not shown is not found as a longer one.
///
/// A key that was evicted may be remembered: a record without a payload takes the place of the one that
/// left. Where other keys continue below, the tokens of a node without a record are remembered with them.
/// Exceptions: what hashing, comparing or copying a model throws, and allocations of `link`. Strong.
template <class R>
class Index {
public:
    /// How far a call looks: longer entries that it asks, and nodes that it goes up or down a path.
    static constexpr int max_longer = 16;
    static constexpr int max_path = 512;

    using Node = typename R::Node;
    using Tree = typename R::Tree;
    using Home = Partition<R>;
    using ModelView = typename R::ModelView;
    using Tokens = typename R::Tokens;

    /// Where the way down a key ends. Valid until the index changes: as long as version() stays the same.
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
        PROMPTKV_TRY {
            const Counting counting(*this, *spot.home);
            Node* node = spot.home->tree.node_at(tokens, spot.place);
            record->home = spot.home;
            record->node = node;
            settle_at(*node, *record);
        }
        PROMPTKV_CATCH_ALL {
            remove_if_empty(*spot.home);
            PROMPTKV_RETHROW;
        }
        return *record.release();
    }

    /// Remembers a key that was never stored. Null: it, or a longer one, is known, or memory ran out.
    /// Requires: `spot` is locate(model, tokens), and the model has keys.
    Node* remember(Spot spot, Tokens tokens, typename R::TierEnum tier, std::uint64_t session,
                   bool serves_parts) noexcept {
        if (spot.common() == tokens.size())
            return nullptr;
        const Counting counting(*this, *spot.home);
        auto* record = new (std::nothrow) R;
        if (record == nullptr)
            return nullptr;
        record->tier = tier;
        record->session = session;
        record->serves_any = serves_parts;
        Node* node = nullptr;
        PROMPTKV_TRY {
            node = spot.home->tree.node_at(tokens, spot.place);
        }
        PROMPTKV_CATCH_ALL {
            delete record;
            return nullptr;
        }
        node->value = record;
        spot.home->tree.value_added(node);
        remember_at(*node, *record, *spot.home);
        return node;
    }

    /// Takes a record out, and its partition with the partition's last one. A key that is to be
    /// remembered stays, if there is memory for it.
    void unlink(R& record) noexcept {
        {
            const Counting counting(*this, *record.home);
            Node* node = std::exchange(record.node, nullptr);
            leave(*node, record, record.remember ? new (std::nothrow) R : nullptr);
        }
        remove_if_empty(*record.home);
    }

    /// Shortens a record's key to its first `n` tokens; the rest is remembered, if keys are. False: memory
    /// ran out, and nothing has changed.
    /// Requires: n < record.length(), and no entry is at that prefix.
    [[nodiscard]] bool shorten(R& record, std::size_t n) noexcept {
        Tree& tree = record.home->tree;
        Node* node = record.node;
        const Counting counting(*this, *record.home);
        std::unique_ptr<R> rest(remember_at_most_ > 0 ? new (std::nothrow) R : nullptr);
        if (rest == nullptr && node->children.size() == 0 && n > node->parent->depth) {
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
            if constexpr (!std::is_empty_v<typename R::Policy::NodeHook>) {
                if (node->parent == target)
                    node->hook.hand_over(target->hook);
            }
        }
        record.node = target;
        settle_at(*target, record);
        leave(*node, record, rest.release());
        return true;
    }

    /// Says whether lookups of other keys may find the record as a longer one, and is told that it became an
    /// entry, or is none any more. What it covers need no longer be remembered.
    void show(R& record, bool shown) noexcept {
        Tree& tree = record.home->tree;
        const bool is_new = shown && !record.shown;
        record.serves_any = record.serves_any || shown;
        record.shown = shown;
        remembered_ -= tree.remembered();
        tree.visibility_changed(record.node);
        remembered_ += tree.remembered();
        if (!is_new || remembered_keys_.size() == 0)
            return;
        for (Node *node = record.node->parent, *above = nullptr; node != nullptr; node = above) {
            above = node->parent;
            if (node->remembered() && node->value->serves_any)
                forget(*node->value);
        }
    }

    // remembered keys ////////////////////////////////////////////////////////

    /// How many tokens may be remembered; 0: evicted keys are not.
    void remember_at_most(std::size_t tokens) noexcept { remember_at_most_ = tokens; }
    [[nodiscard]] bool remembers() const noexcept { return remember_at_most_ > 0; }
    /// Bytes that were evicted so far: the clock of the remembered keys.
    void note_evicted(std::uint64_t nbytes) noexcept { remembered_keys_.note_evicted(nbytes); }

    /// Forgets a remembered key.
    void forget(R& record) noexcept {
        Home& home = *record.home;
        {
            const Counting counting(*this, home);
            Node* node = std::exchange(record.node, nullptr);
            take_off(record, *node);
            node->value = nullptr;
            home.tree.value_removed(node);
        }
        remove_if_empty(home);
    }
    /// Forgets the keys that were evicted first, until at most `tokens` are remembered.
    void forget_down_to(std::size_t tokens) noexcept {
        while (remembered_ > tokens && remembered_keys_.size() > 0)
            forget(*remembered_keys_.oldest());
    }
    /// Forgets the keys that are too many, and hands over all that were forgotten: a chain for the caller to
    /// destroy, who owns a part in the partition of each; null: there is none.
    [[nodiscard]] R* take_forgotten() noexcept {
        forget_down_to(remember_at_most_);
        return remembered_keys_.take_forgotten();
    }

    // lookup /////////////////////////////////////////////////////////////////

    [[nodiscard]] Home* find(ModelView model) const {
        if (homes_.empty())
            return nullptr;
        if (homes_.size() == 1) { // as in most caches: comparing costs less than hashing
            Home* only = *homes_.begin();
            return only->model == model ? only : nullptr;
        }
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
    /// The same, if the record is the only visible entry that continues it; else null. A comb of keys is not
    /// walked up.
    [[nodiscard]] static R* prefix_continued_by(const R& record) noexcept {
        const Node* node = record.node;
        if (!record.shown || node->beyond() != nullptr)
            return nullptr;
        for (const Node* above = node->parent; above != nullptr; above = (node = above)->parent) {
            if (above->children.nearest_except(node->slot) != nullptr)
                return nullptr;
            if (above->value != nullptr && above->value->is_entry)
                return above->value;
        }
        return nullptr;
    }
    [[nodiscard]] static R* entry_at_or_above(const Node* node) noexcept {
        while (node != nullptr && (node->value == nullptr || !node->value->is_entry))
            node = node->parent;
        return node != nullptr ? node->value : nullptr;
    }

    /// Calls `f(node)` for the nodes on the way to `spot`, of at most `n` tokens, from the root on. Compares no
    /// tokens. Requires: there is a node. O(nodes above the spot).
    template <class F>
    static void for_each_on_path(const Spot& spot, Tokens tokens, std::size_t n, F f) {
        Node* node = spot.home->tree.root();
        do {
            f(*node);
            node = node != spot.place.node ? node->children.find(tokens[node->depth]) : nullptr;
        } while (node != nullptr && node->depth <= n);
    }

    /// Calls `f(entry)` for shown entries that continue the tokens at the spot, nearest first, until `f`
    /// returns false or it has gone far enough. O(1) for the first one.
    template <class F>
    static void for_each_longer(const Spot& spot, std::uint32_t& steps, F f) {
        const Node* inside = spot.place.inside;
        if (inside != nullptr && inside->visible() && !f(*inside->value))
            return;
        if (const Node* node = spot.place.below())
            Tree::for_each_beyond(node, steps, [&](Node* each) { return f(*each->value); });
    }

    /// An entry that shares most tokens with the key that was located, and how many. Null: there is none.
    struct Sharing {
        R* entry = nullptr;
        std::size_t tokens = 0;
    };
    [[nodiscard]] static Sharing any_sharing(const Spot& spot) noexcept {
        std::size_t tokens = spot.common();
        for (Node* node = spot.place.below(); node != nullptr && tokens > 0; node = node->parent) {
            if (R* entry = any_entry(*node))
                return {entry, tokens};
            tokens = node->parent != nullptr ? node->parent->depth : 0;
        }
        return {};
    }
    /// A remembered key that shares spot.common() tokens with the key that was located. Null: none was
    /// found within a few steps.
    [[nodiscard]] static R* any_remembered(const Spot& spot) noexcept {
        Node* node = spot.place.below();
        return node != nullptr
                   ? first_below(*node, [](const R& record) { return record.remembered; })
                   : nullptr;
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

    /// Whether an entry continues a record's key. Looks a few steps far where only remembered keys and
    /// entries that are not shown do.
    [[nodiscard]] static bool is_continued(const R& record) noexcept {
        Node& node = *record.node;
        if (node.children.size() == 0 || node.beyond() != nullptr)
            return node.children.size() > 0;
        const auto is_other = [&](const R& each) { return &each != &record && each.is_entry; };
        return record.home->tree.remembered() == 0 || first_below(node, is_other) != nullptr;
    }

    /// Calls `f(record)` for every record at or below a spot at which a whole key of `n` tokens matches.
    /// `f` must not change the index.
    template <class F>
    static void for_each_below(const Spot& spot, std::size_t n, F f) {
        if (spot.common() == n)
            for_each_from(spot.place.below(), f);
    }

    template <class F>
    static void for_each(Home& home, F f) {
        for_each_from(home.tree.root(), f);
    }

    template <class F>
    void for_each_home(F f) const {
        for (Home* home : homes_)
            f(*home);
    }

    /// The tokens of a node, for a record that waits to be reported. Null if memory ran out: they are
    /// reported as empty.
    [[nodiscard]] static auto copy_of_key(const Node& node) noexcept {
        std::unique_ptr<std::vector<typename R::Token>> tokens;
        PROMPTKV_TRY {
            tokens = std::make_unique<std::vector<typename R::Token>>(node.key());
        }
        PROMPTKV_CATCH_ALL {}
        return tokens;
    }

    // observers //////////////////////////////////////////////////////////////

    /// Another number after each change of where keys are.
    [[nodiscard]] std::uint64_t version() const noexcept { return version_; }

    /// Bytes that were evicted so far.
    [[nodiscard]] std::uint64_t evicted() const noexcept { return remembered_keys_.evicted(); }
    /// Tokens of all edges but those of remembered keys alone.
    [[nodiscard]] std::size_t resident_tokens() const noexcept { return tokens_ - remembered_; }
    [[nodiscard]] std::size_t remembered_keys() const noexcept { return remembered_keys_.size(); }

    /// Bytes of the partitions and tries.
    [[nodiscard]] std::size_t nbytes() const noexcept {
        std::size_t bytes = homes_.empty() ? 0 : homes_.bucket_count() * sizeof(void*);
        for (const Home* home : homes_) {
            bytes += 2 * sizeof(void*) + sizeof(Home) + home->tree.nbytes();
            bytes += home->sessions.size() * (2 * sizeof(void*) + sizeof(std::uint64_t));
            if (home->sessions.bucket_count() > 1) // the first bucket is part of the map
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
        std::size_t tokens = 0, remembered = 0, keys = 0;
        for (Home* home : homes_) {
            sound = sound && home->tree.check_invariants() && home->tree.size() > 0;
            tokens += home->tree.tokens();
            remembered += home->tree.remembered();
            for_each(*home, [&](const R& record) {
                sound = sound && record.home == home && record.node->value == &record &&
                        record.shown == (record.is_entry && record.serves_parts()) &&
                        !(record.is_entry && record.remembered);
                keys += record.remembered ? 1 : 0;
            });
        }
        return sound && tokens == tokens_ && remembered == remembered_ &&
               remembered_keys_.check_invariants(keys);
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

    /// Keeps the sums of all tries right over a change of one trie.
    class Counting {
    public:
        Counting(Index& index, Home& home) noexcept : index_(index), tree_(home.tree) {
            index_.tokens_ -= tree_.tokens();
            index_.remembered_ -= tree_.remembered();
            ++index_.version_;
        }
        Counting(const Counting&) = delete;
        Counting& operator=(const Counting&) = delete;
        ~Counting() {
            index_.tokens_ += tree_.tokens();
            index_.remembered_ += tree_.remembered();
        }

    private:
        Index& index_;
        Tree& tree_;
    };

    template <class Is>
    [[nodiscard]] static R* first_below(Node& top, Is is) noexcept {
        constexpr int max_steps = 64;
        Node* node = &top;
        for (int i = 0; i < max_steps && node != nullptr; ++i, node = node->next(&top)) {
            if (node->value != nullptr && is(*node->value))
                return node->value;
        }
        return nullptr;
    }

    /// An entry at or below a node. O(nodes on the way).
    [[nodiscard]] static R* any_entry(Node& top) noexcept {
        for (Node* node = &top;; node = node->children[0]) {
            if (node->nearest != nullptr)
                return node->nearest->value;
            if (node->value != nullptr && node->value->is_entry)
                return node->value;
            if (node->children.nearest_depth() == Node::Children::none)
                return nullptr;
        }
    }

    template <class F>
    static void for_each_from(Node* top, F f) {
        for (Node* node = top; node != nullptr; node = node->next(top)) {
            if (node->value != nullptr)
                f(*node->value);
        }
    }

    /// Gives a node its record. What was there waits to be reported, or is forgotten, or loses its place.
    void settle_at(Node& node, R& record) noexcept {
        Tree& tree = record.home->tree;
        R* former = node.value;
        if (former == nullptr) {
            node.value = &record;
            tree.value_added(&node);
            return;
        }
        if (former->remembered) {
            take_off(*former, node);
        } else if (!former->is_entry) {
            former->keep(copy_of_key(node));
        }
        former->node = nullptr;
        node.value = &record;
        tree.visibility_changed(&node);
    }

    /// A record lost its node. `rest`, if there is one, remembers the key, unless a longer key does.
    void leave(Node& node, const R& left, R* rest) noexcept {
        Home& home = *left.home;
        R* longer = nullptr;
        if (rest != nullptr) {
            if (left.serves_any && node.children.size() == 1)
                longer = node.children[0]->value;
            const bool is_covered = left.serves_any && node.beyond() != nullptr;
            if (node.parent == nullptr || is_covered || longer != nullptr)
                delete std::exchange(rest, nullptr);
        }
        node.value = rest;
        if (rest == nullptr) {
            home.tree.value_removed(&node);
            if (longer != nullptr && longer->remembered)
                remembered_keys_.renew(*longer);
            return;
        }
        rest->tier = left.tier;
        rest->session = left.many_sessions ? 0 : left.session;
        rest->serves_any = left.serves_any;
        remember_at(node, *rest, home);
    }

    /// A node's record is of a remembered key from now on.
    void remember_at(Node& node, R& record, Home& home) noexcept {
        record.home = &home;
        record.node = &node;
        remembered_keys_.add(record);
        home.tree.remembered_changed(&node, true);
        home.tree.visibility_changed(&node);
    }

    /// Takes a remembered key off the list. Until it is destroyed it owns a part in its partition.
    void take_off(R& record, const Node& node) noexcept {
        record.home->owners.fetch_add(1, std::memory_order_relaxed);
        record.home->tree.remembered_changed(&node, false);
        remembered_keys_.take_off(record);
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
    std::size_t tokens_ = 0;           // of all tries
    std::size_t remembered_ = 0;       // of these: of remembered keys alone
    std::size_t remember_at_most_ = 0; // tokens
    RememberedKeys<R> remembered_keys_;
    std::uint64_t version_ = 0;
};

} // namespace promptkv::inline PROMPTKV_ABI::detail

#endif
