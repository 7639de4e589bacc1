// SPDX-License-Identifier: MIT
// index_nbytes() against what operator new gave out, for keys, models and prompts chosen against it.
#include "counted_assert.hpp"

#include <promptkv/promptkv.hpp>

#include "../model/random.hpp"
#include "catch.hpp"
#include "counting_new.hpp"
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
using promptkv::Tier;

struct Prompt {
    std::string model;
    Tokens tokens;
};

struct Attack {
    const char* what;
    std::vector<Prompt> (*prompts)(std::size_t n, Random& random);
};

Tokens random_tokens(Random& random, std::size_t n, std::size_t of) {
    Tokens tokens(n);
    for (std::int32_t& token : tokens)
        token = static_cast<std::int32_t>(random.below(of));
    return tokens;
}

const Attack attacks[] = {
    {"prompts that share nothing",
     [](std::size_t n, Random& random) {
         std::vector<Prompt> prompts;
         for (std::size_t i = 0; i < n / 4; ++i)
             prompts.push_back({"m", random_tokens(random, 200, 150'000)});
         return prompts;
     }},
    {"one token each",
     [](std::size_t n, Random&) {
         std::vector<Prompt> prompts;
         for (std::size_t i = 0; i < n; ++i)
             prompts.push_back({"m", {static_cast<std::int32_t>(i)}});
         return prompts;
     }},
    {"tokens of two values",
     [](std::size_t n, Random& random) {
         std::vector<Prompt> prompts;
         for (std::size_t i = 0; i < n; ++i)
             prompts.push_back({"m", random_tokens(random, 30, 2)});
         return prompts;
     }},
    {"a comb",
     [](std::size_t n, Random&) {
         std::vector<Prompt> prompts;
         for (std::size_t i = std::min(n, std::size_t{3'000}); i > 0; --i) {
             prompts.push_back({"m", Tokens(i + 1, 7)});
             prompts.back().tokens.back() = -static_cast<std::int32_t>(i);
         }
         return prompts;
     }},
    {"nested prefixes",
     [](std::size_t n, Random&) {
         std::vector<Prompt> prompts;
         for (std::size_t i = std::min(n, std::size_t{3'000}); i > 0; --i)
             prompts.push_back({"m", Tokens(i, 7)});
         return prompts;
     }},
    {"one model an entry",
     [](std::size_t n, Random&) {
         std::vector<Prompt> prompts;
         for (std::size_t i = 0; i < n; ++i)
             prompts.push_back(
                 {"a tenant with a name that is allocated: " + std::to_string(i), {1}});
         return prompts;
     }},
    {"branches off one long prompt",
     [](std::size_t n, Random& random) {
         std::vector<Prompt> prompts;
         const Tokens shared = random_tokens(random, 5'000, 150'000);
         for (std::size_t i = 0; i < n / 20; ++i) {
             Tokens tokens(shared.begin(),
                           shared.begin() + static_cast<std::ptrdiff_t>(random.below(5'000)));
             tokens.push_back(-static_cast<std::int32_t>(i));
             prompts.push_back({"m", std::move(tokens)});
         }
         return prompts;
     }},
};

/// What index_nbytes() says, and what operator new gave out for it. To be taken where nothing else is
/// allocated, and checked later.
struct Measured {
    const char* when = "";
    std::size_t told = 0;
    std::size_t given_out = 0;
};

/// What an empty cache takes, before anything is stored: a policy may bring tables of its own.
struct Empty {
    std::size_t told = 0;
    std::size_t live = 0;
};

template <class Cache>
Empty measured_empty(const Cache& cache) {
    return {cache.index_nbytes(), live_bytes};
}

template <class Cache>
Measured measured(const char* when, const Cache& cache, Empty before) {
    return {when, cache.index_nbytes() - before.told, live_bytes - before.live};
}

/// Within 5 %.
void check(const Measured& measured) {
    INFO(measured.when << ": told " << measured.told << ", given out " << measured.given_out);
    const std::size_t apart = measured.told > measured.given_out
                                  ? measured.told - measured.given_out
                                  : measured.given_out - measured.told;
    CHECK(apart * 20 <= measured.given_out);
}

template <class Payload, template <class...> class Of>
struct Kind {
    using KV = Payload;
    using Cache = Of<Payload>;
};
template <class KV>
using Plain = promptkv::LRUPromptCache<KV>;
template <class KV>
using Learning = promptkv::PromptCache<KV>;

TEMPLATE_TEST_CASE("index_nbytes says what operator new gave out within 5 %, also after all left",
                   "", (Kind<Whole, Plain>), (Kind<Cuttable, Plain>), (Kind<Cuttable, Learning>)) {
    using Cache = typename TestType::Cache;
    Random random(5);
    for (const Attack& attack : attacks) {
        const std::vector<Prompt> prompts = attack.prompts(4'000, random);
        for (const std::size_t remembered : {std::size_t{0}, std::size_t{100'000}}) {
            std::array<Measured, 4> at;
            const std::size_t start = live_bytes;
            {
                Cache cache({.remembered_tokens = remembered});
                const Empty before = measured_empty(cache);
                for (std::size_t i = 0; i < prompts.size(); ++i)
                    cache.insert(prompts[i].model, prompts[i].tokens,
                                 typename TestType::KV{prompts[i].tokens.size()}, Tier::user,
                                 {.session = 1 + i % 50});
                at[0] = measured("full", cache, before);
                cache.trim_to({.max_entries = cache.size() / 2});
                at[1] = measured("half of it left", cache, before);
                cache.trim_to({.max_entries = 0}); // keys may be remembered
                at[2] = measured("all was evicted", cache, before);
                cache.clear();
                at[3] = measured("all was cleared", cache, before);
            }
            const std::size_t lost = live_bytes - start;
            INFO(attack.what << ", " << remembered << " tokens remembered");
            CHECK(lost == 0);
            for (const Measured& each : at)
                check(each);
            CHECK(at[1].given_out < at[0].given_out);
            // Candidates for eviction are 24 bytes each, in a table that does not shrink.
            constexpr bool keeps_table = std::is_same_v<Cache, Learning<typename TestType::KV>>;
            constexpr std::size_t part = keeps_table ? 4 : 20;
            CHECK(at[3].given_out * part <= at[0].given_out);
            if (remembered == 0)
                CHECK(at[2].given_out * part <= at[0].given_out);
        }
    }
}

TEST_CASE("index_nbytes counts leases and reservations") {
    using Cache = promptkv::LRUPromptCache<Whole>;
    std::vector<Cache::Lease> leases;
    std::vector<Cache::Reservation> rooms;
    leases.reserve(1'000);
    rooms.reserve(1'000);
    Measured held;
    Measured after;
    {
        Cache cache;
        const Empty before = measured_empty(cache);
        for (std::int32_t i = 0; i < 1'000; ++i) {
            const Tokens tokens(20, i);
            cache.insert("m", tokens, Whole{20}, Tier::user);
            leases.push_back(cache.lease_nearest("m", tokens, {.min_remaining = 0}));
            const Tokens other(20, -1 - i);
            rooms.push_back(cache.reserve("m", other, 20, Tier::user));
        }
        held = measured("leased and reserved", cache, before);
        leases.clear();
        rooms.clear();
        cache.erase_model("m");
        after = measured("erased", cache, before);
    }
    check(held);
    CHECK(after.given_out * 20 <= held.given_out);
}

TEST_CASE("Keys that no longer have state take no room") {
    using TestType = promptkv::LRUPromptCache<Cuttable>;
    // 20,000 prompts pass through a cache of 10 entries: the index follows what it stores.
    Random random(6);
    TestType cache({.max_entries = 10});
    std::size_t most = 0;
    for (int i = 0; i < 20'000; ++i) {
        const Tokens tokens =
            random_tokens(random, 1 + random.below(200), i % 3 == 0 ? 2 : 150'000);
        cache.insert("tenant " + std::to_string(i % 50), tokens, Cuttable{tokens.size()},
                     Tier::user);
        most = std::max(most, cache.index_nbytes());
    }
    // 10 entries of at most 200 tokens, 2,000 tokens remembered, which may be 2,000 keys.
    CHECK(most < (10 * 200 + 2'000) * 4 + 2'010 * 600);
    CHECK(cache.check_invariants());
}

TEST_CASE("Remembered keys take no more room than what is stored and remembered allows") {
    // 20,000 prompts, chosen to be remembered at the highest price, pass through a cache of 50 entries.
    using Cache = promptkv::PromptCache<Cuttable>;
    Random random(7);
    for (const Attack& attack : attacks) {
        INFO(attack.what);
        const std::vector<Prompt> prompts = attack.prompts(4'000, random);
        Cache cache({.max_entries = 50});
        const std::size_t before = cache.index_nbytes();
        std::size_t peak = 0; // tokens that were resident
        std::size_t most = 0;
        for (const Prompt& prompt : prompts) {
            static_cast<void>(cache.lease_nearest(prompt.model, prompt.tokens));
            cache.insert(prompt.model, prompt.tokens, Cuttable{prompt.tokens.size()}, Tier::user);
            peak = std::max(peak, cache.nbytes());
            most = std::max(most, cache.index_nbytes() - before);
        }
        // Each remembered key has a token at least that no other key has.
        CHECK(most < 5 * peak * 5 + (50 + 4 * peak) * 700);
        CHECK(cache.check_invariants());
    }
}

TEST_CASE("As many tokens of evicted keys are remembered as the options say") {
    using Cache = promptkv::PromptCache<Cuttable>;
    Random random(8);
    Cache cache({.max_entries = 20, .remembered_tokens = 500});
    std::vector<Tokens> prompts;
    for (int i = 0; i < 2'000; ++i) {
        prompts.push_back(random_tokens(random, 20, 150'000));
        cache.insert("tenant " + std::to_string(i % 3), prompts.back(), Cuttable{20}, Tier::user);
    }
    cache.trim_to({.max_entries = 0});
    std::size_t known = 0;
    for (std::size_t i = 0; i < prompts.size(); ++i)
        known += cache.probe("tenant " + std::to_string(i % 3), prompts[i]).matched();
    CHECK(known > 400);
    CHECK(known < 600); // a first token may be shared by chance
    CHECK(cache.check_invariants());
}

} // namespace
