// SPDX-License-Identifier: MIT
// The engine answers the same with the cache as without it: logits to the bit, and greedy text.
#include "fixture.hpp"

#include "catch.hpp"

#include <cstddef>
#include <vector>

using namespace engine_tests;
using promptkv::Match;
using promptkv::Outcome;
using promptkv::Tier;

namespace {

/// The bytes that a prompt of `tokens` tokens takes.
std::size_t bytes_of(const Setting& setting, std::size_t tokens) {
    CachedEngine served(setting, {});
    served.answer(prompt_of(tokens, 99));
    return served.cache.nbytes();
}

} // namespace

TEST_CASE("Exact, shorter and longer matches answer as an engine without a cache") {
    for (const Setting& setting : attention_settings()) {
        INFO(setting.name);
        CachedEngine served(setting, {});
        const std::size_t batch = served.engine.batch_tokens();
        const Tokens prompt = prompt_of(4 * batch, 1);
        const Tokens grown = branch(prompt, prompt.size(), batch + 5, 2);
        const Tokens branched = branch(prompt, 2 * batch + 3, batch, 3);

        const auto first = served.answer(prompt);
        CHECK(first.match == Match::none);
        CHECK(first.outcome == Outcome::stored);
        CHECK(first.answer == answer_from_nothing(setting, prompt));

        const auto again = served.answer(prompt); // all but a batch: a token has to be computed
        CHECK(again.match == Match::exact);
        CHECK(again.reused == 3 * batch);
        CHECK(again.answer == first.answer);

        const auto longer = served.answer(branched);
        CHECK(longer.match == Match::longer);
        CHECK(longer.reused == 2 * batch);
        CHECK(longer.answer == answer_from_nothing(setting, branched));

        const auto shorter = served.answer(grown);
        CHECK(shorter.match == Match::shorter);
        CHECK(shorter.reused == 4 * batch);
        CHECK(shorter.answer == answer_from_nothing(setting, grown));
        CHECK(served.cache.check_invariants());
    }
}

TEST_CASE("A payload that an eviction cut answers as an engine without a cache") {
    for (const Setting& setting : attention_settings()) {
        INFO(setting.name);
        const std::size_t batch = setting.options.batch_tokens;
        const std::size_t budget = bytes_of(setting, 10 * batch);
        CachedEngine served(setting, {.max_bytes = budget, .cut_granularity = batch});
        const Tokens first = prompt_of(8 * batch + 1, 1);
        const Tokens second = prompt_of(5 * batch + 1, 2);

        served.answer(first);
        served.answer(second);
        CHECK(served.cache.stats().cut >= 1);
        CHECK(served.cache.nbytes() <= budget);

        const auto cut = served.answer(first);
        CHECK(cut.match == Match::shorter);
        CHECK(cut.reused > 0);
        CHECK(cut.reused < 8 * batch);
        CHECK(cut.answer == answer_from_nothing(setting, first));
        CHECK(served.answer(second).answer == answer_from_nothing(setting, second));
        CHECK(served.cache.check_invariants());
    }
}

TEST_CASE("An entry that was evicted and came back answers as an engine without a cache") {
    for (const Setting& setting : attention_settings()) {
        INFO(setting.name);
        const std::size_t batch = setting.options.batch_tokens;
        CachedEngine served(setting,
                            {.max_bytes = bytes_of(setting, 6 * batch), .cut_granularity = 0});
        const Tokens first = prompt_of(5 * batch + 2, 1);
        const Tokens second = prompt_of(5 * batch + 2, 2);
        const Answer expected = answer_from_nothing(setting, first);

        served.answer(first);
        served.answer(second);
        CHECK(served.cache.stats().evicted == 1);
        const auto evicted = served.answer(first);
        CHECK(evicted.match == Match::none);
        CHECK(evicted.answer == expected);
        const auto refilled = served.answer(first);
        CHECK(refilled.match == Match::shorter);
        CHECK(refilled.reused == 5 * batch);
        CHECK(refilled.answer == expected);
    }
}

TEST_CASE("Two interleaved conversations answer as engines of their own") {
    for (const Setting& setting : attention_settings()) {
        INFO(setting.name);
        CachedEngine served(setting, {});
        const std::size_t batch = served.engine.batch_tokens();
        const Tokens system = prompt_of(2 * batch, 1);
        std::vector<Tokens> chats = {branch(system, system.size(), 10, 2),
                                     branch(system, system.size(), 20, 3)};
        for (std::uint32_t turn = 0; turn < 4; ++turn) {
            for (std::size_t user = 0; user < chats.size(); ++user) {
                INFO("user " << user << ", turn " << turn);
                Tokens& chat = chats[user];
                const auto result = served.answer(chat);
                CHECK(result.reused >= (turn + user == 0 ? 0 : system.size()));
                CHECK(result.answer == answer_from_nothing(setting, chat));
                chat.insert(chat.end(), result.answer.tokens.begin(), result.answer.tokens.end());
                const Tokens more = prompt_of(batch + 3, 10 + turn);
                chat.insert(chat.end(), more.begin(), more.end());
            }
        }
        CHECK(served.cache.stats().tokens_reused > 0);
    }
}

TEST_CASE("A system prompt that is stored again takes no copy and still answers exactly") {
    for (const Setting& setting : attention_settings()) {
        INFO(setting.name);
        CachedEngine served(setting, {.cut_granularity = setting.options.batch_tokens});
        const std::size_t batch = served.engine.batch_tokens();
        const Tokens system = prompt_of(2 * batch, 1);
        const Tokens chat = branch(system, system.size(), 2 * batch, 2);
        served.answer(chat);
        const std::size_t bytes = served.cache.nbytes();
        CHECK(served.keep(system, Tier::system) == Outcome::anchored);
        CHECK(served.cache.nbytes() == bytes);

        const Tokens other = branch(system, system.size(), batch, 3);
        const auto result = served.answer(other);
        CHECK(result.reused == system.size());
        CHECK(result.answer == answer_from_nothing(setting, other));
    }
}

TEST_CASE("A lease outlives its entry and still restores exactly") {
    const Setting setting = attention_settings().front();
    CachedEngine served(setting, {});
    const std::size_t batch = served.engine.batch_tokens();
    const Tokens prompt = prompt_of(3 * batch + 1, 1);
    served.answer(prompt);
    const auto lease =
        served.cache.lease_nearest(served.engine.model_key(), prompt, {.align = batch});
    served.cache.clear();
    CHECK(served.cache.size() == 0);
    served.port.restore(lease.kv(), lease.reused);
    CHECK(finish(served.engine, prompt, lease.reused) == answer_from_nothing(setting, prompt));
}

TEST_CASE("Weights of the same shape never share state") {
    const random_model::Llama shape{
        .layers = 2, .width = 64, .feed_forward = 128, .heads = 2, .kv_heads = 2};
    const RandomModel one(shape, 1);
    const RandomModel two(shape, 2);
    CachedEngine first({"one", one.path(), {}}, {});
    Engine second(two.path(), Engine::Options{});
    const Tokens prompt = prompt_of(100, 1);
    first.answer(prompt);
    CHECK(first.cache.probe(first.engine.model_key(), prompt).reused > 0);
    CHECK(first.cache.probe(second.model_key(), prompt).reused == 0);
}
