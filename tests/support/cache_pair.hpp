// SPDX-License-Identifier: MIT
// A cache and its naive model side by side: everything visible of both is compared after each step.
#ifndef PROMPTKV_TESTS_CACHE_PAIR_HPP
#define PROMPTKV_TESTS_CACHE_PAIR_HPP

#include "cache_observation.hpp"
#include "cache_operations.hpp"
#include "counting_new.hpp"
#include "naive_cache.hpp"
#include "naive_payload.hpp"
#include "payloads.hpp"

#include <promptkv/concurrent_prompt_cache.hpp>
#include <promptkv/promptkv.hpp>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>
#include <optional>
#include <span>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

namespace promptkv_test {

/// How much is tried of what the contract leaves open.
struct Effort {
    std::size_t choices; // combinations of the choices that one operation makes
    std::size_t beliefs; // models that agree with everything so far
};

/// A cache and its model. The cache may be a ConcurrentPromptCache, here on one thread; it cannot be
/// moved.
///
/// A run that is not `modelled` does more than the model can follow. It is checked against the
/// invariants, the limits, the contents, and that a call which throws changes no entry.
template <class KV, class Cache = promptkv::LRUPromptCache<KV>>
class Pair {
public:
    Pair(const Run& run, Effort effort)
        : effort_(effort), listener_takes_(run.listener_takes), modelled_(run.modelled),
          options_(run.options), cache_(std::make_unique<Cache>(real_options())),
          beliefs_{Belief{NaiveCache(abilities_of<KV>(), run.options), {}}} {
        listen();
        observe(before_);
        if constexpr (requires { KV::on_end; }) {
            KV::on_end = [this] {
                const SparedNew spared; // the check allocates
                expect(cache_->check_invariants(), "a payload was destroyed in a broken cache");
            };
        }
    }

    ~Pair() {
        if constexpr (requires { KV::on_end; })
            KV::on_end = nullptr;
    }

    Pair(const Pair&) = delete;
    Pair& operator=(const Pair&) = delete;

    /// Does the operation on both. Returns how they differ, or what is wrong; "" where nothing is.
    std::string step(const Operation& operation) {
        fault_.clear();
        callbacks_ = operation.callbacks;
        answers_from_within_.clear();
        threw_ = false;
        Observation seen;
        seen.answer = attempt(operation);
        for (const std::string& answer : answers_from_within_)
            seen.answer += "; " + answer;
        callbacks_ = {};
        observe(seen);
        check_by_itself();
        if (fault_.empty() && modelled_)
            fault_ = explain(operation, seen);
        if (fault_.empty() && threw_ && answers_from_within_.empty() && seen.removals.empty() &&
            operation.action != Action::insert_made) {
            expect(sorted(seen.entries) == sorted(before_.entries),
                   "a call that threw did something");
        }
        before_ = std::move(seen);
        before_.answer.clear();
        before_.removals.clear();
        return fault_;
    }

private:
    using Lease = typename Cache::Lease;
    using Reservation = typename Cache::Reservation;

    static constexpr bool is_concurrent = !std::is_move_constructible_v<Cache>;
    static constexpr bool fetches = (abilities_of<KV>() & (can_clone | can_copy)) != 0;

    struct HeldLease {
        Lease lease;
        NaiveKV shown; // what it must go on showing
    };

    struct HeldRoom {
        Reservation room;
        std::size_t tokens;
        NaiveCache::Key key;
        Shape shape;
    };

    struct RoomOfModel {
        NaiveCache::Room room; // number 0: of a cache that is gone
        NaiveCache::Key key;
        Shape shape;
    };

    /// What the slots hold, for the model.
    struct ModelSlots {
        std::array<int, slots> leases{};                  // payloads; 0: none
        std::array<std::optional<NaiveKV>, slots> copies; // held outside of the cache
        std::array<std::optional<RoomOfModel>, slots> rooms;
        std::vector<int> committed; // numbers of rooms that live until the end of the operation
    };

    /// A model that agrees with everything that was seen.
    struct Belief {
        NaiveCache model;
        ModelSlots slots;
    };

    [[nodiscard]] typename Cache::Options real_options() const {
        typename Cache::Options options;
        options.max_bytes = options_.max_bytes;
        options.max_entries = options_.max_entries;
        options.max_partial = options_.max_partial;
        options.remembered_tokens = options_.remembered_tokens;
        options.rules = options_.rules;
        return options;
    }

    void listen() {
        cache_->set_removal_listener([this](auto& removal) {
            const SparedNew spared;
            const Tokens tokens(removal.tokens.begin(), removal.tokens.end());
            if (removal.payload != nullptr) {
                check_removed(*removal.payload, removal.model, tokens, removal.kept_tokens);
                if (listener_takes_) {
                    const KV taken = std::move(*removal.payload);
                    check_removed(taken, removal.model, tokens, removal.kept_tokens);
                }
            }
            expect(cache_->check_invariants(), "a listener saw a broken cache");
            removals_.push_back({{removal.model, tokens},
                                 removal.kept_tokens,
                                 removal.tier,
                                 removal.bytes,
                                 removal.reason,
                                 removal.payload != nullptr});
            call_back();
        });
    }

    void check_removed(const KV& kv, const std::string& model, const Tokens& tokens,
                       std::size_t kept) {
        if (tokens.empty() && !modelled_)
            return; // memory ran out
        if constexpr (is_of_blocks<KV>) {
            const std::size_t block = kv.block_tokens();
            const std::size_t from = std::min(tokens.size(), (kept + block - 1) / block * block);
            const Tokens tail(tokens.begin() + static_cast<std::ptrdiff_t>(from), tokens.end());
            if (kept > 0) {
                expect(described(kv).tokens == tail, "a removed tail is not of its key");
                return;
            }
        }
        expect(computed_from(kv, model, tokens), "a removed payload is not of its key");
    }

    /// Does the next operation that is to be done from within another one.
    void call_back() {
        if (answers_from_within_.size() < callbacks_.size()) {
            const SparedNew spared;
            const std::size_t at = answers_from_within_.size();
            answers_from_within_.emplace_back();
            const std::string answer = attempt(callbacks_[at]);
            answers_from_within_[at] = answer;
        }
    }

    void observe(Observation& seen) {
        seen.removals = std::exchange(removals_, {});
        std::sort(seen.removals.begin(), seen.removals.end());
        cache_->for_each([this, &seen](const auto& entry) {
            const Tokens tokens(entry.tokens.begin(), entry.tokens.end());
            expect(computed_from(entry.kv, entry.model, tokens),
                   "an entry's payload is not of its key");
            seen.entries.push_back(
                {{entry.model, tokens}, entry.tier, entry.nbytes, described(entry.kv)});
        });
        count(*cache_, seen);
    }

    static std::vector<NaiveCache::Shown> sorted(std::vector<NaiveCache::Shown> entries) {
        std::sort(entries.begin(), entries.end(),
                  [](const auto& a, const auto& b) { return a.key < b.key; });
        return entries;
    }

    void expect(bool condition, const char* fault) {
        if (!condition)
            fault_ += std::string("    ") + fault + '\n';
    }

    /// What must hold whatever the model says.
    void check_by_itself() {
        expect(cache_->check_invariants(), "check_invariants() is false");
        const auto limits = cache_->limits();
        const auto stats = cache_->stats();
        expect(cache_->size() <= limits.max_entries || lowered_, "there are more than max_entries");
        expect(cache_->nbytes() <=
                       std::max(limits.max_bytes, stats.bytes_leased + stats.bytes_reserved) ||
                   lowered_,
               "there are more than max_bytes");
        expect(cache_->empty() == (cache_->size() == 0), "empty() is wrong");
        for (const std::optional<HeldLease>& held : leases_)
            expect(!held || described(held->lease.kv()) == held->shown, "a leased payload changed");
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

    /// The options of an insert, with the number of the lookup that it comes from.
    static NaiveCache::InsertOptions with_request(NaiveCache::InsertOptions options,
                                                  std::uint64_t lookups) {
        const std::uint64_t ago = options.request;
        options.request = ago == 0 || ago > lookups ? 0 : lookups + 1 - ago;
        return options;
    }

    std::string act(const Operation& operation) {
        const std::string& model = operation.key.model;
        const Tokens& tokens = operation.key.tokens;
        const auto options = with_request(operation.insert, cache_->stats().lookups);
        switch (operation.action) {
        case Action::insert: {
            KV kv = made(operation);
            const auto inserted = call(operation, [&] {
                return cache_->insert(model, tokens, std::move(kv), operation.tier, options);
            });
            expect(NaiveCache::kept(inserted.outcome) || computed_from(kv, model, tokens),
                   "a refused payload was moved from");
            return answer(inserted);
        }
        case Action::insert_made:
            return insert_made(operation, options);
        case Action::reserve: {
            rooms_[operation.slot].reset(); // so that its room is free
            Reservation room = call(operation, [&] {
                return cache_->reserve(model, tokens, estimate(operation), operation.tier, options);
            });
            const std::string answer = answer_of(room);
            if (room) {
                const std::size_t n = room.tokens();
                rooms_[operation.slot].emplace(
                    HeldRoom{std::move(room), n, operation.key, operation.shape});
            }
            return answer;
        }
        case Action::commit:
            return commit(operation);
        case Action::drop_room:
            rooms_[operation.slot].reset();
            return "";
        case Action::fetch:
            if constexpr (fetches) {
                auto fetched = call(operation, [&] {
                    return cache_->fetch_nearest(model, tokens, operation.fetch);
                });
                const std::string answer = answer_with_kv(fetched, operation.key);
                copies_[operation.slot].reset();
                if (fetched.kv)
                    copies_[operation.slot].emplace(std::move(*fetched.kv));
                return answer;
            }
            return "";
        case Action::let_go:
            copies_[operation.slot].reset();
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
        case Action::probe:
            return answer(known(operation, hit_of(call(operation,
                                                       [&] {
                                                           return std::as_const(*cache_).probe(
                                                               model, tokens, operation.fetch);
                                                       }),
                                                  tokens)));
        case Action::touch:
            return answer(known(
                operation,
                hit_of(call(operation, [&] { return cache_->touch(model, tokens); }), tokens)));
        case Action::explain: {
            const auto why = call(operation, [&] {
                return std::as_const(*cache_).explain(model, tokens, operation.fetch);
            });
            expect(why.requested == tokens.size(), "explain counts other tokens");
            return explained(why.match, why.reason, why.reused, why.matched);
        }
        case Action::mark:
            return call(operation, [&] { return cache_->mark(model, tokens, operation.tier); })
                       ? "yes"
                       : "no";
        case Action::pop_prefixes:
            return word(call(operation, [&] { return cache_->pop_prefixes(model, tokens); }));
        case Action::erase:
            return call(operation, [&] { return cache_->erase(model, tokens); }) ? "yes" : "no";
        case Action::erase_below:
            return word(call(operation, [&] { return cache_->erase_below(model, tokens); }));
        case Action::erase_session:
            return word(call(
                operation, [&] { return cache_->erase_session(model, operation.insert.session); }));
        case Action::erase_model:
            return word(call(operation, [&] { return cache_->erase_model(model); }));
        case Action::clear:
            return word(call(operation, [&] { return cache_->clear(); }));
        case Action::trim_to:
            return word(call(operation, [&] { return cache_->trim_to(operation.limits); }));
        case Action::set_limits:
            lowered_ = true;
            call(operation, [&] { cache_->set_limits(operation.limits); });
            return "";
        case Action::evict:
            return word(call(operation, [&] { return cache_->evict(operation.bytes); }));
        case Action::snapshot: {
            std::vector<NaiveCache::Shown> shown;
            for (const auto& entry : call(operation, [&] { return cache_->snapshot(); })) {
                const KV& kv = entry.lease.kv();
                shown.push_back({{entry.model, entry.tokens},
                                 entry.tier,
                                 described(kv).nbytes(),
                                 described(kv)});
            }
            return words(shown);
        }
        case Action::move:
            if constexpr (!is_concurrent) {
                Cache other = std::move(*cache_);
                *cache_ = std::move(other);
            }
            return "";
        case Action::renew:
            if constexpr (is_concurrent)
                cache_ = std::make_unique<Cache>(real_options());
            else
                *cache_ = Cache(real_options());
            lowered_ = false;
            listen();
            return "";
        }
        return "";
    }

    /// Does the operation on the model. Returns the answer in words.
    std::string act(const Operation& operation, NaiveCache& model, ModelSlots& slots_of_model,
                    Choices& choices) const {
        using How = NaiveCache::How;
        const NaiveCache::Key& key = operation.key;
        int& leased = slots_of_model.leases[operation.slot];
        std::optional<NaiveKV>& copy = slots_of_model.copies[operation.slot];
        std::optional<RoomOfModel>& held = slots_of_model.rooms[operation.slot];
        const auto options = with_request(operation.insert, model.stats().lookups);
        const auto drop_room = [&] {
            if (held && held->room.number != 0)
                model.drop_room(held->room.number);
            held.reset();
        };
        switch (operation.action) {
        case Action::insert: {
            NaiveKV kv = plain(operation.id, key, operation.shape);
            return answer(model.insert(key, kv, operation.tier, options, choices));
        }
        case Action::insert_made: {
            const NaiveCache::Room made =
                model.reserve(key, estimate(operation), operation.tier, options, choices);
            if (made.number == 0) {
                promptkv::Inserted refused;
                refused.outcome = made.outcome;
                refused.tokens = made.present_tokens;
                refused.absorbed = made.absorbed;
                return answer(refused);
            }
            const promptkv::Inserted before = model.evicted_by_reserve();
            promptkv::Inserted inserted;
            inserted.outcome = Outcome::cancelled;
            if (operation.makes_nothing) {
                model.count_cancelled();
            } else {
                NaiveKV kv = plain(operation.id, key, operation.shape);
                inserted = model.commit(made.number, kv, choices);
            }
            model.drop_room(made.number);
            inserted.evicted += before.evicted;
            inserted.cut += before.cut;
            return answer(inserted);
        }
        case Action::reserve: {
            drop_room();
            const NaiveCache::Room made =
                model.reserve(key, estimate(operation), operation.tier, options, choices);
            if (made.number != 0)
                held = RoomOfModel{made, key, operation.shape};
            return answer(made);
        }
        case Action::commit: {
            if (!held)
                return "";
            promptkv::Inserted inserted;
            inserted.outcome = Outcome::cancelled;
            if (held->room.number != 0) {
                const std::size_t n = committed_tokens(operation, held->room.tokens);
                NaiveKV kv = plain(operation.id, NaiveCache::prefix_of(held->key, n), held->shape,
                                   starts_with(held->room, n));
                inserted = model.commit(held->room.number, kv, choices);
                // A room lives until the listener has run, which may be the end of the outer operation.
                if (operation.within && model.has_prefix(held->room.number) &&
                    choices.choose(2) == 1) {
                    drop_room();
                } else {
                    slots_of_model.committed.push_back(held->room.number);
                    held.reset();
                }
            }
            held.reset();
            return answer(inserted);
        }
        case Action::drop_room:
            drop_room();
            return "";
        case Action::fetch: {
            if (!fetches)
                return "";
            const NaiveCache::Hit hit = model.lookup(How::fetch, key, operation.fetch, choices);
            let_go(model, copy);
            if (hit.payload != 0) {
                model.hold(hit.kv);
                copy = hit.kv;
            }
            return answer(hit);
        }
        case Action::let_go:
            let_go(model, copy);
            return "";
        case Action::lease: {
            const NaiveCache::Hit hit = model.lookup(How::lease, key, operation.fetch, choices);
            if (leased != 0)
                model.end_lease(leased);
            leased = hit.payload;
            return answer(hit);
        }
        case Action::end_lease:
            if (leased != 0)
                model.end_lease(std::exchange(leased, 0));
            return "";
        case Action::take:
            return answer(model.lookup(How::take, key, operation.fetch, choices));
        case Action::probe:
            return answer(
                known(operation, model.lookup(How::probe, key, operation.fetch, choices)));
        case Action::touch:
            return answer(known(operation, model.touch(key, choices)));
        case Action::explain: {
            const NaiveCache::Hit hit = model.explain(key, operation.fetch, choices);
            return explained(hit.match, hit.miss, hit.reused, hit.matched);
        }
        case Action::mark:
            return model.mark(key, operation.tier, choices) ? "yes" : "no";
        case Action::pop_prefixes:
            return word(model.pop_prefixes(key, choices));
        case Action::erase:
            return model.erase(key, choices) ? "yes" : "no";
        case Action::erase_below:
            return word(model.erase_below(key, choices));
        case Action::erase_session:
            return word(model.erase_session(key.model, operation.insert.session, choices));
        case Action::erase_model:
            return word(model.erase_model(key.model, choices));
        case Action::clear:
            return word(model.clear(choices));
        case Action::trim_to:
            return word(model.trim_to(operation.limits, choices));
        case Action::set_limits:
            model.set_limits(operation.limits, choices);
            return "";
        case Action::evict:
            return word(model.evict(operation.bytes, choices));
        case Action::snapshot:
            return words(model.snapshot(choices));
        case Action::renew:
            model = NaiveCache(abilities_of<KV>(), options_);
            slots_of_model.leases = {};
            for (auto& each : slots_of_model.rooms) {
                if (each)
                    each->room.number = 0;
            }
            for (const auto& each : slots_of_model.copies) {
                if (each)
                    model.hold(*each);
            }
            return "";
        case Action::move:
            break;
        }
        return "";
    }

    static void let_go(NaiveCache& model, std::optional<NaiveKV>& copy) {
        if (copy) {
            model.let_go(*copy);
            copy.reset();
        }
    }

    /// Looks for choices of the model that give what was seen. Choices may show later only, so all models
    /// that made such choices are kept, up to a limit.
    std::string explain(const Operation& operation, const Observation& seen) {
        std::string first_difference;
        std::vector<Belief> kept;
        for (const Belief& belief : beliefs_) {
            Choices choices;
            std::size_t tried = 0;
            do {
                Belief next = belief;
                Observation expected;
                expected.answer = act(operation, next.model, next.slots, choices);
                for (std::size_t i = 0; i < answers_from_within_.size(); ++i) {
                    expected.answer +=
                        "; " + act(operation.callbacks[i], next.model, next.slots, choices);
                }
                for (const int number : std::exchange(next.slots.committed, {}))
                    next.model.drop_room(number);
                expected.removals = next.model.take_removals();
                expected.entries = next.model.entries();
                count(next.model, expected);
                const bool is_new =
                    std::none_of(kept.begin(), kept.end(), [&next](const Belief& other) {
                        return other.model.same_state(next.model);
                    });
                if (!(expected == seen)) {
                    if (first_difference.empty())
                        first_difference = difference(seen, expected);
                } else if (is_new && kept.size() < effort_.beliefs) {
                    kept.push_back(std::move(next));
                }
            } while (choices.next() && ++tried < effort_.choices && kept.size() < effort_.beliefs);
        }
        if (kept.empty())
            return first_difference;
        beliefs_ = std::move(kept);
        return "";
    }

    // payloads ///////////////////////////////////////////////////////////////

    [[nodiscard]] static KV made(const Operation& operation) {
        return real_payload<KV>(operation.id, operation.key.model, operation.key.tokens,
                                operation.shape, nullptr);
    }

    [[nodiscard]] static NaiveKV plain(int id, const NaiveCache::Key& key, Shape shape,
                                       std::vector<NaiveBlock> start = {}) {
        return naive_payload<KV>(id, key.model, key.tokens, shape, std::move(start));
    }

    /// What a reservation is told of the payload's size.
    [[nodiscard]] static std::size_t estimate(const Operation& operation) {
        return plain(operation.id, operation.key, operation.shape).nbytes() * operation.percent /
               100;
    }

    // steps of one operation /////////////////////////////////////////////////

    template <class Options>
    std::string insert_made(const Operation& operation, const Options& options) {
        std::size_t times = 0;
        const auto make = [&]() -> std::optional<KV> {
            ++times;
            if (!modelled_)
                call_back();
            if (operation.makes_nothing)
                return std::nullopt;
            return made(operation);
        };
        const auto inserted = call(operation, [&] {
            return cache_->insert(operation.key.model, operation.key.tokens, estimate(operation),
                                  operation.tier, make, options);
        });
        expect(times <= 1, "make ran twice");
        expect(times == 1 || !NaiveCache::kept(inserted.outcome), "make did not run");
        return answer(inserted);
    }

    std::string commit(const Operation& operation) {
        std::optional<HeldRoom> held = std::exchange(rooms_[operation.slot], std::nullopt);
        if (!held)
            return "";
        const std::size_t n = committed_tokens(operation, held->tokens);
        const NaiveCache::Key key = NaiveCache::prefix_of(held->key, n);
        KV kv = [&] {
            std::optional<KV> start = held->room.prefix();
            if constexpr (std::is_same_v<KV, BlockTape>) {
                if (start && start->length() > n)
                    start->truncate(n);
            }
            const bool begins = start && length_of(*start) <= n;
            return real_payload<KV>(operation.id, key.model, key.tokens, held->shape,
                                    begins ? &*start : nullptr);
        }();
        const auto inserted = call(operation, [&] { return held->room.commit(std::move(kv)); });
        expect(NaiveCache::kept(inserted.outcome) || computed_from(kv, key.model, key.tokens),
               "a refused payload was moved from");
        return answer(inserted);
    }

    [[nodiscard]] static std::size_t length_of(const KV& kv) { return kv.length(); }

    [[nodiscard]] static std::size_t committed_tokens(const Operation& operation,
                                                      std::size_t room) {
        return room - std::min(room, operation.fewer);
    }

    /// The blocks that a commit of `n` tokens begins with.
    [[nodiscard]] static std::vector<NaiveBlock> starts_with(const NaiveCache::Room& room,
                                                             std::size_t n) {
        if (!room.prefix)
            return {};
        if (room.prefix->length() > n) {
            return room.prefix->can(has_state) ? std::vector<NaiveBlock>()
                                               : room.prefix->first(n).blocks;
        }
        return room.prefix->blocks;
    }

    std::string answer_of(const Reservation& room) {
        NaiveCache::Room shown;
        shown.outcome = room ? Outcome::stored : room.outcome();
        if (room) {
            shown.tokens = room.tokens();
            if (const std::optional<KV> prefix = room.prefix())
                shown.prefix = described(*prefix);
        }
        return answer(shown);
    }

    static std::string answer(const NaiveCache::Room& room) {
        return std::string(name(room.outcome)) + " tokens=" + word(room.tokens) +
               (room.prefix ? " prefix " + word(*room.prefix) : "");
    }

    /// What is compared of a lookup: while a listener runs, keys that left may still be known.
    static NaiveCache::Hit known(const Operation& operation, NaiveCache::Hit hit) {
        if (operation.within) {
            hit.matched = 0;
            hit.miss = MissReason::none;
        }
        return hit;
    }

    static std::string answer(const NaiveCache::Hit& hit) { return promptkv_test::answer(hit); }
    static std::string answer(const promptkv::Inserted& inserted) {
        return promptkv_test::answer(inserted);
    }

    static std::string explained(Match match, MissReason miss, std::size_t reused,
                                 std::size_t matched) {
        return std::string(name(match)) + " " + std::string(name(miss)) +
               " reused=" + word(reused) + " matched=" + word(matched);
    }

    /// The answer of a lookup, without the payload.
    template <class Result>
    NaiveCache::Hit hit_of(const Result& result, const Tokens& tokens) {
        expect(static_cast<bool>(result) == (result.match() != Match::none),
               "a hit without a match");
        expect(result.remaining(tokens).size() == tokens.size() - result.reused(),
               "remaining is wrong");
        expect(static_cast<bool>(result) == (result.reused() > 0), "a hit without reuse");
        expect(static_cast<bool>(result) == (result.miss() == MissReason::none),
               "a hit that missed");
        NaiveCache::Hit hit;
        hit.match = result.match();
        hit.miss = result.miss();
        hit.reused = result.reused();
        hit.matched = result.matched();
        hit.entry_tokens = result.entry_tokens();
        hit.tier = result.tier();
        hit.request = result.request();
        return hit;
    }

    template <class Result>
    std::string answer_with_kv(const Result& result, const NaiveCache::Key& prompt) {
        NaiveCache::Hit hit = hit_of(result, prompt.tokens);
        expect(result.kv.has_value() == static_cast<bool>(result), "a hit without a payload");
        if (result.kv) {
            hit.kv = described(*result.kv);
            expect(computed_from(*result.kv, prompt.model,
                                 NaiveCache::prefix_of(prompt, hit.reused).tokens),
                   "what was handed out is not the beginning of the prompt");
        }
        return answer(hit);
    }

    std::string lease(const Operation& operation) {
        Lease lease = call(operation, [&] {
            return cache_->lease_nearest(operation.key.model, operation.key.tokens,
                                         operation.fetch);
        });
        NaiveCache::Hit hit = hit_of(lease, operation.key.tokens);
        leases_[operation.slot].reset();
        if (lease) {
            hit.kv = described(lease.kv());
            expect(hit.kv.first(hit.reused).tokens ==
                       NaiveCache::prefix_of(operation.key, hit.reused).tokens,
                   "what was leased does not begin as the prompt");
            leases_[operation.slot].emplace(HeldLease{std::move(lease), hit.kv});
        }
        return answer(hit);
    }

    const Effort effort_;
    bool listener_takes_;
    bool modelled_;
    NaiveCache::Options options_;
    bool lowered_ = false; // a limit, perhaps
    // These outlive the cache.
    std::array<std::optional<HeldLease>, slots> leases_;
    std::array<std::optional<HeldRoom>, slots> rooms_;
    std::array<std::optional<KV>, slots> copies_;
    std::unique_ptr<Cache> cache_;
    std::vector<Belief> beliefs_;
    std::span<const Operation> callbacks_;         // of the operation under way
    std::vector<std::string> answers_from_within_; // of those that have been done
    bool threw_ = false;
    Observation before_; // what was to be seen after the operation before
    std::vector<NaiveCache::Removal> removals_;
    std::string fault_;
};

} // namespace promptkv_test

#endif
