// SPDX-License-Identifier: MIT
// A cache and its naive model side by side: what is seen of both is compared after each step.
#ifndef PROMPTKV_TESTS_CACHE_PAIR_HPP
#define PROMPTKV_TESTS_CACHE_PAIR_HPP

#include "cache_observation.hpp"
#include "cache_operations.hpp"
#include "counting_new.hpp"
#include "naive_cache.hpp"
#include "payloads.hpp"

#include <promptkv/concurrent_prompt_cache.hpp>
#include <promptkv/promptkv.hpp>

#include <algorithm>
#include <array>
#include <cstddef>
#include <memory>
#include <new>
#include <optional>
#include <span>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

namespace promptkv_test {

/// A cache and its model.
///
/// The cache may be a ConcurrentPromptCache, here on one thread. It must do the same, except that it
/// cannot be moved, and that a fetch whose copy throws stays counted.
///
/// What the model cannot follow (a run that is not `modelled`) is held to what must be so anyway: the
/// invariants, the limits, the contents, and that a call which throws changes nothing.
template <class KV, class Cache = promptkv::LRUPromptCache<KV>>
class Pair {
public:
    explicit Pair(const Run& run)
        : listener_takes_(run.listener_takes), modelled_(run.modelled), options_(run.options),
          cache_(std::make_unique<Cache>(run.options)), model_(KV::offered, run.options) {
        listen();
        observe(before_);
        if constexpr (requires { KV::on_end; }) {
            KV::on_end = [this] {
                expect(cache_->check_invariants(), "a payload was destroyed in a broken cache");
            };
        }
    }

    ~Pair() {
        if constexpr (requires { KV::on_end; }) {
            KV::on_end = nullptr;
        }
    }

    Pair(const Pair&) = delete;
    Pair& operator=(const Pair&) = delete;

    /// Does the operation on both. Returns in what they differ, or what is wrong; "" when nothing.
    std::string step(const Operation& operation) {
        fault_.clear();
        callbacks_ = operation.callbacks;
        called_back_ = 0;
        answers_from_within_.clear();
        threw_ = false;
        Observation seen;
        seen.answer = attempt(operation);
        seen.answer += answers_from_within_;
        callbacks_ = {};
        observe(seen);
        check_by_itself();
        if (fault_.empty() && modelled_) {
            fault_ = explain(operation, seen);
        }
        if (fault_.empty() && threw_ && called_back_ == 0 && all_or_nothing(operation.action)) {
            if (is_concurrent && operation.action == Action::fetch) {
                count_hit(operation, before_);
            }
            seen.answer.clear();
            fault_ = difference(seen, before_);
        }
        before_ = std::move(seen);
        before_.answer.clear();
        before_.removals.clear();
        return fault_;
    }

private:
    using Lease = typename Cache::Lease;

    static constexpr bool is_concurrent =
        std::is_same_v<Cache, promptkv::ConcurrentPromptCache<KV>>;
    static constexpr bool fetches = (KV::offered & (can_clone | can_copy)) != 0;

    struct Held {
        Lease lease;
        Recording shown; // what it must go on showing
    };

    void listen() {
        cache_->on_removal([this](auto& removal) {
            const SparedNew spared;
            const Tokens tokens(removal.tokens.begin(), removal.tokens.end());
            int id = 0;
            if (removal.payload != nullptr) {
                const Recording& held = removal.payload->recording();
                id = held.id;
                expect((held.tokens == tokens || (tokens.empty() && !modelled_)) &&
                           held.model == removal.model,
                       "a removed payload is not of its key");
                if (listener_takes_) {
                    const KV taken = std::move(*removal.payload);
                    expect(taken.recording().id == id, "a removed payload cannot be moved out");
                }
            }
            expect(cache_->check_invariants(), "a listener saw a broken cache");
            removals_.push_back(
                {{removal.model, tokens}, removal.tier, removal.bytes, removal.reason, id});
            call_back();
        });
    }

    /// Does the next operation that is to be done from within another one.
    void call_back() {
        if (called_back_ < callbacks_.size()) {
            const SparedNew spared;
            const Operation& inner = callbacks_[called_back_++];
            answers_from_within_ += "; " + attempt(inner);
        }
    }

    /// All that can be seen of the cache.
    void observe(Observation& seen) {
        seen.removals = std::exchange(removals_, {});
        std::sort(seen.removals.begin(), seen.removals.end());
        cache_->for_each([this, &seen](const auto& entry) {
            const Recording& held = entry.kv.recording();
            const Tokens tokens(entry.tokens.begin(), entry.tokens.end());
            expect(held.model == entry.model && held.tokens == tokens,
                   "an entry's payload is not of its key");
            seen.entries.push_back({{entry.model, tokens}, entry.tier, entry.nbytes, held});
        });
        std::sort(seen.entries.begin(), seen.entries.end(),
                  [](const auto& a, const auto& b) { return a.key < b.key; });
        count(*cache_, seen);
    }

    /// Whether an operation that throws has changed nothing.
    static bool all_or_nothing(Action action) {
        return action != Action::insert_made && action != Action::take &&
               action != Action::mark_all && action != Action::evict_while;
    }

    /// Counts a fetch that threw: it has found what a probe finds.
    void count_hit(const Operation& fetch, Observation& seen) const {
        const auto probe = cache_->probe(fetch.key.model, fetch.key.tokens, fetch.fetch);
        if (probe) {
            seen.number("lookups") += 1;
            seen.number("hits_" + word(probe.match)) += 1;
            seen.number("tokens_requested") += fetch.key.tokens.size();
            seen.number("tokens_reused") += probe.reused;
        }
    }

    void expect(bool condition, const char* fault) {
        if (!condition) {
            fault_ += std::string("    ") + fault + '\n';
        }
    }

    /// What must be so whatever the model says.
    void check_by_itself() {
        expect(cache_->check_invariants(), "check_invariants() is false");
        const auto limits = cache_->limits();
        expect(cache_->size() <= limits.max_entries, "there are more than max_entries");
        expect(cache_->nbytes() <= std::max(limits.max_bytes, cache_->stats().bytes_leased),
               "there are more than max_bytes");
        expect(cache_->empty() == (cache_->size() == 0), "empty() is wrong");
        for (const std::optional<Held>& held : leases_) {
            expect(!held || held->lease.kv().recording() == held->shown,
                   "a leased payload changed");
        }
    }

    /// Does the operation on the cache. Returns the answer in words.
    std::string attempt(const Operation& operation) {
        try {
            return act(operation);
        } catch (const std::bad_alloc&) {
            threw_ = true;
            return "no memory";
        }
    }

    /// Calls the cache while the operation's allocations fail.
    template <class Call>
    static auto call(const Operation& operation, Call call) {
        const FailingNew failing(operation.failing, operation.failing_on);
        return call();
    }

    std::string act(const Operation& operation) {
        const std::string& model = operation.key.model;
        const Tokens& tokens = operation.key.tokens;
        switch (operation.action) {
        case Action::insert: {
            KV kv(recording(operation));
            const auto inserted = call(operation, [&] {
                return cache_->insert(model, tokens, std::move(kv), operation.tier);
            });
            expect(kept(inserted.outcome) || kv.recording() == recording(operation),
                   "a refused payload was moved from");
            return answer(inserted);
        }
        case Action::insert_made: {
            std::size_t made = 0;
            const Recording wanted = recording(operation);
            const auto make = [&] {
                ++made;
                if (!modelled_) {
                    call_back();
                }
                return KV(wanted);
            };
            const auto inserted = call(operation, [&] {
                return cache_->insert(model, tokens, wanted.nbytes(), operation.tier, make);
            });
            expect(made == 1 ? kept(inserted.outcome) || !modelled_
                             : made == 0 && !kept(inserted.outcome),
                   "make ran for nothing, or not once");
            return answer(inserted);
        }
        case Action::fetch:
            if constexpr (fetches) {
                return answer_with_kv(
                    call(operation,
                         [&] { return cache_->fetch_nearest(model, tokens, operation.fetch); }),
                    operation.key);
            }
            return "";
        case Action::lease:
            return lease(operation);
        case Action::end_lease:
            leases_[operation.slot].reset();
            return "";
        case Action::take:
            return answer_with_kv(
                call(operation,
                     [&] { return cache_->take_nearest(model, tokens, operation.fetch); }),
                operation.key);
        case Action::probe: {
            const auto probe = call(operation, [&] {
                return std::as_const(*cache_).probe(model, tokens, operation.fetch);
            });
            return answer({probe.match, probe.reused, probe.tier, 0, {}});
        }
        case Action::mark:
            return call(operation, [&] { return cache_->mark(model, tokens, operation.tier); })
                       ? "yes"
                       : "no";
        case Action::mark_all: {
            std::size_t marked = 0;
            for (std::size_t n = 0; n < tokens.size(); ++n) {
                marked += cache_->mark(model, std::span(tokens).first(n), operation.tier) ? 1U : 0U;
            }
            return word(marked);
        }
        case Action::pop_prefixes:
            return word(call(operation, [&] { return cache_->pop_prefixes(model, tokens); }));
        case Action::erase:
            return call(operation, [&] { return cache_->erase(model, tokens); }) ? "yes" : "no";
        case Action::erase_model:
            return word(call(operation, [&] { return cache_->erase_model(model); }));
        case Action::clear:
            return word(call(operation, [&] { return cache_->clear(); }));
        case Action::trim_to:
            return word(call(operation, [&] { return cache_->trim_to(operation.limits); }));
        case Action::set_limits:
            call(operation, [&] { cache_->set_limits(operation.limits); });
            return "";
        case Action::evict_while:
            return word(call(operation, [&] {
                return cache_->evict_while([&] { return cache_->nbytes() > operation.slot; });
            }));
        case Action::move:
            if constexpr (!is_concurrent) {
                Cache other = std::move(*cache_);
                *cache_ = std::move(other);
            }
            return "";
        case Action::renew:
            if constexpr (is_concurrent) {
                cache_ = std::make_unique<Cache>(options_);
            } else {
                *cache_ = Cache(options_);
            }
            listen();
            return "";
        }
        return "";
    }

    /// Does the operation on the model. Returns the answer in words.
    std::string act(const Operation& operation, NaiveCache& model,
                    std::array<int, lease_slots>& leases, Choices& choices) const {
        int& leased = leases[operation.slot % lease_slots];
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
        case Action::renew:
            model = NaiveCache(KV::offered, options_);
            leases = {};
            return "";
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
            std::array<int, lease_slots> leased = leased_;
            Observation expected;
            expected.answer = act(operation, model, leased, choices);
            for (std::size_t i = 0; i < called_back_; ++i) {
                expected.answer += "; " + act(operation.callbacks[i], model, leased, choices);
            }
            expected.removals = model.take_removals();
            expected.entries = model.entries();
            count(model, expected);
            if (expected == seen) {
                model_ = std::move(model);
                leased_ = leased;
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

    [[nodiscard]] static Recording recording(const Operation& operation) {
        return {operation.id, operation.key.model, operation.key.tokens, operation.shape};
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
    std::string answer_with_kv(const Result& result, const NaiveCache::Key& prompt) {
        NaiveCache::Hit hit = hit_of(result, prompt.tokens);
        expect(result.kv.has_value() == static_cast<bool>(result), "a hit without a payload");
        if (result.kv) {
            hit.payload = result.kv->recording();
            hit.id = hit.payload.id;
            expect(hit.payload == beginning_of(prompt, hit.reused, hit.payload),
                   "what was handed out is not the beginning of the prompt");
        }
        return answer(hit);
    }

    /// What a payload holds that is of the first `n` tokens of the prompt, otherwise like `like`.
    static Recording beginning_of(const NaiveCache::Key& prompt, std::size_t n,
                                  const Recording& like) {
        return {like.id, prompt.model, NaiveCache::prefix_of(prompt, n).tokens, like.shape};
    }

    std::string lease(const Operation& operation) {
        Lease lease = call(operation, [&] {
            return cache_->lease_nearest(operation.key.model, operation.key.tokens,
                                         operation.fetch);
        });
        NaiveCache::Hit hit = hit_of(lease, operation.key.tokens);
        leases_[operation.slot].reset();
        if (lease) {
            hit.payload = lease.kv().recording();
            hit.id = hit.payload.id;
            Recording used = hit.payload;
            used.truncate(hit.reused);
            expect(used == beginning_of(operation.key, hit.reused, used),
                   "what was leased does not begin as the prompt");
            leases_[operation.slot].emplace(Held{std::move(lease), hit.payload});
        }
        return answer(hit);
    }

    bool listener_takes_;
    bool modelled_;
    NaiveCache::Options options_;
    std::array<std::optional<Held>, lease_slots> leases_; // they outlive the cache
    std::unique_ptr<Cache> cache_;
    NaiveCache model_;
    std::array<int, lease_slots> leased_{}; // the same of the model: ids
    std::span<const Operation> callbacks_;  // of the operation under way
    std::size_t called_back_ = 0;           // how many of them have been done
    std::string answers_from_within_;
    bool threw_ = false;
    Observation before_; // what was to be seen after the operation before
    std::vector<NaiveCache::Removal> removals_;
    std::string fault_;
};

} // namespace promptkv_test

#endif
