// SPDX-License-Identifier: MIT
// RecordLoader: finds what a store has of a prompt, and makes an entry of it.
#ifndef PROMPTKV_DETAIL_RECORD_LOADER_HPP
#define PROMPTKV_DETAIL_RECORD_LOADER_HPP

#include <promptkv/block_kv.hpp>
#include <promptkv/block_store.hpp>
#include <promptkv/detail/block_names.hpp>
#include <promptkv/detail/block_records.hpp>
#include <promptkv/detail/load_plan.hpp>
#include <promptkv/detail/read_times.hpp>
#include <promptkv/detail/record_writer.hpp>
#include <promptkv/detail/saturating.hpp>
#include <promptkv/second_level_types.hpp>
#include <promptkv/version.hpp>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <utility>
#include <vector>

namespace promptkv::inline PROMPTKV_ABI::detail {

/// A load from the call of `prefetch` to the end of its handle. The handle and a reader's thread share it.
template <class Types>
struct Load {
    using Options = LoadOptions<typename Types::TierEnum>;
    using Clock = std::chrono::steady_clock;

    Load(typename Types::ModelView name, typename Types::Tokens key, const Options& given)
        : model(name), prompt(key.begin(), key.end()), options(given) {}

    [[nodiscard]] bool is_late() const { return Clock::now() >= options.deadline; }
    /// Why it must end now; `running`: it need not.
    [[nodiscard]] LoadEnd interrupted() const {
        if (is_cancelled.load(std::memory_order_relaxed))
            return LoadEnd::cancelled;
        return is_late() ? LoadEnd::deadline : LoadEnd::running;
    }

    const typename Types::Model model;
    const std::vector<typename Types::Token> prompt;
    const Options options;
    std::atomic<bool> is_cancelled{false};

    std::mutex mutex; // of what follows
    std::condition_variable ended;
    LoadEnd end = LoadEnd::running;
    std::size_t tokens = 0; // of the prompt that memory serves at the end
    std::size_t loaded = 0; // of these, those that were not there before
    typename Types::Cache::Lease pin;
};

/// The steps of a load: find, reserve, read, commit.
template <class Types, class Store, class Codec>
class RecordLoader {
public:
    using Writer = RecordWriter<Types, Store, Codec>;
    using Queue = typename Writer::Queue;
    using Waiting = typename Writer::Waiting;
    using KV = typename Types::KV;
    using Block = typename Types::Block;
    using Token = typename Types::Token;
    using Tokens = typename Types::Tokens;
    using Cache = typename Types::Cache;

    RecordLoader(Store& store, Writer& writer, SharedStats& stats, const Codec& codec,
                 std::size_t block_tokens)
        : store_(store), writer_(writer), stats_(stats), codec_(codec),
          block_tokens_(block_tokens) {}

    /// `is_over()`: whether there is no time left; then a plan may be for less.
    template <class IsOver>
    [[nodiscard]] LoadPlan plan(const Cache& cache, typename Types::ModelView model, Tokens prompt,
                                std::size_t min_remaining, const RecordHome& home, IsOver is_over) {
        return LoadPlanner<Types, Store, Writer>(store_, writer_, block_tokens_)
            .plan(cache, model, prompt, min_remaining, home, is_over);
    }

    /// Ends a load whose prompt memory serves as far as it can be used. False: it is to be made.
    bool is_in_memory(Cache& cache, Load<Types>& load) {
        const Tokens prompt(load.prompt);
        const std::size_t least = load.options.min_remaining;
        const std::size_t tokens =
            cache.probe(load.model, prompt, {.min_remaining = least}).reused();
        if (tokens == 0 || tokens + least < prompt.size())
            return false;
        auto pin = cache.pin(load.model, prompt.first(tokens));
        if (!pin)
            return false; // it was evicted meanwhile
        finish(load, LoadEnd::in_memory, tokens, 0, std::move(pin));
        return true;
    }

    /// Does a load, from the first step to the last. `home()`: where its records are. A reader's thread must go
    /// on: nothing is thrown.
    template <class Home>
    void run(Cache& cache, Load<Types>& load, Home home) {
        LoadEnd end = load.interrupted();
        std::size_t tokens = 0;
        std::size_t loaded = 0;
        typename Cache::Lease pin;
        try {
            if (end == LoadEnd::running)
                end = run(cache, load, home(), tokens, loaded);
        } catch (...) {
            end = LoadEnd::no_memory;
        }
        try {
            if (tokens > 0)
                pin = cache.pin(load.model, Tokens(load.prompt).first(tokens));
        } catch (...) { // the model's hash threw
            end = LoadEnd::no_memory;
        }
        if (tokens > 0 && !pin) { // it was evicted before it could be pinned
            tokens = loaded = 0;
            if (end == LoadEnd::loaded || end == LoadEnd::in_memory)
                end = LoadEnd::no_room;
        }
        finish(load, end, tokens, loaded, std::move(pin));
    }

private:
    void finish(Load<Types>& load, LoadEnd end, std::size_t tokens, std::size_t loaded,
                typename Cache::Lease pin) {
        stats_.change([&](SecondLevelStats& stats) {
            ++stats.loads;
            ++stats.ends[static_cast<std::size_t>(end)];
            stats.tokens_loaded += loaded;
        });
        {
            const std::lock_guard lock(load.mutex);
            load.end = end;
            load.tokens = tokens;
            load.loaded = loaded;
            load.pin = std::move(pin);
        }
        load.ended.notify_all();
    }

    static constexpr std::size_t window = 8; // records that a store is asked for at once
    static constexpr std::uint64_t patience = 64;

    LoadEnd run(Cache& cache, Load<Types>& load, const RecordHome& home, std::size_t& tokens,
                std::size_t& loaded) {
        const Tokens prompt(load.prompt);
        const LoadPlan plan =
            this->plan(cache, load.model, prompt, load.options.min_remaining, home,
                       [&] { return load.interrupted() != LoadEnd::running; });
        tokens = plan.in_memory;
        if (const LoadEnd why = load.interrupted(); why != LoadEnd::running)
            return why;
        if (plan.tokens <= plan.in_memory) {
            return plan.in_memory > 0 ? LoadEnd::in_memory
                   : plan.works       ? LoadEnd::absent
                                      : LoadEnd::store_failed;
        }
        if (is_slower(plan, load.options.seconds_per_token))
            return LoadEnd::slower;

        Room room;
        if (const LoadEnd end = reserve(cache, load, plan, room); end != LoadEnd::loaded) {
            tokens = end == LoadEnd::in_memory ? plan.tokens : tokens;
            return end;
        }
        KV kv = std::move(*room.prefix);
        LoadEnd end = LoadEnd::loaded;
        {
            const typename Queue::Reading reading(writer_.queue);
            end = read(plan, load, home, room.reservation.tokens(), kv);
        }
        if (Types::has_states ? !kv.has_state() : kv.length() <= plan.in_memory)
            return end; // nothing is gained
        const std::size_t length = kv.length();
        // Blocks may take more than their records: then this makes more room.
        const Inserted stored = room.reservation.commit(std::move(kv));
        if (stored.outcome == Outcome::cancelled)
            return LoadEnd::cancelled;
        if (stored.outcome == Outcome::present) { // another load was faster
            tokens = (std::min)(length, stored.tokens);
            return LoadEnd::in_memory;
        }
        if (stored.tokens == 0)
            return LoadEnd::no_room;
        tokens = (std::min)(length, stored.tokens);
        loaded = less(tokens, plan.in_memory);
        return end == LoadEnd::loaded && tokens < plan.tokens ? LoadEnd::no_room : end;
    }

    struct Room {
        typename Cache::Reservation reservation;
        std::optional<KV> prefix; // what memory holds already
    };

    /// Makes room for what is to be read, before it is read.
    LoadEnd reserve(Cache& cache, const Load<Types>& load, const LoadPlan& plan, Room& room) const {
        constexpr std::size_t tiers = tier_traits<typename Types::TierEnum>::count;
        const auto tier = load.options.tier.value_or(
            static_cast<typename Types::TierEnum>((std::min<std::size_t>)(plan.tier, tiers - 1)));
        const auto key = Tokens(load.prompt).first(plan.tokens);
        auto nbytes = static_cast<std::size_t>(plan.payload_bytes); // as if memory held nothing
        for (int attempt = 0; attempt < 2; ++attempt) {
            room.reservation = {}; // first: a second attempt needs its room
            room.reservation =
                cache.reserve(load.model, key, nbytes, tier,
                              {.session = load.options.session, .spare_upper_tiers = true});
            if (!room.reservation ||
                (Types::has_states && room.reservation.tokens() != key.size())) {
                return room.reservation.outcome() == Outcome::present ? LoadEnd::in_memory
                                                                      : LoadEnd::no_room;
            }
            room.prefix.emplace(room.reservation.prefix().value_or(KV(block_tokens_)));
            // It is known now what memory holds: a second attempt counts that in.
            const std::size_t known = room.prefix->nbytes() + plan.payload_bytes;
            if (known <= nbytes)
                break;
            nbytes = known;
        }
        return LoadEnd::loaded;
    }

    /// A record to be read, for the tokens [from, from + n) of the prompt.
    struct Step {
        BlockName name;
        BlockName parent;
        std::size_t from;
        std::size_t n;
        RecordKind kind;
    };

    /// What a payload of `from` tokens lacks of the plan, as far as there is room.
    [[nodiscard]] std::vector<Step> steps(const LoadPlan& plan, std::size_t from,
                                          std::size_t most) const {
        std::vector<Step> steps;
        if (from % block_tokens_ != 0)
            return steps; // it is a whole key
        const std::size_t last = (std::min)(most, plan.tokens);
        for (; from + block_tokens_ <= last; from += block_tokens_) {
            const std::size_t i = from / block_tokens_;
            steps.push_back(
                {plan.chain[i + 1], plan.chain[i], from, block_tokens_, RecordKind::block});
        }
        if (plan.end && last == plan.tokens) {
            steps.push_back(
                {*plan.end, plan.chain[from / block_tokens_], from, last - from, RecordKind::end});
        }
        return steps;
    }

    /// Appends what `kv` lacks of `most` tokens, as far as it can be had.
    [[nodiscard]] LoadEnd read(const LoadPlan& plan, const Load<Types>& load,
                               const RecordHome& home, std::size_t most, KV& kv) {
        const std::vector<Step> all = steps(plan, kv.length(), most);
        const Tokens prompt(load.prompt);
        const auto begin = std::chrono::steady_clock::now();
        std::vector<std::byte> unpacked;
        std::uint64_t nbytes = 0;
        std::size_t next = 0;
        LoadEnd end = LoadEnd::loaded;
        while (end == LoadEnd::loaded && next < all.size()) {
            const std::size_t first = next;
            if (const LoadEnd why = load.interrupted(); why != LoadEnd::running)
                return why;
            if (take_waiting(all[next], prompt, kv)) {
                ++next;
                continue;
            }
            std::vector<BlockName> names;
            for (std::size_t i = next; i < all.size() && names.size() < window; ++i)
                names.push_back(all[i].name);
            end = LoadEnd::store_failed; // unless the store calls the function
            const auto take = [&](std::size_t, std::span<const std::byte> record) {
                end = load.interrupted();
                if (end == LoadEnd::running) {
                    end = record.empty() ? LoadEnd::vanished
                                         : append(all[next], prompt, home, record, unpacked, kv);
                }
                nbytes += record.size();
                next += end == LoadEnd::loaded ? 1 : 0;
                return end == LoadEnd::loaded;
            };
            bool works = true;
            try {
                works = store_.get(std::span<const BlockName>(names), take);
            } catch (...) { // what was appended before is kept
                end = LoadEnd::no_memory;
            }
            if (!works && end == LoadEnd::vanished)
                end = LoadEnd::store_failed;
            if (end == LoadEnd::vanished && next > first) {
                end = LoadEnd::loaded; // it may have waited until now: both are asked anew
            } else if (end == LoadEnd::vanished && take_waiting(all[next], prompt, kv)) {
                ++next; // it was evicted meanwhile
                end = LoadEnd::loaded;
            }
        }
        measured(nbytes, std::chrono::steady_clock::now() - begin);
        return end;
    }

    /// Shares a block that is not written yet.
    bool take_waiting(const Step& step, Tokens prompt, KV& kv) {
        std::optional<SharedBlock<Block>> block;
        std::shared_ptr<const typename Types::State> state;
        bool equal = false;
        writer_.queue.visit(step.name, [&](const Waiting& item) {
            equal = item.header.parent == step.parent &&
                    std::ranges::equal(item.tokens, prompt.subspan(step.from, step.n));
            block = item.block;
            state = item.state;
        });
        if (!equal || (step.n > 0 && !block))
            return false;
        if (step.n > 0)
            kv.append(std::move(*block), step.n);
        if constexpr (Types::has_states) {
            if (step.kind == RecordKind::end)
                kv.set_state(std::move(state));
        }
        stats_.add(&SecondLevelStats::blocks_from_queue);
        return true;
    }

    /// Checks a record, and appends its block.
    [[nodiscard]] LoadEnd append(const Step& step, Tokens prompt, const RecordHome& home,
                                 std::span<const std::byte> record,
                                 std::vector<std::byte>& unpacked, KV& kv) {
        RecordView view;
        RecordFault fault = read_record(record, view);
        const RecordHeader& header = view.header;
        if (fault == RecordFault::none &&
            (header.name != step.name || header.parent != step.parent || header.root != home.root ||
             header.fingerprint != home.fingerprint || header.depth != step.from ||
             header.kind != step.kind || header.block_tokens != block_tokens_ ||
             !std::ranges::equal(view.tokens, std::as_bytes(prompt.subspan(step.from, step.n)))))
            fault = RecordFault::other_name;
        std::span<const std::byte> payload;
        if (fault == RecordFault::none)
            fault = unpack(view, unpacked, payload, codec_);
        if (fault == RecordFault::none)
            fault = append_payload(step, payload, header.block_bytes, kv);
        if (fault == RecordFault::none) {
            stats_.add(&SecondLevelStats::bytes_loaded, record.size());
            return LoadEnd::loaded;
        }
        stats_.change(
            [&](SecondLevelStats& stats) { ++stats.faults[static_cast<std::size_t>(fault)]; });
        // In a store that machines share, another one may know the codec, or be able to make the block.
        const bool is_others =
            (fault == RecordFault::codec || fault == RecordFault::refused) && !Store::is_local;
        const bool is_in_its_place = fault == RecordFault::other_name && header.name == step.name;
        if (!is_in_its_place && !is_others)
            store_.set_aside(step.name);
        return LoadEnd::bad_record;
    }

    [[nodiscard]] RecordFault append_payload(const Step& step, std::span<const std::byte> payload,
                                             std::size_t block_bytes, KV& kv) const {
        std::optional<Block> block =
            step.n > 0 ? kv_traits<Block>::make_block(payload.first(block_bytes)) : std::nullopt;
        if (step.n > 0 && !block)
            return RecordFault::refused;
        if constexpr (Types::has_states) {
            if (step.kind == RecordKind::end) {
                using State = typename Types::State;
                std::optional<State> state =
                    kv_traits<State>::make_block(payload.subspan(block_bytes));
                if (!state)
                    return RecordFault::refused;
                kv.set_state(std::move(*state));
            }
        }
        if (block)
            kv.append(std::move(*block), step.n);
        return RecordFault::none;
    }

    // what reading costs /////////////////////////////////////////////////////

    /// Whether reading takes longer than computing. After many refusals one load is made to measure again.
    [[nodiscard]] bool is_slower(const LoadPlan& plan, double seconds_per_token) {
        if (seconds_per_token <= 0)
            return false;
        const double reading = times_.seconds(static_cast<double>(plan.nbytes));
        const double computing =
            static_cast<double>(plan.tokens - plan.in_memory) * seconds_per_token;
        return reading > computing &&
               refused_.fetch_add(1, std::memory_order_relaxed) % patience != patience - 1;
    }

    void measured(std::uint64_t nbytes, std::chrono::duration<double> time) {
        if (nbytes == 0 || time.count() <= 0)
            return;
        times_.add(static_cast<double>(nbytes), time.count());
        const double now = static_cast<double>(nbytes) / time.count();
        stats_.change([&](SecondLevelStats& stats) {
            const double before = stats.bytes_per_second;
            stats.bytes_per_second = before > 0 ? 0.75 * before + 0.25 * now : now;
        });
    }

    Store& store_;
    Writer& writer_;
    SharedStats& stats_;
    const Codec codec_;
    const std::size_t block_tokens_;
    ReadTimes times_;
    std::atomic<std::uint64_t> refused_{0};
};

} // namespace promptkv::inline PROMPTKV_ABI::detail

#endif
