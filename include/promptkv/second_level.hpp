// SPDX-License-Identifier: MIT
// SecondLevel: state that memory evicts goes to a store; a prompt gets it back from there.
//
// Needs libxxhash and threads; not in the umbrella header.
#ifndef PROMPTKV_SECOND_LEVEL_HPP
#define PROMPTKV_SECOND_LEVEL_HPP

#include <promptkv/block_store.hpp>
#include <promptkv/detail/record_loader.hpp>
#include <promptkv/detail/record_writer.hpp>
#include <promptkv/detail/second_level_core.hpp>
#include <promptkv/second_level_types.hpp>
#include <promptkv/version.hpp>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <span>
#include <stdexcept>
#include <string>
#include <thread>
#include <type_traits>
#include <utility>
#include <vector>

namespace promptkv::inline PROMPTKV_ABI {

/// A second level below a cache whose payload is a BlockKV.
///
///     promptkv::FileStore store({.directory = "/var/cache/kv", .max_bytes = 200ull << 30});
///     promptkv::SecondLevel<decltype(cache), promptkv::FileStore> second(
///         cache, store, {.fingerprint = promptkv::fingerprint_of(engine_text), .block_tokens = 64});
///
///     auto load = second.prefetch(model, prompt, {.seconds_per_token = 0.002});
///     load.wait();
///     auto hit = cache.lease_nearest(model, prompt);    // as without a second level
///
/// It takes the cache's removal listener: give a listener of your own to `set_removal_listener` here. A cache has
/// one second level at a time.
/// What is evicted or cut is written by a thread of its own, from a queue that holds at most `queue_bytes`;
/// these bytes are not in the cache's `nbytes()`. A full queue drops what comes; a request never waits.
///
/// A record is used only where its tokens and the name of the block before are those of the prompt, its
/// checksums are right, and `make_block` takes it. A wrong fingerprint is not detected: it must change with
/// everything that the state depends on.
///
/// Erase through the functions here: they remove what only the store has as well. An erase that was made
/// at the cache itself removes the records of the entries that it erased; so does `clear`. To end, flush and
/// destroy; do not clear.
///
/// `Store`: see BlockStore. It and the cache must live longer. `Codec`: NoCodec, or ZstdCodec. The default does not
/// compress: zstd -1 saves 7 % of f16 state and 9 % of q8_0 state, lz4 half of that, and zstd takes several times as
/// long as reading the file does (benchmarks/second_level).
/// Thread safety: as the cache. Loads are made by threads of its own where the cache is a
/// ConcurrentPromptCache; else `prefetch` makes the load before it returns.
template <class Cache, BlockStore Store, class Codec = NoCodec>
class SecondLevel {
    using Types = detail::SecondLevelTypes<Cache>;
    using Load = detail::Load<Types>;
    static_assert(detail::WritableBlock<typename Types::Block>,
                  "a block needs write_block and make_block: see kv_traits");
    static_assert(!Types::has_states || detail::WritableBlock<typename Types::State>,
                  "a State needs write_block and make_block: see kv_traits");

public:
    using KV = typename Types::KV;
    using Model = typename Types::Model;
    using ModelView = typename Types::ModelView;
    using Token = typename Types::Token;
    using Tokens = typename Types::Tokens;
    using TierEnum = typename Types::TierEnum;
    using Lease = typename Cache::Lease;
    using Removal = typename Cache::Removal;
    using LoadOptions = promptkv::LoadOptions<TierEnum>;
    using Clock = std::chrono::steady_clock;

    struct Options {
        /// Of all models, unless `fingerprint_of_model` says it for each.
        Fingerprint fingerprint{};
        std::size_t block_tokens = 0; ///< of every payload; must be given
        WriteWhen write = WriteWhen::evicted;
        std::size_t min_tokens = 0; ///< shorter keys are not written, unless they were longer once
        /// Of state and tokens. Each record takes a few hundred bytes more.
        std::size_t queue_bytes = std::size_t{256} << 20U;
        double bytes_per_second = 0; ///< the most that is written; 0: no limit
        std::size_t readers = 2;     ///< threads that load
        /// Models with one fingerprint share their records.
        bool share_between_models = false;
        std::function<Fingerprint(const Model&)> fingerprint_of_model{};
        /// The bytes that tell a model from others; needed where Model is no std::string.
        std::function<std::string(const Model&)> bytes_of_model{};
        Codec codec{};
    };

    /// A load that is under way, or was made. What it loaded stays in memory as long as this lives. The
    /// destructor cancels a load that still runs. One that was made by its default constructor may be assigned,
    /// cancelled or destroyed only. Move-only. Must be destroyed before the cache.
    class Prefetch {
    public:
        Prefetch() = default;
        Prefetch(Prefetch&&) noexcept = default;
        Prefetch& operator=(Prefetch&& other) noexcept {
            release();
            cache_ = other.cache_;
            load_ = std::move(other.load_);
            return *this;
        }
        ~Prefetch() { release(); }

        /// Waits until the load ended, or for its deadline. Returns whether it ended.
        bool wait() {
            std::unique_lock lock(load_->mutex);
            const auto is_over = [this] { return load_->end != LoadEnd::running; };
            if (load_->options.deadline == (Clock::time_point::max)())
                load_->ended.wait(lock, is_over);
            else
                load_->ended.wait_until(lock, load_->options.deadline, is_over);
            return is_over();
        }
        [[nodiscard]] bool ready() const { return end() != LoadEnd::running; }
        /// Stops reading. What was read is kept.
        void cancel() {
            if (load_ != nullptr)
                load_->is_cancelled.store(true, std::memory_order_relaxed);
        }
        /// How the load ended.
        [[nodiscard]] LoadEnd end() const { return locked(&Load::end); }
        /// Tokens of the prompt that memory serves since the load ended.
        [[nodiscard]] std::size_t tokens() const { return locked(&Load::tokens); }
        /// Of these, the tokens that this load brought.
        [[nodiscard]] std::size_t loaded() const { return locked(&Load::loaded); }
        /// The request's lookup: `lease_nearest` of the prompt.
        [[nodiscard]] Lease lease(FetchOptions options = {}) {
            return cache_->lease_nearest(load_->model, Tokens(load_->prompt), options);
        }

    private:
        friend SecondLevel;
        Prefetch(Cache& cache, std::shared_ptr<Load> load)
            : cache_(&cache), load_(std::move(load)) {}
        void release() noexcept {
            cancel();
            if (load_ == nullptr)
                return;
            Lease pin; // a reader's thread may have the load for a moment longer, but not this
            const std::lock_guard lock(load_->mutex);
            pin = std::move(load_->pin);
        }
        template <class T>
        [[nodiscard]] T locked(T Load::*member) const {
            const std::lock_guard lock(load_->mutex);
            return (*load_).*member;
        }

        Cache* cache_ = nullptr;
        std::shared_ptr<Load> load_;
    };

    /// Throws:   std::invalid_argument where options.block_tokens is 0 or above 2^20, or a Model that is no
    ///           std::string has no `bytes_of_model`; std::system_error where a thread cannot be started;
    ///           what an allocation throws.
    SecondLevel(Cache& cache, Store& store, const Options& options)
        : SecondLevel(cache, std::make_shared<Core>(cache, store, checked(options))) {
        // From here on the destructor runs whatever is thrown, and ends the threads that were started.
        if constexpr (Types::is_concurrent) {
            const std::size_t readers = (std::max<std::size_t>)(options.readers, 1);
            running_.reserve(readers); // a reader's thread must not throw
            for (std::size_t i = 0; i < readers; ++i)
                readers_.emplace_back([this] { serve_loads(); });
        }
        set_removal_listener(nullptr);
    }
    SecondLevel(const SecondLevel&) = delete;
    SecondLevel& operator=(const SecondLevel&) = delete;
    /// Drops what waits to be written: `flush` before. Loads that are under way are cancelled.
    /// Requires: no other thread is in a call that evicts from the cache or erases.
    ~SecondLevel() {
        cache_.set_removal_listener(nullptr);
        {
            const std::lock_guard lock(loads_mutex_);
            closed_ = true;
            for (const std::shared_ptr<Load>& load : running_)
                load->is_cancelled.store(true, std::memory_order_relaxed);
        }
        loads_changed_.notify_all();
        for (std::thread& reader : readers_)
            reader.join();
        core_->writer.stop();
    }

    /// `f` is called after the second level took what it needs, under the rules of the cache's own.
    void set_removal_listener(std::function<void(Removal&)> f) {
        cache_.set_removal_listener([core = core_, f = std::move(f)](Removal& removal) {
            core->removed(removal);
            if (f)
                f(removal);
        });
    }

    // writing ////////////////////////////////////////////////////////////////

    /// Tells of a payload that is about to be stored: before `insert` or `commit`, which move it away. `kv` may
    /// hold the beginning of `tokens` alone, as for a commit. Has an effect with WriteWhen::inserted. The writer's
    /// thread reads whole blocks, so nobody may go on filling the last one of `kv`.
    void inserted(ModelView model, Tokens tokens, const KV& kv, TierEnum tier) {
        if (core_->options.write == WriteWhen::inserted)
            core_->offer(model, tokens, kv, tier);
    }
    /// Tells of a hit. Has an effect with WriteWhen::second_use, unless what was reused was erased meanwhile.
    void reused(ModelView model, Tokens prompt, const Lease& hit) {
        if (core_->options.write != WriteWhen::second_use || !hit)
            return;
        const Tokens key = prompt.first(hit.reused());
        offer_held(model, key, [&] {
            if constexpr (Types::has_states)
                return core_->offer(model, key, hit.kv(), hit.tier());
            else
                return core_->offer(model, key, hit.kv().clone_prefix(key.size()), hit.tier());
        });
    }

    /// Writes what memory holds and the store does not, the most persistent and most recent first, before a
    /// shutdown. Where the store is too small, the first stay. Until all is queued the cache evicts none of it;
    /// loads do not hold the writes up. False: the deadline came first, or something was refused or dropped.
    bool flush(Clock::time_point deadline) {
        const std::uint64_t refused = core_->refusals();
        const typename Core::Writer::Queue::Hurry hurry(core_->writer.queue); // whatever the rate
        // What was written before makes no room for what comes after it, and is less important.
        const typename Core::Terms terms{
            .first = 0, .deadline = deadline, .spares = core_->uses_of_store(), .stays = true};
        std::vector<std::vector<BlockName>> written;
        bool all = true;
        {
            auto entries = cache_.snapshot();
            for (auto entry = entries.rbegin(); entry != entries.rend(); ++entry) {
                const auto offer = [&] {
                    if constexpr (Core::store_keeps_order)
                        written.push_back(core_->names_of(entry->model, entry->tokens));
                    return Clock::now() < deadline &&
                           core_->offer(entry->model, entry->tokens, entry->lease.kv(), entry->tier,
                                        terms);
                };
                all = offer_held(entry->model, entry->tokens, offer) && all;
            }
        }
        all = core_->writer.queue.wait_written(deadline) && all;
        // The first is to be the most recently used one, for the next start as well.
        if constexpr (Core::store_keeps_order) {
            for (; !written.empty() && Clock::now() < deadline; written.pop_back())
                core_->store.touch(written.back(), true);
        }
        return all && core_->refusals() == refused;
    }

    /// Waits until all that waits now is written. False: the deadline came first.
    bool wait_written(Clock::time_point deadline) {
        return core_->writer.queue.wait_written(deadline);
    }

    /// Frees at least `nbytes` bytes of an engine's pool, if they can be: first what only waits to be written,
    /// then entries, which are not written, then entries whose blocks wait to be written too. Returns the
    /// bytes freed. Where the pool alone evicts, use WriteWhen::inserted: `evicted` has nothing to write then.
    std::size_t evict(std::size_t nbytes) {
        std::size_t freed = drop_waiting(nbytes, [](const auto& record) { return record.freed(); });
        const typename Core::NotWriting not_writing(*core_);
        if (freed < nbytes)
            freed += cache_.evict(nbytes - freed);
        if (freed < nbytes) {
            drop_waiting(~std::size_t{0}, [](const auto&) { return std::size_t{1}; });
            freed += cache_.evict(nbytes - freed);
        }
        return freed;
    }

    // reading ////////////////////////////////////////////////////////////////

    /// What the store has of a prompt, from an index in memory.
    [[nodiscard]] Located locate(ModelView model, Tokens prompt, std::size_t min_remaining = 1)
        requires(Store::is_local)
    {
        const auto plan = core_->loader.plan(cache_, model, prompt, min_remaining,
                                             core_->home(model), [] { return false; });
        return {plan.tokens, plan.nbytes};
    }

    /// Brings what the store has of a prompt to memory, as an entry. Room is made for it before a byte is
    /// read; entries of more persistent tiers are not evicted for it. A prompt that is in memory already is
    /// a load that has ended.
    [[nodiscard]] Prefetch prefetch(ModelView model, Tokens prompt,
                                    const LoadOptions& options = {}) {
        auto load = std::make_shared<Load>(model, prompt, options);
        if (core_->loader.is_in_memory(cache_, *load)) {
            // It has ended.
        } else if constexpr (!Types::is_concurrent) {
            make(*load);
        } else {
            {
                const std::lock_guard lock(loads_mutex_);
                waiting_.push_back(load);
            }
            loads_changed_.notify_one();
        }
        return Prefetch(cache_, std::move(load));
    }

    // erasing ////////////////////////////////////////////////////////////////
    //
    // Each erases entries from the cache, what of them waits to be written, and their records. A store that
    // is shared keeps records that this process cannot name: those of a fingerprint that nobody uses any more
    // leave by `erase_other_than`, or as the least recently used. The cache is asked twice: a load that read
    // a record before it was removed is voided by the second time. What another thread evicts at the same
    // moment may be written after the erase; erase again once that thread's call has returned.

    /// Removes the key's entry and the records that no resident key uses.
    bool erase(ModelView model, Tokens tokens) {
        const bool erased = cache_.erase(model, tokens);
        core_->forget(model, tokens);
        return cache_.erase(model, tokens) || erased;
    }
    /// Removes the prefix and all that continue it: also records whose beginning neither the store nor memory has,
    /// since nobody can say what they continue. Complexity: O(records + tokens in memory).
    std::size_t erase_below(ModelView model, Tokens tokens) {
        const std::size_t entries = cache_.erase_below(model, tokens);
        core_->forget_below(model, tokens);
        return entries + cache_.erase_below(model, tokens);
    }
    /// Removes the entries in memory that this session alone stored, and their records. A record does not say
    /// whose it is, since sessions share blocks: what was evicted before stays and can come back. To erase
    /// a conversation from both levels, call `erase_below` with a prefix that only this conversation has.
    std::size_t erase_session(ModelView model, std::uint64_t session) {
        return cache_.erase_session(model, session);
    }
    /// Removes all of a model; where models share records, those of the entries alone.
    std::size_t erase_model(ModelView model) {
        const std::size_t entries = cache_.erase_model(model);
        if (!core_->options.share_between_models) {
            const BlockName root = core_->home(model).root;
            core_->forget_if([&](const RecordInfo& info) { return info.root == root; });
        }
        return entries + cache_.erase_model(model);
    }
    /// Removes everything; of a store that machines share, what this process holds in memory.
    std::size_t clear() {
        const std::size_t entries = cache_.clear();
        core_->stats.add(&SecondLevelStats::dropped_erased, core_->writer.queue.cancel_all());
        if constexpr (Store::is_local)
            core_->forget_if([](const RecordInfo&) { return true; });
        return entries + cache_.clear();
    }
    /// Removes the records of all other fingerprints. Returns how many. Those of another `block_tokens` stay:
    /// another second level may use them.
    std::size_t erase_other_than(std::span<const Fingerprint> fingerprints) {
        return core_->forget_if([&](const RecordInfo& info) {
            return std::ranges::find(fingerprints, info.fingerprint) == fingerprints.end();
        });
    }

    // observers //////////////////////////////////////////////////////////////

    [[nodiscard]] SecondLevelStats stats() const {
        SecondLevelStats stats = core_->stats.get();
        stats.bytes_waiting = core_->writer.queue.nbytes();
        return stats;
    }

private:
    using Core = detail::SecondLevelCore<Cache, Store, Codec, Options>;

    SecondLevel(Cache& cache, std::shared_ptr<Core> core) : cache_(cache), core_(std::move(core)) {}

    [[nodiscard]] static const Options& checked(const Options& options) {
        if (options.block_tokens == 0 || options.block_tokens > detail::max_record_tokens)
            throw std::invalid_argument("SecondLevel: Options::block_tokens is " +
                                        std::to_string(options.block_tokens) +
                                        "; it must be from 1 to 2^20");
        if (!std::is_same_v<Model, std::string> && !options.bytes_of_model &&
            !options.share_between_models)
            throw std::invalid_argument("SecondLevel: this type of Model needs bytes_of_model");
        return options;
    }

    /// Calls `offer()` for state that is leased, unless it was erased since or serves nothing. False: `offer` says
    /// so.
    template <class Offer>
    bool offer_held(ModelView model, Tokens tokens, Offer offer) {
        const auto is_there = [&] {
            return cache_.probe(model, tokens, {.min_remaining = 0}).reused() == tokens.size();
        };
        if (!is_there())
            return true;
        const bool all = offer();
        if (!is_there())
            core_->forget(model, tokens);
        return all;
    }

    /// See WriteQueue::drop. Returns the bytes freed.
    template <class Freed>
    std::size_t drop_waiting(std::size_t nbytes, Freed freed) {
        const auto dropped = core_->writer.queue.drop(nbytes, [&](const auto& record) {
            const std::size_t frees = freed(record);
            if (frees > 0) // before a flush sees that nothing waits
                core_->stats.add(&SecondLevelStats::dropped_for_pool);
            return frees;
        });
        std::size_t bytes = 0;
        for (const auto& record : dropped)
            bytes += record.freed();
        return bytes;
    }

    void make(Load& load) {
        core_->loader.run(cache_, load, [&] { return core_->home(load.model); });
    }
    void serve_loads() {
        for (;;) {
            std::shared_ptr<Load> load;
            {
                std::unique_lock lock(loads_mutex_);
                loads_changed_.wait(lock, [this] { return closed_ || !waiting_.empty(); });
                if (waiting_.empty())
                    return;
                load = std::move(waiting_.front());
                waiting_.pop_front();
                running_.push_back(load);
                if (closed_)
                    load->is_cancelled.store(true, std::memory_order_relaxed);
            }
            make(*load);
            const std::lock_guard lock(loads_mutex_);
            running_.erase(std::ranges::find(running_, load));
        }
    }

    Cache& cache_;
    std::shared_ptr<Core> core_; // the listener shares it: a late call must find it
    std::mutex loads_mutex_;     // of what follows
    std::condition_variable loads_changed_;
    std::deque<std::shared_ptr<Load>> waiting_;
    std::vector<std::shared_ptr<Load>> running_;
    bool closed_ = false;
    std::vector<std::thread> readers_;
};

} // namespace promptkv::inline PROMPTKV_ABI

#endif
