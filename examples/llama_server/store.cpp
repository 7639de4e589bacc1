// SPDX-License-Identifier: MIT
#include "store.hpp"

#include "llama_kv.hpp"
#include "open_store.hpp"
#include "promptkv_metrics.hpp"

#include <promptkv/concurrent_prompt_cache.hpp>
#include <promptkv/reuse_order.hpp>
#include <promptkv/second_level.hpp>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <deque>
#include <exception>
#include <functional>
#include <iterator>
#include <memory>
#include <mutex>
#include <optional>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <variant>

namespace llama_server {
namespace {

using Clock = std::chrono::steady_clock;

/// What the server remembers of an entry.
struct Facts {
    std::uint64_t session = 0;
    Clock::time_point stored = Clock::now();
    std::uint64_t hits = 0;
};

/// `BelowStore`: of the second level.
template <class KV, class BelowStore>
class StoreOf final : public Store {
    using Cache = promptkv::ConcurrentPromptCache<KV, std::string, llama_token, promptkv::Tier,
                                                  promptkv::ReuseOrder>;
    using SecondLevel = promptkv::SecondLevel<Cache, BelowStore>;

public:
    /// `below`: null for none.
    StoreOf(llama_context* context, llama_seq_id slots, const Options& options,
            std::unique_ptr<BelowStore> below)
        : options_(options), cache_({.max_bytes = options.max_bytes}), below_(std::move(below)) {
        for (llama_seq_id slot = 0; slot < slots; ++slot) {
            sequences_.emplace_back(context, slot, slots, options.block_tokens);
        }
        const auto listener = [this](auto& removal) { note(removal); };
        if (below_ == nullptr) {
            cache_.set_removal_listener(listener);
        } else {
            // The cache's model key names the weights and the context; the build is not in it.
            second_.emplace(cache_, *below_,
                            typename SecondLevel::Options{
                                .fingerprint = promptkv::fingerprint_of(llama_print_system_info()),
                                .block_tokens = options.block_tokens});
            second_->set_removal_listener(listener);
        }
    }
    StoreOf(const StoreOf&) = delete;
    StoreOf& operator=(const StoreOf&) = delete;
    ~StoreOf() override {
        if (second_ && !second_->flush(Clock::now() + std::chrono::seconds(60))) {
            std::fputs("not all of the cache was written\n", stderr);
        }
    }

    std::shared_ptr<void> prefetch(const std::string& model, TokenSpan prompt,
                                   std::uint64_t session) override {
        if (!second_) {
            return nullptr;
        }
        const auto deadline = Clock::now() + std::chrono::seconds(10);
        auto load = std::make_shared<typename SecondLevel::Prefetch>(
            second_->prefetch(model, prompt, {.deadline = deadline, .session = session}));
        load->wait();
        return load;
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
        if (hit.match() != promptkv::Match::longer) { // else the entry's key is not known here
            const std::lock_guard lock(mutex_);
            if (const auto at = facts_.find(key_of(model, prompt.first(hit.entry_tokens())));
                at != facts_.end()) {
                ++at->second.hits;
            }
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
        KV kv = room.prefix().value_or(KV(options_.block_tokens));
        sequence.save(kv, room.tokens());
        const std::size_t length = kv.length();
        const std::size_t key = key_of(model, tokens.first(length));
        const bool added = remember(key, options.session);
        const promptkv::Inserted inserted = room.commit(std::move(kv));
        const bool stored = inserted.outcome == promptkv::Outcome::stored ||
                            inserted.outcome == promptkv::Outcome::replaced;
        if (added && (!stored || inserted.tokens != length)) { // or stored in part
            const std::lock_guard lock(mutex_);
            facts_.erase(key);
        }
        return inserted;
    }

    void clear(llama_seq_id slot) override { sequences_[static_cast<std::size_t>(slot)].clear(); }

    [[nodiscard]] bool cuttable() const override { return promptkv::PrefixClonable<KV>; }

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
            {
                const std::lock_guard lock(mutex_);
                if (const auto at = facts_.find(key_of(model, view.tokens)); at != facts_.end()) {
                    const Facts& facts = at->second;
                    entry.session = facts.session;
                    entry.hits = facts.hits;
                    entry.age_seconds =
                        std::chrono::duration<double>(Clock::now() - facts.stored).count();
                }
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
        return second_ ? second_->erase_session(model, session)
                       : cache_.erase_session(model, session);
    }
    std::size_t erase_below(const std::string& model, TokenSpan prefix) override {
        return second_ ? second_->erase_below(model, prefix) : cache_.erase_below(model, prefix);
    }
    std::size_t erase_model(const std::string& model) override {
        return second_ ? second_->erase_model(model) : cache_.erase_model(model);
    }
    void set_max_bytes(std::size_t max_bytes) override {
        cache_.set_limits({.max_bytes = max_bytes});
    }
    [[nodiscard]] std::size_t max_bytes() const override { return cache_.limits().max_bytes; }
    [[nodiscard]] std::size_t nbytes() const override { return cache_.nbytes(); }
    [[nodiscard]] promptkv::Stats stats() const override { return cache_.stats(); }
    [[nodiscard]] std::vector<prometheus::MetricFamily> metrics() const override {
        auto families = promptkv_metrics::collect(cache_);
        if (second_) {
            std::ranges::move(promptkv_metrics::collect(second_->stats()),
                              std::back_inserter(families));
        }
        return families;
    }

private:
    /// Tells keys apart well enough for facts that are only shown.
    static std::size_t key_of(const std::string& model, TokenSpan tokens) {
        const std::string_view bytes(reinterpret_cast<const char*>(tokens.data()),
                                     tokens.size_bytes());
        return std::hash<std::string_view>()(bytes) ^ std::hash<std::string>()(model);
    }

    bool remember(std::size_t key, std::uint64_t session) {
        const std::lock_guard lock(mutex_);
        const auto [at, added] = facts_.try_emplace(key);
        at->second.session = added ? session : at->second.session;
        return added;
    }

    void note(const typename Cache::Removal& removal) {
        constexpr std::size_t remembered = 512;
        const std::lock_guard lock(mutex_);
        if (removal.reason != promptkv::RemovalReason::replaced) { // else the key has an entry
            auto facts = facts_.extract(key_of(removal.model, removal.tokens));
            if (facts && removal.kept_tokens > 0) {
                facts.key() = key_of(removal.model, removal.tokens.first(removal.kept_tokens));
                facts_.insert(std::move(facts));
            }
        }
        departures_.push_back({++departed_, removal.model, removal.reason, removal.tier,
                               removal.tokens.size(), removal.kept_tokens, removal.bytes});
        if (departures_.size() > remembered) {
            departures_.pop_front();
        }
    }

    Options options_;
    std::vector<llama_kv::Sequence<KV>> sequences_;
    mutable std::mutex mutex_; // of the next three
    std::unordered_map<std::size_t, Facts> facts_;
    std::deque<Departure> departures_;
    std::uint64_t departed_ = 0;
    Cache cache_; // after these: it calls note()
    std::unique_ptr<BelowStore> below_;
    std::optional<SecondLevel> second_; // last: it uses the two before
};

template <class KV>
std::unique_ptr<Store> make(llama_context* context, llama_seq_id slots,
                            const Store::Options& options) {
    const auto on = [&](auto below) -> std::unique_ptr<Store> {
        using Below = typename decltype(below)::element_type;
        return std::make_unique<StoreOf<KV, Below>>(context, slots, options, std::move(below));
    };
    return options.second_level.empty()
               ? on(std::unique_ptr<promptkv::FileStore>())
               : std::visit(on, open_store(options.second_level, options.max_disk_bytes));
}

} // namespace

std::unique_ptr<Store> make_store(llama_context* context, llama_seq_id slots,
                                  const Store::Options& options) {
    return llama_kv::is_recurrent(llama_get_model(context))
               ? make<llama_kv::RecurrentKV>(context, slots, options)
               : make<llama_kv::AttentionKV>(context, slots, options);
}

} // namespace llama_server
