// SPDX-License-Identifier: MIT
// One eviction against the destruction of its payload and the `memcpy` of a merged edge.
#include "interleave.hpp"
#include "prompts.hpp"

#include <string>
#include <vector>

namespace bench {
namespace {

constexpr std::size_t batch = 16;

/// A cache whose entries are evicted in the order in which they were inserted, and put back.
template <class KV>
class Ring {
public:
    explicit Ring(std::vector<Prompt> prompts) : prompts_(std::move(prompts)) {
        for (const Prompt& prompt : prompts_) {
            store(cache_, prompt);
        }
        require(cache_.size() == prompts_.size(), "entries stored");
        nbytes_ = cache_.nbytes();
    }

    void evict_one() { cache_.trim_to({.max_entries = cache_.size() - 1}); }
    void evict_bytes(std::size_t n) { cache_.trim_to({.max_bytes = cache_.nbytes() - n}); }

    void put_back() {
        while (cache_.nbytes() < nbytes_) {
            store(cache_, prompts_[next_]);
            next_ = (next_ + 1) % prompts_.size();
        }
        require(cache_.nbytes() == nbytes_ && cache_.size() == prompts_.size(), "put back");
    }

    Cache<KV>& cache() { return cache_; }
    const Prompt& oldest() const { return prompts_[next_]; }

private:
    std::vector<Prompt> prompts_;
    Cache<KV> cache_;
    std::size_t nbytes_ = 0;
    std::size_t next_ = 0; // the oldest
};

/// Payloads like those of the victims, to be destroyed.
template <class KV>
class Payloads {
public:
    explicit Payloads(std::size_t n) : tokens_(n) { make(); }

    void destroy_one() { payloads_.pop_back(); }

    void make() {
        while (payloads_.size() < batch) {
            payloads_.emplace_back(tokens_);
        }
    }

private:
    std::size_t tokens_;
    std::vector<KV> payloads_;
};

/// Entries that share nothing, dropped whole.
void drop(benchmark::State& state, std::size_t n, std::size_t entries, bool is_target) {
    Ring<Whole> ring(prompts_of(entries, n));
    const Prompt victim = ring.oldest();
    ring.evict_one();
    require(ring.cache().probe(model, victim, {.min_remaining = 0}).reused == 0, "oldest evicted");
    ring.put_back();
    Payloads<Whole> payloads(n);
    const Paired times = interleave(
        state, batch, [&](std::size_t) { ring.evict_one(); }, [&] { ring.put_back(); },
        [&](std::size_t) { payloads.destroy_one(); }, [&] { payloads.make(); });
    Allowance allowance{.factor = 1, .extra_ns = 300};
    if (is_target) {
        allowance.target = "eviction of an entry of " + std::to_string(n) + " tokens [ns]";
    }
    report(state, times, allowance);
}

/// Entries that share half with another one each, which grows together when one goes.
void drop_and_merge(benchmark::State& state, std::size_t n) {
    constexpr std::size_t pairs = batch; // few, to stay warm
    std::vector<Prompt> prompts = prompts_of(pairs, n);
    for (std::size_t i = 0; i < pairs; ++i) {
        Prompt other = prompts[i];
        other.resize(n / 2);
        other.push_back(unseen);
        append_tokens(other, i, n - n / 2 - 1);
        prompts.push_back(other);
    }
    const std::vector<Prompt> edges = prompts_of(batch, n); // as many as are merged, as warm
    std::vector<Prompt> merged = edges;
    Ring<Whole> ring(std::move(prompts));
    Payloads<Whole> payloads(n);
    const Paired times = interleave(
        state, batch, [&](std::size_t) { ring.evict_one(); }, [&] { ring.put_back(); },
        [&](std::size_t i) {
            std::memcpy(merged[i].data(), edges[i].data(), n * sizeof(Token));
            benchmark::DoNotOptimize(merged[i].data());
            benchmark::ClobberMemory();
            payloads.destroy_one();
        },
        [&] { payloads.make(); });
    report(state, times,
           {.factor = 1,
            .extra_ns = 300,
            .target = "eviction that merges an edge of " + std::to_string(n) + " tokens [ns]"});
}

/// An eighth cut from the tail of the oldest entry.
void cut(benchmark::State& state, std::size_t n) {
    const std::size_t step = n / 8;
    Ring<Cuttable> ring(prompts_of(8, n)); // few, to stay warm
    const Prompt victim = ring.oldest();
    ring.evict_bytes(step);
    require(ring.cache().probe(model, victim, {.min_remaining = 0}).reused == n - step,
            "oldest cut");
    ring.put_back();
    Payloads<Cuttable> payloads(n);
    const Paired times = interleave(
        state, batch, [&](std::size_t) { ring.evict_bytes(step); }, [&] { ring.put_back(); },
        [&](std::size_t) { payloads.destroy_one(); }, [&] { payloads.make(); });
    report(state, times,
           {.factor = 1,
            .extra_ns = 300,
            .target = "eviction that cuts an entry of " + std::to_string(n) + " tokens [ns]"});
}

} // namespace

void add_evictions(const Effort& effort) {
    for (const std::size_t n : {128U, 4'096U}) {
        const std::size_t entries = 200'000 / n; // few, to stay warm
        add(effort, "evict", "dropped", n,
            [=](benchmark::State& state) { drop(state, n, entries, true); });
        add(effort, "evict", "merged", n,
            [=](benchmark::State& state) { drop_and_merge(state, n); });
    }
    for (const std::size_t n : {4'096U, 32'768U}) {
        add(effort, "evict", "cut", n, [=](benchmark::State& state) { cut(state, n); });
    }
    for (const std::size_t entries : {100U, 10'000U, 100'000U, 1'000'000U}) {
        add(effort, "evict_entries", "64 tokens", entries,
            [=](benchmark::State& state) { drop(state, 64, entries, false); });
    }
}

} // namespace bench
