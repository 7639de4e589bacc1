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
#include <optional>
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
/// except the root. Each node knows the nearest value at or below it, so `longer` is found without a
/// walk. A child is found in O(1) by its token, through a hash with a per-process secret, so chosen
/// tokens cannot force collisions. No function recurses. Memory: the tokens, about 90 bytes and the
/// value for a node, 16 to 50 bytes for a child.
///
/// A Handle is like a pointer to a value. It stays valid until the value is removed, also when the
/// trie moves. Keys are shorter than 2^32 - 2 tokens.
///
/// Requires of `Value`: it is moved and destroyed without throwing.
/// Thread safety: none; a const object may be read from several threads.
/// Exceptions: strong guarantee; erasing does not throw.
/// Source: `PromptTrie` of mlx-lm, which has a dict for each token and walks the subtree for `longer`.
template <class Value, class Token = std::int32_t>
class PromptTrie {
    static_assert(std::integral<Token> && !std::is_same_v<std::remove_cv_t<Token>, bool> &&
                      sizeof(Token) <= 8,
                  "Token must be an integral type of at most 64 bits, and not bool");
    static_assert(std::is_nothrow_move_constructible_v<Value> &&
                      std::is_nothrow_destructible_v<Value>,
                  "a value must be moved and destroyed without throwing");

    struct NoHook {};
    using Tree = detail::RadixTree<std::optional<Value>, Token, NoHook>;
    using Node = typename Tree::Node;

public:
    using value_type = Value;
    using token_type = Token;
    using Key = std::span<const Token>;

    /// Points to a value, or is null.
    class Handle {
    public:
        Handle() = default;
        Handle(std::nullptr_t) noexcept {} // NOLINT(google-explicit-constructor): like a pointer

        [[nodiscard]] explicit operator bool() const noexcept { return node_ != nullptr; }
        [[nodiscard]] Value& operator*() const noexcept { return *node_->value; }
        [[nodiscard]] Value* operator->() const noexcept { return node_->value.operator->(); }
        friend bool operator==(Handle, Handle) = default;

    private:
        friend PromptTrie;
        explicit Handle(Node* node) noexcept : node_(node) {}
        Node* node_ = nullptr;
    };

    /// The values at, before and beyond a key.
    struct SearchResult {
        Handle exact;                  ///< at the key
        Handle shorter;                ///< at its longest strict prefix that has a value
        Handle longer;                 ///< at the shortest key beyond the tokens that match
        std::size_t common_prefix = 0; ///< leading tokens that match a stored key
    };

    /// A value that `pop_prefixes` removed.
    struct Popped {
        std::size_t length; ///< tokens of its key
        Value value;
    };

    PromptTrie() = default;
    /// O(1). Handles stay valid and belong to the new trie; the other one is empty.
    PromptTrie(PromptTrie&& other) noexcept { tree_.swap(other.tree_); }
    PromptTrie& operator=(PromptTrie&& other) noexcept {
        if (this != &other) {
            tree_.clear();
            tree_.swap(other.tree_);
        }
        return *this;
    }
    ~PromptTrie() = default;

    // modifiers //////////////////////////////////////////////////////////////

    /// Puts `value` at `key`, in the place of the value that may be there.
    /// Returns:    its handle, and whether the key is new. The handle of a replaced value stays valid.
    /// Throws:     std::length_error for 2^32 - 2 tokens or more; what an allocation throws.
    /// Complexity: O(n) to compare and copy. Splitting an edge copies nothing.
    std::pair<Handle, bool> insert_or_assign(Key key, Value value) {
        Node* node = tree_.node_at(key, tree_.descend(key));
        const bool is_new = !node->value;
        node->value.emplace(std::move(value));
        if (is_new)
            tree_.value_added(node);
        return {Handle(node), is_new};
    }

    /// Removes the value and destroys it. Requires: `handle` is valid. Invalidates it.
    /// Complexity: O(d) for the d nodes above whose nearest value it was; joining two edges copies the
    /// shorter one, amortised.
    void erase(Handle handle) noexcept {
        handle.node_->value.reset();
        tree_.value_removed(handle.node_);
    }

    /// Removes the values on the strict prefixes of `key`, the shortest first; never the key's own.
    /// Invalidates their handles.
    /// Throws:     what an allocation throws; nothing has changed then.
    /// Complexity: O(n), and an erase each.
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

    /// Removes everything. Invalidates all handles. O(nodes).
    void clear() noexcept { tree_.clear(); }

    // lookup /////////////////////////////////////////////////////////////////

    /// The value at `key`; null: there is none. O(n), no allocation.
    [[nodiscard]] Handle find(Key key) const noexcept { return search(key).exact; }

    /// The values at, before and beyond `key`. O(n), no allocation.
    ///
    /// | keys [1 2], [1 2 3 4]  | exact | shorter | longer    | common_prefix |
    /// |------------------------|-------|---------|-----------|---------------|
    /// | [1 2]                  | [1 2] |         | [1 2 3 4] | 2             |
    /// | [1 2 3 9]              |       | [1 2]   | [1 2 3 4] | 3             |
    /// | [1 2 8]                |       | [1 2]   | [1 2 3 4] | 2             |
    [[nodiscard]] SearchResult search(Key key) const noexcept {
        SearchResult result;
        const typename Tree::Place place = tree_.descend(key);
        Node* node = place.node;
        if (node == nullptr)
            return result;
        result.common_prefix = place.common;
        result.longer = Handle(place.inside != nullptr ? place.inside->nearest : node->beyond());
        if (place.inside == nullptr && place.common == key.size()) {
            result.exact = Handle(node->value ? node : nullptr);
            node = node->parent;
        }
        while (node != nullptr && !node->value)
            node = node->parent;
        result.shorter = Handle(node);
        return result;
    }

    /// Calls `f(handle)` for the values on the prefixes of `key`, the empty one and the key itself
    /// included, the shortest first. `f` must not change the trie's keys. O(n); throws what `f` throws.
    template <class F>
    void for_each_prefix(Key key, F f) const {
        tree_.for_each_on_path(tree_.descend(key), key, [&](Node& node) {
            if (node.value)
                f(Handle(&node));
        });
    }

    /// Calls `f(handle)` for every value, a key after its prefixes. `f` must not change the trie's keys.
    /// O(nodes); throws what `f` throws.
    template <class F>
    void for_each(F f) const {
        for (Node* node = tree_.root(); node != nullptr; node = node->next(tree_.root())) {
            if (node->value)
                f(Handle(node));
        }
    }

    /// The tokens of a value's key. O(n). Throws: what the vector's allocation throws.
    [[nodiscard]] std::vector<Token> key(Handle handle) const { return handle.node_->key(); }

    /// The number of tokens of a value's key. O(1).
    [[nodiscard]] std::size_t length(Handle handle) const noexcept { return handle.node_->depth; }

    // capacity ///////////////////////////////////////////////////////////////

    [[nodiscard]] bool empty() const noexcept { return size() == 0; }
    /// Values. O(1), as the others here.
    [[nodiscard]] std::size_t size() const noexcept { return tree_.size(); }
    /// Nodes, the root included: at most twice the values and one.
    [[nodiscard]] std::size_t node_count() const noexcept { return tree_.node_count(); }
    /// Bytes of the nodes, their edges and child indexes.
    [[nodiscard]] std::size_t nbytes() const noexcept { return tree_.nbytes(); }

    /// Walks the whole tree and compares it with what is counted and remembered. O(all tokens).
    [[nodiscard]] bool check_invariants() const noexcept { return tree_.check_invariants(); }

private:
    Tree tree_;
};

} // namespace promptkv::inline PROMPTKV_ABI

#endif
