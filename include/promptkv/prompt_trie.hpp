// SPDX-License-Identifier: MIT
// PromptTrie: token sequences -> values, asked by prefix.
//
// It knows nothing of caches: use it for whatever is looked up by the longest shared prefix.
#ifndef PROMPTKV_PROMPT_TRIE_HPP
#define PROMPTKV_PROMPT_TRIE_HPP

#include <promptkv/detail/child_index.hpp>
#include <promptkv/detail/exceptions.hpp>
#include <promptkv/version.hpp>

#include <algorithm>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <memory>
#include <new>
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
    static_assert(std::is_nothrow_move_constructible_v<Value> && std::is_nothrow_destructible_v<Value>,
                  "a value must be moved and destroyed without throwing");

    struct Node;

    template <bool Const>
    class BasicHandle {
    public:
        using value_type = std::conditional_t<Const, const Value, Value>;

        BasicHandle() = default;
        BasicHandle(std::nullptr_t) noexcept {} // NOLINT(google-explicit-constructor)
        template <bool Other>
            requires(Const && !Other)
        BasicHandle(BasicHandle<Other> other) noexcept : node_(other.node_) {} // NOLINT(google-explicit-constructor)

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

    /// What `pop_prefixes` took out.
    struct Popped {
        std::size_t length; ///< tokens of its key
        Value value;
    };

    PromptTrie() = default;
    PromptTrie(PromptTrie&& other) noexcept { swap(other); }
    PromptTrie& operator=(PromptTrie&& other) noexcept {
        if (this != &other) {
            clear();
            swap(other);
        }
        return *this;
    }
    ~PromptTrie() { clear(); }

    // modifiers //////////////////////////////////////////////////////////////

    /// Puts `value` at `key`, in place of the one that may be there.
    /// Returns:    its handle, and whether the key is new. The handle of a replaced value stays valid.
    /// Throws:     std::length_error for 2^32 - 1 tokens or more; what an allocation throws.
    /// Complexity: O(n) to compare and copy; a split copies the edge that it splits.
    std::pair<Handle, bool> insert_or_assign(Key key, Value value) {
        Node* node = node_at(key);
        const bool is_new = !node->value;
        node->value.reset();
        node->value.emplace(std::move(value));
        if (is_new) {
            ++size_;
            node->hidden = false;
            refresh(node);
            if (unmerged_) merge_above(node);
        }
        return {Handle(node), is_new};
    }

    /// Takes the value out and destroys it. Requires: `handle` is valid; it is not afterwards.
    /// Complexity: O(d) for the d nodes above whose nearest value it was, and the copy of a merged edge.
    void erase(Handle handle) noexcept {
        Node* node = handle.node_;
        node->value.reset();
        node->hidden = false;
        --size_;
        refresh(node);
        prune(node);
    }

    /// Hides a value from `longer`, or shows it again.
    void hide(Handle handle) noexcept { set_hidden(handle.node_, true); }
    void show(Handle handle) noexcept { set_hidden(handle.node_, false); }

    /// Shortens the key of a value to its first `length` tokens.
    /// Requires:    length < this->length(handle), and no value is at that prefix.
    /// Returns:     the new handle. Invalidates the old one.
    /// Throws:      what an allocation throws, where an edge must be split; nothing has changed then.
    /// Complexity:  O(length of the edge).
    Handle cut(Handle handle, std::size_t length) {
        Node* node = handle.node_;
        PROMPTKV_ASSERT(length < node->depth);
        if (node->children.size() == 0 && length > node->parent->depth) {
            const bool hidden = std::exchange(node->hidden, true);
            refresh(node);
            shorten_edge(node, static_cast<std::uint32_t>(length) - node->parent->depth);
            node->hidden = hidden;
            refresh(node);
            return Handle(node);
        }
        Node* target = node;
        while (target->parent != nullptr && target->parent->depth >= length) target = target->parent;
        if (target->depth != length) target = split(target, static_cast<std::uint32_t>(length) - target->parent->depth);
        PROMPTKV_ASSERT(!target->value);
        target->value.emplace(std::move(*node->value));
        target->hidden = node->hidden;
        ++size_;
        refresh(target);
        erase(handle);
        return Handle(target);
    }

    /// Takes out the values on the strict prefixes of `key`, the shortest first; never the key's own.
    std::vector<Popped> pop_prefixes(Key key) {
        std::vector<Handle> found;
        for_each_prefix(key, [&](Handle handle) {
            if (length(handle) < key.size()) found.push_back(handle);
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
    void clear() noexcept {
        Node* node = &root_;
        for (;;) { // down to the first leaf, delete it, on with its parent
            if (const std::uint32_t n = node->children.size(); n > 0) {
                node = node->children[n - 1];
                continue;
            }
            if (node == &root_) break;
            Node* parent = node->parent;
            parent->children.remove(node->slot);
            delete node;
            node = parent;
        }
        root_.value.reset();
        root_.hidden = false;
        root_.nearest = nullptr;
        size_ = node_bytes_ = 0;
        node_count_ = 1;
        unmerged_ = false;
    }

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
    [[nodiscard]] SearchResult search(Key key) noexcept { return search_as<Handle>(key); }
    [[nodiscard]] ConstSearchResult search(Key key) const noexcept { return search_as<ConstHandle>(key); }

    /// Calls `f(handle)` for the values on the prefixes of `key`, the empty one and the key itself
    /// included, the shortest first. `f` must not change the trie.
    template <class F>
    void for_each_prefix(Key key, F f) {
        Node* node = &root_;
        for (std::size_t at = 0;;) {
            if (node->value) f(Handle(node));
            if (at == key.size()) return;
            node = node->children.find(key[at]);
            if (node == nullptr || matching(node, key.subspan(at)) < node->edge_length) return;
            at += node->edge_length;
        }
    }

    /// What a node on the path of a key has to offer.
    struct Offer {
        ConstHandle own;           ///< the value at the node; null where there is none
        ConstHandle longer;        ///< the nearest visible value beyond; null where there is none
        std::size_t common_prefix; ///< tokens that both share with the key (`own` is as long)
    };

    /// Calls `f(offer)` for the nodes on the path of `key`, from the deepest point that matches up to
    /// the root, until it returns false.
    /// Returns:    the number of tokens that match.
    /// Complexity: O(n) for the way down, O(1) a call. No allocation.
    template <class F>
    std::size_t for_each_offer(Key key, F f) const {
        const Place place = descend(key);
        if (place.inside != nullptr && !f(Offer{nullptr, ConstHandle(place.inside->nearest), place.common})) {
            return place.common;
        }
        for (Node* node = place.node; node != nullptr; node = node->parent) {
            if (!f(Offer{handle_of<ConstHandle>(node), beyond<ConstHandle>(node), node->depth})) break;
        }
        return place.common;
    }

    /// The same handle, to change the value through.
    [[nodiscard]] Handle writable(ConstHandle handle) noexcept { return Handle(handle.node_); }

    /// The value on the longest strict prefix of a value's own key; null: there is none. O(depth in nodes).
    [[nodiscard]] Handle longest_prefix(ConstHandle handle) noexcept {
        Node* node = handle.node_->parent;
        while (node != nullptr && !node->value) node = node->parent;
        return Handle(node);
    }

    /// Calls `f(handle)` for the values on the strict prefixes of a value's own key, the longest first,
    /// up to the first prefix from which another key goes on elsewhere. `f` must not change the trie.
    template <class F>
    void for_each_unbranched_prefix(ConstHandle handle, F f) noexcept {
        for (Node* node = handle.node_->parent; node != nullptr && node->children.size() == 1; node = node->parent) {
            if (node->value) f(Handle(node));
        }
    }

    /// The nearest visible value, other than this one, whose key begins with the first `length`
    /// tokens of this one's key; null: there is none. O(nodes from there).
    [[nodiscard]] Handle nearest_elsewhere(ConstHandle handle, std::size_t length) noexcept {
        const Node* node = handle.node_;
        const auto offered = [](Node* child) { return child != nullptr ? child->nearest : nullptr; };
        Node* best = offered(node->children.nearest());
        const auto consider = [&](Node* other) {
            if (other != nullptr && (best == nullptr || other->depth < best->depth)) best = other;
        };
        for (; node->parent != nullptr && node->parent->depth >= length; node = node->parent) {
            consider(visible(node->parent) ? node->parent : nullptr);
            consider(offered(node->parent->children.nearest_except(node->slot)));
        }
        return Handle(best);
    }

    /// The tokens of a value's key. Allocates the vector.
    [[nodiscard]] std::vector<Token> key(ConstHandle handle) const {
        std::vector<Token> tokens(handle.node_->depth);
        for (const Node* node = handle.node_; node->parent != nullptr; node = node->parent) {
            std::copy_n(node->edge.get(), node->edge_length, tokens.data() + node->parent->depth);
        }
        return tokens;
    }

    /// The number of tokens of a value's key. O(1).
    [[nodiscard]] std::size_t length(ConstHandle handle) const noexcept { return handle.node_->depth; }

    /// Calls `f(handle)` for every value, a key after its prefixes. `f` must not change the trie.
    template <class F>
    void for_each(F f) const {
        for (Node* node = root(); node != nullptr; node = next(node)) {
            if (node->value) f(ConstHandle(node));
        }
    }

    // capacity ///////////////////////////////////////////////////////////////

    [[nodiscard]] bool empty() const noexcept { return size_ == 0; }
    [[nodiscard]] std::size_t size() const noexcept { return size_; }
    /// Nodes, the root included: at most twice the values and one.
    [[nodiscard]] std::size_t node_count() const noexcept { return node_count_; }
    /// Bytes of the nodes, their edges and child indexes.
    [[nodiscard]] std::size_t nbytes() const noexcept {
        return (node_count_ - 1) * sizeof(Node) + node_bytes_ + root_.children.nbytes();
    }

    /// Walks the whole tree and compares it with what is counted and remembered.
    [[nodiscard]] bool check_invariants() const noexcept {
        std::size_t values = 0, nodes = 0, bytes = 0;
        for (Node* node = root(); node != nullptr; node = next(node)) {
            ++nodes;
            values += node->value ? 1 : 0;
            if (node->nearest != nearest_of(node) || !node->children.check_invariants()) return false;
            for (std::uint32_t i = 0; i < node->children.size(); ++i) {
                const Node* child = node->children[i];
                if (child->parent != node || child->depth != node->depth + child->edge_length) return false;
                if (child->edge_length == 0 || node->children.find(child->edge[0]) != child) return false;
            }
            if (node == &root_) continue;
            bytes += node->edge_capacity * sizeof(Token) + node->children.nbytes();
            if (!node->value && node->children.size() == 0) return false;
            if (!node->value && node->children.size() == 1 && !unmerged_) return false;
        }
        return values == size_ && nodes == node_count_ && bytes == node_bytes_;
    }

private:
    using Children = detail::ChildIndex<Node, Token>;
    using Edge = std::unique_ptr<Token[]>;

    struct Node {
        Node* parent = nullptr;
        Edge edge;                       // the tokens from the parent to here
        std::uint32_t edge_length = 0;
        std::uint32_t edge_capacity = 0; // more than the length only where memory was wanting
        std::uint32_t depth = 0;         // tokens from the root
        std::uint32_t slot = 0;          // where it stands in the parent's children
        Node* nearest = nullptr;         // the nearest visible value at or below
        Children children;
        std::optional<Value> value;
        bool hidden = false;
    };

    struct Place {
        Node* node;         // the last node that the key reaches in full
        Node* inside;       // the child in whose edge it ends or leaves; null: at `node` itself
        std::size_t common; // tokens that match
    };

    // const functions read only, but hand out handles: the one place where const is dropped
    [[nodiscard]] Node* root() const noexcept { return const_cast<Node*>(&root_); }

    [[nodiscard]] static bool visible(const Node* node) noexcept { return node->value && !node->hidden; }

    template <class H>
    [[nodiscard]] static H handle_of(Node* node) noexcept {
        return H(node->value ? node : nullptr);
    }

    template <class H>
    [[nodiscard]] static H beyond(const Node* node) noexcept {
        const Node* child = node->children.nearest();
        return H(child != nullptr ? child->nearest : nullptr);
    }

    [[nodiscard]] static Node* nearest_of(Node* node) noexcept {
        if (visible(node)) return node;
        Node* child = node->children.nearest();
        return child != nullptr ? child->nearest : nullptr;
    }

    [[nodiscard]] static std::uint32_t nearest_depth(const Node* node) noexcept {
        return node->nearest != nullptr ? node->nearest->depth : Children::none;
    }

    /// How many tokens of the node's edge `key` begins with.
    [[nodiscard]] static std::uint32_t matching(const Node* node, Key key) noexcept {
        constexpr std::size_t stride = 1024; // what is compared again, token by token, to find where they differ
        const std::size_t length = std::min<std::size_t>(node->edge_length, key.size());
        const Token* edge = node->edge.get();
        std::size_t at = 0;
        while (at < length) {
            const std::size_t run = std::min(stride, length - at);
            if (std::memcmp(edge + at, key.data() + at, run * sizeof(Token)) != 0) {
                while (edge[at] == key[at]) ++at;
                break;
            }
            at += run;
        }
        return static_cast<std::uint32_t>(at);
    }

    [[nodiscard]] Place descend(Key key) const noexcept {
        Node* node = root();
        for (std::size_t at = 0;;) {
            if (at == key.size()) return {node, nullptr, at};
            Node* child = node->children.find(key[at]);
            if (child == nullptr) return {node, nullptr, at};
            const std::uint32_t n = matching(child, key.subspan(at));
            at += n;
            if (n < child->edge_length) return {node, child, at};
            node = child;
        }
    }

    [[nodiscard]] Node* find_node(Key key) const noexcept {
        const Place place = descend(key);
        return place.inside == nullptr && place.common == key.size() && place.node->value ? place.node : nullptr;
    }

    template <class H>
    [[nodiscard]] BasicSearchResult<H> search_as(Key key) const noexcept {
        const Place place = descend(key);
        BasicSearchResult<H> result;
        result.common_prefix = place.common;
        result.longer = place.inside != nullptr ? H(place.inside->nearest) : beyond<H>(place.node);
        Node* node = place.node;
        if (place.inside == nullptr && place.common == key.size()) {
            result.exact = handle_of<H>(node);
            node = node->parent;
        }
        while (node != nullptr && !node->value) node = node->parent;
        result.shorter = H(node);
        return result;
    }

    [[nodiscard]] static Node* next(Node* node) noexcept { // in preorder
        if (node->children.size() > 0) return node->children[0];
        for (; node->parent != nullptr; node = node->parent) {
            if (node->slot + 1 < node->parent->children.size()) return node->parent->children[node->slot + 1];
        }
        return nullptr;
    }

    // structure //////////////////////////////////////////////////////////////

    [[nodiscard]] static std::unique_ptr<Node> make_node(Key edge) {
        auto node = std::make_unique<Node>();
        node->edge = std::make_unique_for_overwrite<Token[]>(edge.size());
        std::copy_n(edge.data(), edge.size(), node->edge.get());
        node->edge_length = node->edge_capacity = static_cast<std::uint32_t>(edge.size());
        return node;
    }

    /// Room for a child more, its bytes counted. The root's are asked for when needed.
    void reserve_child(Node* node) {
        const std::size_t before = node->children.nbytes();
        node->children.reserve(1);
        if (node != &root_) node_bytes_ += node->children.nbytes() - before;
    }

    void add_child(Node* parent, std::unique_ptr<Node> child) noexcept {
        child->parent = parent;
        child->depth = parent->depth + child->edge_length;
        node_bytes_ += child->edge_capacity * sizeof(Token) + child->children.nbytes();
        ++node_count_;
        parent->children.add(child->edge[0], child.get(), nearest_depth(child.get()));
        child.release(); // the tree owns it now
    }

    void remove_child(Node* node) noexcept {
        Node* parent = node->parent;
        node_bytes_ -= node->edge_capacity * sizeof(Token) + node->children.nbytes();
        --node_count_;
        const std::size_t before = parent->children.nbytes();
        parent->children.remove(node->slot);
        if (parent != &root_) node_bytes_ -= before - parent->children.nbytes();
        delete node;
    }

    /// The node at `key`, made where there is none; the caller gives it a value.
    [[nodiscard]] Node* node_at(Key key) {
        if (key.size() >= std::numeric_limits<std::uint32_t>::max()) detail::fail_length("promptkv: a key has 2^32 - 1 tokens or more");
        const Place place = descend(key);
        const Key rest = key.subspan(place.common);
        if (rest.empty()) {
            return place.inside == nullptr ? place.node : split(place.inside, offset_in(place));
        }
        auto leaf = make_node(rest);
        Node* added = leaf.get();
        if (place.inside != nullptr) {
            Node* upper = split(place.inside, offset_in(place), 1);
            add_child(upper, std::move(leaf));
        } else {
            reserve_child(place.node);
            add_child(place.node, std::move(leaf));
        }
        return added;
    }

    [[nodiscard]] static std::uint32_t offset_in(const Place& place) noexcept {
        return static_cast<std::uint32_t>(place.common) - place.inside->parent->depth;
    }

    /// Splits the edge of `lower` after `at` tokens: a new node takes its first part and its place.
    /// Leaves room for `more` further children. Everything that can fail comes first.
    [[nodiscard]] Node* split(Node* lower, std::uint32_t at, std::uint32_t more = 0) {
        const std::uint32_t rest = lower->edge_length - at;
        auto upper = make_node(Key(lower->edge.get(), at));
        upper->children.reserve(1 + more);
        Edge tail = std::make_unique_for_overwrite<Token[]>(rest);
        std::copy_n(lower->edge.get() + at, rest, tail.get());

        Node* node = upper.release();
        node->parent = lower->parent;
        node->depth = lower->depth - rest;
        node->nearest = lower->nearest;
        node->parent->children.replace(lower->slot, node);
        node_bytes_ += (std::size_t{at} + rest) * sizeof(Token) + node->children.nbytes() - lower->edge_capacity * sizeof(Token);
        ++node_count_;
        lower->edge = std::move(tail);
        lower->edge_length = lower->edge_capacity = rest;
        lower->parent = node;
        node->children.add(lower->edge[0], lower, nearest_depth(lower));
        return node;
    }

    void shorten_edge(Node* node, std::uint32_t length) noexcept {
        node->depth -= node->edge_length - length;
        node->edge_length = length;
        Edge edge(new (std::nothrow) Token[length]);
        if (!edge) return; // it keeps the longer buffer
        std::copy_n(node->edge.get(), length, edge.get());
        node_bytes_ -= (node->edge_capacity - length) * sizeof(Token);
        node->edge = std::move(edge);
        node->edge_capacity = length;
    }

    /// Removes a node that lost its value, or joins it with its only child; then so its parent.
    void prune(Node* node) noexcept {
        if (unmerged_) merge_above(node);
        while (node != &root_ && !node->value && node->children.size() == 0) {
            Node* parent = node->parent;
            remove_child(node);
            node = parent;
        }
        if (node != &root_ && !node->value && node->children.size() == 1) merge(node);
    }

    /// Makes up for the merges above a node for which memory was wanting.
    void merge_above(Node* node) noexcept {
        for (node = node->parent; node != nullptr && node != &root_;) {
            Node* parent = node->parent;
            if (!node->value && node->children.size() == 1) merge(node);
            node = parent;
        }
    }

    /// Joins a node without a value with its only child, which takes its place. Where there is no
    /// memory for the longer edge the node stays for now.
    void merge(Node* node) noexcept {
        Node* child = node->children[0];
        const std::uint32_t length = node->edge_length + child->edge_length;
        Edge edge(new (std::nothrow) Token[length]);
        if (!edge) {
            unmerged_ = true;
            return;
        }
        std::copy_n(node->edge.get(), node->edge_length, edge.get());
        std::copy_n(child->edge.get(), child->edge_length, edge.get() + node->edge_length);
        node_bytes_ += (std::size_t{length} - child->edge_capacity - node->edge_capacity) * sizeof(Token);
        node_bytes_ -= node->children.nbytes();
        --node_count_;
        child->edge = std::move(edge);
        child->edge_length = child->edge_capacity = length;
        child->parent = node->parent;
        node->parent->children.replace(node->slot, child);
        delete node;
    }

    void set_hidden(Node* node, bool hidden) noexcept {
        node->hidden = hidden;
        refresh(node);
    }

    /// Tells the nodes above of another nearest value. Ends where it makes no difference.
    void refresh(Node* node) noexcept {
        for (; node != nullptr; node = node->parent) {
            Node* nearest = nearest_of(node);
            if (nearest == node->nearest) return;
            node->nearest = nearest;
            if (node->parent != nullptr) node->parent->children.set_nearest(node->slot, nearest_depth(node));
        }
    }

    void swap(PromptTrie& other) noexcept {
        root_.children.swap(other.root_.children);
        std::swap(root_.nearest, other.root_.nearest);
        std::swap(root_.value, other.root_.value);
        std::swap(root_.hidden, other.root_.hidden);
        for (PromptTrie* trie : {this, &other}) {
            for (std::uint32_t i = 0; i < trie->root_.children.size(); ++i) {
                trie->root_.children[i]->parent = &trie->root_;
            }
            trie->root_.nearest = nearest_of(&trie->root_);
        }
        std::swap(size_, other.size_);
        std::swap(node_count_, other.node_count_);
        std::swap(node_bytes_, other.node_bytes_);
        std::swap(unmerged_, other.unmerged_);
    }

    Node root_;
    std::size_t size_ = 0;
    std::size_t node_count_ = 1;
    std::size_t node_bytes_ = 0; // edges and child indexes of all nodes but the root
    bool unmerged_ = false;      // there may be nodes to merge, for which memory was wanting
};

} // namespace promptkv::inline PROMPTKV_ABI

#endif
