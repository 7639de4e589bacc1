// SPDX-License-Identifier: MIT
// The options of a second level, its answers and its counters.
#ifndef PROMPTKV_SECOND_LEVEL_TYPES_HPP
#define PROMPTKV_SECOND_LEVEL_TYPES_HPP

#include <promptkv/block_store.hpp>
#include <promptkv/detail/block_records.hpp>
#include <promptkv/lru_prompt_cache.hpp>
#include <promptkv/tier.hpp>
#include <promptkv/version.hpp>

#include <xxhash.h>

#include <array>
#include <chrono>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>

namespace promptkv::inline PROMPTKV_ABI {

/// A fingerprint of a text that names everything that the state depends on: a hash of the weights, the
/// adapter, the types of K and V, the layout, the engine's build. Add a secret of yours to it, and nobody
/// else can tell which names your prompts have.
[[nodiscard]] inline Fingerprint fingerprint_of(std::string_view text) noexcept {
    const XXH128_hash_t hash = XXH3_128bits(text.data(), text.size());
    Fingerprint fingerprint;
    std::memcpy(fingerprint.data(), &hash.high64, 8);
    std::memcpy(fingerprint.data() + 8, &hash.low64, 8);
    return fingerprint;
}

/// When state is written.
enum class WriteWhen : std::uint8_t {
    evicted,  ///< when it is evicted or cut: the fewest writes
    inserted, ///< at once, by `SecondLevel::inserted`: a crash loses the least
    second_use ///< at its first reuse, by `SecondLevel::reused`: what nobody asks for again is not written
};

/// How a load ended.
enum class LoadEnd : std::uint8_t {
    running,
    loaded,       ///< all that the store has of the prompt is in memory
    in_memory,    ///< memory serves as much as the store would
    absent,       ///< the store has nothing of it
    slower,       ///< reading would take longer than computing
    no_room,      ///< memory has no room, or only at the cost of more persistent tiers
    cancelled,    ///< by the caller, or by an erase of the prompt
    deadline,     ///< it came first
    vanished,     ///< a record was there and was gone when it was read
    bad_record,   ///< a record could not be used; see SecondLevelStats::faults
    store_failed, ///< the store is down
    no_memory,    ///< an allocation failed, or code of the caller's threw
};

[[nodiscard]] constexpr std::string_view name(LoadEnd end) noexcept {
    return detail::name_of(end, {"running", "loaded", "in_memory", "absent", "slower", "no_room",
                                 "cancelled", "deadline", "vanished", "bad_record", "store_failed",
                                 "no_memory"});
}
[[nodiscard]] constexpr std::string_view name(WriteWhen when) noexcept {
    return detail::name_of(when, {"evicted", "inserted", "second_use"});
}

/// What a store has of a prompt beyond memory.
struct Located {
    std::size_t tokens = 0;   ///< of the prompt that could be served, memory's part included
    std::uint64_t nbytes = 0; ///< to read
};

template <class TierEnum>
struct LoadOptions {
    using Clock = std::chrono::steady_clock;

    /// Loading stops then.
    Clock::time_point deadline = (Clock::time_point::max)();
    /// What computing a token takes. A load that would take longer is not made, but for one in 64, to measure
    /// the store again. 0: every load is made.
    double seconds_per_token = 0;
    /// The tier of the entry; empty: that in which it was stored.
    std::optional<TierEnum> tier{};
    std::uint64_t session = 0; ///< as InsertOptions::session
    /// Tokens that an engine must compute itself. With a State, only a key with at most
    /// `prompt.size() - min_remaining` tokens is loaded.
    std::size_t min_remaining = 1;
};

/// Counters since the second level was made, which only grow; the last two are gauges.
struct SecondLevelStats {
    std::uint64_t written = 0;        ///< records
    std::uint64_t bytes_written = 0;  ///< of these, as they were stored
    std::uint64_t bytes_raw = 0;      ///< of these, as they were in memory
    std::uint64_t stored_already = 0; ///< records that were not written, since the store has them
    // records that were not written, by reason
    std::uint64_t dropped_queue_full = 0;
    std::uint64_t dropped_for_pool = 0;   ///< by `evict`
    std::uint64_t dropped_erased = 0;     ///< their key was erased while they waited
    std::uint64_t dropped_at_end = 0;     ///< they waited when the second level was destroyed
    std::uint64_t dropped_too_short = 0;  ///< keys below `min_tokens`
    std::uint64_t dropped_no_payload = 0; ///< not handed out, moved away, or of other blocks
    std::uint64_t dropped_no_memory = 0;
    std::uint64_t refused_full = 0; ///< by the store
    std::uint64_t refused_too_large = 0;
    std::uint64_t refused_read_only = 0;
    std::uint64_t refused_failed = 0;
    std::uint64_t erased = 0;       ///< records that were removed since their key was erased
    std::uint64_t erase_failed = 0; ///< erased keys that could not be named: memory ran out
    std::uint64_t loads = 0;
    std::uint64_t tokens_loaded = 0;
    std::uint64_t bytes_loaded = 0;        ///< as they were stored
    std::uint64_t blocks_from_queue = 0;   ///< that were loaded before they were written
    std::array<std::uint64_t, 12> ends{};  ///< of the loads, by LoadEnd
    std::array<std::uint64_t, 7> faults{}; ///< records that could not be used, by RecordFault
    std::size_t bytes_waiting = 0;         ///< to be written, now
    double bytes_per_second = 0;           ///< measured by the last loads
};

/// Calls `f(name, value)` for each counter and gauge; those by reason are named after it. `name` is a string
/// literal or a std::string_view, and a value is an integer or a double.
template <class F>
void for_each_counter(const SecondLevelStats& s, F f) {
    f("written", s.written);
    f("bytes_written", s.bytes_written);
    f("bytes_raw", s.bytes_raw);
    f("stored_already", s.stored_already);
    f("dropped_queue_full", s.dropped_queue_full);
    f("dropped_for_pool", s.dropped_for_pool);
    f("dropped_erased", s.dropped_erased);
    f("dropped_at_end", s.dropped_at_end);
    f("dropped_too_short", s.dropped_too_short);
    f("dropped_no_payload", s.dropped_no_payload);
    f("dropped_no_memory", s.dropped_no_memory);
    f("refused_full", s.refused_full);
    f("refused_too_large", s.refused_too_large);
    f("refused_read_only", s.refused_read_only);
    f("refused_failed", s.refused_failed);
    f("erased", s.erased);
    f("erase_failed", s.erase_failed);
    f("loads", s.loads);
    f("tokens_loaded", s.tokens_loaded);
    f("bytes_loaded", s.bytes_loaded);
    f("blocks_from_queue", s.blocks_from_queue);
    for (std::size_t i = 0; i < s.ends.size(); ++i)
        f(name(static_cast<LoadEnd>(i)), s.ends[i]);
    for (std::size_t i = 0; i < s.faults.size(); ++i)
        f(name(static_cast<RecordFault>(i)), s.faults[i]);
    f("bytes_waiting", s.bytes_waiting);
    f("bytes_per_second", s.bytes_per_second);
}

namespace detail {

/// The types of a cache whose payload is a BlockKV.
template <class Cache>
struct SecondLevelTypes {
    static_assert(sizeof(Cache) == 0, "a second level needs a cache whose payload is a BlockKV");
};

template <class BlockType, class StateType, class ModelType, class TokenType, class TierEnumType,
          class Policy, class Mutex>
struct SecondLevelTypes<BasicPromptCache<BlockKV<BlockType, StateType>, ModelType, TokenType,
                                         TierEnumType, Policy, Mutex>> {
    using Cache = BasicPromptCache<BlockKV<BlockType, StateType>, ModelType, TokenType,
                                   TierEnumType, Policy, Mutex>;
    using KV = BlockKV<BlockType, StateType>;
    using Block = BlockType;
    static constexpr bool has_states = !std::is_void_v<StateType>;
    using State = std::conditional_t<has_states, StateType, std::byte>;
    using Model = ModelType;
    using ModelView =
        std::conditional_t<std::is_same_v<Model, std::string>, std::string_view, const Model&>;
    using Token = TokenType;
    using Tokens = std::span<const Token>;
    using TierEnum = TierEnumType;
    static constexpr bool is_concurrent = !std::is_same_v<Mutex, NoMutex>;
};

/// A block, or a State, that can be written and made again.
template <class Block>
concept WritableBlock =
    requires(const Block& block, BlockSink& sink, std::span<const std::byte> bytes) {
        kv_traits<Block>::write_block(block, sink);
        { kv_traits<Block>::make_block(bytes) } -> std::convertible_to<std::optional<Block>>;
    };

/// Where the records of a model are.
struct RecordHome {
    BlockName root;
    Fingerprint fingerprint{};
};

/// Counters that several threads add to.
class SharedStats {
public:
    template <class F>
    void change(F f) {
        const std::lock_guard lock(mutex_);
        f(stats_);
    }
    void add(std::uint64_t SecondLevelStats::*counter, std::uint64_t n = 1) {
        change([&](SecondLevelStats& stats) { stats.*counter += n; });
    }
    [[nodiscard]] SecondLevelStats get() const {
        const std::lock_guard lock(mutex_);
        return stats_;
    }

private:
    mutable std::mutex mutex_;
    SecondLevelStats stats_;
};

} // namespace detail
} // namespace promptkv::inline PROMPTKV_ABI

#endif
