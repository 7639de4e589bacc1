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
    reserve,
    commit,
    drop_room,
    fetch, // the copy is held in a slot
    let_go,
    lease,
    end_lease,
    take,
    probe,
    touch,
    explain,
    mark,
    pop_prefixes,
    erase,
    erase_below,
    erase_session,
    erase_model,
    clear,
    trim_to,
    set_limits,
    evict,
    snapshot,
    move, // of the whole cache
    renew // another cache in its place, while leases and reservations live on
};

inline constexpr std::size_t action_count = 26;

struct Operation {
    Action action = Action::insert;
    int id = 0; // of its payload
    NaiveCache::Key key;
    Tier tier = Tier::assistant;
    Shape shape;
    NaiveCache::FetchOptions fetch;
    NaiveCache::InsertOptions insert; // its request: 0, or how many lookups ago it was, plus 1
    NaiveCache::Limits limits;
    std::size_t slot = 0;             // of a lease, a copy or a reservation
    std::size_t bytes = 0;            // to evict
    std::size_t percent = 100;        // of the payload's size, as the estimate of a reservation
    std::size_t fewer = 0;            // tokens that a commit stores less than reserved
    bool makes_nothing = false;       // an insert_made
    bool within = false;              // a call of the listener
    std::size_t failing = never;      // which of its allocations fails
    bool failing_on = false;          // and those after it too
    std::vector<Operation> callbacks; // the listener does one of these at each removal
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
    std::size_t growth; // tokens by which a key at most continues an earlier one
    std::size_t models;
    std::size_t operations;
    std::size_t entries; // for which there is room, at most, where there is a limit
};

inline constexpr Profile short_keys{2, 7, 2, 2, 250, 8};
inline constexpr Profile grown_keys{3, 60, 20, 2, 200, 8};
inline constexpr Profile one_path{1, 40, 6, 1, 150, 12};
inline constexpr Profile many_children{40, 3, 2, 1, 250, 64};

inline constexpr std::size_t slots = 3; // of leases, of copies and of reservations

// generation /////////////////////////////////////////////////////////////////

/// Makes runs of the numbers of `Source`: `below(n)`, a number below n, and `exhausted()`.
template <class Source>
class RunMaker {
public:
    RunMaker(Source& source, const Profile& profile, unsigned abilities, bool modelled = true)
        : source_(source), profile_(profile), abilities_(abilities), modelled_(modelled) {}

    Run make() {
        Run run;
        block_ = pick({1, 1, 2, 3});
        shapes_ = source_.below(4);
        sessions_ = pick({0, 0, 1, 2});
        calls_back_ = one_in(3);
        run.options = options();
        run.listener_takes = one_in(2);
        run.modelled = modelled_;
        for (std::size_t i = 0; i < profile_.operations && !source_.exhausted(); ++i)
            run.operations.push_back(operation());
        return run;
    }

private:
    [[nodiscard]] bool one_in(std::size_t n) { return source_.below(n) == 0; }

    std::size_t pick(std::initializer_list<std::size_t> from) {
        return from.begin()[source_.below(from.size())];
    }

    [[nodiscard]] bool can(unsigned ability) const { return (abilities_ & ability) != 0; }

    // Roughly the bytes of half of the longest keys for which there may be room.
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
        if (one_in(2))
            limits.max_entries = one_in(20) ? 0 : 1 + source_.below(profile_.entries);
        return limits;
    }

    NaiveCache::Options options() {
        NaiveCache::Options options;
        const NaiveCache::Limits chosen = limits();
        options.max_bytes = chosen.max_bytes;
        options.max_entries = chosen.max_entries;
        options.max_partial = one_in(4) ? (one_in(2) ? 0.0 : 1.0) : 0.5;
        options.rules = one_in(5) ? Rules::mlx_lm : Rules::promptkv;
        return options;
    }

    Shape shape() {
        Shape shape;
        shape.step = shapes_ < 2 ? 1 : shapes_ == 2 ? pick({2, 3}) : pick({0, 1, 1, 2, 3});
        if (!can(can_reuse))
            shape.step = 0;
        shape.bytes_per_token = pick({0, 1, 2, 4, 4});
        shape.overhead = can(can_truncate) ? 0 : pick({0, 0, 1, 9});
        shape.block = block_;
        return shape;
    }

    NaiveCache::FetchOptions fetch() {
        NaiveCache::FetchOptions options;
        if (one_in(2)) {
            options.min_remaining = source_.below(3);
            options.min_reuse = source_.below(4);
            options.align = shapes_ < 2 ? 1 + source_.below(4) : 1;
        }
        return options;
    }

    NaiveCache::InsertOptions insert_options() {
        NaiveCache::InsertOptions options;
        if (sessions_ > 0) {
            options.session = source_.below(sessions_ + 1);
            options.request = pick({0, 0, 1, 2, 5});
            options.side_request = one_in(6);
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
            const bool on_the_way =
                (action == Action::mark || action == Action::erase_below) && !one_in(4);
            if (on_the_way || one_in(2))
                key.resize(source_.below(key.size() + 1));
            if (on_the_way)
                return key;
        }
        const std::size_t more = source_.below(profile_.growth + 1);
        for (std::size_t i = 0; i < more && key.size() < profile_.longest; ++i)
            key.push_back(token(source_.below(profile_.alphabet)));
        if (action == Action::insert || action == Action::insert_made || action == Action::reserve)
            keys_.push_back(key);
        return key;
    }

    Action action() {
        constexpr std::array<std::size_t, action_count> weights = {
            50, 16, 12, 12, 2, 22, 4, 14, 10, 6, 6, 5, 4, 12, 2, 4, 2, 2, 1, 1, 4, 2, 5, 2, 1, 1};
        std::size_t sum = 0;
        for (const std::size_t weight : weights)
            sum += weight;
        std::size_t at = source_.below(sum);
        std::size_t chosen = 0;
        while (at >= weights[chosen])
            at -= weights[chosen++];
        return static_cast<Action>(chosen);
    }

    /// An operation, with the parameters that it needs.
    Operation operation(bool inner = false) {
        Operation made;
        made.id = ++last_id_;
        made.within = inner;
        made.action = action();
        if (inner && !allowed_within(made.action))
            made.action = Action::probe;
        parameters(made);
        if (!modelled_ && one_in(3)) {
            made.failing = source_.below(8);
            made.failing_on = one_in(2);
        }
        // The model cannot follow calls in the midst of an operation.
        const bool in_the_midst =
            made.action == Action::insert_made || made.action == Action::evict;
        if (!inner && calls_back_ && !(modelled_ && in_the_midst)) {
            std::array<bool, slots> reserving{}; // the reservation is not there yet
            reserving[made.slot] = made.action == Action::reserve;
            for (std::size_t n = pick({0, 0, 0, 1, 1, 3}); n > 0; --n) {
                made.callbacks.push_back(operation(true));
                Operation& call = made.callbacks.back();
                const bool reserves = call.action == Action::reserve;
                if (reserves || call.action == Action::commit || call.action == Action::drop_room) {
                    if (modelled_ && reserving[call.slot])
                        call.action = Action::touch;
                    reserving[call.slot] = reserving[call.slot] || reserves;
                }
            }
        }
        return made;
    }

    void parameters(Operation& made) {
        switch (made.action) {
        case Action::reserve:
            made.slot = source_.below(slots);
            made.percent = pick({100, 100, 100, 50, 130});
            [[fallthrough]];
        case Action::insert_made:
        case Action::insert:
            make_key(made);
            made.tier = tier();
            made.shape = shape();
            made.insert = insert_options();
            made.makes_nothing = made.action == Action::insert_made && one_in(6);
            break;
        case Action::commit:
            made.slot = source_.below(slots);
            made.fewer = one_in(3) ? source_.below(4) : 0;
            break;
        case Action::fetch:
        case Action::lease:
            made.slot = source_.below(slots);
            [[fallthrough]];
        case Action::take:
        case Action::probe:
        case Action::explain:
            make_key(made);
            made.fetch = fetch();
            if (made.action == Action::take)
                made.fetch.align = 1; // the reason of a miss is open otherwise
            break;
        case Action::mark:
            made.tier = tier();
            [[fallthrough]];
        case Action::touch:
        case Action::pop_prefixes:
        case Action::erase:
        case Action::erase_below:
            make_key(made);
            break;
        case Action::erase_session:
            made.insert.session = source_.below(3);
            [[fallthrough]];
        case Action::erase_model:
            made.key.model = model();
            break;
        case Action::trim_to:
        case Action::set_limits:
            made.limits = limits();
            break;
        case Action::drop_room:
        case Action::let_go:
        case Action::end_lease:
            made.slot = source_.below(slots);
            break;
        case Action::evict:
            made.bytes = source_.below(typical_bytes());
            break;
        case Action::clear:
        case Action::snapshot:
        case Action::move:
        case Action::renew:
            break;
        }
    }

    /// A listener must not move or replace the cache. The model cannot tell whether a removal was
    /// reported before a lease ended, who holds the blocks of payloads that are being reported, nor why
    /// a lookup misses while keys that left are still known.
    [[nodiscard]] bool allowed_within(Action action) const {
        switch (action) {
        case Action::move:
        case Action::renew:
            return false;
        case Action::lease:
        case Action::end_lease:
        case Action::insert_made:
        case Action::fetch:
        case Action::take:
        case Action::explain:
        case Action::evict:
            return !modelled_;
        default:
            return true;
        }
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
    unsigned abilities_;
    bool modelled_;
    bool calls_back_ = false;
    std::size_t block_ = 1;
    std::size_t shapes_ = 0;
    std::size_t sessions_ = 0;
    int last_id_ = 0;
    std::vector<Tokens> keys_;
};

// words //////////////////////////////////////////////////////////////////////

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

inline std::string word(const NaiveCache::InsertOptions& options) {
    return options.session == 0
               ? ""
               : " session=" + word(options.session) + " request=" + word(options.request) +
                     (options.side_request ? " side_request" : "");
}

inline std::string word(const Shape& shape) {
    return " step=" + word(shape.step) + " bytes_per_token=" + word(shape.bytes_per_token) +
           " overhead=" + word(shape.overhead) + " block=" + word(shape.block);
}

inline std::string call_in_words(const Operation& operation) {
    static constexpr std::array<const char*, action_count> actions = {
        "insert",      "insert_made", "reserve",      "commit",     "drop_room",   "fetch",
        "let_go",      "lease",       "end_lease",    "take",       "probe",       "touch",
        "explain",     "mark",        "pop_prefixes", "erase",      "erase_below", "erase_session",
        "erase_model", "clear",       "trim_to",      "set_limits", "evict",       "snapshot",
        "move",        "renew"};
    std::string line = actions.at(static_cast<std::size_t>(operation.action));
    switch (operation.action) {
    case Action::insert:
    case Action::insert_made:
    case Action::reserve:
        line += " " + word(operation.key) + " " + std::string(name(operation.tier)) +
                word(operation.shape) + word(operation.insert) +
                (operation.makes_nothing ? " makes nothing" : "");
        return operation.action == Action::reserve
                   ? line + " percent=" + word(operation.percent) + " slot=" + word(operation.slot)
                   : line;
    case Action::commit:
        return line + " slot=" + word(operation.slot) + " fewer=" + word(operation.fewer);
    case Action::fetch:
    case Action::lease:
    case Action::take:
    case Action::probe:
    case Action::explain:
        line += " " + word(operation.key) +
                " min_remaining=" + word(operation.fetch.min_remaining) +
                " min_reuse=" + word(operation.fetch.min_reuse) +
                " align=" + word(operation.fetch.align);
        return operation.action == Action::lease || operation.action == Action::fetch
                   ? line + " slot=" + word(operation.slot)
                   : line;
    case Action::drop_room:
    case Action::let_go:
    case Action::end_lease:
        return line + " slot=" + word(operation.slot);
    case Action::mark:
        return line + " " + word(operation.key) + " " + std::string(name(operation.tier));
    case Action::touch:
    case Action::pop_prefixes:
    case Action::erase:
    case Action::erase_below:
        return line + " " + word(operation.key);
    case Action::erase_session:
        return line + " " + operation.key.model + word(operation.insert);
    case Action::erase_model:
        return line + " " + operation.key.model;
    case Action::trim_to:
    case Action::set_limits:
        return line + " " + word(operation.limits);
    case Action::evict:
        return line + " bytes=" + word(operation.bytes);
    case Action::clear:
    case Action::snapshot:
    case Action::move:
    case Action::renew:
        break;
    }
    return line;
}

inline std::string word(const Operation& operation) {
    std::string line = call_in_words(operation) + " (id " + std::to_string(operation.id) + ")";
    if (operation.failing != never) {
        line += ", allocation " + word(operation.failing) +
                (operation.failing_on ? " and the following fail" : " fails");
    }
    for (const Operation& inner : operation.callbacks)
        line += "\n      from within: " + word(inner);
    return line;
}

} // namespace promptkv_test

#endif
