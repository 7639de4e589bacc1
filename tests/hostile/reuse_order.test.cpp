// SPDX-License-Identifier: MIT
// A client that repeats its own prompts, so that its state looks valuable: how much of the cache it gets,
// what that costs the others, and how they recover.
//
// The order serves those who come back, whoever they are. A client with as many prompts as fit, and half of
// all requests, gets nearly everything, where LRU gives it its share of the traffic. With a fifth of
// the requests it gets less than under LRU, and state that is repeated once and never again gets very little.

#include <promptkv/lru_prompt_cache.hpp>
#include <promptkv/reuse_order.hpp>

#include "../model/random.hpp"
#include "catch.hpp"
#include "unit_payloads.hpp"

#include <cstddef>
#include <cstdint>
#include <iostream>
#include <string_view>
#include <utility>
#include <vector>

namespace {

using namespace promptkv_test;
using promptkv::Tier;

/// State of one byte a token, that can be cut.
struct Plain {
    std::size_t tokens = 0;

    [[nodiscard]] std::size_t nbytes() const noexcept { return tokens; }
    [[nodiscard]] static std::size_t reusable_prefix(std::size_t n) noexcept { return n; }
    [[nodiscard]] static Plain clone_prefix(std::size_t n) noexcept { return {n}; }
    void truncate(std::size_t n) noexcept { tokens = n; }
};

constexpr std::int32_t hostile_token = -1; // its keys begin with it
constexpr std::size_t budget = 8'000;

/// Who attacks how.
struct Attack {
    std::string_view name;
    std::size_t every;   // so many requests of the others: a burst; 0: never
    std::size_t burst;   // requests at a time
    std::size_t prompts; // that it has, each of 400 tokens; 0: each is new, and repeated once
    double most_share;   // of the cache, under ReuseOrder
    double least_reuse;  // of the others' tokens, meanwhile
};

struct Result {
    double share = 0;       // of the cache, that the hostile client has on average
    double reuse = 0;       // of the others' tokens, during the attack
    double reuse_after = 0; // and later
};

/// 30 clients talk, each with a system prompt of its own; one in eight requests is a one-off. Their state
/// needs more than the budget.
template <class Cache>
Result run(const Attack& attack) {
    Cache cache({.max_bytes = budget});
    Random random(1);
    std::int32_t next = 1'000'000;
    const auto request = [&](const Key& prompt, std::size_t answer) {
        const auto hit = cache.fetch_nearest("m", prompt);
        Key whole = prompt;
        while (whole.size() < prompt.size() + answer)
            whole.push_back(next++);
        cache.insert("m", whole, Plain{whole.size()}, Tier::user, {.request = hit.request()});
        return std::pair(whole, hit.reused());
    };
    constexpr std::size_t warm = 1'000, end_of_attack = 2'000, recovered = 2'500, rounds = 3'500;
    std::vector<Key> talks(30);
    std::size_t asked = 0, reused = 0, asked_after = 0, reused_after = 0, samples = 0;
    std::size_t sent = 0; // by the hostile client
    double share = 0;
    Key own;
    for (std::size_t i = 0; i < rounds; ++i) {
        const std::size_t client = random.below(random.one_in(2) ? 6 : talks.size());
        Key& talk = talks[client];
        if (talk.size() < 150 || talk.size() > 450)
            talk = counting(150, static_cast<std::int32_t>(1'000 * client));
        const bool is_one_off = random.one_in(8);
        Key prompt = is_one_off ? Key{} : talk;
        for (int j = 0; j < 30; ++j)
            prompt.push_back(next++);
        const auto answer = request(prompt, 20);
        if (!is_one_off)
            talk = answer.first;
        const bool is_measured = i >= warm && i < end_of_attack;
        (is_measured ? asked : asked_after) += is_measured || i >= recovered ? prompt.size() : 0;
        (is_measured ? reused : reused_after) += is_measured || i >= recovered ? answer.second : 0;

        const bool attacks = attack.every > 0 && i % attack.every == 0 && i < end_of_attack;
        for (std::size_t j = 0; attacks && j < attack.burst; ++j, ++sent) {
            if (attack.prompts > 0)
                own = counting(
                    400, static_cast<std::int32_t>(100'000 + 1'000 * (sent % attack.prompts)));
            else if (sent % 2 == 0)
                own = counting(400, next += 400);
            own.front() = hostile_token;
            request(own, 0);
        }
        if (is_measured && i % 10 == 0) {
            std::size_t hostile = 0;
            cache.for_each([&](const auto& entry) {
                hostile += entry.tokens.front() == hostile_token ? entry.nbytes : 0;
            });
            share += static_cast<double>(hostile) / static_cast<double>(budget);
            ++samples;
        }
    }
    CHECK(cache.check_invariants());
    return {share / static_cast<double>(samples),
            static_cast<double>(reused) / static_cast<double>(asked),
            static_cast<double>(reused_after) / static_cast<double>(asked_after)};
}

TEST_CASE(
    "What a client gets that repeats its own prompts, and that it lasts no longer than it does") {
    const std::vector<Attack> attacks{
        {"nobody attacks", 0, 0, 0, 0, 0.7},
        {"1 prompt of 400 tokens, half of the requests", 1, 1, 1, 0.06, 0.65},
        {"5 prompts in turn, half of the requests", 1, 1, 5, 0.26, 0.6},
        {"20 prompts in turn, a ninth of the requests", 8, 1, 20, 0.15, 0.7},
        {"20 prompts in turn, a fifth of the requests", 4, 1, 20, 0.3, 0.65},
        {"20 prompts in turn, a third of the requests", 2, 1, 20, 0.65, 0.45},
        {"20 prompts in turn, half of the requests", 1, 1, 20, 1, 0},
        {"20 prompts in turn, four fifths of the requests", 1, 4, 20, 1, 0},
        {"new prompts, each repeated at once, two thirds of the requests", 1, 2, 0, 0.1, 0.6}};
    for (const Attack& attack : attacks) {
        CAPTURE(attack.name);
        const Result lru = run<promptkv::LRUPromptCache<Plain>>(attack);
        const Result learning = run<promptkv::PromptCache<Plain>>(attack);
        std::cout << "hostile: " << attack.name << ": ReuseOrder " << learning.share << ' '
                  << learning.reuse << ' ' << learning.reuse_after << ", LRU " << lru.share << ' '
                  << lru.reuse << ' ' << lru.reuse_after << '\n';
        CHECK(learning.share <= attack.most_share);
        CHECK(learning.reuse >= attack.least_reuse);
        CHECK(learning.reuse_after >= 0.95 * lru.reuse_after);
    }
}

} // namespace
