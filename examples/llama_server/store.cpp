// SPDX-License-Identifier: MIT
#include "store.hpp"

#include "embed.hpp"
#include "llama_kv.hpp"
#include "open_store.hpp"
#include "promptkv_metrics.hpp"

#include <promptkv/concurrent_prompt_cache.hpp>
#include <promptkv/reuse_order.hpp>
#include <promptkv/second_level.hpp>

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <exception>
#include <optional>
#include <unordered_map>
#include <utility>
#include <variant>

namespace llama_server {
namespace {

/// A shorter match is no reuse: a BOS token, a template's header.
constexpr promptkv::FetchOptions fetch_options{.min_reuse = 8};

/// A block that knows, for GET /cache, since when it is there and how many requests used it.
struct Block : llama_kv::Bytes {
    Block(Bytes bytes) : Bytes(std::move(bytes)) {} // NOLINT: it is the same
    Block(Block&& other) noexcept : Bytes(std::move(other)), made(other.made) {}

    Clock::time_point made = Clock::now();
    mutable std::atomic<std::uint64_t> uses{0};
};

/// `BelowStore`: of the second level.
template <class KV, class BelowStore>
class StoreOf final : public Store {
    using Cache = promptkv::ConcurrentPromptCache<KV, std::string, llama_token, promptkv::Tier,
                                                  promptkv::ReuseOrder>;
    using SecondLevel = promptkv::SecondLevel<Cache, BelowStore>;

public:
    /// `below`: null for none.
    StoreOf(llama_context* context, const Options& options, std::unique_ptr<BelowStore> below)
        : block_tokens_(options.block_tokens), cache_({.max_bytes = options.cache_mib << 20U}),
          below_(std::move(below)) {
        for (llama_seq_id slot = 0; slot < options.slots; ++slot)
            sequences_.emplace_back(context, slot, options.slots, block_tokens_);
        if (below_ != nullptr) {
            // The cache's model key names the weights and the context; the build is not in it.
            second_.emplace(cache_, *below_,
                            typename SecondLevel::Options{
                                .fingerprint = promptkv::fingerprint_of(llama_print_system_info()),
                                .block_tokens = block_tokens_});
        }
    }
    ~StoreOf() override {
        if (second_ && !second_->flush(Clock::now() + std::chrono::seconds(60)))
            std::fputs("not all of the cache was written\n", stderr);
    }

    std::shared_ptr<void> prefetch(const std::string& model, TokenSpan prompt,
                                   std::uint64_t session) override {
        if (!second_)
            return nullptr;
        const auto deadline = Clock::now() + std::chrono::seconds(10);
        auto load = std::make_shared<typename SecondLevel::Prefetch>(
            second_->prefetch(model, prompt, {.deadline = deadline, .session = session}));
        load->wait();
        return load;
    }

    Lookup restore(llama_seq_id slot, const std::string& model, TokenSpan prompt) override {
        auto& sequence = sequences_[static_cast<std::size_t>(slot)];
        const auto hit = cache_.lease_nearest(model, prompt, fetch_options);
        if (!hit)
            return hit;
        try {
            sequence.restore(hit.kv(), hit.reused()); // a copy; the lease ends with this function
        } catch (const std::exception& error) {
            std::fprintf(stderr, "a state could not be restored: %s\n", error.what());
            return {}; // the sequence is empty: the prompt is computed
        }
        for (std::size_t i = 0; i * block_tokens_ < hit.reused(); ++i)
            ++hit.kv().blocks()[i]->uses;
        return hit;
    }

    bool keep(llama_seq_id slot, const std::string& model, TokenSpan tokens, promptkv::Tier tier,
              promptkv::InsertOptions options) override {
        auto& sequence = sequences_[static_cast<std::size_t>(slot)];
        const auto kept = ::keep(cache_, model, tokens, sequence, tier, options);
        return kept.outcome == promptkv::Outcome::present || kept.tokens == tokens.size();
    }

    void clear(llama_seq_id slot) override { sequences_[static_cast<std::size_t>(slot)].clear(); }

    [[nodiscard]] bool cuttable() const override { return promptkv::PrefixClonable<KV>; }

    [[nodiscard]] json show(const std::string& model, std::size_t limit) const override {
        const auto each = [&](auto f) { // of the model
            cache_.for_each([&](const typename Cache::EntryView& view) {
                if (view.model == model)
                    f(view);
            });
        };
        json entries = json::array();
        std::unordered_map<const void*, std::size_t> numbers; // the same for the same block
        std::size_t count = 0, seen = 0;
        each([&](const auto& /*view*/) { ++count; });
        each([&](const auto& view) {
            if (seen++ + std::min(limit, count) < count)
                return;
            std::size_t shared_bytes = 0; // that other entries refer to, too
            json blocks = json::array();
            for (const auto& block : view.kv.blocks()) {
                shared_bytes += block.use().count() > 1 ? block.nbytes() : 0;
                blocks.push_back(numbers.try_emplace(&*block, numbers.size()).first->second);
            }
            const Block& last = *view.kv.blocks().back();
            const std::size_t shown = std::min<std::size_t>(view.tokens.size(), 24);
            entries.push_back(
                {{"tokens", view.tokens.size()},
                 {"tier", name(view.tier)},
                 {"bytes", view.nbytes},
                 {"own_bytes", view.nbytes - shared_bytes},
                 {"shared_bytes", shared_bytes},
                 {"session", view.session},
                 {"age_s", std::chrono::duration<double>(Clock::now() - last.made).count()},
                 {"hits", last.uses.load()},
                 {"ends", view.tokens.last(shown)},
                 {"blocks", blocks}});
        });
        json counters = json::object();
        promptkv::for_each_counter(
            cache_.stats(), [&](const char* counter, auto value) { counters[counter] = value; });
        return {{"bytes", cache_.nbytes()},
                {"max_bytes", cache_.limits().max_bytes},
                {"count", count},
                {"entries", std::move(entries)},
                {"stats", counters}};
    }

    [[nodiscard]] Explanation explain(const std::string& model, TokenSpan tokens) const override {
        return cache_.explain(model, tokens, fetch_options);
    }
    std::size_t erase_session(const std::string& model, std::uint64_t session) override {
        return cache_.erase_session(model, session);
    }
    std::size_t erase_below(const std::string& model, TokenSpan prefix) override {
        return second_ ? second_->erase_below(model, prefix) : cache_.erase_below(model, prefix);
    }
    void set_max_bytes(std::size_t max_bytes) override {
        cache_.set_limits({.max_bytes = max_bytes});
    }
    [[nodiscard]] std::vector<prometheus::MetricFamily> metrics() const override {
        auto families = promptkv_metrics::collect(cache_);
        if (second_)
            promptkv_metrics::add_all(families, "promptkv_second_level_", second_->stats());
        return families;
    }

private:
    std::size_t block_tokens_;
    std::vector<llama_kv::Sequence<KV>> sequences_; // one a slot
    Cache cache_;
    std::unique_ptr<BelowStore> below_;
    std::optional<SecondLevel> second_; // last: it uses the two before
};

template <class KV>
std::unique_ptr<Store> make(llama_context* context, const Store::Options& options) {
    const auto on = [&](auto below) -> std::unique_ptr<Store> {
        using Below = typename decltype(below)::element_type;
        return std::make_unique<StoreOf<KV, Below>>(context, options, std::move(below));
    };
    const std::string& place = options.second_level;
    return std::visit(on,
                      place.empty() ? AnyStore() : open_store(place, options.max_disk_mib << 20U));
}

} // namespace

std::unique_ptr<Store> make_store(llama_context* context, const Store::Options& options) {
    return llama_kv::is_recurrent(llama_get_model(context))
               ? make<promptkv::BlockKV<Block, llama_kv::Bytes>>(context, options)
               : make<promptkv::BlockKV<Block>>(context, options);
}

} // namespace llama_server
