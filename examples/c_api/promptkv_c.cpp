// SPDX-License-Identifier: MIT
// The functions of promptkv.h, on ConcurrentPromptCache<BlockKV<Block>>. No exception leaves a function.
#include "promptkv.h"

#include <promptkv/concurrent_prompt_cache.hpp>
#include <promptkv/promptkv.hpp>

#include <algorithm>
#include <cstring>
#include <new>
#include <optional>
#include <span>
#include <string>
#include <utility>

namespace {

/// A block of the caller's.
class Block {
public:
    Block(const promptkv_block& given, const promptkv_options& options) noexcept
        : block_(given.block), nbytes_(given.nbytes), destroy_(options.destroy),
          context_(options.context) {}
    Block(Block&& other) noexcept
        : block_(other.block_), nbytes_(other.nbytes_),
          destroy_(std::exchange(other.destroy_, nullptr)), context_(other.context_) {}
    Block& operator=(Block&&) = delete;
    ~Block() {
        if (destroy_ != nullptr)
            destroy_(context_, block_);
    }
    [[nodiscard]] std::size_t nbytes() const noexcept { return nbytes_; }
    [[nodiscard]] void* get() const noexcept { return block_; }

private:
    void* block_;
    std::size_t nbytes_;
    void (*destroy_)(void*, void*);
    void* context_;
};

using KV = promptkv::BlockKV<Block>;
using Cache = promptkv::ConcurrentPromptCache<KV>;

static_assert(PROMPTKV_NO_ROOM == static_cast<int>(promptkv::Outcome::no_room));
static_assert(PROMPTKV_LONGER == static_cast<int>(promptkv::Match::longer));
static_assert(PROMPTKV_SYSTEM == static_cast<int>(promptkv::Tier::system));

std::span<const std::int32_t> tokens_of(const promptkv_key& key) {
    return {key.tokens, key.n_tokens};
}

promptkv_lookup to_c(const Cache::Lookup& lookup) {
    return {lookup.reused(), lookup.matched(), lookup.request(), static_cast<int>(lookup.match())};
}

/// What f() returns, or `otherwise` if it throws.
template <class F, class T>
T guarded(F f, T otherwise) noexcept {
    try {
        return f();
    } catch (...) {
        return otherwise;
    }
}

} // namespace

struct promptkv_cache {
    Cache cache;
    promptkv_options options;
};
struct promptkv_lease {
    Cache::Lease lease;
};
struct promptkv_room {
    Cache::Reservation room;
    KV kv; // what is stored of the key already
    promptkv_options options;
};

promptkv_cache* promptkv_make(const promptkv_options* options) {
    if (options->block_tokens == 0 || options->destroy == nullptr)
        return nullptr;
    const auto make = [&] {
        return new promptkv_cache{
            Cache({.max_bytes = options->max_bytes,
                   .max_entries =
                       options->max_entries > 0 ? options->max_entries : promptkv::unlimited}),
            *options};
    };
    return guarded(make, static_cast<promptkv_cache*>(nullptr));
}

void promptkv_free(promptkv_cache* cache) {
    delete cache;
}

promptkv_lease* promptkv_lease_nearest(promptkv_cache* cache, const promptkv_key* prompt,
                                       promptkv_lookup* lookup) {
    *lookup = {};
    const auto lease = [&]() -> promptkv_lease* {
        auto hit = cache->cache.lease_nearest(prompt->model, tokens_of(*prompt));
        auto* result = hit ? new promptkv_lease{} : nullptr;
        *lookup = to_c(hit);
        if (hit)
            result->lease = std::move(hit);
        return result;
    };
    return guarded(lease, static_cast<promptkv_lease*>(nullptr));
}

size_t promptkv_lease_blocks(const promptkv_lease* lease, void** blocks, size_t capacity) {
    const KV& kv = lease->lease.kv();
    const std::size_t n = (lease->lease.reused() + kv.block_tokens() - 1) / kv.block_tokens();
    for (std::size_t i = 0; i < std::min(n, capacity); ++i)
        blocks[i] = kv.blocks()[i]->get();
    return n;
}

void promptkv_end(promptkv_lease* lease) {
    delete lease;
}

promptkv_lookup promptkv_probe(const promptkv_cache* cache, const promptkv_key* prompt) {
    const auto probe = [&] { return to_c(cache->cache.probe(prompt->model, tokens_of(*prompt))); };
    return guarded(probe, promptkv_lookup{});
}

size_t promptkv_explain(const promptkv_cache* cache, const promptkv_key* prompt, char* text,
                        size_t capacity) {
    const auto explain = [&] {
        const std::string why = to_string(cache->cache.explain(prompt->model, tokens_of(*prompt)));
        if (capacity > 0) {
            const std::size_t n = std::min(why.size(), capacity - 1);
            std::memcpy(text, why.data(), n);
            text[n] = '\0';
        }
        return why.size();
    };
    return guarded(explain, std::size_t{0});
}

promptkv_room* promptkv_reserve(promptkv_cache* cache, const promptkv_key* key, size_t nbytes,
                                const promptkv_insert_options* options,
                                promptkv_reserved* reserved) {
    *reserved = {PROMPTKV_FAILED, 0, 0};
    if (options->tier < PROMPTKV_ASSISTANT || options->tier > PROMPTKV_SYSTEM)
        return nullptr;
    const auto reserve = [&]() -> promptkv_room* {
        auto room = cache->cache.reserve(key->model, tokens_of(*key), nbytes,
                                         static_cast<promptkv::Tier>(options->tier),
                                         {.session = options->session,
                                          .request = options->request,
                                          .side_request = options->side_request != 0});
        const promptkv_reserved answer{static_cast<int>(room.outcome()), room.tokens(), 0};
        promptkv_room* result = nullptr;
        if (room) {
            KV kv = room.prefix().value_or(KV(cache->options.block_tokens));
            result = new promptkv_room{std::move(room), std::move(kv), cache->options};
        }
        *reserved = answer;
        reserved->prefix_tokens = result != nullptr ? result->kv.length() : 0;
        return result;
    };
    return guarded(reserve, static_cast<promptkv_room*>(nullptr));
}

int promptkv_commit(promptkv_room* room, const promptkv_block* blocks, size_t n_blocks,
                    size_t n_tokens) {
    const auto commit = [&] {
        std::size_t taken = 0;
        bool fits = true;
        try {
            KV& kv = room->kv;
            for (; taken < n_blocks; ++taken) {
                promptkv::SharedBlock<Block> block(Block(blocks[taken], room->options));
                if (n_tokens <= kv.length() || kv.length() % kv.block_tokens() != 0)
                    fits = false;
                else
                    kv.append(std::move(block),
                              std::min(kv.block_tokens(), n_tokens - kv.length()));
            }
            fits = fits && kv.length() == n_tokens && n_tokens <= room->room.tokens();
        } catch (...) { // the block that failed is destroyed
            for (++taken; taken < n_blocks; ++taken)
                const Block destroyed(blocks[taken], room->options);
            throw;
        }
        return fits ? static_cast<int>(room->room.commit(std::move(room->kv)).outcome)
                    : static_cast<int>(PROMPTKV_FAILED);
    };
    const int outcome = guarded(commit, static_cast<int>(PROMPTKV_FAILED));
    delete room;
    return outcome;
}

void promptkv_cancel(promptkv_room* room) {
    delete room;
}

size_t promptkv_erase(promptkv_cache* cache, const promptkv_key* key) {
    const auto erase = [&] {
        return key->n_tokens == 0 ? cache->cache.erase_model(key->model)
                                  : cache->cache.erase_below(key->model, tokens_of(*key));
    };
    return guarded(erase, std::size_t{0});
}

void promptkv_stats(const promptkv_cache* cache, void* context,
                    void (*f)(void* context, const char* name, uint64_t value)) {
    for_each_counter(cache->cache.stats(),
                     [&](const char* name, std::uint64_t value) { f(context, name, value); });
    f(context, "size", cache->cache.size());
    f(context, "nbytes", cache->cache.nbytes());
}
