// SPDX-License-Identifier: MIT
// Operations on a cache, made from any source of numbers, and written as words.
#ifndef PROMPTKV_TESTS_CACHE_OPERATIONS_HPP
#define PROMPTKV_TESTS_CACHE_OPERATIONS_HPP

#include "counting_new.hpp"
#include "naive_cache.hpp"
#include "payloads.hpp"

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <limits>
#include <string>
#include <utility>
#include <vector>

namespace promptkv_test {

// operations /////////////////////////////////////////////////////////////////

enum class Action : std::uint8_t {
    insert,
    insert_made, // the overload that makes the payload late
    fetch,
    lease,
    end_lease,
    take,
    probe,
    mark,
    mark_all, // the prefixes of the key, one after the other
    pop_prefixes,
    erase,
    erase_model,
    clear,
    trim_to,
    set_limits,
    evict_while,
    move, // of the whole cache
    renew // another cache in its place, while the leases live on
};

struct Operation {
    Action action = Action::insert;
    int id = 0; // of its payload
    NaiveCache::Key key;
    Tier tier = Tier::assistant;
    Shape shape;
    NaiveCache::FetchOptions fetch;
    NaiveCache::Limits limits;
    std::size_t slot = 0;             // of a lease; of evict_while: the bytes to go down to
    std::size_t failing = never;      // which of its allocations fails
    bool failing_on = false;          // and so do those after it
    std::vector<Operation> callbacks; // what the listener does with the cache, one a removal
};

/// One run: the same on every machine.
struct Run {
    NaiveCache::Options options;
    bool listener_takes = false; // it moves the payloads out
    bool modelled = true;        // false: more than the model can follow
    std::vector<Operation> operations;
};

/// How the keys of a run look.
struct Profile {
    std::size_t alphabet;
    std::size_t longest;
    std::size_t growth; // by how many tokens at most a key goes on beyond an earlier one
    std::size_t models;
    std::size_t operations;
    std::size_t mark_alls; // of about 170 operations
    std::size_t entries;   // of how many there is room for, at most, where there is a limit
};

inline constexpr Profile short_keys{2, 7, 2, 2, 250, 0, 8};
inline constexpr Profile grown_keys{3, 60, 20, 2, 200, 0, 8};
inline constexpr Profile many_anchors{2, 200, 200, 1, 120, 20, 8};
inline constexpr Profile many_children{40, 3, 2, 1, 250, 0, 64};

inline constexpr std::size_t lease_slots = 4;

// generation /////////////////////////////////////////////////////////////////

/// Makes runs of what `Source` gives: `below(n)`, a number below n, and `exhausted()`.
template <class Source>
class RunMaker {
public:
    RunMaker(Source& source, const Profile& profile, bool modelled = true)
        : source_(source), profile_(profile), modelled_(modelled) {}

    Run make() {
        Run run;
        run.options = options();
        run.listener_takes = one_in(2);
        run.modelled = modelled_;
        shapes_ = profile_.mark_alls > 0 ? 0 : source_.below(4);
        calls_back_ = one_in(2);
        for (std::size_t i = 0; i < profile_.operations && !source_.exhausted(); ++i) {
            run.operations.push_back(operation());
        }
        return run;
    }

private:
    [[nodiscard]] bool one_in(std::size_t n) { return source_.below(n) == 0; }

    std::size_t pick(std::initializer_list<std::size_t> from) {
        return from.begin()[source_.below(from.size())];
    }

    // The bytes of a key that is as long as they get, roughly; of several where there is more room.
    [[nodiscard]] std::size_t typical_bytes() const {
        return profile_.longest * profile_.entries / 2;
    }

    NaiveCache::Limits limits() {
        NaiveCache::Limits limits;
        if (!one_in(4)) {
            limits.max_bytes = one_in(20)
                                   ? 0
                                   : 1 + source_.below(one_in(3) ? 4 : 12) * typical_bytes() / 4 +
                                         source_.below(typical_bytes());
        }
        if (one_in(2)) {
            limits.max_entries = one_in(20) ? 0 : 1 + source_.below(profile_.entries);
        }
        return limits;
    }

    NaiveCache::Options options() {
        NaiveCache::Options options;
        const NaiveCache::Limits chosen = limits();
        options.max_bytes = chosen.max_bytes;
        options.max_entries = chosen.max_entries;
        options.refresh_on_fetch = !one_in(4);
        options.keep_anchors = profile_.mark_alls > 0 || !one_in(4);
        options.supersede = !one_in(4);
        options.cut_granularity = pick({0, 1, 1, 2, 3, 8});
        return options;
    }

    Shape shape() {
        Shape shape;
        shape.step = shapes_ == 0   ? 1
                     : shapes_ == 1 ? 0
                     : shapes_ == 2 ? pick({1, 2, 3, 5})
                                    : pick({0, 1, 1, 2, 3});
        shape.bytes_per_token = pick({0, 1, 2, 4, 4});
        shape.overhead = pick({0, 0, 1, 9});
        return shape;
    }

    NaiveCache::FetchOptions fetch() {
        NaiveCache::FetchOptions options;
        if (one_in(2)) {
            options.min_remaining = source_.below(3);
            options.min_reuse = source_.below(4);
            options.align = 1 + source_.below(4);
        }
        return options;
    }

    [[nodiscard]] static std::int32_t token(std::size_t letter) {
        constexpr std::array<std::int32_t, 3> first = {-1, std::numeric_limits<std::int32_t>::max(),
                                                       7};
        return letter < first.size() ? first[letter] : static_cast<std::int32_t>('a' + letter);
    }

    Tokens tokens(Action action) {
        Tokens key;
        if (!keys_.empty() && !one_in(4)) {
            key = keys_[source_.below(keys_.size())];
            const bool on_the_way = action == Action::mark && !one_in(4);
            if (on_the_way || one_in(2)) {
                key.resize(source_.below(key.size() + 1));
            }
            if (on_the_way) {
                return key;
            }
        }
        const std::size_t more = source_.below(profile_.growth + 1);
        for (std::size_t i = 0; i < more && key.size() < profile_.longest; ++i) {
            key.push_back(token(source_.below(profile_.alphabet)));
        }
        if (action == Action::insert || action == Action::insert_made) {
            keys_.push_back(key);
        }
        return key;
    }

    Action action() {
        const std::array<std::pair<Action, std::size_t>, 18> weights = {
            {{Action::insert, 50},
             {Action::insert_made, 22},
             {Action::fetch, 24},
             {Action::lease, 16},
             {Action::end_lease, 12},
             {Action::take, 6},
             {Action::probe, 6},
             {Action::mark, 14},
             {Action::pop_prefixes, 2},
             {Action::erase, 4},
             {Action::erase_model, 1},
             {Action::clear, 1},
             {Action::trim_to, 4},
             {Action::set_limits, 2},
             {Action::evict_while, 4},
             {Action::move, 1},
             {Action::renew, 1},
             {Action::mark_all, profile_.mark_alls}}};
        std::size_t sum = 0;
        for (const auto& [each, weight] : weights) {
            sum += weight;
        }
        std::size_t at = source_.below(sum);
        for (const auto& [each, weight] : weights) {
            if (at < weight) {
                return each;
            }
            at -= weight;
        }
        return Action::insert;
    }

    /// An operation, with what it needs alone.
    Operation operation(bool inner = false) {
        Operation made;
        made.id = ++last_id_;
        made.action = action();
        if (inner && !allowed_within(made.action)) {
            made.action = Action::probe;
        }
        switch (made.action) {
        case Action::insert:
        case Action::insert_made:
            make_key(made);
            made.tier = tier();
            made.shape = shape();
            break;
        case Action::lease:
            made.slot = source_.below(lease_slots);
            [[fallthrough]];
        case Action::fetch:
        case Action::take:
        case Action::probe:
            make_key(made);
            made.fetch = fetch();
            break;
        case Action::mark:
        case Action::mark_all:
            make_key(made);
            made.tier = tier();
            break;
        case Action::pop_prefixes:
        case Action::erase:
            make_key(made);
            break;
        case Action::erase_model:
            made.key.model = model();
            break;
        case Action::trim_to:
        case Action::set_limits:
            made.limits = limits();
            break;
        case Action::end_lease:
            made.slot = source_.below(lease_slots);
            break;
        case Action::evict_while:
            made.slot = source_.below(3 * typical_bytes());
            break;
        case Action::clear:
        case Action::move:
        case Action::renew:
            break;
        }
        if (!modelled_ && one_in(3)) {
            made.failing = source_.below(8);
            made.failing_on = one_in(2);
        }
        // The model cannot follow what comes in the midst of an operation.
        const bool in_the_midst =
            made.action == Action::insert_made || made.action == Action::evict_while;
        if (!inner && calls_back_ && !(modelled_ && in_the_midst)) {
            for (std::size_t n = pick({0, 0, 0, 1, 1, 3}); n > 0; --n) {
                made.callbacks.push_back(operation(true));
            }
        }
        return made;
    }

    /// A listener must not move or replace the cache. The model cannot tell whether a removal was
    /// reported before a lease ended.
    [[nodiscard]] bool allowed_within(Action action) const {
        return action != Action::move && action != Action::renew &&
               !(modelled_ && (action == Action::lease || action == Action::end_lease));
    }

    void make_key(Operation& made) {
        made.key.model = model();
        made.key.tokens = tokens(made.action);
    }

    std::string model() {
        return std::string(1, static_cast<char>('a' + source_.below(profile_.models)));
    }

    Tier tier() { return static_cast<Tier>(source_.below(tier_count)); }

    Source& source_;
    Profile profile_;
    bool modelled_;
    bool calls_back_ = false;
    std::size_t shapes_ = 0;
    int last_id_ = 0;
    std::vector<Tokens> keys_;
};

// words //////////////////////////////////////////////////////////////////////

inline std::string word(Match match) {
    static constexpr std::array<const char*, 4> words = {"none", "exact", "shorter", "longer"};
    return words.at(static_cast<std::size_t>(match));
}

inline std::string word(Outcome outcome) {
    static constexpr std::array<const char*, 5> words = {"stored", "replaced", "anchored",
                                                         "too_large", "no_room"};
    return words.at(static_cast<std::size_t>(outcome));
}

inline std::string word(RemovalReason reason) {
    static constexpr std::array<const char*, 7> words = {"evicted", "cut",   "absorbed", "replaced",
                                                         "erased",  "taken", "cleared"};
    return words.at(static_cast<std::size_t>(reason));
}

inline std::string word(Tier tier) {
    static constexpr std::array<const char*, tier_count> words = {"assistant", "user", "system"};
    return words.at(static_cast<std::size_t>(tier));
}

inline std::string word(std::size_t number) {
    return number == promptkv::unlimited ? "unlimited" : std::to_string(number);
}

/// Keys as letters, which RunMaker numbers.
inline std::string word(const Tokens& tokens) {
    std::string result = "\"";
    for (const std::int32_t token : tokens) {
        result.push_back(token < 0     ? 'a'
                         : token < 8   ? 'c'
                         : token < 256 ? static_cast<char>(token)
                                       : 'b');
    }
    return result + "\"";
}

inline std::string word(const NaiveCache::Key& key) {
    return key.model + " " + word(key.tokens);
}

inline std::string word(const NaiveCache::Limits& limits) {
    return "max_bytes=" + word(limits.max_bytes) + " max_entries=" + word(limits.max_entries);
}

inline std::string call_in_words(const Operation& operation) {
    static constexpr std::array<const char*, 18> actions = {
        "insert", "insert_made", "fetch",      "lease",        "end_lease", "take",
        "probe",  "mark",        "mark_all",   "pop_prefixes", "erase",     "erase_model",
        "clear",  "trim_to",     "set_limits", "evict_while",  "move",      "renew"};
    std::string line = actions.at(static_cast<std::size_t>(operation.action));
    switch (operation.action) {
    case Action::insert:
    case Action::insert_made:
        return line + " " + word(operation.key) + " " + word(operation.tier) +
               " step=" + word(operation.shape.step) +
               " bytes_per_token=" + word(operation.shape.bytes_per_token) +
               " overhead=" + word(operation.shape.overhead);
    case Action::fetch:
    case Action::lease:
    case Action::take:
    case Action::probe:
        line += " " + word(operation.key) +
                " min_remaining=" + word(operation.fetch.min_remaining) +
                " min_reuse=" + word(operation.fetch.min_reuse) +
                " align=" + word(operation.fetch.align);
        return operation.action == Action::lease ? line + " slot=" + word(operation.slot) : line;
    case Action::end_lease:
        return line + " slot=" + word(operation.slot);
    case Action::mark:
    case Action::mark_all:
        return line + " " + word(operation.key) + " " + word(operation.tier);
    case Action::pop_prefixes:
    case Action::erase:
        return line + " " + word(operation.key);
    case Action::erase_model:
        return line + " " + operation.key.model;
    case Action::trim_to:
    case Action::set_limits:
        return line + " " + word(operation.limits);
    case Action::evict_while:
        return line + " nbytes>" + word(operation.slot);
    case Action::clear:
    case Action::move:
    case Action::renew:
        break;
    }
    return line;
}

inline std::string word(const Operation& operation) {
    std::string line = call_in_words(operation);
    if (operation.failing != never) {
        line += ", allocation " + word(operation.failing) +
                (operation.failing_on ? " and the following fail" : " fails");
    }
    for (const Operation& inner : operation.callbacks) {
        line += "\n      from within: " + word(inner);
    }
    return line;
}

} // namespace promptkv_test

#endif
