// SPDX-License-Identifier: MIT
// The options of LRUPromptCache and the plain parts of its answers.
#ifndef PROMPTKV_CACHE_TYPES_HPP
#define PROMPTKV_CACHE_TYPES_HPP

#include <promptkv/version.hpp>

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <optional>
#include <span>
#include <type_traits>
#include <utility>

namespace promptkv::inline PROMPTKV_ABI {

/// The relation of an entry's key to the prompt: the same, a prefix of it, or one that goes on or
/// branches off beyond what is shared.
enum class Match : std::uint8_t { none, exact, shorter, longer };

/// What an insert came to.
enum class Outcome : std::uint8_t {
    stored,
    replaced,  ///< stored, in place of the payload that the key had
    anchored,  ///< not needed: a longer entry serves the key, which is remembered
    too_large, ///< refused: larger than the whole budget
    no_room    ///< refused: with what is leased it would exceed a limit
};

/// Why a payload, or a part of it, left the cache.
enum class RemovalReason : std::uint8_t {
    evicted,  ///< to make room, or because its `truncate` threw
    cut,      ///< its tail alone, to make room
    absorbed, ///< a longer entry serves its key
    replaced, ///< by another payload of the same key
    erased,   ///< by `erase`, `erase_model` or `pop_prefixes`
    taken,    ///< by `take_nearest`
    cleared   ///< by `clear`
};

/// Why a lookup reused nothing; where several apply, the last of them.
enum class MissReason : std::uint8_t {
    none,           ///< it was a hit
    nothing_shared, ///< no stored key of the model begins as the prompt does
    other_model,    ///< the same, but a lookup with another model would have hit
    only_anchor,    ///< only anchors share tokens with it; their payloads are gone
    not_cuttable,   ///< entries share tokens with it, and serve none of those alone
    leased,         ///< a take of an entry that is leased
    below_min_reuse ///< less than `FetchOptions::min_reuse` could be reused
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
    /// Tokens; a cut ends at a multiple. Make it a multiple of the payload's blocks: a cut that frees
    /// nothing drops the entry. 0: entries go whole, as if they could not be cut, so that the anchors
    /// which depend on that are not made.
    std::size_t cut_granularity = 256;
};

struct FetchOptions {
    /// Tokens left to compute; an engine needs one for its logits. A payload that serves its whole key
    /// alone misses on the very same prompt, unless this is 0.
    std::size_t min_remaining = 1;
    std::size_t min_reuse = 1; ///< fewer tokens are a miss
    std::size_t align = 1;     ///< tokens; reuse is a multiple of it where the payload allows
};

/// The answer to an insert: what it came to, and what it did to other entries.
struct Inserted {
    Outcome outcome = Outcome::stored;
    std::size_t absorbed = 0; ///< payloads that went because the new one serves their keys
    std::size_t evicted = 0;  ///< entries dropped whole
    std::size_t cut = 0;      ///< cuts
};

/// What a lookup of a prompt comes to, and why.
template <class Token, class TierEnum>
struct Explanation {
    MissReason reason = MissReason::none;
    Match match = Match::none;     ///< as a lookup's, and so is `reused`
    std::size_t reused = 0;        ///< tokens
    std::size_t requested = 0;     ///< tokens of the prompt
    std::size_t common_prefix = 0; ///< tokens that it shares with stored keys, anchors included
    /// The prompt's first token that is not shared, and the nearest key's in its place; nothing where
    /// one of them ends there.
    std::optional<std::pair<Token, Token>> differs;
    std::size_t nearest_length = 0; ///< tokens of the nearest key; 0: none shares a token
    TierEnum nearest_tier{};
    bool nearest_is_anchor = false;
};

/// What a listener is told: a payload, or a part of it, left. Anchors that go are not reported. The
/// references and pointers are valid during the call.
template <class KV, class Model, class Token, class TierEnum>
struct Removal {
    const Model& model;
    /// Its key, of a cut the one before; empty where memory was wanting.
    std::span<const Token> tokens;
    TierEnum tier;
    std::size_t bytes; ///< what left: of a cut, what that freed
    RemovalReason reason;
    /// To move from, if the listener likes. Null where it is leased or was taken, where a cut that
    /// failed spoiled it, and for a cut: there what was cut off is gone (whole payloads, as for a
    /// second cache, come with cut_granularity = 0).
    KV* payload;
};

/// A contiguous range of tokens that a view into does not dangle: it is no temporary, or owns nothing.
template <class Range, class Token>
concept LastingTokens = requires(Range& tokens) {
    { std::data(tokens) } -> std::convertible_to<const Token*>;
    { std::size(tokens) } -> std::convertible_to<std::size_t>;
    requires std::is_lvalue_reference_v<Range> ||
        std::ranges::enable_borrowed_range<std::remove_cvref_t<Range>>;
};

/// The same, but a temporary that owns its tokens.
template <class Range, class Token>
concept PassingTokens = !LastingTokens<Range, Token> && LastingTokens<Range&, Token>;

/// A prompt or a key: any contiguous range of tokens that outlives the call, as a span. A temporary
/// that owns its tokens does not compile, because results point into them.
template <class Token>
class Prompt : public std::span<const Token> {
public:
    Prompt() = default; // no tokens

    template <class Pointer> // not of literals: {0, 1} is no address and length
    requires std::is_pointer_v<Pointer> && std::convertible_to<Pointer, const Token*>
    Prompt(Pointer tokens, std::size_t n) : std::span<const Token>(tokens, n) {}

    template <LastingTokens<Token> Range>
    // A view, made of what a call is given; as a copy it is the same.
    // NOLINTNEXTLINE(google-explicit-constructor,bugprone-forwarding-reference-overload)
    Prompt(Range&& tokens) : std::span<const Token>(std::data(tokens), std::size(tokens)) {}

    template <PassingTokens<Token> Range>
    // NOLINTNEXTLINE(bugprone-forwarding-reference-overload): a copy is no other range
    Prompt(Range&&) = delete; // give the tokens a name: the answer will point into them
};

} // namespace promptkv::inline PROMPTKV_ABI

template <class Token>
inline constexpr bool std::ranges::enable_borrowed_range<promptkv::Prompt<Token>> = true;

#endif
