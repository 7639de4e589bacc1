// SPDX-License-Identifier: MIT
// RadixHeap: a radix tree of token runs, shared between prompts; a heap of leaves, built to evict.
//
// The way of SGLang's RadixAttention at a page size of one token: a match splits the edge in which it
// ends, runs are compared token by token, and each eviction collects all leaves first.
#ifndef PROMPTKV_BENCHMARKS_RADIX_HEAP_HPP
#define PROMPTKV_BENCHMARKS_RADIX_HEAP_HPP

#include "prefix_store.hpp"

#include <algorithm>
#include <memory>
#include <unordered_map>
#include <utility>
#include <vector>

namespace baselines {

class RadixHeap final : public PrefixStore {
public:
    RadixHeap() = default;
    RadixHeap(const RadixHeap&) = delete;
    RadixHeap& operator=(const RadixHeap&) = delete;

    // Leaf by leaf: a chain of nodes that own each other would overflow the stack.
    ~RadixHeap() override { evict(held_); }

    std::size_t match(Tokens prompt) const override {
        const Node* node = &root_;
        std::size_t reused = 0;
        while (reused < prompt.size()) {
            const auto child = node->children.find(prompt[reused]);
            if (child == node->children.end())
                break;
            node = child->second.get();
            const std::size_t shared = common_prefix(node->run, prompt.subspan(reused));
            reused += shared;
            if (shared < node->run.size())
                break;
        }
        return reused;
    }

    std::size_t lookup(Tokens prompt) override { return walk(prompt).second; }

    void insert(Tokens prompt) override {
        const auto [node, reused] = walk(prompt);
        if (reused < prompt.size()) {
            auto leaf = std::make_unique<Node>();
            leaf->run.assign(prompt.begin() + static_cast<std::ptrdiff_t>(reused), prompt.end());
            leaf->parent = node;
            leaf->last_used = clock_;
            node->children.emplace(prompt[reused], std::move(leaf));
            held_ += prompt.size() - reused;
        }
    }

    std::size_t evict(std::size_t n_tokens) override {
        std::vector<Node*> leaves;
        std::vector<Node*> stack{&root_};
        while (!stack.empty()) {
            Node* node = stack.back();
            stack.pop_back();
            if (node->children.empty() && node != &root_)
                leaves.push_back(node);
            for (const auto& child : node->children)
                stack.push_back(child.second.get());
        }
        const auto later = [](const Node* a, const Node* b) { return a->last_used > b->last_used; };
        std::make_heap(leaves.begin(), leaves.end(), later);
        std::size_t freed = 0;
        while (freed < n_tokens && !leaves.empty()) {
            std::pop_heap(leaves.begin(), leaves.end(), later);
            Node* leaf = leaves.back();
            leaves.pop_back();
            Node* parent = leaf->parent;
            freed += leaf->run.size();
            parent->children.erase(leaf->run.front());
            if (parent->children.empty() && parent != &root_) {
                leaves.push_back(parent);
                std::push_heap(leaves.begin(), leaves.end(), later);
            }
        }
        held_ -= freed;
        return freed;
    }

    std::size_t tokens_held() const override { return held_; }

private:
    struct Node {
        std::vector<Token> run;
        std::unordered_map<Token, std::unique_ptr<Node>>
            children; // by the first token of their run
        Node* parent = nullptr;
        std::uint64_t last_used = 0;
    };

    // The node that ends where the match ends, split off if need be, and the tokens that match.
    std::pair<Node*, std::size_t> walk(Tokens prompt) {
        Node* node = &root_;
        std::size_t reused = 0;
        ++clock_;
        while (reused < prompt.size()) {
            const auto child = node->children.find(prompt[reused]);
            if (child == node->children.end())
                break;
            node = child->second.get();
            const std::size_t shared = common_prefix(node->run, prompt.subspan(reused));
            reused += shared;
            if (shared < node->run.size()) {
                node = split(child->second, shared);
                node->last_used = clock_;
                break;
            }
            node->last_used = clock_;
        }
        return {node, reused};
    }

    static Node* split(std::unique_ptr<Node>& slot, std::size_t at) {
        std::unique_ptr<Node> lower = std::move(slot);
        const auto middle = lower->run.begin() + static_cast<std::ptrdiff_t>(at);
        auto upper = std::make_unique<Node>();
        upper->run.assign(lower->run.begin(), middle);
        upper->parent = lower->parent;
        upper->last_used = lower->last_used;
        lower->run = std::vector<Token>(middle, lower->run.end());
        lower->parent = upper.get();
        const Token first = lower->run.front();
        upper->children.emplace(first, std::move(lower));
        slot = std::move(upper);
        return slot.get();
    }

    Node root_;
    std::uint64_t clock_ = 0;
    std::size_t held_ = 0;
};

} // namespace baselines

#endif
