// SPDX-License-Identifier: MIT
// BlockHash: a hash map of chained block hashes, shared between prompts.
//
// The way of vLLM: a block of 16 tokens is known by the hash of its tokens and of the block before
// it, and never compared. Kinder than the original: a cheap 64-bit hash, no cryptographic one.
#ifndef PROMPTKV_BENCHMARKS_BLOCK_HASH_HPP
#define PROMPTKV_BENCHMARKS_BLOCK_HASH_HPP

#include "prefix_store.hpp"

#include <list>
#include <unordered_map>
#include <vector>

namespace baselines {

class BlockHash final : public PrefixStore {
public:
    static constexpr std::size_t block_tokens = 16;

    std::size_t match(Tokens prompt) const override {
        std::size_t blocks = 0;
        Hash hash = 0;
        for (; (blocks + 1) * block_tokens <= prompt.size(); ++blocks) {
            hash = chain(hash, prompt.subspan(blocks * block_tokens, block_tokens));
            if (!blocks_.contains(hash))
                break;
        }
        return blocks * block_tokens;
    }

    std::size_t lookup(Tokens prompt) override {
        path_.clear();
        Hash hash = 0;
        for (std::size_t i = 0; i + block_tokens <= prompt.size(); i += block_tokens) {
            hash = chain(hash, prompt.subspan(i, block_tokens));
            const auto block = blocks_.find(hash);
            if (block == blocks_.end())
                break;
            path_.push_back(block->second);
        }
        refresh_path();
        return path_.size() * block_tokens;
    }

    void insert(Tokens prompt) override {
        path_.clear();
        Hash hash = 0;
        for (std::size_t i = 0; i + block_tokens <= prompt.size(); i += block_tokens) {
            hash = chain(hash, prompt.subspan(i, block_tokens));
            const auto [block, is_new] = blocks_.try_emplace(hash);
            if (is_new)
                block->second = order_.insert(order_.end(), hash);
            path_.push_back(block->second);
        }
        refresh_path();
    }

    std::size_t evict(std::size_t n_tokens) override {
        std::size_t freed = 0;
        while (freed < n_tokens && !order_.empty()) {
            blocks_.erase(order_.front());
            order_.pop_front();
            freed += block_tokens;
        }
        return freed;
    }

    std::size_t tokens_held() const override { return blocks_.size() * block_tokens; }

private:
    using Hash = std::uint64_t;
    using Order = std::list<Hash>;

    static Hash chain(Hash hash, Tokens block) {
        for (std::size_t i = 0; i < block_tokens; i += 2) {
            const Hash two = static_cast<std::uint32_t>(block[i]) |
                             Hash{static_cast<std::uint32_t>(block[i + 1])} << 32U;
            hash = (hash ^ two) * 0x9E37'79B9'7F4A'7C15U;
            hash ^= hash >> 29U;
        }
        return hash;
    }

    // From the last block to the first, so that a prefix is evicted after what continues it.
    void refresh_path() {
        for (std::size_t i = path_.size(); i > 0; --i)
            order_.splice(order_.end(), order_, path_[i - 1]);
    }

    std::unordered_map<Hash, Order::iterator> blocks_;
    Order order_; // least recently used first
    std::vector<Order::iterator> path_;
};

} // namespace baselines

#endif
