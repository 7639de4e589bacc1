// SPDX-License-Identifier: MIT
// The options of LRUPromptCache and the plain parts of its answers.
#ifndef PROMPTKV_CACHE_TYPES_HPP
#define PROMPTKV_CACHE_TYPES_HPP

#include <promptkv/version.hpp>

#include <cstddef>
#include <cstdint>
#include <limits>
#include <ranges>
#include <span>
#include <type_traits>

namespace promptkv::inline PROMPTKV_ABI {

/// The relation of an entry's key to the prompt: the same, a prefix of it, or one that goes on or
/// branches off beyond what is shared.
enum class Match : std::uint8_t { none, exact, shorter, longer };

/// What an insert came to.
enum class Outcome : std::uint8_t { stored, replaced, anchored, too_large, no_room };

/// Why a payload, or a part of it, left the cache.
enum class RemovalReason : std::uint8_t {
    evicted,
    cut,
    absorbed,
    replaced,
    erased,
    taken,
    cleared
};

inline constexpr std::size_t unlimited = std::numeric_limits<std::size_t>::max();

/// What a cache may hold. 0 is valid: nothing.
struct CacheLimits {
    std::size_t max_bytes = unlimited;
    std::size_t max_entries = unlimited;
};

struct CacheOptions {
    std::size_t max_bytes = unlimited;
    std::size_t max_entries = unlimited;
    bool refresh_on_fetch = true; ///< a lookup makes its entry the most recently used
    bool keep_anchors = true;     ///< remember keys that a longer entry serves
    bool supersede = true;        ///< let the earlier turns of state that cannot be cut go first
    std::size_t cut_granularity = 256; ///< tokens; a cut ends at a multiple. 0: entries go whole
};

struct FetchOptions {
    std::size_t min_remaining = 1; ///< tokens left to compute; an engine needs one for its logits
    std::size_t min_reuse = 1;     ///< fewer tokens are a miss
    std::size_t align = 1;         ///< tokens; reuse is a multiple of it where the payload allows
};

/// The answer to an insert: what it came to, and what it did to other entries.
struct Inserted {
    Outcome outcome = Outcome::stored;
    std::size_t absorbed = 0; ///< payloads that went because the new one serves their keys
    std::size_t evicted = 0;  ///< entries dropped whole
    std::size_t cut = 0;      ///< cuts
};

/// A prompt or a key: any contiguous range of tokens that outlives the call, as a span. A temporary
/// that owns its tokens does not compile, because results point into them.
template <class Token>
class Prompt : public std::span<const Token> {
public:
    template <class Range>
    requires(std::ranges::contiguous_range<Range>&& std::ranges::sized_range<Range>&&
                 std::is_same_v<std::ranges::range_value_t<Range>, Token>&&
                     std::ranges::borrowed_range<Range>)
        Prompt(
            Range&&
                tokens) // NOLINT(google-explicit-constructor,bugprone-forwarding-reference-overload)
        : std::span<const Token>(std::ranges::data(tokens), std::ranges::size(tokens)) {}
};

} // namespace promptkv::inline PROMPTKV_ABI

#endif
