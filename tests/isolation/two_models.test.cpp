// SPDX-License-Identifier: MIT
// Two models in one cache: neither sees anything of the other, and with room for both each is served
// as if it were alone.

#include <promptkv/promptkv.hpp>

#include "../model/random.hpp"
#include "catch.hpp"
#include "letters.hpp"

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <utility>
#include <vector>

namespace {

using namespace promptkv_test;
using promptkv::LRUPromptCache;
using promptkv::Tier;

/// One name is the beginning of the other.
const std::array<std::string, 2> names = {"model", "model:adapter"};

/// A call for one of two models, to be made on any cache.
struct Call {
    std::size_t kind;
    std::size_t model; // of `names`
    Tokens key;
    Tier tier;
    Shape shape;
    promptkv::FetchOptions options;
};

Call random_call(Random& random, std::size_t longest) {
    Call call{random.below(16), random.below(2), {}, {}, {}, {}};
    call.key.resize(random.below(longest + 1));
    for (std::int32_t& token : call.key) {
        token = 'a' + static_cast<std::int32_t>(random.below(2));
    }
    call.tier = random.pick({Tier::assistant, Tier::user, Tier::system});
    call.shape = {random.pick({std::size_t{0}, std::size_t{1}, std::size_t{1}, std::size_t{2}}),
                  1 + random.below(3), random.below(4)};
    call.options = {random.below(2), random.below(3), 1 + random.below(2)};
    return call;
}

/// What a lookup answered, with whose state it is.
template <class Answer>
std::string written(const Answer& answer) {
    return std::to_string(answer.reused) + " " + std::to_string(static_cast<int>(answer.match)) +
           " " + std::to_string(static_cast<int>(answer.tier));
}

/// Makes the call. Returns all that the caller gets to see.
template <class KV>
std::string answer_to(LRUPromptCache<KV>& cache, const Call& call) {
    const std::string& model = names[call.model];
    const Tokens& key = call.key;
    const auto make = [&] { return KV(Recording{0, model, key, call.shape}); };
    const auto served = [&](const auto& hit, const KV* kv) {
        std::string answer = written(hit) + " " + std::to_string(hit.remaining.size());
        if (kv == nullptr) {
            return answer;
        }
        const Recording& of = kv->recording();
        const std::size_t shared = static_cast<std::size_t>(
            std::mismatch(of.tokens.begin(), of.tokens.end(), key.begin(), key.end()).first -
            of.tokens.begin());
        if (of.model != model || shared < hit.reused) {
            return "state of " + of.model + " for " + model;
        }
        return answer + " " + text(of.tokens);
    };
    const auto inserted = [](const promptkv::Inserted& what) {
        return std::to_string(static_cast<int>(what.outcome)) + " " + std::to_string(what.absorbed);
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
        return written(cache.probe(model, key, call.options));
    case 7:
    case 8:
        return inserted(cache.insert(model, key, make().nbytes(), call.tier, make));
    case 9:
    case 10:
    case 11:
        if constexpr ((KV::offered & (can_clone | can_copy)) != 0U) {
            const auto hit = cache.fetch_nearest(model, key, call.options);
            return served(hit, hit ? &*hit.kv : nullptr);
        }
        return "";
    case 12:
        return call.key.size() == 1 ? std::to_string(cache.erase_model(model)) : "";
    default:
        return inserted(cache.insert(model, key, make(), call.tier));
    }
}

/// All that a cache holds of a model.
template <class KV>
std::vector<std::string> held_of(const LRUPromptCache<KV>& cache, const std::string& model) {
    std::vector<std::string> held;
    cache.for_each([&](const auto& entry) {
        if (entry.model == model) {
            held.push_back(text(entry.tokens) + std::to_string(static_cast<int>(entry.tier)) + " " +
                           std::to_string(entry.nbytes) + " " + entry.kv.recording().model + " " +
                           text(entry.kv.recording().tokens));
        }
    });
    std::sort(held.begin(), held.end());
    return held;
}

TEMPLATE_TEST_CASE("With room for both, each of two models is served as if it were alone", "", Tape,
                   ClonedTape, CopiedTape, MoveOnlyTape, WholeTape) {
    using Cache = LRUPromptCache<TestType>;
    std::size_t hits = 0;
    for (std::uint64_t seed = 1; seed <= 150; ++seed) {
        CAPTURE(seed);
        Random random(seed);
        const promptkv::CacheOptions options = {.refresh_on_fetch = random.below(4) != 0,
                                                .keep_anchors = random.below(4) != 0,
                                                .supersede = random.below(4) != 0,
                                                .cut_granularity = random.below(3)};
        Cache together(options);
        std::array<Cache, 2> apart = {Cache(options), Cache(options)};
        std::array<std::string, 2> removed;
        const auto log = [](std::string& line) {
            return [&line](const auto& removal) {
                line += text(removal.tokens) + std::to_string(static_cast<int>(removal.reason)) +
                        " " + std::to_string(removal.bytes) + " ";
            };
        };
        std::array<std::string, 2> removed_apart;
        apart[0].on_removal(log(removed_apart[0]));
        apart[1].on_removal(log(removed_apart[1]));
        together.on_removal(
            [&](const auto& removal) { log(removed[removal.model == names[0] ? 0 : 1])(removal); });
        // Keys of up to 5 letters of two: fewer than the anchors that one entry entitles to.
        for (int i = 0; i < 200; ++i) {
            const Call call = random_call(random, 5);
            const std::string answer = answer_to(together, call);
            if (answer != answer_to(apart[call.model], call)) {
                FAIL("call " << i << " of kind " << call.kind << ": " << answer);
            }
            hits += call.kind < 2 && answer[0] != '0' ? 1U : 0U;
            for (std::size_t m = 0; m < 2; ++m) {
                if (held_of(together, names[m]) != held_of(apart[m], names[m]) ||
                    together.nbytes(names[m]) != apart[m].nbytes() ||
                    removed[m] != removed_apart[m]) {
                    FAIL("call " << i << " for " << names[call.model] << " changed " << names[m]);
                }
            }
        }
        REQUIRE(together.check_invariants());
        REQUIRE(together.nbytes() == apart[0].nbytes() + apart[1].nbytes());
    }
    REQUIRE(hits > 100);
}

TEMPLATE_TEST_CASE("Under a budget that both share, each model is served its own state alone", "",
                   Tape, ClonedTape, CopiedTape, MoveOnlyTape, WholeTape) {
    for (std::uint64_t seed = 1; seed <= 100; ++seed) {
        CAPTURE(seed);
        Random random(seed);
        LRUPromptCache<TestType> cache({.max_bytes = 20 + random.below(60),
                                        .max_entries = 2 + random.below(10),
                                        .cut_granularity = random.below(4)});
        const auto pressed = [&cache] { return cache.stats().evicted + cache.stats().cut; };
        std::string wrong;
        cache.on_removal([&](const auto& removal) {
            if (removal.payload != nullptr && removal.payload->recording().model != removal.model) {
                wrong = "told of " + removal.model;
            }
        });
        for (int i = 0; i < 300; ++i) {
            const Call call = random_call(random, 12);
            const std::uint64_t pressed_before = pressed();
            const std::vector<std::string> before = held_of(cache, names[1 - call.model]);
            const std::string answer = answer_to(cache, call);
            if (answer.starts_with("state of")) {
                FAIL(answer);
            }
            const std::vector<std::string> after = held_of(cache, names[1 - call.model]);
            if (pressed() == pressed_before && before != after) { // not for want of room
                FAIL("call " << i << " changed what the other model has");
            }
            for (const std::string& entry : after) {
                if (entry.find(" " + names[1 - call.model] + " ") == std::string::npos) {
                    FAIL("state of another model: " << entry);
                }
            }
        }
        REQUIRE(wrong == "");
        REQUIRE(cache.check_invariants());
        REQUIRE(pressed() > 0);
    }
}

} // namespace
