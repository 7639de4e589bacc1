// SPDX-License-Identifier: MIT
// An engine with a paged pool of its own, beside a plain block LRU. What you learn here: a payload over
// your own reference counts, a BlockUse beside each block; `evict`, for a pool that the cache cannot see.
#include <promptkv/promptkv.hpp>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <map>
#include <random>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

namespace {

using Tokens = std::vector<std::int32_t>;
constexpr std::size_t block_tokens = 16, block_bytes = block_tokens << 17; // 128 KiB a token

/// The engine's pool. A block is unused when nobody refers to it.
struct Pool {
    struct Block {
        std::size_t references = 0; // of running requests and of the cache
        promptkv::BlockUse use;     // of the cache alone, which changes it
    };
    explicit Pool(std::size_t size) : blocks(size) {
        for (Block& block : blocks)
            unused.push_back(&block);
    }
    std::size_t free() const { return unused.size() * block_bytes; }
    std::vector<Block> blocks;
    std::vector<Block*> unused;
};

/// The KV state of a sequence: in the cache, and in a running request. Clones share the blocks.
struct PagedKV {
    explicit PagedKV(Pool& pool) : pool_(&pool) {}
    PagedKV(PagedKV&&) noexcept = default;
    ~PagedKV() { truncate(0); }

    /// The engine writes the state of tokens into blocks of the pool.
    void extend_to(std::size_t tokens) {
        for (length_ = tokens; blocks_.size() < count(tokens); pool_->unused.pop_back())
            ++blocks_.emplace_back(pool_->unused.back())->references;
    }
    static std::size_t count(std::size_t n) { return (n + ::block_tokens - 1) / ::block_tokens; }
    std::size_t nbytes() const { return blocks_.size() * block_bytes; }
    std::size_t block_tokens() const { return ::block_tokens; }
    std::size_t reusable_prefix(std::size_t n) const { return std::min(n, length_); }
    PagedKV clone_prefix(std::size_t n) const {
        PagedKV clone(*pool_);
        for (clone.length_ = n; clone.blocks_.size() < count(n);)
            ++clone.blocks_.emplace_back(blocks_[clone.blocks_.size()])->references;
        return clone;
    }
    void truncate(std::size_t n) {
        for (length_ = n; blocks_.size() > count(n); blocks_.pop_back())
            if (--blocks_.back()->references == 0)
                pool_->unused.push_back(blocks_.back());
    }
    void for_each_block(std::size_t from, auto f) const {
        for (std::size_t i = count(from); i < blocks_.size(); ++i)
            f(blocks_[i]->use, block_bytes, blocks_[i]->references > blocks_[i]->use.count());
    }

private:
    Pool* pool_;
    std::vector<Pool::Block*> blocks_;
    std::size_t length_ = 0;
};
static_assert(promptkv::BlockPayload<PagedKV> && promptkv::TruncatablePayload<PagedKV>);
struct Request {
    std::uint64_t session; // its chat
    std::size_t prompt;    // its first tokens; the others are generated
    Tokens tokens;
};

/// 24 chats at a time on eight system prompts. A prompt repeats earlier answers without their thinking.
std::vector<Request> made_up_trace() {
    std::mt19937 random(1);
    std::int32_t id = 8; // of a text: it stands there in the place of all its tokens
    std::vector<Request> chats(24), trace(600);
    for (Request& request : trace) {
        Request& chat = chats[random() % chats.size()];
        if (chat.session == 0 || random() % 8 == 0) // it ended, and another one begins
            chat = {random(), 0, Tokens(1000, static_cast<std::int32_t>(random() % 8))};
        chat.tokens.resize(chat.tokens.size() + 50 + random() % 200, ++id); // the question
        request = {chat.session, chat.tokens.size(), chat.tokens};
        request.tokens.resize(request.prompt + 50 + random() % 800, ++id); // thinking
        request.tokens.resize(request.tokens.size() + 150, ++id);          // the answer
        chat.tokens.resize(chat.tokens.size() + 150, id);                  // without the thinking
    }
    return trace;
}

/// Serves a request with promptkv. Returns how many tokens of its prompt need no prefill.
std::size_t serve(auto& cache, Pool& pool, const Request& request) {
    const auto prompt = std::span(request.tokens).first(request.prompt);
    auto hit = cache.fetch_nearest("model", prompt, {.align = block_tokens}); // copies no state
    PagedKV kv = hit ? std::move(*hit.kv) : PagedKV(pool);
    const std::size_t need = PagedKV::count(request.tokens.size()) * block_bytes - kv.nbytes();
    while (pool.free() < need && cache.evict(need - pool.free())) {
    }
    kv.extend_to(request.tokens.size());
    cache.insert("model", request.tokens, std::move(kv), promptkv::Tier::assistant,
                 {.session = request.session, .request = hit.request()});
    return hit.reused();
}

/// A plain block LRU: a block is known by all tokens up to its end; last blocks are evicted first.
struct BlockLRU {
    std::map<std::size_t, std::size_t> last_use, order; // from a hash to its last use, and back
    std::size_t clock = 0;
};
std::size_t serve(BlockLRU& lru, Pool& pool, const Request& request) {
    const auto* bytes = reinterpret_cast<const char*>(request.tokens.data());
    std::size_t reused = 0;
    for (auto n = request.tokens.size() / block_tokens * block_tokens; n > 0; n -= block_tokens) {
        const auto hash = std::hash<std::string_view>{}({bytes, n * sizeof(std::int32_t)});
        std::size_t& last = lru.last_use[hash];
        reused = last != 0 && n < request.prompt ? std::max(reused, n) : reused;
        lru.order.erase(last);
        lru.order[last = ++lru.clock] = hash;
    }
    for (; lru.order.size() > pool.blocks.size(); lru.order.erase(lru.order.begin()))
        lru.last_use.erase(lru.order.begin()->second);
    return reused;
}

template <class Cache>
double percent_reused(std::size_t blocks) {
    Pool pool(blocks);
    Cache cache; // without a limit of its own: the pool is the limit
    std::size_t asked = 0, reused = 0;
    for (const Request& request : made_up_trace()) {
        asked += request.prompt;
        reused += serve(cache, pool, request);
    }
    return 100 * static_cast<double>(reused) / static_cast<double>(asked);
}

} // namespace

int main() {
    for (const std::size_t blocks : {2000u, 3000u, 4000u})
        std::printf("%zu blocks: %.1f %% of the tokens reused; by a block LRU %.1f %%\n", blocks,
                    percent_reused<promptkv::LRUPromptCache<PagedKV>>(blocks),
                    percent_reused<BlockLRU>(blocks));
}
