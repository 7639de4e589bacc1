// SPDX-License-Identifier: MIT
// NaiveCache: what LRUPromptCache promises, in the plainest way, to compare against.
//
// Everything is a linear scan over a vector; nothing is kept that could be computed. Where the contract
// leaves a choice (which of several equally near entries is asked) the model asks Choices, and a test
// tries all of them: one of them must explain what the cache did.
#ifndef PROMPTKV_TESTS_NAIVE_CACHE_HPP
#define PROMPTKV_TESTS_NAIVE_CACHE_HPP

#include "naive_payload.hpp"
#include "payloads.hpp"

#include <promptkv/cache_types.hpp>
#include <promptkv/stats.hpp>
#include <promptkv/tier.hpp>

#include <algorithm>
#include <array>
#include <compare>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

namespace promptkv_test {

using promptkv::Match;
using promptkv::MissReason;
using promptkv::Outcome;
using promptkv::RemovalReason;
using promptkv::Rules;
using promptkv::Tier;

inline constexpr std::size_t tier_count = 3;

/// The decisions that the contract leaves open, enumerated like an odometer.
class Choices {
public:
    /// One of the numbers below `n`.
    [[nodiscard]] std::size_t choose(std::size_t n) {
        if (n < 2)
            return 0;
        if (used_ == digits_.size())
            digits_.push_back({0, n});
        return digits_[used_++].value;
    }

    /// Goes on to the next combination. Returns false when all have been tried.
    [[nodiscard]] bool next() {
        digits_.resize(used_);
        used_ = 0;
        while (!digits_.empty() && digits_.back().value + 1 == digits_.back().limit)
            digits_.pop_back();
        if (digits_.empty())
            return false;
        ++digits_.back().value;
        return true;
    }

private:
    struct Digit {
        std::size_t value;
        std::size_t limit;
    };

    std::vector<Digit> digits_;
    std::size_t used_ = 0;
};

class NaiveCache {
public:
    using Limits = promptkv::CacheLimits;
    using FetchOptions = promptkv::FetchOptions;
    using InsertOptions = promptkv::InsertOptions;
    using Inserted = promptkv::Inserted;
    using Stats = promptkv::Stats;
    using TierStats = promptkv::TierStats;

    struct Options {
        std::size_t max_bytes = promptkv::unlimited;
        std::size_t max_entries = promptkv::unlimited;
        double max_partial = 0.5;
        std::size_t remembered_tokens = 0; ///< 0, or more than there will ever be
        Rules rules = Rules::promptkv;
    };

    struct Key {
        std::string model;
        Tokens tokens;

        [[nodiscard]] std::size_t size() const { return tokens.size(); }
        friend auto operator<=>(const Key&, const Key&) = default;
    };

    enum class How : std::uint8_t { fetch, lease, take, probe };

    struct Hit {
        Match match = Match::none;
        MissReason miss = MissReason::none;
        std::size_t reused = 0;
        std::size_t matched = 0;
        std::size_t entry_tokens = 0;
        Tier tier = Tier::assistant; ///< of the entry; assistant on a miss
        std::uint64_t request = 0;
        int payload = 0; ///< the model's number of the payload of the entry; 0 on a miss
        NaiveKV kv;      ///< what a fetch or a take hands out, what a lease shows
    };

    struct Removal {
        Key key;
        std::size_t kept_tokens = 0;
        Tier tier = Tier::assistant;
        std::size_t bytes = 0;
        RemovalReason reason = RemovalReason::evicted;
        bool offered = false; ///< whether the listener may have the payload

        friend auto operator<=>(const Removal&, const Removal&) = default;
    };

    struct Shown {
        Key key;
        Tier tier = Tier::assistant;
        std::size_t bytes = 0;
        NaiveKV kv;

        friend bool operator==(const Shown&, const Shown&) = default;
    };

    struct Room {
        Outcome outcome = Outcome::cancelled;
        std::size_t tokens = 0;
        std::size_t present_tokens = 0;
        std::size_t absorbed = 0; // by what is present, in a higher tier now
        std::optional<NaiveKV> prefix;
        int number = 0; ///< 0: no room is held
    };

    static Key prefix_of(const Key& key, std::size_t n) {
        return {key.model,
                Tokens(key.tokens.begin(), key.tokens.begin() + static_cast<std::ptrdiff_t>(n))};
    }

    NaiveCache(unsigned abilities, Options options)
        : abilities_(abilities), options_(options),
          limits_{options.max_bytes, options.max_entries} {}

    // lookup /////////////////////////////////////////////////////////////////

    Hit lookup(How how, const Key& prompt, FetchOptions options, Choices& choices) {
        if (how != How::probe) {
            drain(choices);
            ++stats_.lookups;
            stats_.tokens_requested += prompt.size();
        }
        Hit hit;
        const int found = find_entry(how, prompt, options, hit, choices);
        if (how == How::probe)
            return hit;
        hit.request = stats_.lookups;
        if (found == 0) {
            ++missed(hit.miss);
            return hit;
        }
        Entry& entry = entries_.at(found);
        hit.payload = entry.payload;
        hit.kv = payloads_.at(entry.payload).kv;
        if (how != How::lease)
            hit.kv = hit.kv.first(hit.reused);
        ++(hit.match == Match::exact     ? stats_.hits_exact
           : hit.match == Match::shorter ? stats_.hits_shorter
                                         : stats_.hits_longer);
        stats_.hits_tiny += hit.reused < Stats::tiny_reuse ? 1U : 0U;
        stats_.tokens_reused += hit.reused;
        TierStats& tier = tier_stats_[index(entry.tier)];
        ++tier.hits;
        tier.tokens_reused += hit.reused;
        entry.used = true;
        refresh(found, hit.match, prompt, hit.reused);
        if (how == How::lease) {
            ++payloads_.at(hit.payload).leases;
        } else if (how == How::take) {
            ++stats_.taken;
            remove(found, RemovalReason::taken);
        }
        return hit;
    }

    Hit touch(const Key& prompt, Choices& choices) {
        drain(choices);
        Hit hit;
        const int found = find_entry(How::lease, prompt, {.min_remaining = 0}, hit, choices);
        if (found != 0)
            refresh(found, hit.match, prompt, hit.reused);
        return hit;
    }

    /// As a probe, but that it looks at other models too.
    Hit explain(const Key& prompt, FetchOptions options, Choices& choices) {
        Hit hit = lookup(How::probe, prompt, options, choices);
        if (hit.miss == MissReason::nothing_shared) {
            std::set<std::string> models;
            for (const auto& [number, entry] : entries_)
                models.insert(entry.key.model);
            for (const std::string& model : models) {
                if (lookup(How::probe, {model, prompt.tokens}, options, choices).match !=
                    Match::none) {
                    hit.miss = MissReason::other_model;
                }
            }
        }
        return hit;
    }

    /// Ends one lease of the payload.
    void end_lease(int payload) {
        --payloads_.at(payload).leases;
        drop_unheld(payload);
    }

    // insert /////////////////////////////////////////////////////////////////

    /// Inserts `kv`, made for `key`. `kv` is changed where it adopts blocks and is refused.
    Inserted insert(const Key& key, NaiveKV& kv, Tier tier, InsertOptions options,
                    Choices& choices) {
        drain(choices);
        return store(key, kv, tier, options, false, choices);
    }

    Room reserve(const Key& key, std::size_t bytes, Tier tier, InsertOptions options,
                 Choices& choices) {
        drain(choices);
        Room room;
        if (present_for_reserve(key, tier, options, choices, room))
            return room;
        // What is stored of the key.
        std::optional<NaiveKV> prefix = shared_with(key, choices);
        const std::size_t block = block_tokens_; // of payloads to come, it is believed
        std::size_t tokens = key.size();
        const std::size_t free = free_for(nullptr);
        const auto all_of = [&](std::size_t n) {
            return n == key.size() ? bytes : (bytes * n + key.size() - 1) / key.size();
        };
        // Beside what is leased already.
        const auto needs = [&](std::size_t n) {
            std::size_t leased = 0;
            if (prefix)
                for (const NaiveBlock& each : prefix->first(std::min(n, prefix->length())).blocks)
                    leased += held_by_leased(each.id) ? each.bytes : 0;
            return all_of(n) - std::min(all_of(n), leased);
        };
        const bool too_large = bytes > limits_.max_bytes || limits_.max_bytes == 0;
        const int own = entry_at(key);
        const bool crowded = pinned_entries(own) + 1 > limits_.max_entries;
        if (crowded && !(too_large && !may_be_partial(too_large))) {
            ++stats_.no_room;
            room.outcome = Outcome::no_room;
            return room;
        }
        if (too_large || needs(tokens) > free) {
            tokens = 0;
            if (may_be_partial(too_large)) {
                const std::size_t most = too_large ? half(limits_.max_bytes) : limits_.max_bytes;
                for (std::size_t n = 0; n < key.size(); n += block) {
                    if (needs(n) <= free && all_of(n) <= most)
                        tokens = n;
                }
            }
        }
        if (too_large && tokens == 0 && !may_fit_later(key.size())) {
            ++stats_.too_large;
            room.outcome = Outcome::too_large;
            return room;
        }
        if (tokens == 0 && (key.size() > 0 || needs(0) > free)) {
            ++stats_.no_room;
            room.outcome = Outcome::no_room;
            return room;
        }
        if (tokens < key.size() && pinned_entries(0) + 1 > limits_.max_entries) {
            ++stats_.no_room;
            room.outcome = Outcome::no_room;
            return room;
        }
        if (tokens < key.size() &&
            present_for_reserve(prefix_of(key, tokens), tier, options, choices, room)) {
            return room;
        }
        if (prefix && prefix->length() > tokens)
            prefix = prefix->first(tokens);
        const std::size_t start_bytes = prefix ? prefix->nbytes() : 0;
        const std::size_t held = all_of(tokens) - std::min(all_of(tokens), start_bytes);
        Reservation made{prefix_of(key, tokens), key, tier, options, held, 0, true};
        if (prefix && prefix->length() > 0) {
            made.prefix = add_payload(*prefix);
            payloads_.at(made.prefix).leases = 1;
            payloads_.at(made.prefix).stored = false;
            room.prefix = prefix;
        }
        Inserted evicted;
        const Incoming incoming{0, 0, made.held, nullptr};
        make_room(limits_, &incoming, false, evicted, choices);
        room.outcome = Outcome::stored;
        room.tokens = tokens;
        room.number = ++last_number_;
        reservations_.emplace(room.number, made);
        evicted_by_reserve_ = evicted;
        note_peak();
        return room;
    }

    /// Stores what was made for the room; `kv` holds as many tokens as it has.
    Inserted commit(int number, NaiveKV& kv, Choices& choices) {
        drain(choices);
        const Reservation made = reservations_.at(number);
        Inserted result;
        if (!made.valid || (kv.length() == 0 && made.whole.size() > 0)) {
            ++stats_.cancelled;
            result.outcome = Outcome::cancelled;
            return result;
        }
        committing_ = number;
        prefix_counts_ = made.prefix != 0 && choices.choose(2) == 1;
        result =
            store(prefix_of(made.whole, kv.length()), kv, made.tier, made.options, true, choices);
        committing_ = 0;
        reservations_.at(number).held = 0;
        return result;
    }

    /// Drops the room, and what is left of it.
    void drop_room(int number) {
        const auto found = reservations_.find(number);
        const int prefix = found->second.prefix;
        reservations_.erase(found);
        if (prefix != 0)
            end_lease(prefix);
    }

    [[nodiscard]] bool has_prefix(int number) const { return reservations_.at(number).prefix != 0; }
    [[nodiscard]] bool is_room_valid(int number) const { return reservations_.at(number).valid; }

    /// Counts an insert whose `make` made nothing.
    void count_cancelled() { ++stats_.cancelled; }

    [[nodiscard]] Inserted evicted_by_reserve() const { return evicted_by_reserve_; }

    bool mark(const Key& key, Tier tier, Choices& choices) {
        drain(choices);
        const int own = entry_at(key);
        if (own != 0) {
            raise(own, tier);
            refresh(own, Match::exact, key, key.size());
            return true;
        }
        if (const int longer = longer_for(key, tier, choices); longer != 0 && promptkv_rules()) {
            refresh(longer, Match::longer, key, key.size());
            return true;
        }
        if ((abilities_ & can_clone) == 0)
            return false;
        const int longer = longer_for(key, Tier::assistant, choices);
        if (longer == 0)
            return false;
        NaiveKV kv = payloads_.at(entries_.at(longer).payload).kv.first(key.size());
        return kept(store(key, kv, tier, {}, false, choices, false).outcome);
    }

    // removal ////////////////////////////////////////////////////////////////

    std::size_t pop_prefixes(const Key& key, Choices& choices) {
        return erase_if(
            [&key](const Key& other) {
                return other.model == key.model && is_strict_prefix(other.tokens, key.tokens);
            },
            choices);
    }

    bool erase(const Key& key, Choices& choices) {
        return erase_if([&key](const Key& other) { return other == key; }, choices) > 0;
    }

    std::size_t erase_below(const Key& key, Choices& choices) {
        return erase_if(
            [&key](const Key& other) {
                return other.model == key.model && is_prefix(key.tokens, other.tokens);
            },
            choices);
    }

    std::size_t erase_session(const std::string& model, std::uint64_t session, Choices& choices) {
        drain(choices);
        std::size_t erased = 0;
        for (const int number : numbers()) {
            const Entry& entry = entries_.at(number);
            if (entry.key.model == model && entry.sessions == std::set<std::uint64_t>{session}) {
                erase_entry(number, RemovalReason::erased);
                ++erased;
            }
        }
        for (auto& [number, made] : reservations_) {
            if (made.whole.model == model && made.options.session == session && session != 0)
                cancel(made);
        }
        return erased;
    }

    std::size_t erase_model(const std::string& model, Choices& choices) {
        return erase_if([&model](const Key& other) { return other.model == model; }, choices);
    }

    std::size_t clear(Choices& choices) {
        return erase_if([](const Key&) { return true; }, choices, RemovalReason::cleared);
    }

    std::size_t trim_to(Limits limits, Choices& choices) {
        drain(choices);
        Inserted result;
        make_room(limits, nullptr, false, result, choices);
        return result.evicted;
    }

    void set_limits(Limits limits, Choices& choices) {
        drain(choices); // to the limits before
        limits_ = limits;
        Inserted ignored;
        make_room(limits, nullptr, false, ignored, choices);
    }

    /// Frees at least so many bytes that nobody else holds. Returns how many.
    std::size_t evict(std::size_t bytes, Choices& choices) {
        drain(choices);
        std::size_t freed = 0;
        std::set<int> passed_over;
        Inserted result;
        chances_left_ = 64;
        while (freed < bytes) {
            const std::size_t more =
                evict_one(bytes - freed, nullptr, true, passed_over, result, choices);
            if (more == nothing_left)
                break;
            freed += more;
            if (more > 0) {
                passed_over.clear(); // some may free something now
                chances_left_ = 64;
            }
        }
        return freed;
    }

    // capacity ///////////////////////////////////////////////////////////////

    [[nodiscard]] std::size_t evictable_nbytes() const {
        std::size_t sum = 0;
        std::set<int> counted;
        for (const auto& [number, entry] : entries_) {
            const Payload& payload = payloads_.at(entry.payload);
            if (payload.leases > 0)
                continue;
            sum += payload.kv.own_bytes();
            for (const NaiveBlock& block : payload.kv.blocks) {
                if (!in_use(block.id) && !held_by_leased(block.id) &&
                    counted.insert(block.id).second) {
                    sum += block.bytes;
                }
            }
        }
        return sum;
    }

    [[nodiscard]] Limits limits() const { return limits_; }
    [[nodiscard]] std::size_t size() const { return entries_.size(); }

    /// Bytes of all payloads, those that left the cache and are still leased among them, and of
    /// reservations.
    [[nodiscard]] std::size_t nbytes() const {
        std::size_t sum = 0;
        std::set<int> counted;
        for (const auto& [number, payload] : payloads_)
            sum += payload.kv.own_bytes() + bytes_not_in(counted, payload.kv);
        return sum + reserved();
    }

    [[nodiscard]] std::size_t nbytes(const std::string& model) const {
        std::size_t sum = 0;
        for (const auto& [number, entry] : entries_)
            sum += entry.key.model == model ? payloads_.at(entry.payload).kv.nbytes() : 0;
        return sum;
    }

    // observers //////////////////////////////////////////////////////////////

    [[nodiscard]] Stats stats() const {
        Stats stats = stats_;
        stats.bytes_referenced = 0;
        for (const auto& [number, entry] : entries_)
            stats.bytes_referenced += payloads_.at(entry.payload).kv.nbytes();
        stats.bytes_leased = 0;
        for (const auto& [number, payload] : payloads_)
            stats.bytes_leased += payload.leases > 0 ? payload.kv.nbytes() : 0;
        stats.bytes_reserved = reserved();
        return stats;
    }

    [[nodiscard]] TierStats stats(Tier tier) const {
        TierStats stats = tier_stats_[index(tier)];
        for (const auto& [number, entry] : entries_) {
            if (entry.tier == tier) {
                ++stats.entries;
                stats.nbytes += payloads_.at(entry.payload).kv.nbytes();
            }
        }
        return stats;
    }

    /// The entries tier by tier, the coldest first.
    [[nodiscard]] std::vector<Shown> entries() const {
        std::vector<Shown> result;
        for (std::size_t tier = 0; tier < tier_count; ++tier) {
            for (const auto* queue : {&aside_[tier], &queues_[tier]}) {
                for (const int number : *queue) {
                    const Entry& entry = entries_.at(number);
                    const NaiveKV& kv = payloads_.at(entry.payload).kv;
                    result.push_back({entry.key, entry.tier, kv.nbytes(), kv});
                }
            }
        }
        return result;
    }

    [[nodiscard]] std::vector<Shown> snapshot(Choices& choices) {
        drain(choices);
        return entries();
    }

    [[nodiscard]] const NaiveKV& payload(int number) const { return payloads_.at(number).kv; }

    /// What was removed since the last call, sorted.
    [[nodiscard]] std::vector<Removal> take_removals() {
        std::sort(removals_.begin(), removals_.end());
        return std::exchange(removals_, {});
    }

    /// Somebody outside of the cache begins, or ceases, to hold the blocks of `kv`.
    void hold(const NaiveKV& kv) { held_outside_.push_back(kv); }
    void let_go(const NaiveKV& kv) {
        held_outside_.erase(std::find(held_outside_.begin(), held_outside_.end(), kv));
    }

    /// Whether both will answer alike, if both have counted the same.
    [[nodiscard]] bool same_state(const NaiveCache& other) const {
        return entries_ == other.entries_ && payloads_ == other.payloads_ &&
               reservations_ == other.reservations_ && queues_ == other.queues_ &&
               aside_ == other.aside_ && last_of_session_ == other.last_of_session_;
    }

    static bool kept(Outcome outcome) {
        return outcome == Outcome::stored || outcome == Outcome::replaced;
    }

private:
    struct Entry {
        Key key;
        Tier tier = Tier::assistant;
        int payload = 0;
        std::size_t chance = 0;  // the longest prefix that a longer match used
        bool used = false;       // by a lookup
        bool superseded = false; // since it was used last
        std::set<std::uint64_t> sessions;
        std::uint64_t stored_at = 0;     // lookups counted then
        mutable bool maybe_used = false; // it, or another entry that serves the same key

        friend bool operator==(const Entry&, const Entry&) = default;
    };

    struct Payload {
        NaiveKV kv;
        int leases = 0;
        bool stored = true; // an entry has it

        friend bool operator==(const Payload&, const Payload&) = default;
    };

    struct Reservation {
        Key key; // as far as there is room
        Key whole;
        Tier tier;
        InsertOptions options;
        std::size_t held; // bytes
        int prefix;       // a payload; 0: none
        bool valid;

        friend bool operator==(const Reservation& a, const Reservation& b) {
            return a.whole == b.whole && a.key == b.key && a.held == b.held &&
                   a.prefix == b.prefix && a.valid == b.valid;
        }
    };

    /// What room is made for.
    struct Incoming {
        int entry;           // never a victim; 0: none yet
        std::size_t entries; // to come
        std::size_t bytes;   // to come that are in no block
        const NaiveKV* kv;   // to come; its blocks are not let go
    };

    struct Offer {
        int entry;
        std::size_t reuse;
        bool cut;
        bool certain; // that it is asked
    };

    static constexpr std::size_t nothing_left = promptkv::unlimited;

    [[nodiscard]] bool promptkv_rules() const { return options_.rules == Rules::promptkv; }
    [[nodiscard]] bool can(unsigned ability) const { return (abilities_ & ability) != 0; }

    // keys ///////////////////////////////////////////////////////////////////

    static std::size_t index(Tier tier) { return static_cast<std::size_t>(tier); }

    static std::size_t common(const Tokens& a, const Tokens& b) {
        const std::size_t n = std::min(a.size(), b.size());
        std::size_t i = 0;
        while (i < n && a[i] == b[i])
            ++i;
        return i;
    }

    static bool is_prefix(const Tokens& a, const Tokens& b) {
        return a.size() <= b.size() && std::equal(a.begin(), a.end(), b.begin());
    }

    static bool is_strict_prefix(const Tokens& a, const Tokens& b) {
        return a.size() < b.size() && is_prefix(a, b);
    }

    /// Whether neither begins with the other.
    static bool diverge(const Tokens& a, const Tokens& b) {
        return !is_prefix(a, b) && !is_prefix(b, a);
    }
    [[nodiscard]] bool any_diverges(const std::vector<int>& entries, const Tokens& from) const {
        return std::any_of(entries.begin(), entries.end(),
                           [&](int each) { return diverge(entries_.at(each).key.tokens, from); });
    }

    static Match match_of(const Tokens& key, const Tokens& prompt) {
        return key == prompt            ? Match::exact
               : is_prefix(key, prompt) ? Match::shorter
                                        : Match::longer;
    }

    [[nodiscard]] std::vector<int> numbers() const {
        std::vector<int> result;
        for (const auto& [number, entry] : entries_)
            result.push_back(number);
        return result;
    }

    [[nodiscard]] int entry_at(const Key& key) const {
        for (const auto& [number, entry] : entries_) {
            if (entry.key == key)
                return number;
        }
        return 0;
    }

    [[nodiscard]] const NaiveKV& kv_of(int entry) const {
        return payloads_.at(entries_.at(entry).payload).kv;
    }

    [[nodiscard]] bool is_leased(int entry) const {
        return payloads_.at(entries_.at(entry).payload).leases > 0;
    }

    /// The entries on strict prefixes of the key, the shortest first.
    [[nodiscard]] std::vector<int> above(const Key& key) const {
        std::vector<int> result;
        for (std::size_t n = 0; n < key.size(); ++n) {
            if (const int entry = entry_at(prefix_of(key, n)); entry != 0)
                result.push_back(entry);
        }
        return result;
    }

    /// The entries that continue the key, the shortest first.
    [[nodiscard]] std::vector<int> below(const Key& key) const {
        std::vector<int> result;
        for (const auto& [number, entry] : entries_) {
            if (entry.key.model == key.model && is_strict_prefix(key.tokens, entry.key.tokens))
                result.push_back(number);
        }
        std::ranges::sort(result, {}, [this](int number) {
            return std::pair(entries_.at(number).key.size(), number);
        });
        return result;
    }

    // bytes //////////////////////////////////////////////////////////////////

    /// Bytes of the blocks that are not in `counted`; afterwards they are.
    static std::size_t bytes_not_in(std::set<int>& counted, const NaiveKV& kv) {
        std::size_t sum = 0;
        for (const NaiveBlock& block : kv.blocks)
            sum += counted.insert(block.id).second ? block.bytes : 0;
        return sum;
    }

    static bool has_block(const NaiveKV& kv, int id) {
        return std::any_of(kv.blocks.begin(), kv.blocks.end(),
                           [id](const NaiveBlock& block) { return block.id == id; });
    }

    [[nodiscard]] bool in_use(int block) const {
        return std::any_of(held_outside_.begin(), held_outside_.end(),
                           [block](const NaiveKV& kv) { return has_block(kv, block); });
    }

    [[nodiscard]] bool held_by_leased(int block) const {
        return std::any_of(payloads_.begin(), payloads_.end(), [block](const auto& each) {
            return each.second.leases > 0 && has_block(each.second.kv, block);
        });
    }

    [[nodiscard]] std::size_t reserved() const {
        std::size_t sum = 0;
        for (const auto& [number, made] : reservations_)
            sum += number != committing_ ? made.held : 0;
        return sum;
    }

    /// Bytes that can be had for a payload at most, blocks that are counted anyway beside.
    /// `kv`: a payload, whose blocks are such where leased ones hold them.
    [[nodiscard]] std::size_t free_for(const NaiveKV* kv) const {
        std::set<int> counted;
        std::size_t sum = reserved();
        for (const auto& [number, payload] : payloads_) {
            if (payload.leases > 0 && !is_committing_prefix(number))
                sum += payload.kv.own_bytes() + bytes_not_in(counted, payload.kv);
        }
        if (kv != nullptr)
            sum += bytes_not_in(counted, *kv);
        return limits_.max_bytes - std::min(limits_.max_bytes, sum);
    }

    /// Whether a part of a payload may fit once leases and reservations have ended.
    [[nodiscard]] bool may_fit_later(std::size_t tokens) const {
        return may_be_partial(true) && tokens > 0 && free_for(nullptr) < limits_.max_bytes;
    }

    [[nodiscard]] bool is_committing_prefix(int payload) const {
        return committing_ != 0 && !prefix_counts_ &&
               reservations_.at(committing_).prefix == payload;
    }

    /// Whether there is room for the payload once all that may be is evicted.
    [[nodiscard]] bool fits(const NaiveKV& kv) const {
        std::set<int> counted;
        std::size_t sum = reserved();
        for (const auto& [number, payload] : payloads_) {
            if (payload.leases > 0 && !is_committing_prefix(number))
                sum += payload.kv.own_bytes() + bytes_not_in(counted, payload.kv);
        }
        const std::size_t more = kv.own_bytes() + bytes_not_in(counted, kv);
        return more == 0 || sum + more <= limits_.max_bytes;
    }

    /// Entries that cannot be evicted, other than `own`.
    [[nodiscard]] std::size_t pinned_entries(int own) const {
        std::size_t sum = 0;
        for (const auto& [number, entry] : entries_)
            sum += number != own && is_leased(number) ? 1U : 0U;
        return sum;
    }

    [[nodiscard]] std::size_t half(std::size_t bytes) const {
        return static_cast<std::size_t>(static_cast<double>(bytes) * options_.max_partial);
    }

    [[nodiscard]] bool may_be_partial(bool too_large) const {
        static_cast<void>(too_large);
        return promptkv_rules() && can(can_truncate) && limits_.max_bytes > 0 &&
               options_.max_partial > 0;
    }

    /// Bytes that leave the account with the part of the entry's payload from token `from` on.
    /// `truly`: only those that nobody outside holds.
    [[nodiscard]] std::size_t freed_by_cut(int entry, std::size_t from, const Incoming* incoming,
                                           bool truly) const {
        const int own = entries_.at(entry).payload;
        const NaiveKV& kv = payloads_.at(own).kv;
        std::size_t sum = kv.own_bytes() - (from == 0 ? 0 : kv.first(from).own_bytes());
        for (std::size_t i = kv.block_at(from); i < kv.blocks.size(); ++i) {
            const int id = kv.blocks[i].id;
            const bool shared =
                std::any_of(payloads_.begin(), payloads_.end(), [&](const auto& each) {
                    return each.first != own && has_block(each.second.kv, id);
                });
            const bool comes_back =
                incoming != nullptr && incoming->kv != nullptr && has_block(*incoming->kv, id);
            sum += shared || comes_back || (truly && in_use(id)) ? 0 : kv.blocks[i].bytes;
        }
        return sum;
    }

    int add_payload(const NaiveKV& kv) {
        payloads_[++last_number_] = Payload{kv, 0, true};
        return last_number_;
    }

    void drop_unheld(int payload) {
        const Payload& held = payloads_.at(payload);
        if (!held.stored && held.leases == 0)
            payloads_.erase(payload);
    }

    void note_peak() { stats_.peak_nbytes = std::max(stats_.peak_nbytes, nbytes()); }

    // search /////////////////////////////////////////////////////////////////

    /// The entry that a prompt uses; 0 on a miss. Fills the answer, without the payload.
    int find_entry(How how, const Key& prompt, const FetchOptions& options, Hit& hit,
                   Choices& choices) const {
        for (const auto& [number, entry] : entries_) {
            if (entry.key.model == prompt.model)
                hit.matched = std::max(hit.matched, common(entry.key.tokens, prompt.tokens));
        }
        const std::size_t stored_matched = hit.matched;
        // It is open whether keys count that this call evicted: they are not reported yet.
        if (how != How::probe && !evicted_first_.empty() && choices.choose(2) == 1) {
            for (const Key& key : evicted_first_) {
                if (key.model == prompt.model)
                    hit.matched = std::max(hit.matched, common(key.tokens, prompt.tokens));
            }
        }
        for (const Key& key : remembered_) {
            if (key.model == prompt.model)
                hit.matched = std::max(hit.matched, common(key.tokens, prompt.tokens));
        }
        const Offer best = best_offer(how, prompt, options.min_remaining, options, choices);
        if (best.reuse > 0 && best.reuse >= options.min_reuse) {
            const Entry& entry = entries_.at(best.entry);
            hit.match = match_of(entry.key.tokens, prompt.tokens);
            hit.reused = best.reuse;
            hit.tier = entry.tier;
            hit.entry_tokens = entry.key.size();
            return best.entry;
        }
        const std::size_t whole = best_offer(how, prompt, 0, options, choices).reuse;
        std::size_t leased = 0;
        for (std::size_t depth = prompt.size() + 1; how == How::take && depth-- > 0;) {
            const int own = entry_at(prefix_of(prompt, depth));
            if (own != 0 && is_leased(own)) {
                const Offer made = offer(how, own, depth, prompt.size(), options.align);
                leased = std::max(leased, made.reuse);
            }
        }
        const MissReason other = stored_matched > 0 ? MissReason::not_cuttable
                                 : hit.matched > 0  ? MissReason::evicted
                                                    : MissReason::nothing_shared;
        const bool too_short = best.reuse > 0 || (whole > 0 && whole < options.min_reuse);
        hit.miss = too_short    ? MissReason::below_min_reuse
                   : leased > 0 ? MissReason::leased
                   : whole > 0  ? MissReason::needs_last_token
                                : other;
        // Where two things stand in the way, it is open which one is named.
        const bool two = hit.miss == MissReason::leased && leased < options.min_reuse;
        if (two && choices.choose(2) == 1)
            hit.miss = other;
        return 0;
    }

    /// What an entry that shares `shared` tokens with the prompt gives.
    [[nodiscard]] Offer offer(How how, int entry, std::size_t shared, std::size_t most,
                              std::size_t align) const {
        const NaiveKV& kv = kv_of(entry);
        const std::size_t n = std::min(shared, most);
        const bool may_cut = how == How::lease                     ? true
                             : how == How::take                    ? can(can_truncate)
                             : how == How::probe && !can(can_copy) ? true
                                                                   : can(can_clone);
        const std::size_t length = kv.length();
        if (!may_cut)
            return {entry, n >= length && kv.serves(length) ? length : 0, false, true};
        const std::size_t reuse = aligned(kv, kv.served(n), align);
        return {entry, reuse, reuse < length, true};
    }

    /// The longest multiple of `align` within `reuse` that `kv` serves. Where there is none: 0 if `kv`
    /// could be cut anywhere, else `reuse`.
    [[nodiscard]] static std::size_t aligned(const NaiveKV& kv, std::size_t reuse,
                                             std::size_t align) {
        for (std::size_t n = reuse; n > 0; --n) {
            if (kv.serves(n) && n % align == 0)
                return n;
        }
        const bool may_be_empty = reuse > 1 || kv.can(can_clone) || kv.can(can_truncate);
        const bool anywhere =
            reuse > 0 && may_be_empty && kv.can(can_reuse) && kv.served(reuse - 1) == reuse - 1;
        return anywhere && reuse < align ? 0 : reuse;
    }

    /// From the deepest key on the prompt's path up: the own entry, then those that leave the path
    /// there, the nearest first.
    [[nodiscard]] Offer best_offer(How how, const Key& prompt, std::size_t min_remaining,
                                   const FetchOptions& options, Choices& choices) const {
        const std::size_t n = prompt.size();
        const std::size_t most = n - std::min(n, min_remaining);
        std::vector<std::pair<Offer, std::size_t>> offers; // and the length of the key
        std::size_t asked = 0;
        for (std::size_t depth = n + 1; depth-- > 0;) {
            const Key point = prefix_of(prompt, depth);
            const int own = entry_at(point);
            if (own != 0 && (how != How::take || !is_leased(own)))
                offers.emplace_back(offer(how, own, depth, most, options.align), depth);
            if (how == How::take)
                continue;
            for (const int longer : below(point)) {
                const Key& key = entries_.at(longer).key;
                if (common(key.tokens, prompt.tokens) == depth) {
                    Offer made = offer(how, longer, depth, most, options.align);
                    made.certain = ++asked <= longer_entries_asked;
                    offers.emplace_back(made, key.size());
                }
            }
        }
        const auto better = [](const Offer& a, const Offer& b) {
            return a.reuse != b.reuse ? a.reuse > b.reuse : a.cut < b.cut;
        };
        // Of more than sixteen the cache may ask others.
        std::vector<Offer> best;
        if (asked > longer_entries_asked) {
            Offer floor{0, 0, false, true};
            for (const auto& [each, length] : offers) {
                const bool own = is_prefix(entries_.at(each.entry).key.tokens, prompt.tokens);
                floor = own && better(each, floor) ? each : floor;
            }
            for (const auto& [each, length] : offers) {
                if (!better(floor, each))
                    best.push_back(each);
            }
            if (best.empty())
                best.push_back(floor);
            return best[choices.choose(best.size())];
        }
        std::size_t length_of_best = 0;
        for (const auto& [each, length] : offers) {
            const bool tie =
                !best.empty() && !better(best.front(), each) && !better(each, best.front());
            const bool equal =
                tie && length == length_of_best &&
                common(entries_.at(each.entry).key.tokens, prompt.tokens) ==
                    common(entries_.at(best.front().entry).key.tokens, prompt.tokens);
            if (best.empty() || better(each, best.front())) {
                best = {each};
                length_of_best = length;
            } else if (equal) {
                best.push_back(each);
            }
        }
        if (best.empty() || best.front().reuse == 0)
            return {0, 0, false, true};
        return best[choices.choose(best.size())];
    }

    static constexpr std::size_t longer_entries_asked = 16;

    std::uint64_t& missed(MissReason reason) {
        switch (reason) {
        case MissReason::evicted:
            return stats_.missed_evicted;
        case MissReason::not_cuttable:
            return stats_.missed_not_cuttable;
        case MissReason::needs_last_token:
            return stats_.missed_needs_last_token;
        case MissReason::leased:
            return stats_.missed_leased;
        case MissReason::below_min_reuse:
            return stats_.missed_below_min_reuse;
        case MissReason::none:
        case MissReason::nothing_shared:
        case MissReason::other_model:
            break;
        }
        return stats_.missed_nothing_shared;
    }

    /// A longer entry that serves the key, of the tier or a more persistent one; 0: none does.
    /// Where several do, it is open which of them the cache uses.
    int longer_for(const Key& key, Tier tier, Choices& choices) const {
        std::vector<int> found;
        for (const int longer : below(key)) {
            if (entries_.at(longer).tier >= tier && kv_of(longer).serves(key.size()))
                found.push_back(longer);
        }
        for (const int longer : found) {
            const Entry& entry = entries_.at(longer);
            entry.maybe_used = entry.maybe_used || found.size() > 1;
        }
        return found.empty() ? 0 : found[choices.choose(found.size())];
    }

    /// Whether another entry than `victim`, or what is to come, serves the key.
    /// Open where the nearest longer entry does not, and others do.
    [[nodiscard]] bool others_serve(const Key& key, int victim, const Incoming* incoming,
                                    Choices& choices) const {
        if (entry_at(key) != 0 && entry_at(key) != victim)
            return true;
        std::size_t nearest = promptkv::unlimited;
        bool nearest_serves = true;
        bool any_serves = false;
        for (const int longer : below(key)) {
            if (longer == victim)
                continue;
            const bool comes = incoming != nullptr && longer == incoming->entry;
            const bool serves = (comes ? *incoming->kv : kv_of(longer)).serves(key.size());
            any_serves = any_serves || serves;
            nearest = std::min(nearest, entries_.at(longer).key.size());
            if (entries_.at(longer).key.size() == nearest)
                nearest_serves = nearest_serves && serves;
        }
        return any_serves && (nearest_serves || choices.choose(2) == 0);
    }

    /// The stored entries that share most tokens with the key, and how many these are. It is open whether
    /// keys hide them that left and are not reported yet.
    [[nodiscard]] std::pair<std::vector<int>, std::size_t> nearest(const Key& key,
                                                                   Choices& choices) const {
        std::vector<int> found;
        if (!removals_.empty() && choices.choose(2) == 1)
            return {found, 0};
        std::size_t most = 0;
        for (const auto& [number, entry] : entries_) {
            const std::size_t n =
                entry.key.model == key.model ? common(entry.key.tokens, key.tokens) : 0;
            if (n > most) {
                most = n;
                found.clear();
            }
            if (n > 0 && n == most)
                found.push_back(number);
        }
        return {found, most};
    }

    // recency ////////////////////////////////////////////////////////////////

    /// Takes the entry out of its queue.
    void leave_queue(int number) {
        for (std::size_t tier = 0; tier < tier_count; ++tier) {
            std::erase(queues_[tier], number);
            std::erase(aside_[tier], number);
        }
    }

    void make_hottest(int number) {
        leave_queue(number);
        queues_[index(entries_.at(number).tier)].push_back(number);
    }

    void make_coldest(int number) {
        leave_queue(number);
        std::vector<int>& queue = queues_[index(entries_.at(number).tier)];
        queue.insert(queue.begin(), number);
    }

    /// The entry was used itself.
    void use(int number) {
        make_hottest(number);
        entries_.at(number).chance = 0;
        entries_.at(number).superseded = false;
    }

    void refresh(int found, Match match, const Key& prompt, std::size_t reused) {
        Entry& entry = entries_.at(found);
        entry.used = entry.used || match != Match::longer || !entry.maybe_used;
        if (!promptkv_rules())
            return;
        for (std::size_t n = 0; n <= reused; ++n) {
            const int on_path = entry_at(prefix_of(prompt, n));
            if (on_path != 0 && on_path != found)
                use(on_path);
        }
        if (match == Match::longer) {
            std::size_t& chance = entries_.at(found).chance;
            chance = std::max(chance, reused);
        } else {
            use(found);
        }
    }

    /// Those whose last lease has ended return to the cold end of their tiers; where a limit was lowered
    /// they are evicted now.
    void drain(Choices& choices) {
        return_released();
        evicted_first_.clear();
        if (nbytes() > limits_.max_bytes || size() > limits_.max_entries) {
            const std::size_t before = removals_.size();
            Inserted ignored;
            make_room(limits_, nullptr, false, ignored, choices);
            for (std::size_t i = before; i < removals_.size(); ++i)
                evicted_first_.push_back(removals_[i].key);
        }
    }

    void return_released() {
        for (std::size_t tier = 0; tier < tier_count; ++tier) {
            const std::vector<int> aside = aside_[tier];
            for (auto number = aside.rbegin(); number != aside.rend(); ++number) {
                if (!is_leased(*number)) {
                    std::erase(aside_[tier], *number);
                    queues_[tier].insert(queues_[tier].begin(), *number);
                }
            }
        }
    }

    /// Returns how many entries it absorbs then.
    std::size_t raise(int number, Tier tier) {
        Entry& entry = entries_.at(number);
        if (tier <= entry.tier)
            return 0;
        entry.tier = tier;
        make_hottest(number);
        Inserted raised;
        absorb(number, kv_of(number), raised);
        return raised.absorbed;
    }

    // insert, in steps ///////////////////////////////////////////////////////

    void join_session(int number, const InsertOptions& options) {
        if (options.session != 0)
            entries_.at(number).sessions.insert(options.session);
    }

    /// Takes what is stored of the key in the place of the same blocks of `kv`.
    void adopt(const Key& key, NaiveKV& kv, Choices& choices) const {
        if (!can(has_blocks))
            return;
        const int prefix = committing_ != 0 ? reservations_.at(committing_).prefix : 0;
        const auto adopt_prefix = [&] {
            if (prefix != 0) {
                const NaiveKV& start = payloads_.at(prefix).kv;
                kv.adopt(std::min(start.length(), key.size()), start);
            }
        };
        const bool first = prefix != 0 && choices.choose(2) == 0;
        if (first)
            adopt_prefix();
        const auto [stored, shared] = nearest(key, choices);
        if (!stored.empty())
            kv.adopt(shared, kv_of(stored[choices.choose(stored.size())]));
        if (!first)
            adopt_prefix();
    }

    /// Whether the key needs no reservation. Fills the answer.
    bool present_for_reserve(const Key& key, Tier tier, const InsertOptions& options,
                             Choices& choices, Room& room) {
        if (!promptkv_rules())
            return false;
        const int own = entry_at(key);
        const int serving = own != 0 ? own : longer_for(key, tier, choices);
        if (serving == 0)
            return false;
        if (own != 0) {
            room.absorbed = raise(own, tier);
            join_session(own, options);
        }
        refresh(serving, own != 0 ? Match::exact : Match::longer, key, key.size());
        ++stats_.present;
        room.outcome = Outcome::present;
        room.present_tokens = key.size();
        return true;
    }

    /// What is decided for `kv`: the outcome, and how many tokens are stored.
    Inserted decide(const Key& key, const NaiveKV& kv, Tier tier, bool own_is_present, int& serving,
                    Choices& choices) const {
        Inserted decided;
        serving = 0;
        if (promptkv_rules()) {
            serving = own_is_present ? entry_at(key) : 0;
            if (serving == 0)
                serving = longer_for(key, tier, choices);
            if (serving != 0) {
                decided.outcome = Outcome::present;
                decided.tokens = key.size();
                return decided;
            }
        }
        const int own = entry_at(key);
        const bool too_large = kv.nbytes() > limits_.max_bytes || limits_.max_bytes == 0;
        decided.outcome = own != 0 ? Outcome::replaced : Outcome::stored;
        decided.tokens = key.size();
        if (too_large && !may_be_partial(too_large)) {
            decided.outcome = Outcome::too_large;
            decided.tokens = 0;
            return decided;
        }
        if (pinned_entries(own) + 1 > limits_.max_entries) {
            decided.outcome = Outcome::no_room;
            decided.tokens = 0;
            return decided;
        }
        if (too_large || !fits(kv)) {
            decided.tokens = may_be_partial(too_large) ? part_that_fits(kv, too_large) : 0;
            decided.outcome =
                too_large && !may_fit_later(key.size()) ? Outcome::too_large : Outcome::no_room;
            if (decided.tokens == 0)
                return decided;
            if (pinned_entries(0) + 1 > limits_.max_entries) {
                decided.outcome = Outcome::no_room;
                decided.tokens = 0;
                return decided;
            }
            const Key shorter = prefix_of(key, decided.tokens);
            serving = own_is_present ? entry_at(shorter) : 0;
            if (serving == 0)
                serving = longer_for(shorter, tier, choices);
            if (serving != 0) {
                decided.outcome = Outcome::present;
                return decided;
            }
            decided.outcome = entry_at(shorter) != 0 ? Outcome::replaced : Outcome::stored;
        }
        return decided;
    }

    [[nodiscard]] std::size_t part_that_fits(const NaiveKV& kv, bool too_large) const {
        const std::size_t block = kv.shape.block;
        if (!can(has_blocks)) { // bytes are taken as proportional to tokens
            const std::size_t most = too_large
                                         ? std::min(free_for(nullptr), half(limits_.max_bytes))
                                         : free_for(nullptr);
            const std::size_t n = kv.served_blocks(kv.length() * most / kv.nbytes());
            return fits(kv.first(n)) ? n : 0;
        }
        for (std::size_t n = (kv.length() - 1) / block * block; n > 0; n -= block) {
            const NaiveKV part = kv.first(kv.served_blocks(n));
            if (part.length() > 0 && fits(part) &&
                (!too_large || part.nbytes() <= half(limits_.max_bytes))) {
                return part.length();
            }
        }
        return 0;
    }

    Inserted store(const Key& whole, NaiveKV& kv, Tier tier, const InsertOptions& options,
                   bool own_is_present, Choices& choices, bool in_part = true) {
        adopt(whole, kv, choices);
        int serving = 0;
        Inserted result = decide(whole, kv, tier, own_is_present, serving, choices);
        if (!in_part && result.tokens > 0 && result.tokens < whole.size()) {
            result.outcome = Outcome::no_room;
            result.tokens = 0;
        }
        const Key key = prefix_of(whole, result.tokens);
        switch (result.outcome) {
        case Outcome::present: {
            ++stats_.present;
            const bool own = entries_.at(serving).key == key;
            if (own) {
                result.absorbed = raise(serving, tier);
                join_session(serving, options);
            }
            refresh(serving, own ? Match::exact : Match::longer, key, key.size());
            return result;
        }
        case Outcome::too_large:
            ++stats_.too_large;
            return result;
        case Outcome::no_room:
            ++stats_.no_room;
            return result;
        case Outcome::stored:
            ++stats_.stored;
            break;
        case Outcome::replaced:
            ++stats_.replaced;
            break;
        case Outcome::declined:
        case Outcome::cancelled:
            break;
        }
        if (committing_ != 0) { // its room is now the payload's
            Reservation& made = reservations_.at(committing_);
            made.held = 0;
            if (made.prefix != 0 && !prefix_counts_)
                end_lease(std::exchange(made.prefix, 0));
        }
        const bool room_for_a_part =
            committing_ != 0 &&
            reservations_.at(committing_).key.size() < reservations_.at(committing_).whole.size() &&
            result.tokens < reservations_.at(committing_).whole.size();
        if (result.tokens < whole.size() || room_for_a_part) {
            kv = kv.first(result.tokens);
            ++stats_.stored_in_part;
        }
        int number = entry_at(key);
        if (number != 0) {
            Entry& entry = entries_.at(number);
            release(number, RemovalReason::replaced);
            entry.tier = std::max(entry.tier, tier);
        } else {
            number = ++last_number_;
            entries_[number] = Entry{key, tier, 0, 0, false, false, {}, 0};
        }
        use(number);
        absorb(number, kv, result);
        if (promptkv_rules() && !options.side_request) {
            demote_last_of_session(number, options, choices);
            supersede(number, choices);
        }
        const Incoming incoming{number, 0, kv.own_bytes(), &kv};
        make_room(limits_, &incoming, false, result, choices);
        make_hottest(number);
        Entry& entry = entries_.at(number);
        entry.payload = add_payload(kv);
        block_tokens_ = kv.shape.block;
        entry.stored_at = stats_.lookups;
        join_session(number, options);
        if (options.session != 0 && !options.side_request)
            last_of_session_[{key.model, options.session}] = number;
        note_peak();
        return result;
    }

    /// Removes the entries on strict prefixes that `kv`, of that entry, serves.
    void absorb(int number, const NaiveKV& kv, Inserted& result) {
        const Tier tier = entries_.at(number).tier;
        for (const int prefix : above(Key(entries_.at(number).key))) {
            const Entry& entry = entries_.at(prefix);
            if (kv.serves(entry.key.size()) && (entry.tier <= tier || !promptkv_rules())) {
                Entry& longer = entries_.at(number);
                longer.used = longer.used || entry.used;
                longer.maybe_used = longer.maybe_used || entry.maybe_used;
                ++result.absorbed;
                ++stats_.absorbed;
                remove(prefix, RemovalReason::absorbed);
            }
        }
    }

    /// Demotes the entries above that cannot be cut and that nothing off the path continues.
    void supersede(int number, Choices& choices) {
        const Key key = entries_.at(number).key;
        const Tier tier = entries_.at(number).tier;
        std::vector<int> prefixes = above(key);
        std::reverse(prefixes.begin(), prefixes.end());
        for (const int prefix : prefixes) {
            Entry& entry = entries_.at(prefix);
            const bool branches = any_diverges(below(entry.key), key.tokens) ||
                                  left_a_branch(entry.key, key, choices);
            const bool is_cuttable = can(can_truncate) && kv_of(prefix).serves(0);
            if (entry.tier > tier || branches || entry.superseded || is_cuttable)
                continue;
            make_coldest(prefix);
            ++stats_.superseded;
            entry.superseded = true;
        }
    }

    [[nodiscard]] bool can_be_cut(int number) const {
        const NaiveKV& kv = kv_of(number);
        return can(can_truncate) && kv.length() > 0 && kv.served(kv.length() - 1) > 0;
    }

    void demote_last_of_session(int number, const InsertOptions& options, Choices& choices) {
        const Key key = entries_.at(number).key;
        const auto last = last_of_session_.find({key.model, options.session});
        if (options.session == 0 || last == last_of_session_.end())
            return;
        const auto found = entries_.find(last->second);
        if (found == entries_.end() || found->first == number)
            return;
        const Entry& entry = found->second;
        const bool on_path = !diverge(entry.key.tokens, key.tokens);
        if (!on_path && below(entry.key).empty() && !left_a_branch(entry.key, entry.key, choices) &&
            entry.sessions.size() == 1 &&
            (options.request == 0 || options.request > entry.stored_at)) {
            make_coldest(found->first);
            ++stats_.demoted;
        }
    }

    /// A part of what is stored of the key, to begin a payload with.
    std::optional<NaiveKV> shared_with(const Key& key, Choices& choices) const {
        if (!can(has_blocks))
            return std::nullopt;
        const auto [stored, shared] = nearest(key, choices);
        if (stored.empty())
            return std::nullopt;
        const NaiveKV& kv = kv_of(stored[choices.choose(stored.size())]);
        std::size_t n = shared / kv.shape.block * kv.shape.block;
        if (!can(has_state) && shared == key.size())
            n = shared;
        if (n == 0)
            return std::nullopt;
        NaiveKV part = kv.first(n);
        if (can(has_state)) {
            part.id = 0;
            part.shape.overhead = 0;
        }
        return part;
    }

    // eviction ///////////////////////////////////////////////////////////////

    void make_room(Limits limits, const Incoming* incoming, bool truly, Inserted& result,
                   Choices& choices) {
        chances_left_ = 64;
        std::set<int> passed_over;
        for (;;) {
            // An entry that comes has its place already, and no payload.
            const std::size_t entries = size() + (incoming != nullptr ? incoming->entries : 0);
            std::size_t bytes = nbytes();
            if (incoming != nullptr) {
                bytes += incoming->bytes;
                if (incoming->kv != nullptr) {
                    std::set<int> counted;
                    for (const auto& [number, payload] : payloads_)
                        bytes_not_in(counted, payload.kv);
                    bytes += bytes_not_in(counted, *incoming->kv);
                }
            }
            const bool crowded = entries > limits.max_entries;
            if (!crowded && bytes <= limits.max_bytes)
                return;
            const std::size_t wanted = crowded ? 0 : bytes - limits.max_bytes;
            if (evict_one(wanted, incoming, truly, passed_over, result, choices) == nothing_left)
                return;
        }
    }

    /// Deals with the next victim. `wanted`: bytes; 0: an entry. Returns the bytes that it freed.
    std::size_t evict_one(std::size_t wanted, const Incoming* incoming, bool truly,
                          std::set<int>& passed_over, Inserted& result, Choices& choices) {
        int victim = coldest(incoming, passed_over);
        if (victim == 0) {
            // Of those that free nothing by themselves, some may free something together.
            // It is open which is dropped.
            std::vector<int> found;
            std::set<int> seen;
            while ((victim = coldest(incoming, seen)) != 0) {
                if (shares_with_victims(victim, incoming, truly))
                    found.push_back(victim);
                seen.insert(victim);
            }
            if (found.empty())
                return nothing_left;
            passed_over = {};
            return drop(found[choices.choose(found.size())], incoming, truly, result, choices);
        }
        if (!promptkv_rules()) {
            if (wanted > 0)
                victim = one_that_frees(victim, incoming, truly, passed_over, choices);
            return victim == 0 ? 0 : drop(victim, incoming, truly, result, choices);
        }
        const std::size_t chance = entries_.at(victim).chance;
        if (chance > 0 && chances_left_ > 0 &&
            !others_serve(prefix_of(entries_.at(victim).key, chance), victim, incoming, choices)) {
            const std::size_t length = entries_.at(victim).key.size();
            if (wanted > 0 && can_be_cut(victim)) {
                const NaiveKV& kv = kv_of(victim);
                const std::size_t block = kv.shape.block;
                const std::size_t least = (chance + block - 1) / block * block;
                if (least < length && freed_by_cut(victim, least, incoming, truly) > 0) {
                    const std::size_t kept = kv.served_blocks(
                        std::max(least, kept_after(victim, wanted, incoming, truly)));
                    const Key shorter = prefix_of(entries_.at(victim).key, kept);
                    if (kept >= least && !others_serve(shorter, victim, incoming, choices))
                        return cut_or_drop(victim, kept, incoming, truly, result, choices);
                }
            }
            use(victim);
            --chances_left_;
            return 0;
        }
        if (entries_.at(victim).superseded && !can_be_cut(victim)) {
            const int thin = thinned(victim, passed_over, choices);
            if (wanted == 0 || freed_by_cut(thin, 0, incoming, truly) > 0)
                victim = thin;
        }
        if (wanted == 0)
            return drop(victim, incoming, truly, result, choices);
        victim = one_that_frees(victim, incoming, truly, passed_over, choices);
        if (victim == 0)
            return 0;
        return cut_or_drop(victim, kept_after(victim, wanted, incoming, truly), incoming, truly,
                           result, choices);
    }

    /// The coldest entry by the tier rule; leased ones that come up are set aside. 0: none.
    int coldest(const Incoming* incoming, const std::set<int>& passed_over) {
        for (;;) {
            std::array<int, tier_count> first{};
            std::array<std::size_t, tier_count> sizes{};
            for (std::size_t tier = 0; tier < tier_count; ++tier) {
                sizes[tier] = queues_[tier].size() + aside_[tier].size();
                for (const int number : queues_[tier]) {
                    if (!passed_over.contains(number) &&
                        (incoming == nullptr || incoming->entry != number)) {
                        first[tier] = number;
                        break;
                    }
                }
            }
            const auto gives = [&](std::size_t tier) {
                std::size_t next = tier + 1;
                while (promptkv_rules() && next < tier_count && sizes[next] == 0)
                    ++next;
                return sizes[tier] > 0 && (next >= tier_count || sizes[tier] >= sizes[next]);
            };
            int victim = 0;
            for (std::size_t tier = 0; tier < tier_count; ++tier) {
                if (gives(tier)) {
                    victim = first[tier];
                    break; // though all of it may be leased
                }
            }
            for (std::size_t tier = 0; tier < tier_count && victim == 0; ++tier)
                victim = first[tier];
            if (victim == 0 || !is_leased(victim))
                return victim;
            leave_queue(victim);
            aside_[index(entries_.at(victim).tier)].push_back(victim);
        }
    }

    /// The victim, or, where its end would free nothing, the nearest longer one that is not leased and
    /// frees something. 0: it is passed over.
    int one_that_frees(int victim, const Incoming* incoming, bool truly, std::set<int>& passed_over,
                       Choices& choices) const {
        if (freed_by_cut(victim, 0, incoming, truly) > 0)
            return victim;
        std::vector<int> found;
        for (const int longer : below(entries_.at(victim).key)) {
            const bool may_go = (incoming == nullptr || incoming->entry != longer) &&
                                !is_leased(longer) && !passed_over.contains(longer) &&
                                kv_of(longer).serves(0) && // others depend on nothing
                                freed_by_cut(longer, 0, incoming, truly) > 0;
            const std::size_t length = entries_.at(longer).key.size();
            if (may_go && (found.empty() || length == entries_.at(found.front()).key.size()))
                found.push_back(longer);
        }
        if (!found.empty())
            return found[choices.choose(found.size())];
        passed_over.insert(victim);
        return 0;
    }

    /// Whether a block of the entry is only held by entries that may be evicted.
    [[nodiscard]] bool shares_with_victims(int number, const Incoming* incoming, bool truly) const {
        const NaiveKV& kv = kv_of(number);
        return std::any_of(kv.blocks.begin(), kv.blocks.end(), [&](const NaiveBlock& block) {
            const bool comes_back = incoming != nullptr && incoming->kv != nullptr &&
                                    has_block(*incoming->kv, block.id);
            return block.bytes > 0 && !comes_back && !held_by_leased(block.id) &&
                   !(truly && in_use(block.id));
        });
    }

    /// The superseded entry on the same path without branches that leaves the smallest gap.
    [[nodiscard]] int thinned(int victim, const std::set<int>& passed_over,
                              Choices& choices) const {
        const Key key = entries_.at(victim).key;
        int best = victim;
        std::size_t smallest = promptkv::unlimited;
        for (const auto& [number, entry] : entries_) {
            const bool on_path =
                entry.key.model == key.model && !diverge(entry.key.tokens, key.tokens);
            if (!on_path || !entry.superseded || passed_over.contains(number) ||
                is_leased(number) || can_be_cut(number) ||
                branches_between(entry.key, key, choices)) {
                continue;
            }
            const std::vector<int> shorter = above(entry.key);
            const std::vector<int> longer = below(entry.key);
            const auto is_stored = [this](int each) { // and not the one that comes
                return entries_.at(each).payload != 0;
            };
            const auto before = std::find_if(shorter.rbegin(), shorter.rend(), is_stored);
            const std::size_t from = before == shorter.rend() ? 0 : entries_.at(*before).key.size();
            const auto to = std::find_if(longer.begin(), longer.end(), is_stored);
            if (to == longer.end() || any_diverges(longer, entries_.at(*to).key.tokens))
                continue; // it is where several go on
            const std::size_t gap = entries_.at(*to).key.size() - from;
            if (gap < smallest ||
                (gap == smallest && entry.key.size() < entries_.at(best).key.size())) {
                smallest = gap;
                best = number;
            }
        }
        return best;
    }

    /// Whether an entry leaves the path between the two keys.
    [[nodiscard]] bool branches_between(const Key& a, const Key& b, Choices& choices) const {
        const Key& shorter = a.size() < b.size() ? a : b;
        const Key& longer = a.size() < b.size() ? b : a;
        return any_diverges(below(shorter), longer.tokens) ||
               left_a_branch(shorter, longer, choices);
    }

    /// Whether a key that left, and is not reported yet, leaves the path between the two keys, or continues
    /// both where they are equal. It is open whether such a key counts.
    [[nodiscard]] bool left_a_branch(const Key& shorter, const Key& longer,
                                     Choices& choices) const {
        const bool any = std::any_of(removals_.begin(), removals_.end(), [&](const Removal& each) {
            const Tokens& other = each.key.tokens;
            return each.key.model == shorter.model && is_strict_prefix(shorter.tokens, other) &&
                   (shorter == longer || diverge(other, longer.tokens));
        });
        return any && choices.choose(2) == 1;
    }

    /// How many tokens an entry keeps when so many bytes are wanted.
    [[nodiscard]] std::size_t kept_after(int number, std::size_t wanted, const Incoming* incoming,
                                         bool truly) const {
        const NaiveKV& kv = kv_of(number);
        if (!can(can_truncate) || kv.length() == 0)
            return 0;
        const std::size_t length = kv.length();
        const std::size_t block = kv.shape.block;
        if (can(has_blocks)) {
            for (std::size_t n = (length - 1) / block * block; n > 0; n -= block) {
                if (freed_by_cut(number, n, incoming, truly) >= wanted)
                    return n;
            }
            return 0;
        }
        const std::size_t bytes = kv.nbytes();
        if (wanted >= bytes)
            return 0;
        return kv.served_blocks((length * bytes - wanted * length) / bytes);
    }

    std::size_t cut_or_drop(int number, std::size_t kept, const Incoming* incoming, bool truly,
                            Inserted& result, Choices& choices) {
        Entry& entry = entries_.at(number);
        const Key shorter = prefix_of(entry.key, kept);
        if (kept == 0 || others_serve(shorter, number, incoming, choices))
            return drop(number, incoming, truly, result, choices);
        const std::size_t freed = freed_by_cut(number, kept, incoming, truly);
        const std::size_t accounted = freed_by_cut(number, kept, incoming, false);
        NaiveKV& kv = payloads_.at(entry.payload).kv;
        std::size_t tail_bytes = kv.own_bytes() - kv.first(kept).own_bytes();
        for (std::size_t i = kv.block_at(kept); i < kv.blocks.size(); ++i)
            tail_bytes += kv.blocks[i].bytes;
        removals_.push_back(
            {entry.key, kept, entry.tier, tail_bytes, RemovalReason::cut, can(has_blocks)});
        remember(entry.key);
        ++result.cut;
        ++stats_.cut;
        ++tier_stats_[index(entry.tier)].cut;
        stats_.tokens_evicted += entry.key.size() - kept;
        stats_.bytes_evicted += accounted;
        kv = kv.first(kept);
        entry.key = shorter;
        if (entry.chance > kept)
            entry.chance = 0; // what a longer match used is no longer there
        return freed;
    }

    std::size_t drop(int number, const Incoming* incoming, bool truly, Inserted& result,
                     Choices& choices) {
        const Entry& entry = entries_.at(number);
        const std::size_t freed = freed_by_cut(number, 0, incoming, truly);
        ++result.evicted;
        ++stats_.evicted;
        ++tier_stats_[index(entry.tier)].evicted;
        stats_.tokens_evicted += entry.key.size();
        stats_.bytes_evicted += freed_by_cut(number, 0, incoming, false);
        const bool unused = !entry.used && (!entry.maybe_used || choices.choose(2) == 0);
        stats_.evicted_unused += unused ? 1U : 0U;
        remember(entry.key);
        remove(number, RemovalReason::evicted);
        return freed;
    }

    void remember(const Key& key) {
        if (options_.remembered_tokens > 0)
            remembered_.insert(key);
    }

    // removal, in steps //////////////////////////////////////////////////////

    /// Takes the payload from the entry, which stays.
    void release(int number, RemovalReason reason) {
        Entry& entry = entries_.at(number);
        Payload& payload = payloads_.at(entry.payload);
        const bool offered = payload.leases == 0 && reason != RemovalReason::taken;
        removals_.push_back({entry.key, 0, entry.tier, payload.kv.nbytes(), reason, offered});
        payload.stored = false;
        drop_unheld(std::exchange(entry.payload, 0));
    }

    void remove(int number, RemovalReason reason) {
        release(number, reason);
        leave_queue(number);
        entries_.erase(number);
    }

    void erase_entry(int number, RemovalReason reason) {
        ++(reason == RemovalReason::cleared ? stats_.cleared : stats_.erased);
        remove(number, reason);
    }

    static void cancel(Reservation& made) { made.valid = false; }

    template <class Predicate>
    std::size_t erase_if(Predicate predicate, Choices& choices,
                         RemovalReason reason = RemovalReason::erased) {
        drain(choices);
        std::size_t erased = 0;
        for (const int number : numbers()) {
            if (predicate(entries_.at(number).key)) {
                erase_entry(number, reason);
                ++erased;
            }
        }
        std::erase_if(remembered_, predicate);
        for (auto& [number, made] : reservations_) {
            if (predicate(made.key))
                cancel(made);
        }
        return erased;
    }

    unsigned abilities_;
    Options options_;
    Limits limits_;
    std::map<int, Entry> entries_;
    std::map<int, Payload> payloads_; // of entries, of leases and of reservations
    std::map<int, Reservation> reservations_;
    std::array<std::vector<int>, tier_count> queues_; // the coldest first
    int chances_left_ = 0;                           // second chances that the call may still grant
    std::array<std::vector<int>, tier_count> aside_; // leased; those set aside first come first
    std::map<std::pair<std::string, std::uint64_t>, int> last_of_session_;
    std::set<Key> remembered_;
    std::vector<Key> evicted_first_; // by the call under way, before it did anything else
    std::vector<NaiveKV> held_outside_;
    Stats stats_;
    std::array<TierStats, tier_count> tier_stats_{};
    std::vector<Removal> removals_;
    Inserted evicted_by_reserve_;
    std::size_t block_tokens_ = 1; // of what was stored last
    int committing_ = 0;           // the reservation that is being committed
    bool prefix_counts_ = false;   // it is open whether its prefix takes room beside what is stored
    int last_number_ = 0;
};

} // namespace promptkv_test

#endif
