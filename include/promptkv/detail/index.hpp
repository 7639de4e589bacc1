// SPDX-License-Identifier: MIT
// Index: where a key is. A partition per model, a trie of records in each.
#ifndef PROMPTKV_DETAIL_INDEX_HPP
#define PROMPTKV_DETAIL_INDEX_HPP

#include <promptkv/detail/exceptions.hpp>
#include <promptkv/detail/neighbours.hpp>
#include <promptkv/detail/partitions.hpp>
#include <promptkv/detail/record.hpp>
#include <promptkv/detail/remembered_keys.hpp>
#include <promptkv/version.hpp>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>
#include <type_traits>
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
    using Node = typename R::Node;
    using Tree = typename R::Tree;
    using Home = Partition<R>;
    using ModelView = typename R::ModelView;
    using Tokens = typename R::Tokens;

    Index() = default;
    Index(const Index&) = delete;
    Index& operator=(const Index&) = delete;
    ~Index() = default;

    // modifiers //////////////////////////////////////////////////////////////

    /// Puts a record at a key, not shown. A record that is there loses its place to it; one that waits to
    /// be reported keeps its tokens.
    /// Requires: `spot` is locate(model, tokens).
    R& link(Spot<R> spot, ModelView model, Tokens tokens, std::unique_ptr<R> record) {
        if (spot.home == nullptr)
            spot.home = &homes_.add(model);
        PROMPTKV_TRY {
            const Counting counting(*this, *spot.home);
            Node* node = spot.home->tree.node_at(tokens, spot.place);
            record->home = spot.home;
            record->node = node;
            settle_at(*node, *record);
        }
        PROMPTKV_CATCH_ALL {
            homes_.remove_if_empty(*spot.home);
            PROMPTKV_RETHROW;
        }
        return *record.release();
    }

    /// Remembers a key that was never stored. Null: it, or a longer one, is known. Throws what an allocation
    /// throws; nothing has changed then.
    /// Requires: `spot` is locate(model, tokens), and the model has keys.
    Node* remember(Spot<R> spot, Tokens tokens, typename R::TierEnum tier, std::uint64_t session,
                   bool serves_parts) {
        if (spot.common() == tokens.size())
            return nullptr;
        const Counting counting(*this, *spot.home);
        auto record = std::make_unique<R>();
        record->tier = tier;
        record->session = session;
        record->serves_any = serves_parts;
        Node* node = spot.home->tree.node_at(tokens, spot.place);
        node->value = record.release();
        spot.home->tree.value_added(node);
        remember_at(*node, *node->value, *spot.home);
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
        homes_.remove_if_empty(*record.home);
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

    /// Shows or hides a record: lookups of other keys find shown records as longer ones. To be called whenever
    /// `is_entry` changed. What a shown record covers need no longer be remembered.
    void show(R& record, bool shown) noexcept {
        Tree& tree = record.home->tree;
        const bool is_new = shown && !record.shown;
        record.serves_any = record.serves_any || shown;
        record.shown = shown;
        remembered_ -= tree.remembered();
        tree.refresh(record.node);
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
        homes_.remove_if_empty(home);
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

    [[nodiscard]] Home* find(ModelView model) const { return homes_.find(model); }

    [[nodiscard]] Spot<R> locate(ModelView model, Tokens tokens) const {
        Home* home = find(model);
        return home != nullptr ? locate(*home, tokens) : Spot<R>{};
    }
    [[nodiscard]] static Spot<R> locate(Home& home, Tokens tokens) noexcept {
        return Spot<R>{&home, home.tree.descend(tokens)};
    }

    template <class F>
    void for_each_home(F f) const {
        homes_.for_each(f);
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
    [[nodiscard]] std::size_t nbytes() const noexcept { return homes_.nbytes(); }

    [[nodiscard]] bool check_invariants() const {
        bool sound = true;
        std::size_t tokens = 0, remembered = 0, keys = 0;
        homes_.for_each([&](Home& home) {
            sound = sound && home.tree.check_invariants() && home.tree.size() > 0;
            tokens += home.tree.tokens();
            remembered += home.tree.remembered();
            detail::for_each_record(home.tree.root(), [&](const R& record) {
                sound = sound && record.home == &home && record.node->value == &record &&
                        record.shown == (record.is_entry && record.serves_parts()) &&
                        !(record.is_entry && record.remembered);
                keys += record.remembered ? 1 : 0;
            });
        });
        return sound && tokens == tokens_ && remembered == remembered_ &&
               remembered_keys_.check_invariants(keys);
    }

private:
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
        tree.refresh(&node);
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
        home.tree.refresh(&node);
    }

    /// Takes a remembered key off the list. Until it is destroyed it owns a part in its partition.
    void take_off(R& record, const Node& node) noexcept {
        record.home->owners.fetch_add(1, std::memory_order_relaxed);
        record.home->tree.remembered_changed(&node, false);
        remembered_keys_.take_off(record);
    }

    Partitions<R> homes_;
    std::size_t tokens_ = 0;           // of all tries
    std::size_t remembered_ = 0;       // of these: of remembered keys alone
    std::size_t remember_at_most_ = 0; // tokens
    RememberedKeys<R> remembered_keys_;
    std::uint64_t version_ = 0;
};

} // namespace promptkv::inline PROMPTKV_ABI::detail

#endif
