// SPDX-License-Identifier: MIT
// The account of the cache against the allocator's: recorded requests are replayed with real buffers,
// and nbytes() + index_nbytes() is compared with the memory that the cache really holds.

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
#include <cstring>
#include <filesystem>
#include <iostream>
#include <memory>
#include <string>
#include <utility>
#include <vector>

namespace {

using namespace promptkv_test;
using promptkv::Tier;

/// KV state in real memory, page by page, so that a cut frees what it drops.
template <std::size_t bytes_per_token>
class Paged {
public:
    static constexpr std::size_t tokens_per_page = 16;

    explicit Paged(std::size_t n_tokens) {
        pages_.reserve((n_tokens + tokens_per_page - 1) / tokens_per_page);
        while (pages_.size() < pages_.capacity()) {
            pages_.push_back(std::make_unique<Page>());
            std::memset(pages_.back()->bytes, 1, sizeof(Page));
        }
    }

    [[nodiscard]] std::size_t nbytes() const noexcept {
        return pages_.size() * sizeof(Page) + pages_.capacity() * sizeof(pages_[0]);
    }
    [[nodiscard]] std::size_t reusable_prefix(std::size_t n) const noexcept { return n; }
    void truncate(std::size_t n) noexcept {
        pages_.resize((n + tokens_per_page - 1) / tokens_per_page);
    }

private:
    struct Page {
        std::byte bytes[bytes_per_token * tokens_per_page];
    };
    std::vector<std::unique_ptr<Page>> pages_;
};

/// The same in one buffer, of no use but for its whole key.
template <std::size_t bytes_per_token>
class Buffer {
public:
    explicit Buffer(std::size_t n_tokens) : bytes_(n_tokens * bytes_per_token, std::byte{1}) {}

    [[nodiscard]] std::size_t nbytes() const noexcept { return bytes_.capacity(); }

private:
    std::vector<std::byte> bytes_;
};

/// The traces that are there, else a generated one; no more requests of each than `limit`.
std::vector<replay::Trace> traces(std::size_t limit) {
    std::vector<replay::Trace> found;
    for (const char* name : {"tau_airline_l16", "mooncake_conversation", "cc_mix_l16_s1"}) {
        const std::string path =
            std::string(PROMPTKV_SHARED_DIR) + "/traces/" + name + ".ptrace.xz";
        if (std::filesystem::exists(path)) {
            found.push_back(replay::parse_trace(replay::read_input(path), name, limit));
        } else {
            std::cout << "account: skipped " << name << ", since " << path << " is not there\n";
        }
    }
    if (found.empty()) {
        std::cout << "account: generated traffic instead\n";
        found.push_back(replay::generate_trace(1, limit));
    }
    return found;
}

/// How far apart two accounts were at most, in parts of what was really held.
struct Deviation {
    double whole = 0; // of everything
    double index = 0; // of what is not payload

    void add(std::size_t payloads, std::size_t index_counted, std::size_t held) {
        const auto apart = [](std::size_t counted, std::size_t really) {
            return std::abs(static_cast<double>(counted) - static_cast<double>(really)) /
                   static_cast<double>(really);
        };
        whole = std::max(whole, apart(payloads + index_counted, held));
        index = std::max(index, apart(index_counted, held - payloads));
    }
};

/// Replays the trace with room for `max_tokens` tokens.
template <class KV>
Deviation replayed(const replay::Trace& trace, std::size_t max_tokens) {
    std::vector<std::int64_t> ids;
    for (const replay::Request& request : trace.requests) { // the largest first: it grows no more
        ids.reserve(std::max<std::size_t>(ids.capacity(), request.input_tokens));
    }
    Deviation deviation;
    const std::size_t before = live_bytes;
    promptkv::LRUPromptCache<KV, std::string, std::int64_t> cache(
        {.max_bytes = KV(max_tokens).nbytes(), .cut_granularity = 16});
    std::size_t done = 0;
    for (const replay::Request& request : trace.requests) {
        replay::expand(trace, request, ids);
        (void)cache.lease_nearest("m", ids);
        cache.insert("m", ids, KV(ids.size()), Tier::user);
        if (++done % 50 == 0 || done == trace.requests.size()) {
            deviation.add(cache.nbytes(), cache.index_nbytes(), live_bytes - before);
        }
    }
    if (cache.stats().evicted + cache.stats().cut == 0) {
        FAIL("nothing had to go: " << trace.name);
    }
    if (!cache.check_invariants()) {
        FAIL("invariants");
    }
    return deviation;
}

TEST_CASE("What the cache counts is within 2 % of what it holds, over a replay with real buffers") {
    for (const replay::Trace& trace : traces(2'000)) {
        const std::size_t max_tokens = 3 * replay::summarize(trace).largest_prompt;
        const auto check = [&](const char* payload, const Deviation& deviation,
                               double most_of_index) {
            std::cout << "account: " << trace.name << ", " << payload << ": off by "
                      << 100 * deviation.whole << " % at most, the index alone by "
                      << 100 * deviation.index << " %\n";
            INFO(trace.name << ", " << payload);
            CHECK(deviation.whole < 0.02);
            CHECK(deviation.index < most_of_index); // small blocks, which the allocator rounds up
        };
        // The roundings of the pages are in what is held beside the payloads, too.
        check("paged, 1 KiB a token", replayed<Paged<1024>>(trace, max_tokens), 0.3);
        check("in one buffer, 256 bytes a token", replayed<Buffer<256>>(trace, max_tokens), 0.2);
    }
}

} // namespace
