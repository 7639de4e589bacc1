// SPDX-License-Identifier: MIT
// The cache with ReuseOrder: an eviction against the destruction of its payload, requests and victims
// against those with TieredLRU, and a lesson.
#include "interleave.hpp"
#include "payloads.hpp"
#include "prompts.hpp"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace bench {
namespace {

constexpr std::size_t batch = 16;
constexpr std::size_t few = 64; // entries: warm

template <class KV>
using Learning = promptkv::PromptCache<KV>;

/// A cache that fills the room of its victims with new prompts, whichever the victims are.
template <class KV, class Of>
class Herd {
public:
    Herd(std::size_t entries, std::size_t n, Make<KV> make) : n_(n), make_(std::move(make)) {
        nbytes_ = entries * make_(n).nbytes();
        fill();
        size_ = cache_.size();
        require(size_ == entries && cache_.nbytes() == nbytes_, "entries stored");
    }

    void evict_one() { cache_.trim_to({.max_entries = cache_.size() - 1}); }

    void fill() {
        while (cache_.nbytes() < nbytes_) {
            const Prompt prompt = prompt_of(next_++, n_);
            cache_.insert(model, prompt, make_(n_), promptkv::Tier::assistant);
        }
    }
    /// Evicts until as many keys are remembered as ever will be: from then on one is forgotten for each.
    void remember_all() {
        for (std::size_t i = 0; i < 5 * size_; ++i) {
            evict_one();
            fill();
        }
        const std::uint64_t evicted = cache_.stats().evicted;
        evict_one();
        require(cache_.stats().evicted == evicted + 1 && cache_.size() == size_ - 1,
                "one entry evicted");
        fill();
    }

private:
    std::size_t n_;
    Make<KV> make_;
    Of cache_;
    std::size_t nbytes_ = 0;
    std::size_t size_ = 0;
    std::uint64_t next_ = 0;
};

/// Entries that share no tokens, dropped whole and remembered; a key that was remembered is forgotten.
template <class KV>
void drop(Run& run, std::size_t n, std::size_t blocks, const std::string& kind,
          const Make<KV>& make) {
    Herd<KV, Learning<KV>> herd(few, n, make);
    herd.remember_all();
    Payloads<KV> payloads(n, few, make);
    const Paired times = interleave(
        run, batch, [&](std::size_t) { herd.evict_one(); }, [&] { herd.fill(); },
        [&](std::size_t) { payloads.destroy_one(); }, [&] { payloads.refill(); });
    report(run, times,
           {.factor = 1,
            .extra_ns = 600 + 10 * static_cast<double>(blocks),
            .target = "ReuseOrder: eviction of an entry of " + std::to_string(n) + " tokens" +
                      kind + " [ns]"});
}

/// One victim among many, beside one of TieredLRU.
void find_victim(Run& run, std::size_t entries) {
    constexpr std::size_t n = 64;
    const Make<Cuttable> make = of_tokens<Cuttable>;
    Herd<Cuttable, Learning<Cuttable>> herd(entries, n, make);
    Herd<Cuttable, Cache<Cuttable>> tiered(entries, n, make);
    const Paired times = interleave(
        run, batch, [&](std::size_t) { herd.evict_one(); }, [&] { herd.fill(); },
        [&](std::size_t) { tiered.evict_one(); }, [&] { tiered.fill(); });
    report(run, times,
           {.factor = 1,
            .extra_ns = 400, // of the 600 that an eviction may take, TieredLRU may take 200
            .target = "ReuseOrder: a victim among " + std::to_string(entries) +
                      " entries beside TieredLRU [ns]"});
}

/// Requests: a lookup, and an insert that evicts. Every fourth prompt comes back again and again.
template <class Of>
class Traffic {
public:
    explicit Traffic(std::size_t entries, typename Of::Options options = {})
        : cache_(limited(std::move(options), entries)) {
        for (std::size_t i = 0; i < hot_.size(); ++i)
            hot_[i] = prompt_of(i, n);
        // Then as many keys are remembered as ever will be.
        while (cache_.stats().evicted < 5 * entries) {
            prepare();
            for (std::size_t i = 0; i < batch; ++i)
                request(i);
        }
        require(cache_.size() + 1 >= entries, "entries stored");
        warm_ = cache_.stats();
    }

    /// Entries that a request evicts or cuts on average.
    double victims_a_request() const {
        const promptkv::Stats stats = cache_.stats();
        return static_cast<double>(stats.evicted - warm_.evicted + stats.cut - warm_.cut) /
               static_cast<double>(stats.lookups - warm_.lookups);
    }

    /// Makes the prompts of the next batch.
    void prepare() {
        for (std::size_t i = 0; i < batch; ++i) {
            prompts_[i] = i % 4 == 0 ? hot_[served_ % hot_.size()] : prompt_of(1'000 + served_, n);
            ++served_;
        }
    }

    void request(std::size_t i) {
        use(cache_.lease_nearest(model, prompts_[i]).reused());
        cache_.insert(model, prompts_[i], Cuttable(n), promptkv::Tier::assistant);
    }

private:
    static typename Of::Options limited(typename Of::Options options, std::size_t entries) {
        options.max_bytes = entries * n;
        return options;
    }

    static constexpr std::size_t n = 64;
    std::vector<Prompt> hot_ = std::vector<Prompt>(few);
    Of cache_;
    std::vector<Prompt> prompts_ = std::vector<Prompt>(batch);
    std::uint64_t served_ = 0;
    promptkv::Stats warm_;
};

/// Reports the requests of one cache beside those of another. `victim_ns`: what a victim may take beside.
template <class Of, class Other>
void serve_both(Run& run, Traffic<Of> traffic, Traffic<Other> other, Allowance allowance,
                double victim_ns) {
    traffic.prepare();
    other.prepare();
    const Paired times = interleave(
        run, batch, [&](std::size_t i) { traffic.request(i); }, [&] { traffic.prepare(); },
        [&](std::size_t i) { other.request(i); }, [&] { other.prepare(); });
    allowance.extra_ns += victim_ns * traffic.victims_a_request();
    report(run, times, allowance);
}

void serve(Run& run, std::size_t entries) {
    serve_both(run, Traffic<Learning<Cuttable>>(entries), Traffic<Cache<Cuttable>>(entries),
               {.factor = 2,
                .extra_ns = 0,
                .target = "ReuseOrder: a request among " + std::to_string(entries) +
                          " entries beside TieredLRU [ns]"},
               600);
}

/// The same requests beside TieredLRU that remembers as many keys.
void serve_remembering(Run& run, std::size_t entries) {
    Cache<Cuttable>::Options options;
    options.remembered_tokens = promptkv::ReuseOrder::remembered * entries * 64;
    serve_both(run, Traffic<Learning<Cuttable>>(entries),
               Traffic<Cache<Cuttable>>(entries, options),
               {.factor = 2, .extra_ns = 0, .target = ""}, 600);
}

/// The same requests with the curve of hit ratios at five budgets, beside those without.
void watch(Run& run, std::size_t entries) {
    typename Learning<Cuttable>::Options options;
    options.policy.curve = true;
    serve_both(run, Traffic<Learning<Cuttable>>(entries, options),
               Traffic<Learning<Cuttable>>(entries), {.factor = 1.05, .extra_ns = 0, .target = ""},
               0);
}

/// What the longest call does: it learns from all that was seen. In microseconds.
void learn(Run& run) {
    promptkv::detail::ReuseLesson lesson;
    Random random(1);
    std::uint32_t now = 0;
    std::vector<std::uint32_t> open(4'096);
    const auto see = [&](std::size_t uses) {
        for (std::size_t i = 0; i < uses; ++i) {
            std::uint32_t& number = open[random.below(static_cast<std::uint32_t>(open.size()))];
            lesson.end(number, now);
            number = lesson.begin(now, random.below(1U << 24U));
            now += i % 4 == 0 ? 1 : 0;
        }
    };
    see(4 * promptkv::detail::ReuseLesson::ring_size);
    // A lesson is due after a twelfth of the ring.
    const auto undo = [&] { see(promptkv::detail::ReuseLesson::ring_size / 12 + 1); };
    run.pairs = std::min(run.pairs, 300);
    Paired times = interleave(
        run, 1, [&](std::size_t) { lesson.learn(now); }, undo, [](std::size_t) {}, [] {});
    for (double& time : times.operation)
        time /= 1'000;
    for (double& time : times.bound)
        time = 0;
    report(run, times, {.factor = 1, .extra_ns = 2'000, .target = "ReuseOrder: a lesson [us]"});
}

} // namespace

void add_reuse(Cases& cases) {
    for (const std::size_t n : {128U, 4'096U}) {
        add(cases, "reuse", "dropped", n,
            [=](Run& run) { drop<Whole>(run, n, 0, "", of_tokens<Whole>); });
    }
    for (const std::size_t block : {16U, 64U}) {
        const std::string kind = " in blocks of " + std::to_string(block);
        add(cases, "reuse", "dropped" + kind, 4'096,
            [=](Run& run) { drop<InBlocks>(run, 4'096, 4'096 / block, kind, of_blocks(block)); });
    }
    for (const std::size_t entries : {10'000U, 1'000'000U}) {
        add(cases, "reuse_entries", "victim", entries,
            [=](Run& run) { find_victim(run, entries); });
        add(cases, "reuse_entries", "request", entries, [=](Run& run) { serve(run, entries); });
    }
    add(cases, "reuse_entries", "request beside TieredLRU that remembers", 10'000,
        [](Run& run) { serve_remembering(run, 10'000); });
    add(cases, "reuse_entries", "request with the curve", 10'000,
        [](Run& run) { watch(run, 10'000); });
    add(cases, "reuse", "lesson in us", promptkv::detail::ReuseLesson::ring_size, learn);
}

} // namespace bench
