// SPDX-License-Identifier: MIT
// The account of the cache against the memory that is really held: recorded requests are replayed with
// real buffers. nbytes() is compared with the bytes of the buffers that exist, exactly, and
// nbytes() + index_nbytes() with these and all else that is held.

#include <promptkv/promptkv.hpp>

#include "catch.hpp"
#include "counting_new.hpp"

#include <replay/generate.hpp>
#include <replay/input.hpp>
#include <replay/trace.hpp>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <iostream>
#include <memory>
#include <new>
#include <span>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

namespace {

using namespace promptkv_test;
using promptkv::Tier;
using Tokens = std::span<const std::int64_t>;

/// Real memory. `live` is the sum over all buffers that exist. They come from malloc, so that
/// live_bytes, which sums up what operator new gave out, is what is held beside the buffers.
class Buffer {
public:
    explicit Buffer(std::size_t nbytes) : bytes_(std::malloc(nbytes)), nbytes_(nbytes) {
        if (bytes_ == nullptr)
            throw std::bad_alloc();
        live += nbytes_;
    }
    Buffer(Buffer&& other) noexcept
        : bytes_(std::move(other.bytes_)), nbytes_(std::exchange(other.nbytes_, 0)) {}
    Buffer& operator=(Buffer&&) = delete;
    ~Buffer() { live -= nbytes_; }

    [[nodiscard]] std::size_t nbytes() const noexcept { return nbytes_; }

    static inline std::size_t live = 0;

private:
    struct Free {
        void operator()(void* bytes) const noexcept { std::free(bytes); }
    };
    std::unique_ptr<void, Free> bytes_;
    std::size_t nbytes_;
};

constexpr std::size_t per_block = 16;
constexpr std::size_t block_bytes = per_block * 1024;
constexpr std::size_t state_bytes = 40'000;

using Shared = promptkv::BlockKV<Buffer>;
using Hybrid = promptkv::BlockKV<Buffer, Buffer>; // serves its whole key only, and shares blocks

/// State of its own in buffers of `per_block` tokens, so that a cut frees what it drops.
class Unshared {
public:
    explicit Unshared(std::size_t n_tokens) {
        while (blocks_.size() * per_block < n_tokens)
            blocks_.emplace_back(block_bytes);
    }

    [[nodiscard]] std::size_t nbytes() const noexcept { return blocks_.size() * block_bytes; }
    [[nodiscard]] std::size_t block_tokens() const noexcept { return per_block; }
    [[nodiscard]] std::size_t reusable_prefix(std::size_t n) const noexcept { return n; }
    void truncate(std::size_t n) noexcept {
        while (blocks_.size() * per_block >= n + per_block)
            blocks_.pop_back();
    }

private:
    std::vector<Buffer> blocks_;
};

/// The state of `n` tokens, continued from `prefix`.
template <class KV>
KV extended(KV prefix, std::size_t n) {
    while (prefix.length() < n)
        prefix.append(Buffer(block_bytes), std::min(per_block, n - prefix.length()));
    if constexpr (std::is_same_v<KV, Hybrid>)
        prefix.set_state(Buffer(state_bytes));
    return prefix;
}

template <class KV>
std::size_t nbytes_of(std::size_t n_tokens) {
    const std::size_t n_blocks = (n_tokens + per_block - 1) / per_block;
    return n_blocks * block_bytes + (std::is_same_v<KV, Hybrid> ? state_bytes : 0);
}

template <class KV>
using Cache = promptkv::LRUPromptCache<KV, std::string, std::int64_t>;
/// It remembers evicted keys, and declines payloads.
template <class KV>
using Learning = promptkv::PromptCache<KV, std::string, std::int64_t>;

// the ways in which an engine stores a prompt /////////////////////////////////
// Each returns whether the cache counted all that was held on the way.

/// Only what is not stored yet is made.
template <class KV, class Of = Cache<KV>>
bool extend_stored(Of& cache, Tokens prompt, Tier tier) {
    auto room = cache.reserve("m", prompt, nbytes_of<KV>(prompt.size()), tier);
    if (!room)
        return true;
    KV kv = extended(room.prefix().value_or(KV(per_block)), room.tokens());
    const bool is_counted = cache.nbytes() >= Buffer::live; // `kv` is in the room that is held
    (void)room.commit(std::move(kv));
    return is_counted;
}

/// A copy of what is stored is continued: the blocks are shared.
bool extend_fetched(Cache<Shared>& cache, Tokens prompt, Tier tier) {
    auto hit = cache.fetch_nearest("m", prompt, {.min_remaining = 0, .align = per_block});
    (void)cache.insert("m", prompt,
                       extended(hit.kv ? std::move(*hit.kv) : Shared(per_block), prompt.size()),
                       tier);
    return true;
}

/// All of it is computed again. The cache keeps the blocks that it has.
template <class KV, class Of = Cache<KV>>
bool make_anew(Of& cache, Tokens prompt, Tier tier) {
    (void)cache.insert("m", prompt, extended(KV(per_block), prompt.size()), tier);
    return true;
}

bool insert_unshared(Cache<Unshared>& cache, Tokens prompt, Tier tier) {
    (void)cache.insert("m", prompt, Unshared(prompt.size()), tier);
    return true;
}

bool insert_buffer(Cache<Buffer>& cache, Tokens prompt, Tier tier) {
    (void)cache.insert("m", prompt, Buffer(prompt.size() * 256), tier);
    return true;
}

// the replay //////////////////////////////////////////////////////////////////

/// The traces that are there, else a generated one; no more requests of each than `limit`.
std::vector<replay::Trace> traces(std::size_t limit) {
    std::vector<replay::Trace> found;
    for (const char* name : {"tau_airline_l16", "mooncake_conversation", "cc_mix_l16_s1"}) {
        const std::string path =
            std::string(PROMPTKV_SHARED_DIR) + "/traces/" + name + ".ptrace.xz";
        if (std::filesystem::exists(path))
            found.push_back(replay::load_trace(path, limit));
        else
            std::cout << "account: skipped " << name << ", since " << path << " is not there\n";
    }
    if (found.empty()) {
        std::cout << "account: generated traffic instead\n";
        found.push_back(replay::generate_trace(1, limit));
    }
    return found;
}

/// By how much the counted and the held bytes differ, as a part of the held ones.
double difference(std::size_t counted, std::size_t held) {
    return std::abs(static_cast<double>(counted) - static_cast<double>(held)) /
           static_cast<double>(held);
}

struct Deviation {
    double whole = 0; // of all that is held, at most
    double index = 0; // of what is no payload
};

/// Replays the trace with `max_bytes`. `store(cache, prompt, tier)` stores a prompt.
template <class KV, class Of, class Store>
Deviation replayed(const replay::Trace& trace, std::size_t max_bytes, Store store) {
    std::vector<std::int64_t> ids;
    for (const replay::Request& request : trace.requests) // the largest first: it grows no more
        ids.reserve(std::max<std::size_t>(ids.capacity(), request.input_tokens));
    Deviation deviation;
    const std::size_t before = live_bytes;
    Of cache({.max_bytes = max_bytes});
    std::size_t done = 0;
    std::size_t wrong = 0;
    for (const replay::Request& request : trace.requests) {
        replay::expand(trace, request, ids);
        (void)cache.lease_nearest("m", ids);
        const std::size_t system =
            std::min<std::size_t>(request.system_tokens / trace.block_size, ids.size());
        bool is_right = true;
        if (system > 0)
            is_right = store(cache, Tokens(ids).first(system), Tier::system);
        is_right = store(cache, Tokens(ids), Tier::user) && is_right;
        is_right = is_right && cache.nbytes() == Buffer::live && cache.nbytes() <= max_bytes;
        wrong += is_right ? 0U : 1U;
        if (++done % 50 == 0 || done == trace.requests.size()) {
            const std::size_t beside = live_bytes - before;
            deviation.whole =
                std::max(deviation.whole,
                         difference(cache.nbytes() + cache.index_nbytes(), Buffer::live + beside));
            deviation.index = std::max(deviation.index, difference(cache.index_nbytes(), beside));
        }
    }
    CHECK(wrong == 0); // requests after which the count was not what is held
    CHECK(cache.stats().evicted + cache.stats().cut > 0);
    CHECK(cache.check_invariants());
    cache.clear();
    CHECK(cache.nbytes() == 0);
    CHECK(Buffer::live == 0);
    return deviation;
}

/// Replays each trace with room for `n_prompts` of its largest prompts, and prints the deviation.
template <class KV, class Of = Cache<KV>, class Store, class Check>
void replay_traces(const char* payload, std::size_t n_requests, Store store, Check check) {
    constexpr std::size_t n_prompts = 3;
    for (const replay::Trace& trace : traces(n_requests)) {
        INFO(trace.name << ", " << payload);
        const std::size_t largest = replay::summarize(trace).largest_prompt;
        const Deviation deviation =
            replayed<KV, Of>(trace, n_prompts * nbytes_of<KV>(largest), store);
        std::cout << "account: " << trace.name << ", " << payload << ": off by "
                  << 100 * deviation.whole << " % at most\n";
        check(deviation);
    }
}

// The blocks' reference counts and the payloads' pointers to them are the payload's, and not counted.
constexpr double most_beside_blocks = 0.02;
// With the records of remembered keys, which the allocator rounds up.
constexpr double most_beside_remembered = 0.04;

void check_whole(const Deviation& deviation) {
    CHECK(deviation.whole < most_beside_blocks);
}
void check_remembering(const Deviation& deviation) {
    CHECK(deviation.whole < most_beside_remembered);
}

TEST_CASE("The cache counts the shared blocks that it holds, when what is stored is extended") {
    replay_traces<Shared>("shared blocks, extended", 1'000, extend_stored<Shared>, check_whole);
}

TEST_CASE("The cache counts the shared blocks that it holds, when what was fetched is extended") {
    replay_traces<Shared>("shared blocks, fetched", 1'000, extend_fetched, check_whole);
}

TEST_CASE("The cache counts the shared blocks that it holds, when all state is computed again") {
    replay_traces<Shared>("shared blocks, made anew", 300, make_anew<Shared>, check_whole);
}

TEST_CASE("The cache counts shared blocks and the states at the ends of their keys") {
    replay_traces<Hybrid>("blocks with a state", 1'000, extend_stored<Hybrid>, check_whole);
    replay_traces<Hybrid>("blocks with a state, made anew", 300, make_anew<Hybrid>, check_whole);
}

TEST_CASE("A cache that learns counts what it holds, and the keys that it remembers") {
    using Dense = Learning<Shared>;
    replay_traces<Shared, Dense>("shared blocks, extended, learning", 1'000,
                                 extend_stored<Shared, Dense>, check_remembering);
    replay_traces<Shared, Dense>("shared blocks, made anew, learning", 300,
                                 make_anew<Shared, Dense>, check_remembering);
}

TEST_CASE("The cache counts payloads that share nothing") {
    replay_traces<Unshared>("unshared blocks", 1'000, insert_unshared, check_whole);
}

TEST_CASE("The cache counts its index") {
    replay_traces<Buffer>("one buffer", 2'000, insert_buffer, [](const Deviation& deviation) {
        CHECK(deviation.whole < 0.02);
        std::cout << "account: the index alone: off by " << 100 * deviation.index << " %\n";
        CHECK(deviation.index < 0.2); // small blocks, which the allocator rounds up
    });
}

} // namespace
