// SPDX-License-Identifier: MIT
// SecondLevelCore: what a second level does when state leaves the cache, or is erased.
#ifndef PROMPTKV_DETAIL_SECOND_LEVEL_CORE_HPP
#define PROMPTKV_DETAIL_SECOND_LEVEL_CORE_HPP

#include <promptkv/block_store.hpp>
#include <promptkv/detail/block_names.hpp>
#include <promptkv/detail/record_loader.hpp>
#include <promptkv/detail/record_writer.hpp>
#include <promptkv/second_level_types.hpp>
#include <promptkv/version.hpp>

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <unordered_map>
#include <unordered_set>
#include <utility>
#include <vector>

namespace promptkv::inline PROMPTKV_ABI::detail {

/// The removal listener shares it with the second level: a call that is under way on another thread while
/// the second level ends finds a closed queue.
template <class Cache, class Store, class Codec, class Options>
class SecondLevelCore {
public:
    using Types = SecondLevelTypes<Cache>;
    using Writer = RecordWriter<Types, Store, Codec>;
    using Loader = RecordLoader<Types, Store, Codec>;
    using KV = typename Types::KV;
    using ModelView = typename Types::ModelView;
    using Token = typename Types::Token;
    using Tokens = typename Types::Tokens;
    using TierEnum = typename Types::TierEnum;
    using Removal = typename Cache::Removal;
    using Clock = std::chrono::steady_clock;

    SecondLevelCore(Cache& cache, Store& below, const Options& given)
        : options(given), store(below), writer(store, stats, options.codec, options.block_tokens,
                                               options.queue_bytes, options.bytes_per_second),
          loader(store, writer, stats, options.codec, options.block_tokens), cache_(cache) {}

    [[nodiscard]] RecordHome home(ModelView model) const {
        RecordHome home;
        home.fingerprint = options.fingerprint;
        std::string bytes;
        if constexpr (std::is_same_v<typename Types::Model, std::string>) {
            bytes = model;
            if (options.fingerprint_of_model)
                home.fingerprint = options.fingerprint_of_model(bytes);
            if (options.bytes_of_model)
                bytes = options.bytes_of_model(bytes);
        } else {
            if (options.fingerprint_of_model)
                home.fingerprint = options.fingerprint_of_model(model);
            if (options.bytes_of_model)
                bytes = options.bytes_of_model(model);
        }
        home.root = BlockNames<Token>().root(
            home.fingerprint,
            options.share_between_models ? std::nullopt : std::optional<std::string_view>(bytes),
            options.block_tokens);
        return home;
    }

    // what left the cache ////////////////////////////////////////////////////

    /// Called by the cache's removal listener: nothing may be thrown.
    void removed(Removal& removal) noexcept {
        try {
            switch (removal.reason) {
            case RemovalReason::evicted:
            case RemovalReason::cut:
                if (options.write == WriteWhen::evicted)
                    write_removed(removal);
                break;
            case RemovalReason::erased:
            case RemovalReason::cleared:
                if (removal.tokens.empty())
                    stats.add(&SecondLevelStats::erase_failed);
                else
                    forget(removal.model, removal.tokens);
                break;
            default: // the state is in another entry, or with the caller
                break;
            }
        } catch (...) {
            stats.add(removal.reason == RemovalReason::evicted ||
                              removal.reason == RemovalReason::cut
                          ? &SecondLevelStats::dropped_no_memory
                          : &SecondLevelStats::erase_failed);
        }
    }

    /// How a payload is offered.
    struct Terms {
        std::size_t first = 0; // the number of its first block: it is the tail of a payload
        Clock::time_point deadline = (Clock::time_point::min)(); // see WriteQueue::push_by
        std::uint64_t spares = RecordWrite::spares_nothing;
        bool stays = false; // in memory, and is offered again when it leaves
    };
    /// Queues a payload. False: something was left out.
    bool offer(ModelView model, Tokens tokens, const KV& kv, TierEnum tier,
               const Terms& terms = {}) {
        const bool was_moved_away = kv.length() == 0 && !tokens.empty();
        if (kv.block_tokens() != options.block_tokens || was_moved_away) {
            stats.add(&SecondLevelStats::dropped_no_payload);
            return false;
        }
        // A commit may hold fewer tokens than were reserved: its last block is no block of the longer key.
        if (terms.first == 0)
            tokens = tokens.first((std::min)(tokens.size(), kv.length()));
        if (!is_long_enough(model, tokens, terms)) {
            stats.add(&SecondLevelStats::dropped_too_short);
            return true;
        }
        OfferedPayload<Types> offered{tokens,  terms.first, kv.blocks(),
                                      nullptr, tier,        terms.spares};
        if constexpr (Types::has_states)
            offered.state = kv.shared_state();
        return writer.offer(home(model), offered, terms.deadline);
    }

    /// The names of a key's records: its blocks, then its end.
    [[nodiscard]] std::vector<BlockName> names_of(ModelView model, Tokens tokens) const {
        BlockNames<Token> names;
        std::vector<BlockName> all = names.chain(home(model).root, tokens, options.block_tokens);
        const std::size_t whole = all.size() - 1;
        all.push_back(names.end(all[whole], tokens.subspan(whole * options.block_tokens)));
        all.erase(all.begin()); // the root
        return all;
    }

    // what a store need not have /////////////////////////////////////////////

    [[nodiscard]] std::uint64_t uses_of_store() const {
        if constexpr (requires { store.uses(); })
            return store.uses();
        else
            return RecordWrite::spares_nothing;
    }
    static constexpr bool store_keeps_order =
        requires(Store& any, std::span<const BlockName> names) { any.touch(names, true); };

    /// While it lives, what this thread evicts is not written.
    class NotWriting {
    public:
        explicit NotWriting(SecondLevelCore& core) noexcept : before_(not_written_for) {
            not_written_for = &core;
        }
        NotWriting(const NotWriting&) = delete;
        NotWriting& operator=(const NotWriting&) = delete;
        ~NotWriting() { not_written_for = before_; }

    private:
        const void* before_;
    };

    // erasing ////////////////////////////////////////////////////////////////

    /// Removes the records of a key that no resident key uses.
    void forget(ModelView model, Tokens tokens) {
        const std::vector<BlockName> names = names_of(model, tokens);
        forget(std::span(names).subspan(first_unused(model, tokens)));
    }

    /// Removes the records of all keys that continue `tokens`, and those whose beginning neither the store nor
    /// memory has.
    void forget_below(ModelView model, Tokens tokens) {
        const std::size_t block = options.block_tokens;
        BlockNames<Token> names;
        const BlockName root = home(model).root;
        const std::vector<BlockName> chain = names.chain(root, tokens, block);
        const BlockName& top = chain.back();
        const std::size_t depth = (chain.size() - 1) * block;
        const Tokens rest = tokens.subspan(depth);
        std::unordered_map<BlockName, RecordInfo> all;
        for_each([&](const RecordInfo& info) {
            if (info.root == root)
                all.emplace(info.name, info);
        });
        std::unordered_set<BlockName> used; // by entries of other models that share the records
        std::unordered_set<BlockName> elsewhere; // what else memory holds: a tail may continue it
        for (const auto& [model_of_key, key] : keys_in_memory()) {
            if (home(model_of_key).root == root) {
                const auto its = names_of(model_of_key, key);
                const bool is_below = key.size() >= tokens.size() &&
                                      std::equal(tokens.begin(), tokens.end(), key.begin());
                (is_below ? used : elsewhere).insert(its.begin(), its.end());
            }
        }
        // For each record: is it below? Found for all that were met on the way up.
        std::unordered_map<BlockName, bool> below;
        std::vector<BlockName> way;
        std::vector<BlockName> gone;
        for (const auto& each : all) {
            BlockName at = each.first;
            std::uint64_t before = 0; // the depth of the record that names it
            bool is_below = false;
            way.clear();
            for (;;) {
                if (const auto decided = below.find(at); decided != below.end()) {
                    is_below = decided->second;
                    break;
                }
                const auto found = all.find(at);
                if (found == all.end() || (!way.empty() && found->second.depth >= before)) {
                    // Its beginning is in memory alone, or gone; or no such chain was ever written.
                    is_below = !elsewhere.contains(at);
                    break;
                }
                way.push_back(at);
                const RecordInfo& info = found->second;
                before = info.depth;
                if (info.depth < depth)
                    break;
                if (info.depth == depth) {
                    is_below = info.parent == top && (rest.empty() || begins_with(info, rest));
                    break;
                }
                at = info.parent;
            }
            for (const BlockName& name : way)
                below.emplace(name, is_below);
            if (is_below)
                gone.push_back(each.first);
        }
        add_own_blocks(model, tokens, chain, all, below, gone);
        std::erase_if(gone, [&](const BlockName& name) { return used.contains(name); });
        forget(gone);
    }

    template <class Predicate>
    std::size_t forget_if(Predicate predicate) {
        std::vector<BlockName> gone;
        for_each([&](const RecordInfo& info) {
            if (predicate(info))
                gone.push_back(info.name);
        });
        return forget(gone);
    }

    [[nodiscard]] std::uint64_t refusals() const {
        const SecondLevelStats now = stats.get();
        return now.refused_failed + now.refused_full + now.refused_read_only +
               now.refused_too_large + now.dropped_no_memory + now.dropped_no_payload +
               now.dropped_for_pool;
    }

    const Options options;
    Store& store;
    SharedStats stats;
    Writer writer;
    Loader loader;

private:
    static inline thread_local const void* not_written_for = nullptr;

    /// Whether a key is to be written. A key below the minimum is, where it was longer once: the tails that were
    /// cut off are of no use without it.
    [[nodiscard]] bool is_long_enough(ModelView model, Tokens tokens, const Terms& terms) {
        const std::size_t least = options.min_tokens;
        const std::size_t block = options.block_tokens;
        const std::size_t kept = terms.first * block; // tokens that stay in memory
        const bool is_short = tokens.size() < least;
        if (!is_short && (kept == 0 || kept >= least))
            return true;
        const Tokens start = tokens.first((std::min)(tokens.size(), least));
        const auto chain = BlockNames<Token>().chain(home(model).root, start, block);
        const std::lock_guard lock(cut_mutex_);
        if (is_short && !cut_.contains(chain.back()))
            return false;
        if (is_short && !terms.stays)
            cut_.erase(chain.back());
        if (kept > 0) {
            if (cut_.size() >= most_cut) // of keys that went another way since
                cut_.clear();
            cut_.insert(chain[kept / block]);
        }
        return true;
    }

    void write_removed(const Removal& removal) {
        if (removal.payload == nullptr || removal.tokens.empty()) {
            stats.add(&SecondLevelStats::dropped_no_payload);
            return;
        }
        if (not_written_for == this) {
            stats.add(&SecondLevelStats::dropped_for_pool, removal.payload->blocks().size());
            return;
        }
        const std::size_t block = options.block_tokens;
        const std::size_t first = (removal.kept_tokens + block - 1) / block; // of a tail
        offer(removal.model, removal.tokens, *removal.payload, removal.tier, {.first = first});
    }

    /// Copies: a snapshot would pin all entries, and nothing could be stored while they are named.
    [[nodiscard]] std::vector<std::pair<typename Types::Model, std::vector<Token>>>
    keys_in_memory() const {
        std::vector<std::pair<typename Types::Model, std::vector<Token>>> keys;
        cache_.for_each([&](const auto& entry) {
            keys.emplace_back(entry.model,
                              std::vector<Token>(entry.tokens.begin(), entry.tokens.end()));
        });
        return keys;
    }

    /// The first of a key's records (its blocks, then its end) that no resident key uses.
    [[nodiscard]] std::size_t first_unused(ModelView model, Tokens tokens) const {
        std::size_t held = cache_.held_tokens(model, tokens);
        if (options.share_between_models && !cache_.empty()) {
            const BlockName root = home(model).root;
            std::vector<typename Types::Model> models;
            cache_.for_each_model([&](const auto& each) { models.push_back(each); });
            for (const auto& other : models) {
                if (home(other).root != root)
                    continue;
                held = (std::max)(held, cache_.held_tokens(other, tokens));
                if (cache_.probe(other, tokens, {.min_remaining = 0}).match() == Match::exact)
                    return tokens.size() / options.block_tokens + 1; // the end as well
            }
        }
        return held / options.block_tokens;
    }

    /// Adds the blocks of an erased prefix itself, from its end on, as far as neither a resident key nor
    /// another record continues them.
    void add_own_blocks(ModelView model, Tokens tokens, const std::vector<BlockName>& chain,
                        const std::unordered_map<BlockName, RecordInfo>& all,
                        const std::unordered_map<BlockName, bool>& below,
                        std::vector<BlockName>& gone) const {
        const std::size_t used = first_unused(model, tokens);
        std::unordered_map<BlockName, std::size_t> continued; // by so many records that stay
        for (const auto& each : all) {
            if (!below.at(each.first))
                ++continued[each.second.parent];
        }
        for (std::size_t i = chain.size() - 1; i > used && continued[chain[i]] == 0; --i) {
            gone.push_back(chain[i]);
            if (all.contains(chain[i]))
                --continued[chain[i - 1]];
        }
    }

    /// Whether the tokens of a record begin with `rest`.
    [[nodiscard]] bool begins_with(const RecordInfo& info, Tokens rest) {
        bool begins = false;
        const auto compare = [&](std::span<const std::byte> tokens) {
            const auto wanted = std::as_bytes(rest);
            begins = tokens.size() >= wanted.size() &&
                     std::ranges::equal(tokens.first(wanted.size()), wanted);
        };
        const bool waits = writer.queue.visit(
            info.name, [&](const auto& item) { compare(std::as_bytes(std::span(item.tokens))); });
        if (!waits) {
            store.get(std::span(&info.name, 1), [&](std::size_t, std::span<const std::byte> bytes) {
                RecordView view;
                if (read_record(bytes, view) == RecordFault::none)
                    compare(view.tokens);
                else
                    begins = true; // nobody can say
                return true;
            });
        }
        return begins;
    }

    template <class F>
    void for_each(F f) {
        writer.queue.for_each([&](const auto& item) { f(item.info()); });
        store.for_each(f);
    }

    std::size_t forget(std::span<const BlockName> names) {
        {
            const std::lock_guard lock(cut_mutex_);
            for (const BlockName& name : names)
                cut_.erase(name);
        }
        const std::size_t waited = writer.queue.cancel(names);
        const std::size_t erased = store.erase(names);
        stats.add(&SecondLevelStats::dropped_erased, waited);
        stats.add(&SecondLevelStats::erased, erased);
        return erased;
    }

    Cache& cache_;
    static constexpr std::size_t most_cut = 65'536;
    std::mutex cut_mutex_;
    /// The last blocks of keys below the minimum that were longer once.
    std::unordered_set<BlockName> cut_;
};

} // namespace promptkv::inline PROMPTKV_ABI::detail

#endif
