// SPDX-License-Identifier: MIT
// TokenTrie: a dictionary a token, and a depth-first search for the nearest longer entry.
//
// The way of the Python reference: a trie of one node a token, whole entries in one queue, a longer
// entry replaces those on its prefixes. Kinder than the reference in two ways: the search carries a
// depth instead of copying the path for each node, and the queue removes in O(1).
#ifndef PROMPTKV_BENCHMARKS_TOKEN_TRIE_HPP
#define PROMPTKV_BENCHMARKS_TOKEN_TRIE_HPP

#include "prefix_store.hpp"

#include <list>
#include <memory>
#include <optional>
#include <unordered_map>
#include <utility>
#include <vector>

namespace baselines {

class TokenTrie final : public PrefixStore {
public:
    TokenTrie() = default;
    TokenTrie(const TokenTrie&) = delete;
    TokenTrie& operator=(const TokenTrie&) = delete;

    // Entry by entry: a chain of nodes that own each other would overflow the stack.
    ~TokenTrie() override { evict(held_); }

    std::size_t match(Tokens prompt) const override { return search(prompt).reused; }

    std::size_t lookup(Tokens prompt) override {
        const Found found = search(prompt);
        if (found.entry != nullptr)
            order_.splice(order_.end(), order_, *found.entry->position);
        return found.reused;
    }

    void insert(Tokens prompt) override {
        Node* node = &root_;
        std::vector<Node*> absorbed;
        for (const Token token : prompt) {
            if (node->position.has_value())
                absorbed.push_back(node);
            std::unique_ptr<Node>& child = node->children[token];
            if (child == nullptr) {
                child = std::make_unique<Node>();
                child->parent = node;
                child->token = token;
                child->depth = node->depth + 1;
            }
            node = child.get();
        }
        if (node->position.has_value()) {
            order_.splice(order_.end(), order_, *node->position);
        } else {
            node->position = order_.insert(order_.end(), node);
            held_ += node->depth;
        }
        for (Node* shorter : absorbed)
            remove(shorter);
    }

    std::size_t evict(std::size_t n_tokens) override {
        const std::size_t before = held_;
        while (before - held_ < n_tokens && !order_.empty())
            remove(order_.front());
        return before - held_;
    }

    std::size_t tokens_held() const override { return held_; }

private:
    struct Node {
        std::unordered_map<Token, std::unique_ptr<Node>> children;
        std::optional<std::list<Node*>::iterator> position; // in the queue, if it is an entry
        Node* parent = nullptr;
        std::size_t depth = 0;
        Token token = 0;
    };

    struct Found {
        std::size_t reused = 0;
        const Node* entry = nullptr; // to refresh; null where a longer entry served
    };

    Found search(Tokens prompt) const {
        const Node* node = &root_;
        const Node* shorter = nullptr;
        for (const Token token : prompt) {
            const auto child = node->children.find(token);
            if (child == node->children.end())
                break;
            node = child->second.get();
            if (node->position.has_value())
                shorter = node;
        }
        if (node == shorter)
            return {node->depth, node};
        if (node->depth > 0 && nearest_longer(node) != nullptr)
            return {node->depth, nullptr};
        return shorter != nullptr ? Found{shorter->depth, shorter} : Found{};
    }

    static const Node* nearest_longer(const Node* from) {
        const Node* best = nullptr;
        std::vector<const Node*> stack{from};
        while (!stack.empty()) {
            const Node* node = stack.back();
            stack.pop_back();
            if (best != nullptr && node->depth >= best->depth)
                continue;
            if (node->position.has_value()) {
                best = node;
                continue;
            }
            for (const auto& child : node->children)
                stack.push_back(child.second.get());
        }
        return best;
    }

    void remove(Node* node) {
        held_ -= node->depth;
        order_.erase(*node->position);
        node->position.reset();
        while (node->parent != nullptr && node->children.empty() && !node->position.has_value()) {
            Node* parent = node->parent;
            parent->children.erase(node->token);
            node = parent;
        }
    }

    Node root_;
    std::list<Node*> order_; // least recently used first
    std::size_t held_ = 0;
};

} // namespace baselines

#endif
