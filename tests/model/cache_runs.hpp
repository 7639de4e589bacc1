// SPDX-License-Identifier: MIT
// Random operations on a cache and on its naive model, side by side; and what to say of a failure.
#ifndef PROMPTKV_TESTS_CACHE_RUNS_HPP
#define PROMPTKV_TESTS_CACHE_RUNS_HPP

#include "naive_cache.hpp"
#include "payloads.hpp"
#include "random.hpp"

#include <promptkv/promptkv.hpp>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <optional>
#include <span>
#include <sstream>
#include <string>
#include <type_traits>
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
    move // of the whole cache
};

struct Operation {
    Action action = Action::insert;
    NaiveCache::Key key;
    Tier tier = Tier::assistant;
    Shape shape;
    NaiveCache::FetchOptions fetch;
    NaiveCache::Limits limits;
    std::size_t slot = 0; // of a lease; of evict_while: the bytes to go down to
};

/// One run: the same on every machine.
struct Run {
    NaiveCache::Options options;
    bool listener_takes = false; // it moves the payloads out
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
};

inline constexpr Profile short_keys{2, 7, 2, 2, 250, 0};
inline constexpr Profile grown_keys{3, 60, 20, 2, 200, 0};
inline constexpr Profile many_anchors{2, 200, 200, 1, 120, 20};

inline constexpr std::size_t lease_slots = 4;

// generation /////////////////////////////////////////////////////////////////

class RunMaker {
public:
    /// The tokens of all keys.
    static constexpr std::array<std::int32_t, 3> letters = {
        -1, std::numeric_limits<std::int32_t>::max(), 7};

    RunMaker(std::uint64_t seed, const Profile& profile) : random_(seed), profile_(profile) {}

    Run make() {
        Run run;
        run.options = options();
        run.listener_takes = random_.one_in(2);
        shapes_ = profile_.mark_alls > 0 ? 0 : random_.below(4);
        for (std::size_t i = 0; i < profile_.operations; ++i) {
            run.operations.push_back(operation());
        }
        return run;
    }

private:
    // The bytes of a key that is as long as they get, roughly.
    [[nodiscard]] std::size_t typical_bytes() const { return 4 * profile_.longest; }

    NaiveCache::Limits limits() {
        NaiveCache::Limits limits;
        if (!random_.one_in(4)) {
            limits.max_bytes =
                random_.one_in(20)
                    ? 0
                    : 1 + random_.below(random_.one_in(3) ? 4 : 12) * typical_bytes() / 4 +
                          random_.below(typical_bytes());
        }
        if (random_.one_in(2)) {
            limits.max_entries = random_.one_in(20) ? 0 : 1 + random_.below(8);
        }
        return limits;
    }

    NaiveCache::Options options() {
        NaiveCache::Options options;
        const NaiveCache::Limits chosen = limits();
        options.max_bytes = chosen.max_bytes;
        options.max_entries = chosen.max_entries;
        options.refresh_on_fetch = !random_.one_in(4);
        options.keep_anchors = profile_.mark_alls > 0 || !random_.one_in(4);
        options.supersede = !random_.one_in(4);
        options.cut_granularity = random_.pick<std::size_t>({0, 1, 1, 2, 3, 8});
        return options;
    }

    Shape shape() {
        Shape shape;
        shape.step = shapes_ == 0   ? 1
                     : shapes_ == 1 ? 0
                     : shapes_ == 2 ? random_.pick<std::size_t>({1, 2, 3, 5})
                                    : random_.pick<std::size_t>({0, 1, 1, 2, 3});
        shape.bytes_per_token = random_.pick<std::size_t>({0, 1, 2, 4, 4});
        shape.overhead = random_.pick<std::size_t>({0, 0, 1, 9});
        return shape;
    }

    NaiveCache::FetchOptions fetch() {
        NaiveCache::FetchOptions options;
        if (random_.one_in(2)) {
            options.min_remaining = random_.below(3);
            options.min_reuse = random_.below(4);
            options.align = 1 + random_.below(4);
        }
        return options;
    }

    Tokens tokens(Action action) {
        Tokens key;
        if (!keys_.empty() && !random_.one_in(4)) {
            key = keys_[random_.below(keys_.size())];
            const bool on_the_way = action == Action::mark && !random_.one_in(4);
            if (on_the_way || random_.one_in(2)) {
                key.resize(random_.below(key.size() + 1));
            }
            if (on_the_way) {
                return key;
            }
        }
        const std::size_t more = random_.below(profile_.growth + 1);
        for (std::size_t i = 0; i < more && key.size() < profile_.longest; ++i) {
            key.push_back(letters[random_.below(profile_.alphabet)]);
        }
        if (action == Action::insert || action == Action::insert_made) {
            keys_.push_back(key);
        }
        return key;
    }

    Action action() {
        struct Weight {
            Action action;
            std::size_t weight;
        };
        const std::array<Weight, 17> weights = {{{Action::insert, 50},
                                                 {Action::insert_made, 22},
                                                 {Action::fetch, 24},
                                                 {Action::lease, 16},
                                                 {Action::end_lease, 12},
                                                 {Action::take, 6},
                                                 {Action::probe, 6},
                                                 {Action::mark, 14},
                                                 {Action::mark_all, profile_.mark_alls},
                                                 {Action::pop_prefixes, 2},
                                                 {Action::erase, 4},
                                                 {Action::erase_model, 1},
                                                 {Action::clear, 1},
                                                 {Action::trim_to, 4},
                                                 {Action::set_limits, 2},
                                                 {Action::evict_while, 4},
                                                 {Action::move, 1}}};
        std::size_t sum = 0;
        for (const Weight& each : weights) {
            sum += each.weight;
        }
        std::size_t at = random_.below(sum);
        for (const Weight& each : weights) {
            if (at < each.weight) {
                return each.action;
            }
            at -= each.weight;
        }
        return Action::insert;
    }

    Operation operation() {
        Operation operation;
        operation.action = action();
        operation.key.model =
            std::string(1, static_cast<char>('a' + random_.below(profile_.models)));
        operation.key.tokens = tokens(operation.action);
        operation.tier = static_cast<Tier>(random_.below(tier_count));
        operation.shape = shape();
        operation.fetch = fetch();
        operation.limits = limits();
        operation.slot = operation.action == Action::evict_while
                             ? random_.below(3 * typical_bytes())
                             : random_.below(lease_slots);
        return operation;
    }

    Random random_;
    Profile profile_;
    std::size_t shapes_ = 0;
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

/// Keys as letters: a, b, c for the tokens of RunMaker::letters.
inline std::string word(const Tokens& tokens) {
    std::string result = "\"";
    for (const std::int32_t token : tokens) {
        const auto letter = std::find(RunMaker::letters.begin(), RunMaker::letters.end(), token);
        result.push_back(static_cast<char>('a' + (letter - RunMaker::letters.begin())));
    }
    return result + "\"";
}

inline std::string word(const NaiveCache::Key& key) {
    return key.model + " " + word(key.tokens);
}

inline std::string word(const NaiveCache::Limits& limits) {
    return "max_bytes=" + word(limits.max_bytes) + " max_entries=" + word(limits.max_entries);
}

inline std::string word(const Operation& operation) {
    static constexpr std::array<const char*, 17> actions = {
        "insert", "insert_made", "fetch",      "lease",        "end_lease", "take",
        "probe",  "mark",        "mark_all",   "pop_prefixes", "erase",     "erase_model",
        "clear",  "trim_to",     "set_limits", "evict_while",  "move"};
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
        break;
    }
    return line;
}

// observation ////////////////////////////////////////////////////////////////

inline constexpr std::array<const char*, 38> number_names = {
    "size",           "nbytes",           "nbytes(a)",
    "nbytes(b)",      "max_bytes",        "max_entries",
    "lookups",        "hits_exact",       "hits_shorter",
    "hits_longer",    "tokens_requested", "tokens_reused",
    "inserted",       "replaced",         "anchored",
    "absorbed",       "evicted",          "cut",
    "superseded",     "too_large",        "no_room",
    "tokens_evicted", "bytes_evicted",    "evicted_unused",
    "bytes_leased",   "peak_nbytes",      "assistants",
    "their anchors",  "their nbytes",     "their evicted",
    "users",          "their anchors",    "their nbytes",
    "their evicted",  "systems",          "their anchors",
    "their nbytes",   "their evicted"};

/// Everything that can be seen of a cache after an operation.
struct Observation {
    std::string answer;
    std::vector<NaiveCache::Removal> removals;
    std::vector<NaiveCache::Entry> entries;
    std::array<std::uint64_t, number_names.size()> numbers{};
    std::array<std::uint64_t, tier_count> cuts{}; // by tier

    friend bool operator==(const Observation&, const Observation&) = default;
};

/// The numbers of a cache or of its model, which spell them alike.
template <class Cache>
void count(const Cache& cache, Observation& seen) {
    const auto limits = cache.limits();
    const auto all = cache.stats();
    const auto assistant = cache.stats(Tier::assistant);
    const auto user = cache.stats(Tier::user);
    const auto system = cache.stats(Tier::system);
    seen.numbers = {cache.size(),       cache.nbytes(),       cache.nbytes("a"),
                    cache.nbytes("b"),  limits.max_bytes,     limits.max_entries,
                    all.lookups,        all.hits_exact,       all.hits_shorter,
                    all.hits_longer,    all.tokens_requested, all.tokens_reused,
                    all.inserted,       all.replaced,         all.anchored,
                    all.absorbed,       all.evicted,          all.cut,
                    all.superseded,     all.too_large,        all.no_room,
                    all.tokens_evicted, all.bytes_evicted,    all.evicted_unused,
                    all.bytes_leased,   all.peak_nbytes,      assistant.entries,
                    assistant.anchors,  assistant.nbytes,     assistant.evicted,
                    user.entries,       user.anchors,         user.nbytes,
                    user.evicted,       system.entries,       system.anchors,
                    system.nbytes,      system.evicted};
    seen.cuts = {assistant.cut, user.cut, system.cut};
}

inline std::string word(const NaiveCache::Entry& entry) {
    return word(entry.key) + " " + word(entry.tier) + " bytes=" + word(entry.bytes) +
           " id=" + std::to_string(entry.payload.id) + " holds " + word(entry.payload.tokens);
}

inline std::string word(const NaiveCache::Removal& removal) {
    return word(removal.reason) + " " + word(removal.key) + " " + word(removal.tier) +
           " bytes=" + word(removal.bytes) + " id=" + std::to_string(removal.id);
}

template <class Item>
std::string words(const std::vector<Item>& items) {
    std::string result;
    for (const Item& item : items) {
        result += "\n      " + word(item);
    }
    return result.empty() ? " nothing" : result;
}

/// In which points the cache and its model differ; "" where in none.
inline std::string difference(const Observation& cache, const Observation& model) {
    std::ostringstream out;
    if (cache.answer != model.answer) {
        out << "    the cache answers: " << cache.answer
            << "\n    the model answers: " << model.answer << '\n';
    }
    for (std::size_t i = 0; i < number_names.size(); ++i) {
        if (cache.numbers[i] != model.numbers[i]) {
            out << "    " << number_names[i] << " of the cache: " << word(cache.numbers[i])
                << ", of the model: " << word(model.numbers[i]) << '\n';
        }
    }
    for (std::size_t i = 0; i < tier_count; ++i) {
        if (cache.cuts[i] != model.cuts[i]) {
            out << "    cut in tier " << i << ": " << cache.cuts[i] << ", by the model "
                << model.cuts[i] << '\n';
        }
    }
    if (cache.entries != model.entries) {
        out << "    the cache holds:" << words(cache.entries)
            << "\n    the model holds:" << words(model.entries) << '\n';
    }
    if (cache.removals != model.removals) {
        out << "    the cache removed:" << words(cache.removals)
            << "\n    the model removed:" << words(model.removals) << '\n';
    }
    return out.str();
}

inline std::string answer(const NaiveCache::Hit& hit) {
    return word(hit.match) + (hit.match == Match::none
                                  ? ""
                                  : " " + word(hit.reused) + " " + word(hit.tier) + " id=" +
                                        std::to_string(hit.id) + " " + word(hit.payload.tokens));
}

inline std::string answer(const promptkv::Inserted& inserted) {
    return word(inserted.outcome) + " absorbed=" + word(inserted.absorbed) +
           " evicted=" + word(inserted.evicted) + " cut=" + word(inserted.cut);
}

// side by side ///////////////////////////////////////////////////////////////

/// A cache and its model.
template <class KV>
class Pair {
public:
    using Cache = promptkv::LRUPromptCache<KV>;

    explicit Pair(const Run& run) : cache_(run.options), model_(KV::offered, run.options) {
        cache_.on_removal([this, takes = run.listener_takes](auto& removal) {
            const Tokens tokens(removal.tokens.begin(), removal.tokens.end());
            int id = 0;
            if (removal.payload != nullptr) {
                const Recording& held = removal.payload->recording();
                id = held.id;
                expect(held.tokens == tokens && held.model == removal.model,
                       "a removed payload is not of its key");
                if (takes) {
                    const KV taken = std::move(*removal.payload);
                    expect(taken.recording().id == id, "a removed payload cannot be moved out");
                }
            }
            expect(cache_.check_invariants(), "a listener saw a broken cache");
            removals_.push_back(
                {{removal.model, tokens}, removal.tier, removal.bytes, removal.reason, id});
        });
    }

    Pair(const Pair&) = delete;
    Pair& operator=(const Pair&) = delete;

    /// Does the operation on both. Returns in what they differ, or what is wrong; "" when nothing.
    std::string step(const Operation& operation) {
        fault_.clear();
        ++next_id_;
        Observation seen;
        seen.answer = act(operation);
        seen.removals = std::exchange(removals_, {});
        std::sort(seen.removals.begin(), seen.removals.end());
        cache_.for_each([&seen](const auto& entry) {
            seen.entries.push_back({{entry.model, Tokens(entry.tokens.begin(), entry.tokens.end())},
                                    entry.tier,
                                    entry.nbytes,
                                    entry.kv.recording()});
        });
        std::sort(seen.entries.begin(), seen.entries.end(),
                  [](const auto& a, const auto& b) { return a.key < b.key; });
        count(cache_, seen);
        check_by_itself();
        if (!fault_.empty()) {
            return fault_;
        }
        return explain(operation, seen);
    }

private:
    using Lease = typename Cache::Lease;

    static constexpr bool fetches = (KV::offered & (can_clone | can_copy)) != 0;

    struct Held {
        Lease lease;
        Recording shown; // what it must go on showing
    };

    void expect(bool condition, const char* fault) {
        if (!condition) {
            fault_ += std::string("    ") + fault + '\n';
        }
    }

    /// What must be so whatever the model says.
    void check_by_itself() {
        expect(cache_.check_invariants(), "check_invariants() is false");
        const auto limits = cache_.limits();
        expect(cache_.size() <= limits.max_entries, "there are more than max_entries");
        expect(cache_.nbytes() <= std::max(limits.max_bytes, cache_.stats().bytes_leased),
               "there are more than max_bytes");
        expect(cache_.empty() == (cache_.size() == 0), "empty() is wrong");
        for (const std::optional<Held>& held : leases_) {
            expect(!held || held->lease.kv().recording() == held->shown,
                   "a leased payload changed");
        }
    }

    /// Does the operation on the cache. Returns the answer in words.
    std::string act(const Operation& operation) {
        const std::string& model = operation.key.model;
        const Tokens& tokens = operation.key.tokens;
        switch (operation.action) {
        case Action::insert: {
            KV kv(recording(operation));
            const auto inserted = cache_.insert(model, tokens, std::move(kv), operation.tier);
            expect(kept(inserted.outcome) || kv.recording() == recording(operation),
                   "a refused payload was moved from");
            return answer(inserted);
        }
        case Action::insert_made: {
            std::size_t made = 0;
            const auto inserted =
                cache_.insert(model, tokens, recording(operation).nbytes(), operation.tier, [&] {
                    ++made;
                    return KV(recording(operation));
                });
            expect(made == (kept(inserted.outcome) ? 1U : 0U), "make ran for nothing, or not once");
            return answer(inserted);
        }
        case Action::fetch:
            if constexpr (fetches) {
                return answer_with_kv(cache_.fetch_nearest(model, tokens, operation.fetch), tokens);
            }
            return "";
        case Action::lease:
            return lease(operation);
        case Action::end_lease:
            leases_[operation.slot].reset();
            return "";
        case Action::take:
            return answer_with_kv(cache_.take_nearest(model, tokens, operation.fetch), tokens);
        case Action::probe: {
            const auto probe = std::as_const(cache_).probe(model, tokens, operation.fetch);
            return answer({probe.match, probe.reused, probe.tier, 0, {}});
        }
        case Action::mark:
            return cache_.mark(model, tokens, operation.tier) ? "yes" : "no";
        case Action::mark_all: {
            std::size_t marked = 0;
            for (std::size_t n = 0; n < tokens.size(); ++n) {
                marked += cache_.mark(model, std::span(tokens).first(n), operation.tier) ? 1U : 0U;
            }
            return word(marked);
        }
        case Action::pop_prefixes:
            return word(cache_.pop_prefixes(model, tokens));
        case Action::erase:
            return cache_.erase(model, tokens) ? "yes" : "no";
        case Action::erase_model:
            return word(cache_.erase_model(model));
        case Action::clear:
            return word(cache_.clear());
        case Action::trim_to:
            return word(cache_.trim_to(operation.limits));
        case Action::set_limits:
            cache_.set_limits(operation.limits);
            return "";
        case Action::evict_while:
            return word(cache_.evict_while([&] { return cache_.nbytes() > operation.slot; }));
        case Action::move: {
            Cache other = std::move(cache_);
            cache_ = std::move(other);
            return "";
        }
        }
        return "";
    }

    /// Does the operation on the model. Returns the answer in words.
    std::string act(const Operation& operation, NaiveCache& model, int& leased,
                    Choices& choices) const {
        using Lookup = NaiveCache::Lookup;
        const NaiveCache::Key& key = operation.key;
        switch (operation.action) {
        case Action::insert:
        case Action::insert_made:
            return answer(model.insert(key, recording(operation), operation.tier,
                                       operation.action == Action::insert_made, choices));
        case Action::fetch:
            return fetches ? answer(model.lookup(Lookup::fetch, key, operation.fetch, choices))
                           : "";
        case Action::lease: {
            const NaiveCache::Hit hit = model.lookup(Lookup::lease, key, operation.fetch, choices);
            if (leased != 0) {
                model.end_lease(leased);
            }
            leased = hit.id;
            return answer(hit);
        }
        case Action::end_lease:
            if (leased != 0) {
                model.end_lease(std::exchange(leased, 0));
            }
            return "";
        case Action::take:
            return answer(model.lookup(Lookup::take, key, operation.fetch, choices));
        case Action::probe:
            return answer(model.lookup(Lookup::probe, key, operation.fetch, choices));
        case Action::mark:
            return model.mark(key, operation.tier, choices) ? "yes" : "no";
        case Action::mark_all: {
            std::size_t marked = 0;
            for (std::size_t n = 0; n < key.tokens.size(); ++n) {
                marked +=
                    model.mark(NaiveCache::prefix_of(key, n), operation.tier, choices) ? 1U : 0U;
            }
            return word(marked);
        }
        case Action::pop_prefixes:
            return word(model.pop_prefixes(key));
        case Action::erase:
            return model.erase(key) ? "yes" : "no";
        case Action::erase_model:
            return word(model.erase_model(key.model));
        case Action::clear:
            return word(model.clear());
        case Action::trim_to:
            return word(model.trim_to(operation.limits, choices));
        case Action::set_limits:
            model.set_limits(operation.limits, choices);
            return "";
        case Action::evict_while:
            return word(model.evict_while_above(operation.slot, choices));
        case Action::move:
            break;
        }
        return "";
    }

    /// Looks for choices of the model that give what was seen, and keeps the model that made them.
    std::string explain(const Operation& operation, const Observation& seen) {
        std::string first_difference;
        Choices choices;
        do {
            NaiveCache model = model_;
            int leased = leased_[operation.slot % lease_slots];
            Observation expected;
            expected.answer = act(operation, model, leased, choices);
            expected.removals = model.take_removals();
            expected.entries = model.entries();
            count(model, expected);
            if (expected == seen) {
                model_ = std::move(model);
                leased_[operation.slot % lease_slots] = leased;
                return "";
            }
            if (first_difference.empty()) {
                first_difference = difference(seen, expected);
            }
        } while (choices.next());
        return first_difference;
    }

    static bool kept(Outcome outcome) {
        return outcome == Outcome::stored || outcome == Outcome::replaced;
    }

    [[nodiscard]] Recording recording(const Operation& operation) const {
        return {next_id_, operation.key.model, operation.key.tokens, operation.shape};
    }

    /// The answer of a fetch, a lease or a take, but for the payload.
    template <class Result>
    NaiveCache::Hit hit_of(const Result& result, const Tokens& tokens) {
        expect(static_cast<bool>(result) == (result.match != Match::none), "a hit without a match");
        expect(result.remaining.size() == tokens.size() - result.reused, "remaining is off");
        expect(result.remaining.empty() || result.remaining.data() == tokens.data() + result.reused,
               "remaining does not point into the prompt");
        expect(static_cast<bool>(result) == (result.reused > 0), "a hit without reuse");
        return {result.match, result.reused, result.tier, 0, {}};
    }

    template <class Result>
    std::string answer_with_kv(const Result& result, const Tokens& tokens) {
        NaiveCache::Hit hit = hit_of(result, tokens);
        expect(result.kv.has_value() == static_cast<bool>(result), "a hit without a payload");
        if (result.kv) {
            hit.payload = result.kv->recording();
            hit.id = hit.payload.id;
        }
        return answer(hit);
    }

    std::string lease(const Operation& operation) {
        Lease lease =
            cache_.lease_nearest(operation.key.model, operation.key.tokens, operation.fetch);
        NaiveCache::Hit hit = hit_of(lease, operation.key.tokens);
        leases_[operation.slot].reset();
        if (lease) {
            hit.payload = lease.kv().recording();
            hit.id = hit.payload.id;
            leases_[operation.slot].emplace(Held{std::move(lease), hit.payload});
        }
        return answer(hit);
    }

    Cache cache_;
    NaiveCache model_;
    std::array<std::optional<Held>, lease_slots> leases_;
    std::array<int, lease_slots> leased_{}; // the same of the model: ids
    int next_id_ = 0;
    std::vector<NaiveCache::Removal> removals_;
    std::string fault_;
};

// runs ///////////////////////////////////////////////////////////////////////

/// What went wrong in a run, and after how many operations.
struct Failure {
    std::size_t operations;
    std::string what;
};

template <class KV>
std::optional<Failure> first_failure(const Run& run) {
    Pair<KV> pair(run);
    for (std::size_t i = 0; i < run.operations.size(); ++i) {
        std::string what = pair.step(run.operations[i]);
        if (!what.empty()) {
            return Failure{i + 1, std::move(what)};
        }
    }
    return std::nullopt;
}

/// A run of as few operations as can be found that still fails.
template <class KV>
Run shortened(Run run) {
    run.operations.resize(first_failure<KV>(run).value().operations);
    for (std::size_t chunk = run.operations.size() / 2; chunk > 0; chunk /= 2) {
        for (std::size_t at = 0; at + chunk <= run.operations.size();) {
            Run fewer = run;
            const auto first = fewer.operations.begin() + static_cast<std::ptrdiff_t>(at);
            fewer.operations.erase(first, first + static_cast<std::ptrdiff_t>(chunk));
            if (first_failure<KV>(fewer)) {
                run = std::move(fewer);
            } else {
                at += chunk;
            }
        }
    }
    return run;
}

/// The story of a failure: options, operations, difference. "" where the run does not fail.
template <class KV>
std::string failure_of(const Run& run) {
    if (!first_failure<KV>(run)) {
        return "";
    }
    const Run minimal = shortened<KV>(run);
    const NaiveCache::Options& options = minimal.options;
    std::ostringstream out;
    out << "max_bytes=" << word(options.max_bytes) << " max_entries=" << word(options.max_entries)
        << " refresh_on_fetch=" << options.refresh_on_fetch
        << " keep_anchors=" << options.keep_anchors << " supersede=" << options.supersede
        << " cut_granularity=" << options.cut_granularity << '\n';
    for (const Operation& operation : minimal.operations) {
        out << "  " << word(operation) << '\n';
    }
    out << first_failure<KV>(minimal).value().what;
    return out.str();
}

} // namespace promptkv_test

#endif
