// SPDX-License-Identifier: MIT
// The options of a cache, its answers, their reasons, and the names of these.
#ifndef PROMPTKV_CACHE_TYPES_HPP
#define PROMPTKV_CACHE_TYPES_HPP

#include <promptkv/config.hpp>
#include <promptkv/tier.hpp>
#include <promptkv/version.hpp>

#include <array>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>

namespace promptkv::inline PROMPTKV_ABI {

/// The relation of an entry's key to the prompt. exact: equal tokens. shorter: the key is a prefix of the
/// prompt. longer: the key has tokens beyond those that both share.
enum class Match : std::uint8_t { none, exact, shorter, longer };

/// The outcome of an insert.
enum class Outcome : std::uint8_t {
    stored,    ///< at a key that had no entry
    replaced,  ///< stored in the place of the payload that the key had
    present,   ///< not needed: the cache serves the whole key already
    declined,  ///< the policy keeps nothing of it; TieredLRU never declines
    cancelled, ///< the reservation was voided by an erase, or the caller made nothing
    too_large, ///< refused: larger than the whole budget
    no_room    ///< refused: it would exceed a limit together with leased payloads and reservations
};

/// Why a lookup reused nothing; if several apply, the one listed last.
enum class MissReason : std::uint8_t {
    none,           ///< it was a hit
    nothing_shared, ///< no stored key of the model begins as the prompt does
    other_model,    ///< nothing shared in this model, but another would have hit; only by `explain`
    evicted, ///< a key that was evicted, or declined, shares tokens with it; only if such keys are
             ///< remembered
    not_cuttable, ///< entries share tokens with the prompt, but none can be cut to them; a take does
                  ///< not cut longer entries
    needs_last_token, ///< only `min_remaining` stands in the way
    leased,           ///< a take of an entry that is leased
    below_min_reuse   ///< fewer than `FetchOptions::min_reuse` tokens could be reused
};

/// Why a payload, or a part of it, left the cache.
enum class RemovalReason : std::uint8_t {
    evicted,  ///< to make room
    cut,      ///< its tail alone, to make room
    absorbed, ///< a longer entry serves its key
    replaced, ///< by another payload of the same key
    erased,   ///< by one of the functions that erase, or by `pop_prefixes`
    taken,    ///< by `take_nearest`
    cleared   ///< by `clear`
};

/// Whose behaviour a cache has: its own, or that of mlx-lm's LRUPromptCache.
enum class Rules : std::uint8_t { promptkv, mlx_lm };

[[nodiscard]] constexpr std::string_view name(Match match) noexcept {
    return detail::name_of(match, {"none", "exact", "shorter", "longer"});
}
[[nodiscard]] constexpr std::string_view name(Outcome outcome) noexcept {
    return detail::name_of(outcome, {"stored", "replaced", "present", "declined", "cancelled",
                                     "too_large", "no_room"});
}
[[nodiscard]] constexpr std::string_view name(MissReason reason) noexcept {
    return detail::name_of(reason,
                           {"none", "nothing_shared", "other_model", "evicted", "not_cuttable",
                            "needs_last_token", "leased", "below_min_reuse"});
}
[[nodiscard]] constexpr std::string_view name(RemovalReason reason) noexcept {
    return detail::name_of(
        reason, {"evicted", "cut", "absorbed", "replaced", "erased", "taken", "cleared"});
}
[[nodiscard]] constexpr std::string_view name(Rules rules) noexcept {
    return detail::name_of(rules, {"promptkv", "mlx_lm"});
}

inline constexpr std::size_t unlimited = (std::numeric_limits<std::size_t>::max)();

/// What a cache may hold. 0 is valid: nothing.
struct CacheLimits {
    std::size_t max_bytes = unlimited;
    std::size_t max_entries = unlimited;
};

/// Only `max_bytes` needs a decision. `PolicyOptions`: of the cache's victim policy.
template <class PolicyOptions>
struct CacheOptions {
    std::size_t max_bytes = unlimited; ///< a hard budget for the payloads
    std::size_t max_entries = unlimited;
    /// A payload larger than the budget is stored in part, up to this share of the budget, if it can be
    /// cut. 0: it is refused.
    double max_partial = 0.5;
    /// How many tokens of evicted keys are remembered, so that `explain` can say that a prompt was evicted,
    /// and how long ago. They take 4 bytes per token and some 250 bytes per key. Default: TieredLRU none,
    /// ReuseOrder 4 times the most tokens that were ever stored at once.
    std::optional<std::size_t> remembered_tokens{};
    Rules rules = Rules::promptkv;
    PolicyOptions policy{};
};

/// A point of the curve that says what more or less memory would be good for.
struct HitRatioPoint {
    std::size_t bytes;
    double hit_ratio; ///< tokens that LRU would have reused, of those that were asked for
};

struct FetchOptions {
    /// Tokens left to compute; an engine needs one for its logits. Where a payload can serve only its whole
    /// key, looking up exactly that key misses, unless this is 0.
    std::size_t min_remaining = 1;
    std::size_t min_reuse = 1; ///< reuse of fewer tokens is a miss
    /// Reuse is a multiple of so many tokens, at least 1, where the payload serves one; else it is as without
    /// `align`. A request that appends blocks to what it fetched needs `block_tokens` here.
    std::size_t align = 1;
};

struct InsertOptions {
    /// The conversation, within the model; 0: none. When a session stores a key, the entry that it
    /// stored last becomes the next victim of its tier, if it is a dead branch: see BasicPromptCache.
    std::uint64_t session = 0;
    /// `Lookup::request()` of the lookup that the state was computed from, of several the first; 0: none.
    std::uint64_t request = 0;
    /// A request beside the conversation (a title, a recap): it demotes and supersedes nothing, and
    /// does not become the session's last entry.
    bool side_request = false;
    /// For a learning policy: a class of requests whose state is reused alike, 0 to 15. -1: the policy takes
    /// the logarithm of the tokens that follow the lookup's prompt. TieredLRU does not use it.
    std::int8_t hint = -1;
    /// Nothing of a more persistent tier is evicted for it; where there is no room without that, the answer is
    /// `no_room`, and nothing at all is evicted. For state that can be loaded again, as from a second level.
    bool spare_upper_tiers = false;
};

/// The answer to an insert: its outcome, and what it did to other entries.
struct Inserted {
    Outcome outcome = Outcome::stored;
    std::size_t tokens = 0;   ///< how many tokens of the key are stored or present; 0: refused
    std::size_t absorbed = 0; ///< entries that left because the new one serves their keys
    std::size_t evicted = 0;  ///< entries evicted whole
    std::size_t cut = 0;      ///< tails that were evicted; an entry may lose several
};

namespace detail {
struct Answer; // lookup.hpp
} // namespace detail

/// The answer to a lookup. True where something is reused.
template <class Token, class TierEnum>
class Lookup {
public:
    Lookup() = default;

    /// Tokens of the prompt whose KV may be used. You may use fewer: the middle of an image is no place
    /// to cut.
    [[nodiscard]] std::size_t reused() const noexcept { return reused_; }
    /// Leading tokens of the prompt that a stored or remembered key shares, whether they can be used
    /// or not: where an engine with a recurrent state should save it.
    [[nodiscard]] std::size_t matched() const noexcept { return matched_; }
    [[nodiscard]] Match match() const noexcept { return match_; }
    /// Tier of the entry. Without a hit: the least persistent.
    [[nodiscard]] TierEnum tier() const noexcept { return tier_; }
    /// Tokens of the entry's key.
    [[nodiscard]] std::size_t entry_tokens() const noexcept { return entry_tokens_; }
    /// Why nothing is reused; `none` on a hit.
    [[nodiscard]] MissReason miss() const noexcept { return miss_; }
    /// The lookup's number, for InsertOptions::request. 0: the call counted nothing, as a probe or a touch.
    [[nodiscard]] std::uint64_t request() const noexcept { return request_; }
    /// The tokens of `prompt` that are left to compute. Requires: `prompt` is what was looked up.
    [[nodiscard]] std::span<const Token> remaining(std::span<const Token> prompt) const noexcept {
        PROMPTKV_ASSERT(reused_ <= prompt.size());
        return prompt.subspan(reused_ < prompt.size() ? reused_ : prompt.size());
    }
    [[nodiscard]] explicit operator bool() const noexcept { return match_ != Match::none; }

private:
    friend detail::Answer;
    std::size_t reused_ = 0;
    std::size_t matched_ = 0;
    std::size_t entry_tokens_ = 0;
    std::uint64_t request_ = 0;
    Match match_ = Match::none;
    MissReason miss_ = MissReason::nothing_shared;
    TierEnum tier_{};
};

/// Why a prompt hits or misses, for a person who asks.
template <class Token, class TierEnum>
struct Explanation {
    MissReason reason = MissReason::none;
    Match match = Match::none;
    std::size_t reused = 0;    ///< tokens, as a lookup's
    std::size_t requested = 0; ///< tokens of the prompt
    std::size_t matched = 0;   ///< tokens that it shares with stored or remembered keys
    /// The prompt's first token that is not shared, and the nearest key's in its place; empty where one
    /// of them ends there.
    std::optional<std::pair<Token, Token>> differs{};
    /// Tokens of the entry that serves the prompt, or on a miss of the nearest key; 0: no key shares a
    /// token.
    std::size_t nearest_tokens = 0;
    TierEnum nearest_tier{};
    /// Bytes that were evicted since the nearest key was evicted; empty: it has an entry.
    std::optional<std::uint64_t> evicted_bytes_ago{};
};

/// What a removal listener is told: a payload, or the tail of one, left. The references are valid
/// during the call.
template <class KV, class Model, class Token, class TierEnum>
struct Removal {
    const Model& model;
    /// Its key; of a cut: before the cut. Empty if memory ran out.
    std::span<const Token> tokens;
    std::size_t kept_tokens; ///< leading tokens that the entry still holds; 0: it left whole
    TierEnum tier;
    std::size_t bytes; ///< that the payload, or the tail, refers to
    RemovalReason reason;
    /// The payload, or the tail that was cut off, to move from. Null where it is leased or was taken,
    /// and for a cut whose `truncate` returns nothing. A tail is the state of the tokens from kept_tokens
    /// on, and no payload of any key.
    KV* payload;
};

namespace detail {

/// "1.2 GiB", "17 B".
[[nodiscard]] inline std::string readable_bytes(std::uint64_t bytes) {
    constexpr std::array<std::string_view, 5> units{" B", " KiB", " MiB", " GiB", " TiB"};
    auto value = static_cast<double>(bytes);
    std::size_t unit = 0;
    for (; value >= 1024 && unit + 1 < units.size(); ++unit)
        value /= 1024;
    const auto tenths = static_cast<std::uint64_t>(value * 10);
    std::string text = std::to_string(tenths / 10);
    if (unit > 0)
        text += "." + std::to_string(tenths % 10);
    return text.append(units[unit]);
}

} // namespace detail

/// One line, such as
///     miss (not_cuttable): 2 of 5 tokens match, then 7 where 9 is stored; nearest key: 4 tokens, user
/// Tiers of the caller's own are written as numbers, unless there is a `name` for them.
template <class Token, class TierEnum>
[[nodiscard]] std::string to_string(const Explanation<Token, TierEnum>& why) {
    std::string text;
    if (why.reason == MissReason::none) {
        text.append("hit (").append(name(why.match)).append("): ");
        text += std::to_string(why.reused) + " tokens reused, ";
    } else {
        text.append("miss (").append(name(why.reason)).append("): ");
    }
    text += std::to_string(why.matched) + " of " + std::to_string(why.requested) + " tokens match";
    if (why.differs) {
        text += ", then " + std::to_string(why.differs->first) + " where " +
                std::to_string(why.differs->second) + " is stored";
    }
    if (why.nearest_tokens == 0)
        return text;
    text += why.reason == MissReason::none ? "; served by: " : "; nearest key: ";
    text += std::to_string(why.nearest_tokens) + " tokens, ";
    if constexpr (requires(TierEnum tier) {
                      { name(tier) } -> std::convertible_to<std::string_view>;
                  })
        text.append(name(why.nearest_tier));
    else
        text += "tier " + std::to_string(static_cast<std::size_t>(why.nearest_tier));
    if (why.evicted_bytes_ago)
        text += ", evicted " + detail::readable_bytes(*why.evicted_bytes_ago) + " of evictions ago";
    return text;
}

} // namespace promptkv::inline PROMPTKV_ABI

#endif
