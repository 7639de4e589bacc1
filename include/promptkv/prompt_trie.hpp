// SPDX-License-Identifier: MIT
// PromptTrie: token sequences -> values, asked by prefix.
//
// It knows nothing of caches: use it for whatever is looked up by the longest shared prefix.
#ifndef PROMPTKV_PROMPT_TRIE_HPP
#define PROMPTKV_PROMPT_TRIE_HPP

#include <promptkv/detail/radix_tree.hpp>
#include <promptkv/version.hpp>

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <type_traits>
#include <utility>
#include <vector>

namespace promptkv::inline PROMPTKV_ABI {

/// A compressed radix tree from token sequences to values.
///
///     root --[1 2 3]--> o --[4 5]--> A        keys: [1 2 3 4 5], [1 2 3 7], [1 2 3 7 8 8]
///                       o --[7]----> B --[8 8]--> C
///
/// An edge holds its tokens in contiguous memory. A node without a value has two children or more,
/// except the root. Each node knows the nearest visible value at or below it, so `longer` is found
/// without a walk. Children are found in O(1) by token, by a hash that nobody outside can steer.
/// No function recurses. Memory: the tokens, about 100 bytes and the value a node, 16 to 50 a child.
///
/// A Handle stays valid until its value is erased or its key is cut: splitting and merging edges
/// never moves a value. Keys are shorter than 2^32 - 1 tokens.
///
/// Thread safety: none; a const object may be read from several threads.
/// Exceptions: strong guarantee; erasing does not throw (a merge of edges for which there is no
/// memory is made up by a later call).
/// Source: `PromptTrie` of mlx-lm, which has a dict a token and walks the subtree for `longer`.
template <class Value, class Token = std::int32_t>
class PromptTrie {
    static_assert(std::integral<Token>, "Token must be an integral type");
    static_assert(std::is_nothrow_move_constructible_v<Value> &&
                      std::is_nothrow_destructible_v<Value>,
                  "a value must be moved and destroyed without throwing");

    using Tree = detail::RadixTree<Value, Token>;
    using Node = typename Tree::Node;

    template <bool Const>
    class BasicHandle {
    public:
        using value_type = std::conditional_t<Const, const Value, Value>;

        BasicHandle() = default;
        BasicHandle(std::nullptr_t) noexcept {} // NOLINT(google-explicit-constructor): a pointer
        template <bool Other>
        // NOLINTNEXTLINE(google-explicit-constructor): as a pointer to non-const does
        BasicHandle(BasicHandle<Other> other) noexcept requires(Const && !Other)
            : node_(other.node_) {}

        [[nodiscard]] explicit operator bool() const noexcept { return node_ != nullptr; }
        [[nodiscard]] value_type& operator*() const noexcept { return *node_->value; }
        [[nodiscard]] value_type* operator->() const noexcept { return &*node_->value; }
        friend bool operator==(BasicHandle, BasicHandle) = default;

    private:
        friend PromptTrie;
        template <bool>
        friend class BasicHandle;
        explicit BasicHandle(Node* node) noexcept : node_(node) {}
        Node* node_ = nullptr;
    };

public:
    using value_type = Value;
    using token_type = Token;
    using Key = std::span<const Token>;
    /// Points to a value, or is null.
    using Handle = BasicHandle<false>;
    using ConstHandle = BasicHandle<true>;

    template <class H>
    struct BasicSearchResult {
        H exact;                       ///< the value at the key
        H shorter;                     ///< the longest strict prefix with a value
        H longer;                      ///< the nearest visible value beyond the tokens that match
        std::size_t common_prefix = 0; ///< tokens that match
    };
    using SearchResult = BasicSearchResult<Handle>;
    using ConstSearchResult = BasicSearchResult<ConstHandle>;

    /// Where the way down a key ends. Valid until the trie changes.
    using Place = typename Tree::Place;

    /// What `pop_prefixes` took out.
    struct Popped {
        std::size_t length; ///< tokens of its key
        Value value;
    };

    PromptTrie() = default;
    PromptTrie(PromptTrie&& other) noexcept { tree_.swap(other.tree_); }
    PromptTrie& operator=(PromptTrie&& other) noexcept {
        if (this != &other) {
            tree_.clear();
            tree_.swap(other.tree_);
        }
        return *this;
    }

    // modifiers //////////////////////////////////////////////////////////////

    /// Puts `value` at `key`, in place of the one that may be there.
    /// Returns:    its handle, and whether the key is new. The handle of a replaced value stays valid.
    /// Throws:     std::length_error for 2^32 - 1 tokens or more; what an allocation throws.
    /// Complexity: O(n) to compare and copy. Splitting an edge copies nothing.
    std::pair<Handle, bool> insert_or_assign(Key key, Value value) {
        return insert_or_assign(key, std::move(value), locate(key));
    }

    /// The same without another way down. Requires: `place` is locate(key).
    std::pair<Handle, bool> insert_or_assign(Key key, Value value, Place place) {
        Node* node = tree_.node_at(key, place);
        if (node->value) {
            node->value.emplace(std::move(value));
            return {Handle(node), false};
        }
        tree_.add_value(node, std::move(value));
        return {Handle(node), true};
    }

    /// Takes the value out and destroys it. Requires: `handle` is valid; it is not afterwards.
    /// Complexity: O(d) for the d nodes above whose nearest value it was, and the copy of a merged edge.
    void erase(Handle handle) noexcept { tree_.remove_value(handle.node_); }

    /// Hides a value from `longer`, or shows it again.
    void hide(Handle handle) noexcept { tree_.set_hidden(handle.node_, true); }
    void show(Handle handle) noexcept { tree_.set_hidden(handle.node_, false); }

    /// Shortens the key of a value to its first `length` tokens.
    /// Requires:    length < this->length(handle), and no value is at that prefix.
    /// Returns:     the new handle. Invalidates the old one.
    /// Throws:      what an allocation throws, where an edge must be split; nothing has changed then.
    /// Complexity:  O(length of the edge).
    Handle cut(Handle handle, std::size_t length) {
        Node* node = handle.node_;
        PROMPTKV_ASSERT(length < node->depth);
        if (node->children.size() == 0 && length > node->parent->depth) {
            tree_.shorten(node, length);
            return Handle(node);
        }
        Node* target = node;
        while (target->parent != nullptr && target->parent->depth >= length)
            target = target->parent;
        if (target->depth != length)
            target = tree_.split(target, length);
        PROMPTKV_ASSERT(!target->value);
        const bool hidden = node->hidden;
        tree_.add_value(target, std::move(*node->value));
        tree_.set_hidden(target, hidden);
        tree_.remove_value(node);
        return Handle(target);
    }

    /// Takes out the values on the strict prefixes of `key`, the shortest first; never the key's own.
    std::vector<Popped> pop_prefixes(Key key) {
        std::vector<Handle> found;
        for_each_prefix(key, [&](Handle handle) {
            if (length(handle) < key.size())
                found.push_back(handle);
        });
        std::vector<Popped> popped;
        popped.reserve(found.size());
        for (const Handle handle : found) {
            popped.push_back(Popped{length(handle), std::move(*handle)});
            erase(handle);
        }
        return popped;
    }

    /// Takes out everything.
    void clear() noexcept { tree_.clear(); }

    // lookup /////////////////////////////////////////////////////////////////

    /// The value at `key`; null: there is none. O(n), no allocation.
    [[nodiscard]] Handle find(Key key) noexcept { return Handle(find_node(key)); }
    [[nodiscard]] ConstHandle find(Key key) const noexcept { return ConstHandle(find_node(key)); }

    /// All that is known of `key`. O(n), no allocation.
    ///
    /// | keys [1 2], [1 2 3 4]  | exact | shorter | longer    | common_prefix |
    /// |------------------------|-------|---------|-----------|---------------|
    /// | [1 2]                  | [1 2] |         | [1 2 3 4] | 2             |
    /// | [1 2 3 9]              |       | [1 2]   | [1 2 3 4] | 3             |
    /// | [1 2 8]                |       | [1 2]   | [1 2 3 4] | 2             |
    [[nodiscard]] SearchResult search(Key key) noexcept { return search(key, locate(key)); }
    [[nodiscard]] ConstSearchResult search(Key key) const noexcept {
        return search_as<ConstHandle>(key, locate(key));
    }

    /// The same in two steps, for what comes after a search: `search` is O(nodes without a value above).
    /// Requires: `place` is locate(key).
    [[nodiscard]] Place locate(Key key) const noexcept { return tree_.descend(key); }
    [[nodiscard]] SearchResult search(Key key, Place place) noexcept {
        return search_as<Handle>(key, place);
    }

    /// Calls `f(handle)` for the values on the prefixes of `key`, the empty one and the key itself
    /// included, the shortest first. `f` must not change the trie.
    template <class F>
    void for_each_prefix(Key key, F f) {
        for_each_prefix_as<Handle>(key, f);
    }
    template <class F>
    void for_each_prefix(Key key, F f) const {
        for_each_prefix_as<ConstHandle>(key, f);
    }

    /// What a node on the path of a key has to offer.
    struct Offer {
        ConstHandle own;           ///< the value at the node; null where there is none
        ConstHandle longer;        ///< the nearest visible value beyond; null where there is none
        std::size_t common_prefix; ///< tokens that both share with the key (`own` is as long)
    };

    /// Calls `f(offer)` for the nodes on the path of a key, from the deepest point that matches up to
    /// the root, until it returns false. Requires: `place` is locate(key).
    /// Complexity: O(1) a call. No allocation.
    template <class F>
    void for_each_offer(Place place, F f) const {
        if (place.inside != nullptr &&
            !f(Offer{nullptr, ConstHandle(place.inside->nearest), place.common}))
            return;
        for (Node* node = place.node; node != nullptr; node = node->parent) {
            if (!f(Offer{handle_of<ConstHandle>(node), ConstHandle(node->beyond()), node->depth}))
                return;
        }
    }

    /// The same handle, to change the value through.
    [[nodiscard]] Handle writable(ConstHandle handle) noexcept { return Handle(handle.node_); }

    /// The value nearest to where the way down a key ends: the nearest visible one beyond, else the one
    /// there, else any beyond, which are hidden. Null: the trie is empty.
    /// Requires: `place` is locate(key). O(depth in nodes).
    [[nodiscard]] ConstHandle nearest(Place place) const noexcept {
        Node* below = place.inside != nullptr ? place.inside : place.node;
        if (Node* visible = place.inside != nullptr ? below->nearest : below->beyond())
            return ConstHandle(visible);
        while (!below->value && below->children.size() > 0)
            below = below->children[0];
        return handle_of<ConstHandle>(below);
    }

    /// The value on the longest prefix of a key, of those at full nodes, the key's own among them; null:
    /// there is none. Requires: `place` is locate(key). O(depth in nodes).
    [[nodiscard]] Handle longest_prefix(Place place) noexcept { return Handle(valued(place.node)); }

    /// The value on the longest strict prefix of a value's own key; null: there is none. O(depth in nodes).
    [[nodiscard]] Handle longest_prefix(ConstHandle handle) noexcept {
        return Handle(valued(handle.node_->parent));
    }

    /// Calls `f(handle)` for the values on the strict prefixes of a value's own key, the longest first,
    /// up to the first prefix from which another key goes on elsewhere. `f` must not change the trie.
    template <class F>
    void for_each_unbranched_prefix(ConstHandle handle, F f) noexcept {
        for (Node* node = handle.node_->parent; node != nullptr && node->children.size() == 1;
             node = node->parent) {
            if (node->value)
                f(Handle(node));
        }
    }

    /// Calls `f(own, elsewhere, length)` for the nodes from a value's own up to the root, until it
    /// returns false: the value there (null: none, and at the first node), and the nearest visible
    /// value, other than this one, whose key shares that many tokens with this one's (null: none).
    /// Complexity: O(1) a call. No allocation.
    template <class F>
    void for_each_ancestor(ConstHandle handle, F f) noexcept {
        Node* node = handle.node_;
        Node* best = node->beyond();
        const auto consider = [&](Node* other) {
            if (other != nullptr && (best == nullptr || other->depth < best->depth))
                best = other;
        };
        for (Handle own; f(own, Handle(best), node->depth) && node->parent != nullptr;) {
            const Node* sibling = node->parent->children.nearest_except(node->slot);
            node = node->parent;
            consider(sibling != nullptr ? sibling->nearest : nullptr);
            consider(node->visible() ? node : nullptr);
            own = handle_of<Handle>(node);
        }
    }

    /// The tokens of a value's key. Allocates the vector.
    [[nodiscard]] std::vector<Token> key(ConstHandle handle) const {
        std::vector<Token> tokens(handle.node_->depth);
        for (const Node* node = handle.node_; node->parent != nullptr; node = node->parent) {
            std::memcpy(tokens.data() + node->parent->depth, node->edge(),
                        node->edge_length * sizeof(Token));
        }
        return tokens;
    }

    /// The number of tokens of a value's key. O(1).
    [[nodiscard]] std::size_t length(ConstHandle handle) const noexcept {
        return handle.node_->depth;
    }

    /// Calls `f(handle)` for every value, a key after its prefixes. `f` must not change the trie.
    template <class F>
    void for_each(F f) const {
        for (Node* node = tree_.root(); node != nullptr; node = node->next()) {
            if (node->value)
                f(ConstHandle(node));
        }
    }

    // capacity ///////////////////////////////////////////////////////////////

    [[nodiscard]] bool empty() const noexcept { return size() == 0; }
    [[nodiscard]] std::size_t size() const noexcept { return tree_.size(); }
    /// Nodes, the root included: at most twice the values and one.
    [[nodiscard]] std::size_t node_count() const noexcept { return tree_.node_count(); }
    /// Bytes of the nodes, their edges and child indexes.
    [[nodiscard]] std::size_t nbytes() const noexcept { return tree_.nbytes(); }

    /// Walks the whole tree and compares it with what is counted and remembered.
    [[nodiscard]] bool check_invariants() const noexcept { return tree_.check_invariants(); }

private:
    template <class H, class F>
    void for_each_prefix_as(Key key, F& f) const {
        Node* node = tree_.root();
        for (std::size_t at = 0;;) {
            if (node->value)
                f(H(node));
            node = at < key.size() ? node->children.find(key[at]) : nullptr;
            if (node == nullptr || node->matching(key.subspan(at)) < node->edge_length)
                return;
            at += node->edge_length;
        }
    }

    template <class H>
    [[nodiscard]] static H handle_of(Node* node) noexcept {
        return H(node->value ? node : nullptr);
    }

    /// The first node with a value on the way up.
    [[nodiscard]] static Node* valued(Node* node) noexcept {
        while (node != nullptr && !node->value)
            node = node->parent;
        return node;
    }

    [[nodiscard]] Node* find_node(Key key) const noexcept {
        const Place place = locate(key);
        return place.inside == nullptr && place.common == key.size() && place.node->value
                   ? place.node
                   : nullptr;
    }

    template <class H>
    [[nodiscard]] BasicSearchResult<H> search_as(Key key, Place place) const noexcept {
        BasicSearchResult<H> result;
        result.common_prefix = place.common;
        result.longer = H(place.inside != nullptr ? place.inside->nearest : place.node->beyond());
        Node* node = place.node;
        if (place.inside == nullptr && place.common == key.size()) {
            result.exact = handle_of<H>(node);
            node = node->parent;
        }
        result.shorter = H(valued(node));
        return result;
    }

    Tree tree_;
};

} // namespace promptkv::inline PROMPTKV_ABI

#endif
