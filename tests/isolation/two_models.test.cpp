// SPDX-License-Identifier: MIT
// Two models in one cache: neither sees anything of the other, and with room for both each is served
// as if it were alone.

#include <promptkv/promptkv.hpp>

#include "../model/random.hpp"
#include "catch.hpp"
#include "fire_payloads.hpp"

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

namespace {

using namespace promptkv_test;
using promptkv::LRUPromptCache;
using promptkv::MissReason;
using promptkv::PromptCache;
using promptkv::Tier;

/// One name is the beginning of the other.
const std::array<std::string, 2> names = {"model", "model:adapter"};

constexpr std::size_t block_tokens = 2;

/// A call for one of two models, to be made on any cache.
struct Call {
    std::size_t kind;
    std::size_t model; // of `names`
    Tokens key;
    Tier tier;
    promptkv::FetchOptions options;
    std::uint64_t session;
};

Call random_call(Random& random, std::size_t longest) {
    Call call{random.below(20), random.below(2), {}, {}, {}, random.below(3)};
    call.key.resize(random.below(longest + 1));
    for (std::int32_t& token : call.key)
        token = 'a' + static_cast<std::int32_t>(random.below(2));
    call.tier = random.pick({Tier::assistant, Tier::user, Tier::system});
    call.options = {random.below(2), random.below(3), 1 + random.below(2)};
    return call;
}

/// A lookup's answer but for its number, which counts the lookups of all models.
template <class Answer>
std::string written(const Answer& answer) {
    return std::to_string(answer.reused()) + " of " + std::to_string(answer.matched()) + " " +
           std::string(name(answer.match())) + " " + std::string(name(answer.tier())) + " " +
           std::string(name(answer.miss())) + " " + std::to_string(answer.entry_tokens());
}

/// Makes the call. Returns all that the caller gets to see.
template <class Cache, class KV>
std::string answer_to(Cache& cache, const Call& call) {
    const std::string& model = names[call.model];
    const Tokens& key = call.key;
    const auto made = [&](std::size_t n) {
        return pages<KV>(model, Key(key).first(n), block_tokens);
    };
    const auto served = [&](const auto& hit, const KV* kv) {
        if (hit.miss() == MissReason::other_model)
            return std::string("state of another model is betrayed");
        if (kv != nullptr && !computed_from(*kv, model, key, hit.reused()))
            return "state of another prompt for " + model;
        return written(hit);
    };
    const auto inserted = [](const promptkv::Inserted& what) {
        return std::string(name(what.outcome)) + " " + std::to_string(what.tokens) + " " +
               std::to_string(what.absorbed);
    };
    switch (call.kind) {
    case 0: {
        const auto lease = cache.lease_nearest(model, key, call.options);
        return served(lease, lease ? &lease.kv() : nullptr);
    }
    case 1: {
        const auto hit = cache.take_nearest(model, key, call.options);
        return served(hit, hit ? &*hit.kv : nullptr);
    }
    case 2:
        return std::to_string(cache.mark(model, key, call.tier));
    case 3:
        return std::to_string(cache.erase(model, key));
    case 4:
        return std::to_string(cache.pop_prefixes(model, key));
    case 5:
        return std::to_string(cache.nbytes(model));
    case 6:
        return written(cache.probe(model, key, call.options)) + " " +
               written(cache.touch(model, key));
    case 7:
    case 8:
        return inserted(cache.insert(model, key, key.size(), call.tier,
                                     [&] { return made(key.size()); }, {.session = call.session}));
    case 9:
    case 10:
    case 11: {
        const auto hit = cache.fetch_nearest(model, key, call.options);
        return served(hit, hit ? &*hit.kv : nullptr);
    }
    case 12:
        return key.size() == 1 ? std::to_string(cache.erase_model(model)) : "";
    case 13:
        return std::to_string(cache.erase_session(model, 1 + call.session));
    case 14:
        return key.empty() ? "" : std::to_string(cache.erase_below(model, key));
    case 15:
    case 16: {
        auto room = cache.reserve(model, key, key.size(), call.tier, {.session = call.session});
        if (!room)
            return std::string(name(room.outcome()));
        KV kv = room.prefix().value_or(KV(block_tokens));
        const std::size_t shared = kv.length();
        if (!computed_from(kv, model, key, shared))
            return "state of another prompt in a reservation of " + model;
        compute(kv, model, Key(key).first(room.tokens()));
        return std::to_string(shared) + " " + inserted(room.commit(std::move(kv)));
    }
    default:
        return inserted(
            cache.insert(model, key, made(key.size()), call.tier, {.session = call.session}));
    }
}

/// All that a cache holds of a model.
template <class Cache>
std::vector<std::string> held_of(const Cache& cache, const std::string& model) {
    std::vector<std::string> held;
    cache.for_each([&](const auto& entry) {
        if (entry.model != model)
            return;
        held.push_back(word(entry.tokens) + std::to_string(static_cast<int>(entry.tier)) + " " +
                       std::to_string(entry.nbytes));
        if (!computed_from(entry.kv, model, entry.tokens, entry.tokens.size()))
            held.back() += " is the state of something else";
    });
    std::sort(held.begin(), held.end());
    return held;
}

/// What explain says, but for the names of tokens. That another model has the prompt is its secret.
template <class Cache>
std::string explained(const Cache& cache, const std::string& model, const Tokens& prompt) {
    const auto why = cache.explain(model, prompt);
    const MissReason reason =
        why.reason == MissReason::other_model ? MissReason::nothing_shared : why.reason;
    return " " + std::string(name(reason)) + " " + std::to_string(why.matched) + " nearest " +
           std::to_string(why.nearest_tokens) + " " + std::string(name(why.nearest_tier)) + " " +
           std::to_string(why.evicted_bytes_ago.value_or(0));
}

TEMPLATE_TEST_CASE("With room for both, each of two models is served as if it were alone", "",
                   (std::pair<LRUPromptCache<Pages>, Pages>),
                   (std::pair<LRUPromptCache<Hybrid>, Hybrid>),
                   (std::pair<PromptCache<Pages>, Pages>)) {
    using Cache = typename TestType::first_type;
    using KV = typename TestType::second_type;
    std::size_t hits = 0;
    for (std::uint64_t seed = 1; seed <= 100; ++seed) {
        CAPTURE(seed);
        Random random(seed);
        Cache together;
        std::array<Cache, 2> apart;
        std::array<std::string, 2> removed;
        const auto log = [](std::string& line) {
            return [&line](const auto& removal) {
                line += word(removal.tokens) + std::string(name(removal.reason)) + " " +
                        std::to_string(removal.bytes) + " ";
            };
        };
        std::array<std::string, 2> removed_apart;
        apart[0].set_removal_listener(log(removed_apart[0]));
        apart[1].set_removal_listener(log(removed_apart[1]));
        together.set_removal_listener(
            [&](const auto& removal) { log(removed[removal.model == names[0] ? 0 : 1])(removal); });
        for (int i = 0; i < 200; ++i) {
            const Call call = random_call(random, 7);
            const std::string answer = answer_to<Cache, KV>(together, call);
            if (answer != answer_to<Cache, KV>(apart[call.model], call))
                FAIL("call " << i << " of kind " << call.kind << ": " << answer);
            if (answer.find("state of") != std::string::npos)
                FAIL(answer);
            hits += call.kind < 2 && answer[0] != '0' ? 1U : 0U;
            for (std::size_t m = 0; m < 2; ++m) {
                if (held_of(together, names[m]) != held_of(apart[m], names[m]) ||
                    together.nbytes(names[m]) != apart[m].nbytes(names[m]) ||
                    removed[m] != removed_apart[m])
                    FAIL("call " << i << " for " << names[call.model] << " changed " << names[m]);
            }
        }
        REQUIRE(together.check_invariants());
        REQUIRE(together.nbytes() == apart[0].nbytes() + apart[1].nbytes());
    }
    REQUIRE(hits > 100);
}

TEMPLATE_TEST_CASE("Under a budget that both share, each model is served its own state alone", "",
                   (std::pair<LRUPromptCache<Pages>, Pages>),
                   (std::pair<LRUPromptCache<Hybrid>, Hybrid>),
                   (std::pair<PromptCache<Pages>, Pages>),
                   (std::pair<PromptCache<Hybrid>, Hybrid>)) {
    using Cache = typename TestType::first_type;
    using KV = typename TestType::second_type;
    std::uint64_t pressed_ever = 0;
    for (std::uint64_t seed = 1; seed <= 60; ++seed) {
        CAPTURE(seed);
        Random random(seed);
        Cache cache({.max_bytes = 20 + random.below(60), .max_entries = 2 + random.below(10)});
        const auto pressed = [&cache] { return cache.stats().evicted + cache.stats().cut; };
        std::string wrong;
        cache.set_removal_listener([&](const typename Cache::Removal& removal) {
            if (removal.payload == nullptr || removal.kept_tokens > 0)
                return;
            if (!computed_from(*removal.payload, removal.model, removal.tokens,
                               removal.payload->length()))
                wrong = "a removal of " + removal.model;
        });
        for (int i = 0; i < 300; ++i) {
            const Call call = random_call(random, 12);
            const std::uint64_t pressed_before = pressed();
            const std::vector<std::string> before = held_of(cache, names[1 - call.model]);
            const std::string answer = answer_to<Cache, KV>(cache, call);
            if (answer.find("state of") != std::string::npos)
                FAIL(answer);
            const std::vector<std::string> after = held_of(cache, names[1 - call.model]);
            if (pressed() == pressed_before && before != after) // nothing was evicted
                FAIL("call " << i << " changed what the other model has");
            for (const std::string& entry : after) {
                if (entry.find("something else") != std::string::npos)
                    FAIL(names[1 - call.model] << ": " << entry);
            }
        }
        REQUIRE(wrong == "");
        REQUIRE(cache.check_invariants());
        pressed_ever += pressed();
    }
    REQUIRE(pressed_ever > 100);
}

TEMPLATE_TEST_CASE(
    "Under a budget that both share, no answer depends on which tokens the other model uses", "",
    (std::pair<PromptCache<Pages>, Pages>), (std::pair<PromptCache<Hybrid>, Hybrid>)) {
    // The same calls are made on two caches. In one of them the second model has tokens of its own,
    // which occur nowhere else. If prompts of one model, stored, remembered or evicted, told anything to the
    // other one, the answers would differ.
    using Cache = typename TestType::first_type;
    using KV = typename TestType::second_type;
    std::uint64_t remembered_ever = 0;
    for (std::uint64_t seed = 1; seed <= 60; ++seed) {
        CAPTURE(seed);
        Random random(seed);
        const std::size_t max_bytes = 20 + random.below(60);
        Cache same({.max_bytes = max_bytes, .max_entries = 12});
        Cache other({.max_bytes = max_bytes, .max_entries = 12});
        for (int i = 0; i < 300; ++i) {
            Call call = random_call(random, 12);
            const std::string& model = names[call.model];
            std::string answer = answer_to<Cache, KV>(same, call);
            answer += explained(same, model, call.key);
            if (call.model == 1)
                for (std::int32_t& token : call.key)
                    token += 1'000;
            std::string expected = answer_to<Cache, KV>(other, call);
            expected += explained(other, model, call.key);
            if (answer != expected)
                FAIL("call " << i << " of kind " << call.kind << ": " << answer << " is not "
                             << expected);
            remembered_ever += answer.find("evicted") != std::string::npos ? 1U : 0U;
        }
        REQUIRE(same.check_invariants());
        REQUIRE(same.nbytes() == other.nbytes());
    }
    REQUIRE(remembered_ever > 100);
}

TEST_CASE("Only the model of a remembered key learns that the key was evicted") {
    PromptCache<Pages> cache({.max_bytes = 30});
    const Tokens evicted = key("abcdefgh");
    cache.insert(names[0], evicted, pages(names[0], evicted), Tier::user);
    cache.insert(names[1], key("xyz"), pages(names[1], key("xyz")), Tier::user);
    cache.trim_to({.max_bytes = 0});
    REQUIRE(cache.explain(names[0], evicted).reason == MissReason::evicted);
    REQUIRE(cache.probe(names[0], evicted).matched() == 8);
    for (const std::string& model : {names[1], std::string("a model without keys")}) {
        CAPTURE(model);
        CHECK(cache.explain(model, evicted).reason == MissReason::nothing_shared);
        CHECK(cache.explain(model, evicted).matched == 0);
        CHECK_FALSE(cache.explain(model, evicted).evicted_bytes_ago);
        CHECK(cache.probe(model, evicted).matched() == 0);
        CHECK(cache.touch(model, evicted).matched() == 0);
        CHECK(cache.fetch_nearest(model, evicted).miss() == MissReason::nothing_shared);
        CHECK(cache.lease_nearest(model, evicted).matched() == 0);
        CHECK(cache.erase_below(model, key("a")) == 0);
    }
    // What the other model erases, evicts or stores is not forgotten, and not remembered, for this one.
    cache.erase_model(names[1]);
    CHECK(cache.explain(names[0], evicted).reason == MissReason::evicted);
    cache.erase_model(names[0]);
    CHECK(cache.explain(names[0], evicted).reason == MissReason::nothing_shared);
    CHECK(cache.check_invariants());
}

TEST_CASE("Only explain looks into other models") {
    LRUPromptCache<Pages> cache;
    const Tokens tokens = key("abcdefgh");
    cache.insert(names[0], tokens, pages(names[0], tokens), Tier::system, {.session = 5});
    CHECK(cache.explain(names[1], tokens).reason == MissReason::other_model);
    CHECK(cache.probe(names[1], tokens).miss() == MissReason::nothing_shared);
    CHECK(cache.probe(names[1], tokens).matched() == 0);
    CHECK(cache.touch(names[1], tokens).miss() == MissReason::nothing_shared);
    CHECK(cache.fetch_nearest(names[1], tokens).miss() == MissReason::nothing_shared);
    CHECK(cache.lease_nearest(names[1], tokens).miss() == MissReason::nothing_shared);
    CHECK(cache.take_nearest(names[1], tokens).miss() == MissReason::nothing_shared);
    CHECK_FALSE(cache.mark(names[1], tokens, Tier::user));
    CHECK(cache.erase_session(names[1], 5) == 0);
    CHECK(cache.erase_below(names[1], key("a")) == 0);
    CHECK(cache.erase_model(names[1]) == 0);
    CHECK(cache.nbytes(names[1]) == 0);
    const auto room = cache.reserve(names[1], tokens, tokens.size(), Tier::user);
    CHECK_FALSE(room.prefix());
    CHECK(cache.size() == 1);
}

TEST_CASE("A session that two models know by the same number is two sessions") {
    LRUPromptCache<Whole> cache;
    cache.insert(names[0], key("ab"), Whole{2}, Tier::user, {.session = 9});
    cache.insert(names[1], key("xy"), Whole{2}, Tier::user);
    cache.insert(names[1], key("zz"), Whole{2}, Tier::user, {.session = 9});
    CHECK(cache.stats().demoted == 0);
    CHECK(cache.erase_session(names[1], 9) == 1);
    CHECK(contents(cache) == "ab1 xy1");
}

} // namespace
