// SPDX-License-Identifier: MIT
// One eviction against the destruction of its payload and the `memcpy` of the tokens that it has to move.
#include "interleave.hpp"
#include "payloads.hpp"
#include "prompts.hpp"

#include <algorithm>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

namespace bench {
namespace {

constexpr std::size_t batch = 16;
constexpr std::size_t few = 64; // entries: warm

/// A cache that evicts its entries in the order of their insertion. They are put back at the hot end.
template <class KV>
class Ring {
public:
    /// `leased` more entries are the coldest, and cannot be evicted. They share their first tokens, so
    /// that the other keys are not among the children of a wide node.
    Ring(std::vector<Prompt> prompts, Make<KV> make, std::size_t leased = 0)
        : prompts_(std::move(prompts)), make_(std::move(make)) {
        for (std::size_t i = 0; i < leased; ++i) {
            const Prompt prompt = prompt_of(1'000'000 + i, 16, 8);
            store(cache_, prompt, make_(prompt.size()));
            leases_.push_back(cache_.lease_nearest(model, prompt, {.min_remaining = 0}));
            require(leases_.back().reused() == 16, "entry leased");
        }
        for (const Prompt& prompt : prompts_)
            store(cache_, prompt, make_(prompt.size()));
        size_ = cache_.size();
        nbytes_ = cache_.nbytes();
        require(size_ == prompts_.size() + leased, "entries stored");
    }

    void evict_one() { cache_.trim_to({.max_entries = cache_.size() - 1}); }
    void evict_bytes(std::size_t n) { cache_.trim_to({.max_bytes = cache_.nbytes() - n}); }

    void put_back() {
        while (cache_.nbytes() < nbytes_) {
            const Prompt& prompt = prompts_[next_];
            store(cache_, prompt, make_(prompt.size()));
            next_ = (next_ + 1) % prompts_.size();
        }
        require(cache_.nbytes() == nbytes_ && cache_.size() == size_, "put back");
    }

    /// Checks what one eviction does, and undoes it.
    template <class Evict>
    void check(Evict evict, std::size_t kept) {
        const Prompt& victim = prompts_[next_];
        evict();
        require(cache_.probe(model, victim, {.min_remaining = 0}).reused() == kept,
                "the oldest entry evicted");
        put_back();
    }

private:
    std::vector<Prompt> prompts_;
    Make<KV> make_;
    Cache<KV> cache_;
    std::vector<typename Cache<KV>::Lease> leases_;
    std::size_t size_ = 0;
    std::size_t nbytes_ = 0;
    std::size_t next_ = 0; // the oldest
};

Allowance allowed_for(std::size_t blocks, std::string target = {}) {
    return {.factor = 1,
            .extra_ns = 200 + 10 * static_cast<double>(blocks),
            .target = std::move(target)};
}

void copy_tokens(const Prompt& from, Prompt& to) {
    std::memcpy(to.data(), from.data(), from.size() * sizeof(Token));
    use(to.data());
}

struct Drop {
    std::size_t n;       // tokens of each entry
    std::size_t entries; // few: warm
    std::size_t leased = 0;
    std::size_t blocks = 0; // of each entry
    std::string target{};
};

/// Entries that share no tokens, dropped whole.
template <class KV>
void drop(Run& run, const Drop& what, const Make<KV>& make) {
    Ring<KV> ring(prompts_of(what.entries, what.n), make, what.leased);
    ring.check([&] { ring.evict_one(); }, 0);
    Payloads<KV> payloads(what.n, std::min(what.entries, few), make);
    const Paired times = interleave(
        run, batch, [&](std::size_t) { ring.evict_one(); }, [&] { ring.put_back(); },
        [&](std::size_t) { payloads.destroy_one(); }, [&] { payloads.refill(); });
    report(run, times, allowed_for(what.blocks, what.target));
}

/// Pairs of entries that share half of their tokens. Evicting one joins the edges of the other.
void drop_and_merge(Run& run, std::size_t n) {
    constexpr std::size_t pairs = batch; // few: warm
    std::vector<Prompt> prompts = prompts_of(pairs, n);
    for (std::size_t i = 0; i < pairs; ++i) {
        Prompt other = prompts[i];
        other.resize(n / 2);
        other.push_back(unseen);
        append_tokens(other, i, n - n / 2 - 1);
        prompts.push_back(other);
    }
    const std::vector<Prompt> edges = prompts_of(batch, n); // as many as are joined, as warm
    std::vector<Prompt> merged = edges;
    Ring<Whole> ring(std::move(prompts), of_tokens<Whole>);
    Payloads<Whole> payloads(n, 2 * pairs, of_tokens<Whole>);
    const Paired times = interleave(
        run, batch, [&](std::size_t) { ring.evict_one(); }, [&] { ring.put_back(); },
        [&](std::size_t i) {
            copy_tokens(edges[i], merged[i]);
            payloads.destroy_one();
        },
        [&] { payloads.refill(); });
    report(run, times,
           allowed_for(0, "eviction that joins an edge of " + std::to_string(n) + " tokens [ns]"));
}

/// An eighth cut from the tail of the oldest entry, which consists of `blocks` blocks.
///
/// A run of tokens that a cut leaves less than half used is copied to a smaller one: on the way from n
/// tokens to none about n / 2 tokens are copied, n / 16 a cut. The bound copies as many.
template <class KV>
void cut(Run& run, std::size_t n, const Make<KV>& make, std::size_t blocks,
         const std::string& kind) {
    constexpr std::size_t entries = 8; // few: warm
    const std::size_t step = n / 8;
    Ring<KV> ring(prompts_of(entries, n), make);
    ring.check([&] { ring.evict_bytes(step); }, n - step);
    Payloads<KV> payloads(step, 8 * entries, make);
    const std::vector<Prompt> edges = prompts_of(entries, n / 16);
    std::vector<Prompt> copies = edges;
    const Paired times = interleave(
        run, batch, [&](std::size_t) { ring.evict_bytes(step); }, [&] { ring.put_back(); },
        [&](std::size_t i) {
            copy_tokens(edges[i % entries], copies[i % entries]);
            payloads.destroy_one();
        },
        [&] { payloads.refill(); });
    report(run, times,
           allowed_for(blocks, "eviction that cuts an eighth from " + std::to_string(n) +
                                   " tokens" + kind + " [ns]"));
}

} // namespace

void add_evictions(Cases& cases) {
    constexpr std::size_t n_tokens = 4'096;
    for (const std::size_t n : {128U, 4'096U}) {
        const std::string target = "eviction of an entry of " + std::to_string(n) + " tokens";
        const Drop what{.n = n, .entries = few, .target = target + " [ns]"};
        add(cases, "evict", "dropped", n,
            [=](Run& run) { drop<Whole>(run, what, of_tokens<Whole>); });
        add(cases, "evict", "merged", n, [=](Run& run) { drop_and_merge(run, n); });

        Drop leased = what;
        leased.leased = 100'000;
        leased.target = target + " beside 100000 leased entries [ns]";
        add(cases, "evict", "dropped beside 100000 leased", n,
            [=](Run& run) { drop<Whole>(run, leased, of_tokens<Whole>); });
    }
    for (const std::size_t n : {4'096U, 32'768U}) {
        add(cases, "evict", "cut", n,
            [=](Run& run) { cut<Cuttable>(run, n, of_tokens<Cuttable>, 0, ""); });
    }
    for (const std::size_t block : {16U, 64U}) {
        const std::string kind = " in blocks of " + std::to_string(block);
        const std::size_t blocks = n_tokens / block;
        const Drop what{.n = n_tokens,
                        .entries = few / 2,
                        .blocks = blocks,
                        .target = "eviction of an entry of 4096 tokens" + kind + " [ns]"};
        add(cases, "evict", "dropped" + kind, n_tokens,
            [=](Run& run) { drop<InBlocks>(run, what, of_blocks(block)); });
        add(cases, "evict", "cut" + kind, n_tokens,
            [=](Run& run) { cut<InBlocks>(run, n_tokens, of_blocks(block), blocks / 8, kind); });
    }
    for (const std::size_t entries : {100U, 10'000U, 1'000'000U}) {
        const Drop what{.n = 64, .entries = entries};
        add(cases, "evict_entries", "64 tokens", entries,
            [=](Run& run) { drop<Whole>(run, what, of_tokens<Whole>); });
    }
}

} // namespace bench
