// SPDX-License-Identifier: MIT
// NaiveCache: what LRUPromptCache promises, in the plainest way, to compare against.
//
// Everything is a linear scan over a sorted map; nothing is kept that could be computed. Where the
// contract leaves a choice (which of several equally near entries is asked) the model asks Choices,
// and a test tries all of them: what the cache did must be explained by one.
#ifndef PROMPTKV_TESTS_NAIVE_CACHE_HPP
#define PROMPTKV_TESTS_NAIVE_CACHE_HPP

#include "payloads.hpp"

#include <promptkv/promptkv.hpp>

#include <algorithm>
#include <array>
#include <compare>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <list>
#include <map>
#include <set>
#include <string>
#include <utility>
#include <vector>

namespace promptkv_test {

using promptkv::Match;
using promptkv::Outcome;
using promptkv::RemovalReason;
using promptkv::Tier;

inline constexpr std::size_t tier_count = 3;

/// The decisions that the contract leaves open, enumerated like an odometer.
class Choices {
public:
    /// One of the numbers below `n`.
    [[nodiscard]] std::size_t choose(std::size_t n) {
        if (n < 2) {
            return 0;
        }
        if (used_ == digits_.size()) {
            digits_.push_back({0, n});
        }
        return digits_[used_++].value;
    }

    /// Goes on to the next combination. Returns false when all have been tried.
    [[nodiscard]] bool next() {
        digits_.resize(used_);
        used_ = 0;
        while (!digits_.empty() && digits_.back().value + 1 == digits_.back().limit) {
            digits_.pop_back();
        }
        if (digits_.empty()) {
            return false;
        }
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
    using Options = promptkv::CacheOptions;
    using Limits = promptkv::CacheLimits;
    using FetchOptions = promptkv::FetchOptions;
    using Inserted = promptkv::Inserted;
    using Stats = promptkv::Stats;
    using TierStats = promptkv::TierStats;

    struct Key {
        std::string model;
        Tokens tokens;

        friend auto operator<=>(const Key&, const Key&) = default;
    };

    enum class Lookup : std::uint8_t { fetch, lease, take, probe };

    struct Hit {
        Match match = Match::none;
        std::size_t reused = 0;
        Tier tier = Tier::assistant; ///< of the entry; assistant on a miss
        int id = 0;                  ///< of the payload; 0 on a miss
        Recording payload;           ///< what a fetch or a take hands out, what a lease shows
    };

    struct Removal {
        Key key;
        Tier tier = Tier::assistant;
        std::size_t bytes = 0;
        RemovalReason reason = RemovalReason::evicted;
        int id = 0; ///< of the payload offered to the listener; 0 where none is

        friend auto operator<=>(const Removal&, const Removal&) = default;
    };

    struct Entry {
        Key key;
        Tier tier = Tier::assistant;
        std::size_t bytes = 0;
        Recording payload;

        friend bool operator==(const Entry&, const Entry&) = default;
    };

    /// The key of the first `n` tokens.
    static Key prefix_of(const Key& key, std::size_t n) {
        return {key.model,
                Tokens(key.tokens.begin(), key.tokens.begin() + static_cast<std::ptrdiff_t>(n))};
    }

    NaiveCache(unsigned abilities, Options options)
        : abilities_(abilities),
          options_(options), limits_{options.max_bytes, options.max_entries} {}

    // lookup /////////////////////////////////////////////////////////////////

    Hit lookup(Lookup how, const Key& prompt, FetchOptions options, Choices& choices) {
        const std::vector<Offer> winners = best_offers(how, prompt, options);
        Hit hit;
        if (how != Lookup::probe) {
            ++stats_.lookups;
            stats_.tokens_requested += prompt.tokens.size();
        }
        const Offer* winner = winners.empty() ? nullptr : &winners[choices.choose(winners.size())];
        if (winner == nullptr || winner->reuse == 0 || winner->reuse < options.min_reuse) {
            return hit;
        }
        const Record record = records_.at(winner->key);
        Kept& kept = payloads_.at(record.payload);
        hit.match = match_of(winner->key.tokens, prompt.tokens);
        hit.reused = winner->reuse;
        hit.tier = record.tier;
        if (how == Lookup::probe) {
            return hit;
        }
        hit.id = record.payload;
        hit.payload = kept.tape;
        if (how != Lookup::lease) {
            hit.payload.truncate(winner->reuse);
        }
        ++(hit.match == Match::exact     ? stats_.hits_exact
           : hit.match == Match::shorter ? stats_.hits_shorter
                                         : stats_.hits_longer);
        stats_.tokens_reused += winner->reuse;
        kept.used = true;
        if (options_.refresh_on_fetch) {
            refresh(winner->key, hit.match, prompt, winner->reuse);
        }
        if (how == Lookup::lease) {
            ++kept.leases;
        } else if (how == Lookup::take) {
            remove(winner->key, RemovalReason::taken);
            forget_surplus_anchors();
        }
        return hit;
    }

    /// Ends one lease of the payload.
    void end_lease(int id) {
        Kept& kept = payloads_.at(id);
        --kept.leases;
        drop_unheld(id);
    }

    // insert /////////////////////////////////////////////////////////////////

    /// Inserts a tape made for `key`. `made`: through the overload that makes the payload late.
    Inserted insert(const Key& key, const Recording& tape, Tier tier, bool made, Choices& choices) {
        Inserted result;
        const std::size_t bytes = tape.nbytes();
        if (limits_.max_bytes == 0 || bytes > limits_.max_bytes) {
            ++stats_.too_large;
            result.outcome = Outcome::too_large;
            return result;
        }
        const auto old = records_.find(key);
        const Tier old_tier = old != records_.end() ? old->second.tier : tier;
        tier = std::max(tier, old_tier);
        if (options_.keep_anchors && could_cut_to(key, choices)) {
            result.absorbed = make_anchor(key, tier);
            ++stats_.anchored;
            result.outcome = Outcome::anchored;
            return result;
        }
        if (!has_room(bytes, key)) {
            ++stats_.no_room;
            result.outcome = Outcome::no_room;
            return result;
        }
        const bool replaces = old != records_.end() && old->second.payload != 0;
        result.outcome = replaces ? Outcome::replaced : Outcome::stored;
        ++(replaces ? stats_.replaced : stats_.inserted);
        if (made) {
            make_room_early(key, bytes, tier, result, choices);
        }
        if (replaces && records_.at(key).payload != 0) {
            release(key, RemovalReason::replaced, old_tier);
        }
        place(key, tier);
        absorb(absorbed_by(key, tape), tier, result);
        if (options_.supersede) {
            supersede(key, tier);
        }
        const Incoming incoming{key, &tape, bytes, 1};
        make_room(limits_, &incoming, result, choices);
        records_.at(key).payload = tape.id;
        payloads_[tape.id] = Kept{tape, bytes, 0, true, false, false};
        forget_surplus_anchors();
        note_peak();
        return result;
    }

    bool mark(const Key& key, Tier tier, Choices& choices) {
        const auto old = records_.find(key);
        const bool stored = old != records_.end() && old->second.payload != 0;
        if (!options_.keep_anchors || (!stored && !could_cut_to(key, choices))) {
            return false;
        }
        if (stored) {
            payloads_.at(old->second.payload).superseded = false;
        }
        place(key, old == records_.end() ? tier : std::max(tier, old->second.tier));
        forget_surplus_anchors();
        return true;
    }

    // removal ////////////////////////////////////////////////////////////////

    std::size_t pop_prefixes(const Key& key) {
        return erase_if([&key](const Key& other) {
            return other.model == key.model && is_strict_prefix(other.tokens, key.tokens);
        });
    }

    bool erase(const Key& key) {
        return erase_if([&key](const Key& other) { return other == key; }) > 0;
    }

    std::size_t erase_model(const std::string& model) {
        return erase_if([&model](const Key& other) { return other.model == model; });
    }

    std::size_t clear() {
        return erase_if([](const Key&) { return true; }, RemovalReason::cleared);
    }

    std::size_t trim_to(Limits limits, Choices& choices) {
        Inserted result;
        make_room(limits, nullptr, result, choices);
        forget_surplus_anchors();
        return result.evicted;
    }

    void set_limits(Limits limits, Choices& choices) {
        limits_ = limits;
        Inserted result;
        make_room(limits, nullptr, result, choices);
        // What is still too much is leased: it leaves, its bytes stay until the leases end.
        while (nbytes() > limits.max_bytes || size() > limits.max_entries) {
            const Key* key = victim(true, nullptr);
            if (key == nullptr) {
                break;
            }
            evict(Key(*key), result);
        }
        forget_surplus_anchors();
    }

    /// Evicts while more than `floor` bytes are held.
    std::size_t evict_while_above(std::size_t floor, Choices& choices) {
        Inserted result;
        while (nbytes() > floor) {
            const Key* key = victim(false, nullptr);
            if (key == nullptr) {
                break;
            }
            shorten(Key(*key), 1, nullptr, result, choices);
        }
        forget_surplus_anchors();
        return result.evicted;
    }

    // capacity ///////////////////////////////////////////////////////////////

    [[nodiscard]] Limits limits() const { return limits_; }

    [[nodiscard]] std::size_t size() const {
        std::size_t n = 0;
        for (const auto& [key, record] : records_) {
            n += record.payload != 0 ? 1U : 0U;
        }
        return n;
    }

    /// Bytes of all payloads, those that left the cache but are still leased among them.
    [[nodiscard]] std::size_t nbytes() const {
        std::size_t sum = 0;
        for (const auto& [id, kept] : payloads_) {
            sum += kept.bytes;
        }
        return sum;
    }

    [[nodiscard]] std::size_t nbytes(const std::string& model) const {
        std::size_t sum = 0;
        for (const auto& [key, record] : records_) {
            if (key.model == model && record.payload != 0) {
                sum += payloads_.at(record.payload).bytes;
            }
        }
        return sum;
    }

    // observers //////////////////////////////////////////////////////////////

    [[nodiscard]] Stats stats() const {
        Stats stats = stats_;
        stats.bytes_leased = bytes_leased();
        return stats;
    }

    [[nodiscard]] TierStats stats(Tier tier) const {
        TierStats stats = tier_stats_[index(tier)];
        for (const auto& [key, record] : records_) {
            if (record.tier != tier) {
                continue;
            }
            if (record.payload == 0) {
                ++stats.anchors;
            } else {
                ++stats.entries;
                stats.nbytes += payloads_.at(record.payload).bytes;
            }
        }
        return stats;
    }

    /// The entries by model, then by tokens.
    [[nodiscard]] std::vector<Entry> entries() const {
        std::vector<Entry> result;
        for (const auto& [key, record] : records_) {
            if (record.payload != 0) {
                const Kept& kept = payloads_.at(record.payload);
                result.push_back({key, record.tier, kept.bytes, kept.tape});
            }
        }
        return result;
    }

    /// What was removed since the last call, sorted.
    [[nodiscard]] std::vector<Removal> take_removals() {
        std::sort(removals_.begin(), removals_.end());
        return std::exchange(removals_, {});
    }

private:
    struct Record {
        Tier tier;
        int payload = 0;           // 0: an anchor
        std::uint64_t used_at = 0; // when it last went to the hot end, or became an anchor
    };

    struct Kept {
        Recording tape;
        std::size_t bytes = 0;
        std::size_t leases = 0;
        bool stored = true;      // an entry holds it
        bool used = false;       // a lookup returned it
        bool superseded = false; // since it was last refreshed
    };

    struct Offer {
        Key key;
        std::size_t reuse;
        bool cut;
    };

    struct Incoming {
        Key key;
        const Recording* tape; // null while it is not made yet
        std::size_t bytes;
        std::size_t entries;
    };

    // keys ///////////////////////////////////////////////////////////////////

    static std::size_t index(Tier tier) { return static_cast<std::size_t>(tier); }

    static std::size_t common(const Tokens& a, const Tokens& b) {
        const std::size_t n = std::min(a.size(), b.size());
        std::size_t i = 0;
        while (i < n && a[i] == b[i]) {
            ++i;
        }
        return i;
    }

    static bool is_prefix(const Tokens& a, const Tokens& b) {
        return a.size() <= b.size() && std::equal(a.begin(), a.end(), b.begin());
    }

    static bool is_strict_prefix(const Tokens& a, const Tokens& b) {
        return a.size() < b.size() && is_prefix(a, b);
    }

    static Match match_of(const Tokens& key, const Tokens& prompt) {
        return key == prompt            ? Match::exact
               : is_prefix(key, prompt) ? Match::shorter
                                        : Match::longer;
    }

    // payloads ///////////////////////////////////////////////////////////////

    [[nodiscard]] bool can(unsigned ability) const { return (abilities_ & ability) != 0; }

    [[nodiscard]] std::size_t reusable(const Recording& tape, std::size_t n) const {
        if (can(can_reuse)) {
            return tape.reusable_prefix(n);
        }
        return n >= tape.tokens.size() ? tape.tokens.size() : 0;
    }

    /// Can some strict prefix be served? What cannot be cut at all serves not even the empty one, but
    /// of one token that is not known.
    [[nodiscard]] bool cuttable(const Recording& tape) const {
        if (tape.tokens.size() == 1) {
            return can(can_reuse);
        }
        return tape.tokens.size() > 1 && reusable(tape, tape.tokens.size() - 1) > 0;
    }

    [[nodiscard]] bool serves(const Recording& tape, std::size_t n) const {
        return n == tape.tokens.size() ||
               (n < tape.tokens.size() && cuttable(tape) && reusable(tape, n) == n);
    }

    [[nodiscard]] bool can_be_cut() const {
        return can(can_truncate) && options_.cut_granularity > 0;
    }

    [[nodiscard]] const Recording& tape_of(const Key& key) const {
        return payloads_.at(records_.at(key).payload).tape;
    }

    [[nodiscard]] std::size_t bytes_leased() const {
        std::size_t sum = 0;
        for (const auto& [id, kept] : payloads_) {
            sum += kept.leases > 0 ? kept.bytes : 0;
        }
        return sum;
    }

    void drop_unheld(int id) {
        const Kept& kept = payloads_.at(id);
        if (!kept.stored && kept.leases == 0) {
            payloads_.erase(id);
        }
    }

    void note_peak() { stats_.peak_nbytes = std::max(stats_.peak_nbytes, nbytes()); }

    // search /////////////////////////////////////////////////////////////////

    /// An entry that some strict prefix could be served from.
    [[nodiscard]] bool visible(const Key& key, const Record& record) const {
        return record.payload != 0 && cuttable(tape_of(key));
    }

    /// The visible entries beyond `prefix` with the fewest extra tokens, without `except`.
    [[nodiscard]] std::vector<Key> nearest_longer(const Key& prefix, const Key* except) const {
        std::vector<Key> nearest;
        for (const auto& [key, record] : records_) {
            if (key.model != prefix.model || !is_strict_prefix(prefix.tokens, key.tokens) ||
                !visible(key, record) || (except != nullptr && key == *except)) {
                continue;
            }
            if (!nearest.empty() && key.tokens.size() < nearest.front().tokens.size()) {
                nearest.clear();
            }
            if (nearest.empty() || key.tokens.size() == nearest.front().tokens.size()) {
                nearest.push_back(key);
            }
        }
        return nearest;
    }

    /// Does the nearest longer entry serve `key`? Open where several are equally near, and where the
    /// incoming one is not the nearest.
    [[nodiscard]] bool longer_serves(const Key& key, const Key* except, const Incoming* incoming,
                                     Choices& choices) const {
        std::vector<const Recording*> tapes;
        for (const Key& other : nearest_longer(key, except)) {
            tapes.push_back(&tape_of(other));
        }
        if (incoming != nullptr && incoming->tape != nullptr && cuttable(*incoming->tape) &&
            incoming->key.model == key.model &&
            is_strict_prefix(key.tokens, incoming->key.tokens)) {
            tapes.push_back(incoming->tape);
        }
        std::size_t nearest = promptkv::unlimited;
        for (const Recording* tape : tapes) {
            nearest = std::min(nearest, tape->tokens.size());
        }
        bool some = false;
        bool all = true;
        for (const Recording* tape : tapes) {
            const bool yes = serves(*tape, key.tokens.size());
            some = some || yes;
            all = all && (yes || tape->tokens.size() > nearest);
        }
        return some && (all || choices.choose(2) == 0);
    }

    [[nodiscard]] bool could_cut_to(const Key& key, Choices& choices) const {
        return can_be_cut() && longer_serves(key, nullptr, nullptr, choices);
    }

    /// Do others than `victim` serve `key`, a prefix of it?
    [[nodiscard]] bool others_serve(const Key& key, const Key& victim, const Incoming* incoming,
                                    Choices& choices) const {
        const auto own = records_.find(key);
        if (own != records_.end() && own->second.payload != 0) {
            return true;
        }
        if (incoming != nullptr && incoming->key == key) {
            return true;
        }
        return longer_serves(key, &victim, incoming, choices);
    }

    /// What `key` can give a prompt of which the first `n` tokens may come from it.
    [[nodiscard]] Offer offer(Lookup how, const Key& key, std::size_t n, std::size_t align) const {
        const Recording& tape = tape_of(key);
        const std::size_t length = key.tokens.size();
        const bool may_cut = how == Lookup::lease                     ? true
                             : how == Lookup::take                    ? can(can_truncate)
                             : how == Lookup::probe && !can(can_copy) ? true
                                                                      : can(can_clone);
        if (!may_cut) {
            return {key, n >= length ? length : 0, false};
        }
        const std::size_t reuse = reusable(tape, n);
        const std::size_t aligned = reuse / align * align;
        const std::size_t rounded = reusable(tape, aligned) == aligned ? aligned : reuse;
        return {key, rounded, rounded < length};
    }

    /// The offers that may win: one, but for ties.
    [[nodiscard]] std::vector<Offer> best_offers(Lookup how, const Key& prompt,
                                                 const FetchOptions& options) const {
        const std::size_t n = prompt.tokens.size();
        const std::size_t most = n < options.min_remaining ? 0 : n - options.min_remaining;
        const std::vector<std::vector<Offer>> groups = offers(how, prompt, most, options.align);
        // Each group gives at least its worst member; only the first sixteen must be asked.
        constexpr std::size_t asked = 16;
        std::size_t least = 0;
        for (std::size_t i = 0; i < std::min(asked, groups.size()); ++i) {
            std::size_t worst = promptkv::unlimited;
            for (const Offer& each : groups[i]) {
                worst = std::min(worst, each.reuse);
            }
            least = std::max(least, worst);
        }
        std::vector<Offer> winners;
        for (const auto& group : groups) {
            for (const Offer& each : group) {
                if (each.reuse >= least && each.reuse > 0) {
                    winners.push_back(each);
                }
            }
        }
        if (least == 0) { // those that were asked may have had nothing to give
            winners.push_back({{}, 0, false});
        }
        // Own entries are never in a tie, so that one which needs no cut is sure to be seen.
        if (groups.size() <= asked) {
            const bool whole = std::any_of(winners.begin(), winners.end(), [&](const Offer& each) {
                return !each.cut && each.reuse == least;
            });
            std::erase_if(winners, [&](const Offer& each) {
                return whole && each.cut && each.reuse == least;
            });
        }
        return winners;
    }

    /// From the deepest node on the prompt's path up: each node's entry, and its nearest longer.
    [[nodiscard]] std::vector<std::vector<Offer>>
    offers(Lookup how, const Key& prompt, std::size_t most, std::size_t align) const {
        // Where a key ends on the path or leaves it there is a node.
        std::set<std::size_t, std::greater<>> depths = {0};
        for (const auto& [key, record] : records_) {
            if (key.model == prompt.model) {
                depths.insert(common(key.tokens, prompt.tokens));
            }
        }
        std::vector<std::vector<Offer>> groups;
        for (const std::size_t depth : depths) {
            const Key point = prefix_of(prompt, depth);
            const auto own = records_.find(point);
            if (own != records_.end() && own->second.payload != 0 &&
                (how != Lookup::take || payloads_.at(own->second.payload).leases == 0)) {
                groups.push_back({offer(how, point, std::min(depth, most), align)});
            }
            if (how == Lookup::take) {
                continue;
            }
            std::vector<Offer> longer;
            for (const Key& key : nearest_longer(point, nullptr)) {
                longer.push_back(offer(how, key, std::min(depth, most), align));
            }
            if (!longer.empty()) {
                groups.push_back(std::move(longer));
            }
        }
        return groups;
    }

    /// The anchors on the first `n` tokens of `key` (all `n` included), the longest first.
    [[nodiscard]] std::vector<Key> anchors_on(const Key& key, std::size_t n) const {
        std::vector<Key> anchors;
        for (const auto& [other, record] : records_) {
            if (other.model == key.model && record.payload == 0 && other.tokens.size() <= n &&
                is_prefix(other.tokens, key.tokens)) {
                anchors.push_back(other);
            }
        }
        std::reverse(anchors.begin(), anchors.end()); // they are sorted, prefixes first
        return anchors;
    }

    // recency ////////////////////////////////////////////////////////////////

    std::list<Key>& queue(Tier tier) { return queues_[index(tier)]; }

    /// Puts the key at the hot end of the tier's queue; an anchor, if it is new.
    void place(const Key& key, Tier tier) {
        Record& record = records_.try_emplace(key, Record{tier}).first->second;
        queue(record.tier).remove(key);
        record.tier = tier;
        record.used_at = ++clock_;
        queue(tier).push_back(key);
    }

    void refresh(const Key& found, Match match, const Key& prompt, std::size_t reused) {
        if (match != Match::longer) {
            place(found, records_.at(found).tier);
            payloads_.at(records_.at(found).payload).superseded = false;
        }
        for (const Key& anchor : anchors_on(prompt, reused)) {
            place(anchor, records_.at(anchor).tier);
        }
    }

    /// The rule of the reference among what may be taken; null when there is nothing.
    [[nodiscard]] const Key* victim(bool leased_too, const Incoming* incoming) const {
        std::array<const Key*, tier_count> coldest{};
        for (std::size_t i = 0; i < tier_count; ++i) {
            for (const Key& key : queues_[i]) {
                const int payload = records_.at(key).payload;
                const bool leased = payload != 0 && payloads_.at(payload).leases > 0;
                if ((!leased || leased_too) && (incoming == nullptr || key != incoming->key)) {
                    coldest[i] = &key;
                    break;
                }
            }
        }
        for (std::size_t i = 0; i + 1 < tier_count; ++i) {
            if (coldest[i] != nullptr && queues_[i].size() >= queues_[i + 1].size()) {
                return coldest[i];
            }
        }
        if (coldest[tier_count - 1] != nullptr) {
            return coldest[tier_count - 1];
        }
        for (const Key* key : coldest) {
            if (key != nullptr) {
                return key;
            }
        }
        return nullptr;
    }

    // insert, in steps ///////////////////////////////////////////////////////

    /// The entries on strict prefixes that `tape` serves.
    [[nodiscard]] std::vector<Key> absorbed_by(const Key& key, const Recording& tape) const {
        std::vector<Key> result;
        for (const auto& [other, record] : records_) {
            if (other.model != key.model || record.payload == 0 ||
                !is_strict_prefix(other.tokens, key.tokens) || !serves(tape, other.tokens.size())) {
                continue;
            }
            result.push_back(other);
        }
        return result;
    }

    void absorb(const std::vector<Key>& keys, Tier tier, Inserted& result) {
        for (const Key& key : keys) {
            if (options_.keep_anchors && records_.at(key).tier > tier && !can_be_cut()) {
                continue; // it would be lost with its payload
            }
            ++result.absorbed;
            ++stats_.absorbed;
            if (options_.keep_anchors && records_.at(key).tier > tier) {
                release(key, RemovalReason::absorbed, records_.at(key).tier);
                records_.at(key).used_at =
                    ++clock_; // its place is the same; as an anchor it is new
            } else {
                remove(key, RemovalReason::absorbed);
            }
        }
    }

    [[nodiscard]] bool has_room(std::size_t bytes, const Key& key) const {
        std::size_t entries = 1;
        for (const auto& [other, record] : records_) {
            if (record.payload != 0 && payloads_.at(record.payload).leases > 0 && other != key) {
                ++entries;
            }
        }
        const std::size_t leased = bytes_leased();
        return entries <= limits_.max_entries && leased <= limits_.max_bytes &&
               bytes <= limits_.max_bytes - leased;
    }

    /// Makes an anchor of the key, or keeps it one. Returns how many payloads that cost.
    std::size_t make_anchor(const Key& key, Tier tier) {
        std::size_t absorbed = 0;
        const auto old = records_.find(key);
        if (old != records_.end() && old->second.payload != 0) {
            release(key, RemovalReason::absorbed, old->second.tier);
            ++stats_.absorbed;
            absorbed = 1;
        }
        place(key, tier);
        forget_surplus_anchors();
        return absorbed;
    }

    void supersede(const Key& key, Tier tier) {
        // Up to where another key leaves the path.
        std::size_t branch = 0;
        bool branches = false;
        for (const auto& [other, record] : records_) {
            const std::size_t n = common(other.tokens, key.tokens);
            if (other.model == key.model && n < other.tokens.size() && n < key.tokens.size()) {
                branch = std::max(branch, n);
                branches = true;
            }
        }
        for (std::size_t n = key.tokens.size(); n-- > 0;) {
            if (branches && n <= branch) {
                break;
            }
            const Key prefix = prefix_of(key, n);
            const auto record = records_.find(prefix);
            if (record != records_.end() && record->second.payload != 0 &&
                record->second.tier <= tier) {
                queue(record->second.tier).remove(prefix);
                queue(record->second.tier).push_front(prefix);
                bool& superseded = payloads_.at(record->second.payload).superseded;
                stats_.superseded += superseded ? 0U : 1U;
                superseded = true;
            }
        }
    }

    /// Room for a payload that is still to be made. Where it is wanting, the prefixes that can be cut
    /// themselves go first, as if it served them, the longest before the others. A key that is there
    /// already keeps tier, place and payload until then; what it holds counts as room.
    void make_room_early(const Key& key, std::size_t bytes, Tier tier, Inserted& result,
                         Choices& choices) {
        const bool is_new = !records_.contains(key);
        if (is_new) {
            place(key, tier);
        }
        const int old = records_.at(key).payload;
        const bool goes = old != 0 && payloads_.at(old).leases == 0;
        const std::size_t more = bytes - (goes ? std::min(bytes, payloads_.at(old).bytes) : 0);
        const Incoming incoming{key, nullptr, more, old == 0 ? 1U : 0U};
        const auto wanting = [&] {
            return nbytes() + more > limits_.max_bytes ||
                   size() + incoming.entries > limits_.max_entries;
        };
        for (std::size_t n = key.tokens.size(); n-- > 0 && wanting();) {
            const auto record = records_.find(prefix_of(key, n));
            if (record != records_.end() && visible(record->first, record->second)) {
                absorb({prefix_of(key, n)}, tier, result);
            }
        }
        if (wanting()) {
            if (options_.supersede) {
                supersede(key, tier);
            }
            make_room(limits_, &incoming, result, choices);
        }
        forget_surplus_anchors(is_new ? &key : nullptr);
    }

    void make_room(Limits limits, const Incoming* incoming, Inserted& result, Choices& choices) {
        const std::size_t more = incoming == nullptr ? 0 : incoming->bytes;
        const std::size_t one = incoming == nullptr ? 0 : incoming->entries;
        for (;;) {
            const bool crowded = size() + one > limits.max_entries;
            const std::size_t held = nbytes() + more;
            if (!crowded && held <= limits.max_bytes) {
                return;
            }
            const Key* key = victim(false, incoming);
            if (key == nullptr) {
                return;
            }
            if (crowded) {
                evict(Key(*key), result);
            } else {
                shorten(Key(*key), held - limits.max_bytes, incoming, result, choices);
            }
        }
    }

    // removal, in steps //////////////////////////////////////////////////////

    /// Takes the payload, which was of that tier, from the key, which stays.
    void release(const Key& key, RemovalReason reason, Tier tier) {
        Record& record = records_.at(key);
        Kept& kept = payloads_.at(record.payload);
        const bool offered = kept.leases == 0 && reason != RemovalReason::taken;
        removals_.push_back({key, tier, kept.bytes, reason, offered ? record.payload : 0});
        kept.stored = false;
        drop_unheld(std::exchange(record.payload, 0));
    }

    void forget(const Key& key) {
        queue(records_.at(key).tier).remove(key);
        records_.erase(key);
    }

    void remove(const Key& key, RemovalReason reason) {
        release(key, reason, records_.at(key).tier);
        forget(key);
    }

    template <class Predicate>
    std::size_t erase_if(Predicate predicate, RemovalReason reason = RemovalReason::erased) {
        std::size_t erased = 0;
        std::vector<Key> keys;
        for (const auto& [key, record] : records_) {
            if (predicate(key)) {
                keys.push_back(key);
            }
        }
        for (const Key& key : keys) {
            if (records_.at(key).payload != 0) {
                release(key, reason, records_.at(key).tier);
                ++erased;
            }
            forget(key);
        }
        forget_surplus_anchors();
        return erased;
    }

    /// Drops a victim whole; an anchor is forgotten.
    void evict(const Key& key, Inserted& result) {
        const Record record = records_.at(key);
        if (record.payload == 0) {
            forget(key);
            return;
        }
        const Kept& kept = payloads_.at(record.payload);
        ++result.evicted;
        ++stats_.evicted;
        ++tier_stats_[index(record.tier)].evicted;
        stats_.tokens_evicted += key.tokens.size();
        stats_.bytes_evicted += kept.bytes;
        stats_.evicted_unused += kept.used ? 0U : 1U;
        remove(key, RemovalReason::evicted);
    }

    /// Cuts a victim by about `need` bytes, or drops it.
    void shorten(const Key& key, std::size_t need, const Incoming* incoming, Inserted& result,
                 Choices& choices) {
        const Record record = records_.at(key);
        const std::size_t target =
            record.payload == 0 ? 0 : cut_target(key, need, incoming, choices);
        if (target == 0) {
            evict(key, result);
            return;
        }
        const Key shorter = prefix_of(key, target);
        Kept& kept = payloads_.at(record.payload);
        Recording tape = kept.tape;
        tape.truncate(target);
        if (tape.nbytes() >= kept.bytes) { // for nothing
            evict(key, result);
            removals_.back().id = 0; // it no longer holds its key
            return;
        }
        const std::size_t freed = kept.bytes - tape.nbytes();
        removals_.push_back({key, record.tier, freed, RemovalReason::cut, 0});
        ++result.cut;
        ++stats_.cut;
        ++tier_stats_[index(record.tier)].cut;
        stats_.tokens_evicted += key.tokens.size() - target;
        stats_.bytes_evicted += freed;
        kept.tape = tape;
        kept.bytes = tape.nbytes();
        if (records_.contains(shorter)) { // an anchor, which gets the payload
            forget(key);
        } else {
            std::replace(queue(record.tier).begin(), queue(record.tier).end(), key, shorter);
            records_.erase(key);
            records_[shorter] = record;
        }
        records_.at(shorter).payload = record.payload;
    }

    /// The length to cut a victim to; 0 where it is to be dropped.
    [[nodiscard]] std::size_t cut_target(const Key& key, std::size_t need, const Incoming* incoming,
                                         Choices& choices) const {
        const Kept& kept = payloads_.at(records_.at(key).payload);
        if (!can_be_cut() || kept.bytes == 0) {
            return 0;
        }
        const auto divided_up = [](std::size_t a, std::size_t b) { return (a + b - 1) / b; };
        const std::size_t length = key.tokens.size();
        const std::size_t by =
            std::max(divided_up(need * length, kept.bytes), divided_up(length, 8));
        const std::size_t rounded =
            by >= length ? 0 : (length - by) / options_.cut_granularity * options_.cut_granularity;
        const std::size_t target = reusable(kept.tape, rounded);
        for (const Key& anchor : anchors_on(key, length - 1)) {
            const std::size_t n = anchor.tokens.size();
            if (n >= std::max<std::size_t>(target, 1) && serves(kept.tape, n) &&
                !others_serve(anchor, key, incoming, choices)) {
                return n;
            }
        }
        if (target == 0 || others_serve(prefix_of(key, target), key, incoming, choices)) {
            return 0;
        }
        return target;
    }

    /// `linked`: a key that waits for its payload, and is no anchor.
    void forget_surplus_anchors(const Key* linked = nullptr) {
        for (;;) {
            std::size_t anchors = 0;
            const Key* oldest = nullptr;
            for (const auto& [key, record] : records_) {
                if (record.payload != 0 || (linked != nullptr && key == *linked)) {
                    continue;
                }
                ++anchors;
                if (oldest == nullptr || record.used_at < records_.at(*oldest).used_at) {
                    oldest = &key;
                }
            }
            if (anchors <= 64 * (size() + 1)) {
                return;
            }
            forget(Key(*oldest));
        }
    }

    unsigned abilities_;
    Options options_;
    Limits limits_;
    std::map<Key, Record> records_;
    std::map<int, Kept> payloads_;                  // by id; also those that only leases hold
    std::array<std::list<Key>, tier_count> queues_; // the coldest first
    std::uint64_t clock_ = 0;
    Stats stats_;
    std::array<TierStats, tier_count> tier_stats_{};
    std::vector<Removal> removals_;
};

} // namespace promptkv_test

#endif
