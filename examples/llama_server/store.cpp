// SPDX-License-Identifier: MIT
#include "store.hpp"

#include "llama_kv.hpp"
#include "promptkv_metrics.hpp"

#include <promptkv/concurrent_prompt_cache.hpp>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <deque>
#include <exception>
#include <mutex>
#include <optional>
#include <unordered_map>
#include <utility>

namespace llama_server {
namespace {

using Clock = std::chrono::steady_clock;

/// What the server remembers of an entry.
struct Facts {
    std::uint64_t session = 0;
    Clock::time_point stored = Clock::now();
    std::atomic<std::uint64_t> hits{0};
};

/// A payload with facts: they live and leave with the entry. All that the cache asks of a payload is
/// inherited; clones and tails have no facts.
template <class Base>
struct Noted : Base {
    Noted(Base base) noexcept : Base(std::move(base)) {} // NOLINT: what Base returns is converted
    std::shared_ptr<Facts> facts;
};

template <class Base>
class StoreOf final : public Store {
    using KV = Noted<Base>;
    using Cache = promptkv::ConcurrentPromptCache<KV, std::string, llama_token>;
    static constexpr bool cuts = promptkv::PrefixClonable<KV>;
    static_assert(promptkv::BlockPayload<KV> && promptkv::AdoptingPayload<KV>);
    static_assert(cuts ? promptkv::TruncatablePayload<KV> : promptkv::SharedPrefixPayload<KV>);

public:
    StoreOf(llama_context* context, llama_seq_id slots, const Options& options)
        : options_(options), cache_({.max_bytes = options.max_bytes}) {
        for (llama_seq_id slot = 0; slot < slots; ++slot) {
            sequences_.emplace_back(context, slot, slots, options.block_tokens);
        }
        cache_.set_removal_listener([this](auto& removal) { note(removal); });
    }

    Lookup restore(llama_seq_id slot, const std::string& model, TokenSpan prompt) override {
        auto& sequence = sequences_[static_cast<std::size_t>(slot)];
        const auto hit = cache_.lease_nearest(model, prompt, {.min_reuse = options_.min_reuse});
        if (!hit) {
            sequence.clear();
            return hit;
        }
        try {
            sequence.restore(hit.kv(), hit.reused()); // a copy; the lease ends with this function
        } catch (const std::exception& error) {
            std::fprintf(stderr, "a state could not be restored: %s\n", error.what());
            return {}; // the sequence is empty: the prompt is computed
        }
        if (hit.kv().facts != nullptr) {
            ++hit.kv().facts->hits;
        }
        return hit;
    }

    promptkv::Inserted keep(llama_seq_id slot, const std::string& model, TokenSpan tokens,
                            promptkv::Tier tier, promptkv::InsertOptions options) override {
        auto& sequence = sequences_[static_cast<std::size_t>(slot)];
        auto room = cache_.reserve(model, tokens, sequence.nbytes(tokens.size()), tier, options);
        if (!room) {
            return {.outcome = room.outcome()}; // present already, or there is no room
        }
        KV kv = room.prefix().value_or(KV(Base(options_.block_tokens)));
        sequence.save(kv, room.tokens());
        kv.facts = std::make_shared<Facts>();
        kv.facts->session = options.session;
        return room.commit(std::move(kv));
    }

    void clear(llama_seq_id slot) override { sequences_[static_cast<std::size_t>(slot)].clear(); }

    [[nodiscard]] bool cuttable() const override { return cuts; }

    [[nodiscard]] std::vector<Entry> entries(const std::string& model) const override {
        constexpr std::size_t shown_tokens = 24;
        std::vector<Entry> entries;
        std::unordered_map<const void*, std::uint32_t> numbers;
        cache_.for_each([&](const typename Cache::EntryView& view) {
            if (view.model != model) {
                return;
            }
            Entry entry;
            entry.tokens = view.tokens.size();
            entry.tier = view.tier;
            entry.nbytes = entry.own_bytes = view.nbytes;
            if (const Facts* facts = view.kv.facts.get()) {
                entry.session = facts->session;
                entry.hits = facts->hits;
                entry.age_seconds =
                    std::chrono::duration<double>(Clock::now() - facts->stored).count();
            }
            const std::size_t shown = std::min(view.tokens.size(), shown_tokens);
            const TokenSpan first = view.tokens.first(shown);
            const TokenSpan last = view.tokens.last(shown);
            entry.begin.assign(first.begin(), first.end());
            entry.end.assign(last.begin(), last.end());
            for (const auto& block : view.kv.blocks()) {
                entry.own_bytes -= block.use().count() > 1 ? block.nbytes() : 0;
                const auto next = static_cast<std::uint32_t>(numbers.size());
                const std::uint32_t number = numbers.try_emplace(&*block, next).first->second;
                if (!entry.blocks.empty() && entry.blocks.back().second + 1 == number) {
                    entry.blocks.back().second = number;
                } else {
                    entry.blocks.emplace_back(number, number);
                }
            }
            entries.push_back(std::move(entry));
        });
        return entries;
    }

    [[nodiscard]] std::vector<Departure> departures(const std::string& model,
                                                    std::uint64_t since) const override {
        const std::lock_guard lock(mutex_);
        std::vector<Departure> found;
        for (const Departure& departure : departures_) {
            if (departure.number > since && departure.model == model) {
                found.push_back(departure);
            }
        }
        return found;
    }

    [[nodiscard]] Explanation explain(const std::string& model, TokenSpan tokens) const override {
        return cache_.explain(model, tokens, {.min_reuse = options_.min_reuse});
    }
    std::size_t erase_session(const std::string& model, std::uint64_t session) override {
        return cache_.erase_session(model, session);
    }
    std::size_t erase_below(const std::string& model, TokenSpan prefix) override {
        return cache_.erase_below(model, prefix);
    }
    std::size_t erase_model(const std::string& model) override { return cache_.erase_model(model); }
    void set_max_bytes(std::size_t max_bytes) override {
        cache_.set_limits({.max_bytes = max_bytes});
    }
    [[nodiscard]] std::size_t max_bytes() const override { return cache_.limits().max_bytes; }
    [[nodiscard]] std::size_t nbytes() const override { return cache_.nbytes(); }
    [[nodiscard]] promptkv::Stats stats() const override { return cache_.stats(); }
    [[nodiscard]] std::vector<prometheus::MetricFamily> metrics() const override {
        return promptkv_metrics::collect(cache_);
    }

private:
    void note(const typename Cache::Removal& removal) {
        constexpr std::size_t remembered = 512;
        const std::lock_guard lock(mutex_);
        departures_.push_back({++departed_, removal.model, removal.reason, removal.tier,
                               removal.tokens.size(), removal.kept_tokens, removal.bytes});
        if (departures_.size() > remembered) {
            departures_.pop_front();
        }
    }

    Options options_;
    std::vector<llama_kv::Sequence<Base>> sequences_;
    mutable std::mutex mutex_; // of the next two
    std::deque<Departure> departures_;
    std::uint64_t departed_ = 0;
    Cache cache_; // last: it calls note()
};

} // namespace

std::unique_ptr<Store> make_store(llama_context* context, llama_seq_id slots,
                                  const Store::Options& options) {
    if (llama_kv::is_recurrent(llama_get_model(context))) {
        return std::make_unique<StoreOf<llama_kv::RecurrentKV>>(context, slots, options);
    }
    return std::make_unique<StoreOf<llama_kv::AttentionKV>>(context, slots, options);
}

} // namespace llama_server
