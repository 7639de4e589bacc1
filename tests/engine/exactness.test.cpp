// SPDX-License-Identifier: MIT
// The engine answers with the cache as it does without: equal logits to the bit, equal greedy text.
#include "fixture.hpp"

#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

using namespace engine_tests;
using promptkv::Match;
using promptkv::Outcome;
using promptkv::Tier;

TEST_CASE("Exact, shorter and longer matches answer as an engine without a cache") {
    for (const Setting& setting : attention_settings()) {
        INFO(setting.name);
        CachedEngine<AttentionKV> served(setting);
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
        CHECK(again.outcome == Outcome::present);
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

TEST_CASE("A recurrent state serves its whole key, and answers as an engine without a cache") {
    for (const Setting& setting : recurrent_settings()) {
        INFO(setting.name);
        CachedEngine<RecurrentKV> served(setting);
        const std::size_t batch = served.engine.batch_tokens();
        const Tokens prompt = prompt_of(3 * batch + 5, 1);
        const Tokens grown = branch(prompt, prompt.size(), 2 * batch, 2);
        const Tokens branched = branch(prompt, 2 * batch + 1, batch, 3);

        const auto first = served.answer(prompt);
        CHECK(first.match == Match::none);
        CHECK(first.outcome == Outcome::stored);
        CHECK(first.answer == answer_from_nothing(setting, prompt));

        const auto again = served.answer(prompt);
        CHECK(again.match == Match::shorter); // the key is whole batches
        CHECK(again.reused == 3 * batch);
        CHECK(again.answer == first.answer);

        const auto next = served.answer(grown);
        CHECK(next.reused == 3 * batch);
        CHECK(next.answer == answer_from_nothing(setting, grown));
        CHECK(served.cache.size() == 2); // the longer state does not serve the shorter key
        CHECK(served.answer(prompt).answer == first.answer);

        const auto leaves = served.answer(branched);
        CHECK(leaves.match == Match::none);
        CHECK(leaves.answer == answer_from_nothing(setting, branched));
        CHECK(served.cache.check_invariants());
    }
}

TEST_CASE("A payload that an eviction cut answers as an engine without a cache") {
    for (const Setting& setting : attention_settings()) {
        INFO(setting.name);
        const std::size_t batch = setting.options.batch_tokens;
        const std::size_t budget = bytes_of<AttentionKV>(setting, 10 * batch);
        CachedEngine<AttentionKV> served(setting, {.max_bytes = budget});
        const Tokens first = prompt_of(8 * batch + 1, 1);
        const Tokens second = prompt_of(5 * batch + 1, 2);

        served.answer(first);
        served.answer(second);
        CHECK(served.cache.stats().cut == 1);
        CHECK(served.cache.nbytes() <= budget);

        const auto cut = served.answer(first);
        CHECK(cut.match == Match::shorter);
        CHECK(cut.reused == 5 * batch);
        CHECK(cut.answer == answer_from_nothing(setting, first));
        CHECK(served.answer(second).answer == answer_from_nothing(setting, second));
        CHECK(served.cache.check_invariants());
    }
}

TEST_CASE("A prompt larger than the budget is kept in part, and answers exactly") {
    const Setting setting = attention_settings().back();
    const std::size_t batch = setting.options.batch_tokens;
    CachedEngine<AttentionKV> served(setting,
                                     {.max_bytes = bytes_of<AttentionKV>(setting, 4 * batch)});
    const Tokens prompt = prompt_of(8 * batch + 1, 1);
    CHECK(served.answer(prompt).outcome == Outcome::stored);
    const auto again = served.answer(prompt);
    CHECK(again.reused == 2 * batch); // half of the budget
    CHECK(again.answer == answer_from_nothing(setting, prompt));
}

TEMPLATE_TEST_CASE("An entry that was evicted and came back answers as an engine without a cache",
                   "", AttentionKV, RecurrentKV) {
    for (const Setting& setting : settings_of<TestType>()) {
        INFO(setting.name);
        const std::size_t batch = setting.options.batch_tokens;
        CachedEngine<TestType> served(setting, {.max_entries = 1});
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

TEMPLATE_TEST_CASE("Two interleaved conversations answer as engines of their own", "", AttentionKV,
                   RecurrentKV) {
    for (const Setting& setting : settings_of<TestType>()) {
        INFO(setting.name);
        CachedEngine<TestType> served(setting);
        const std::size_t batch = served.engine.batch_tokens();
        const Tokens system = prompt_of(2 * batch, 1);
        std::vector<Tokens> chats = {branch(system, system.size(), 10, 2),
                                     branch(system, system.size(), 20, 3)};
        for (std::uint32_t turn = 0; turn < 3; ++turn) {
            for (std::size_t user = 0; user < chats.size(); ++user) {
                INFO("user " << user << ", turn " << turn);
                Tokens& chat = chats[user];
                const std::size_t length = chat.size();
                const auto result = served.answer(chat);
                CHECK(result.answer == answer_from_nothing(setting, chat));
                CHECK((turn == 0 || result.reused >= system.size()));
                CHECK(result.reused < length);
                chat.insert(chat.end(), result.answer.tokens.begin(), result.answer.tokens.end());
                const Tokens more = prompt_of(batch + 3, 10 + turn);
                chat.insert(chat.end(), more.begin(), more.end());
            }
        }
    }
}

TEMPLATE_TEST_CASE("Conversations share the blocks of what both begin with", "", AttentionKV,
                   RecurrentKV) {
    for (const Setting& setting : settings_of<TestType>()) {
        INFO(setting.name);
        CachedEngine<TestType> served(setting);
        const std::size_t batch = served.engine.batch_tokens();
        const Tokens system = prompt_of(2 * batch, 1);
        const Tokens one = branch(system, system.size(), 2 * batch + 1, 2);
        const Tokens two = branch(system, system.size(), 2 * batch + 1, 3);
        served.answer(one);
        const std::size_t bytes = served.cache.nbytes();
        served.answer(two); // a RecurrentKV computes the system prompt again, and shares its blocks
        const std::size_t of_two = served.cache.stats().bytes_referenced - bytes;
        CHECK(of_two == bytes);

        const auto first = served.cache.fetch_nearest(served.engine.model_key(), one);
        const auto second = served.cache.fetch_nearest(served.engine.model_key(), two);
        REQUIRE(first.kv.has_value());
        REQUIRE(second.kv.has_value());
        REQUIRE(first.kv->blocks().size() == 4);
        REQUIRE(second.kv->blocks().size() == 4);
        std::size_t shared = 0;
        for (std::size_t i = 0; i < 2; ++i) {
            CHECK(first.kv->blocks()[i] == second.kv->blocks()[i]);
            shared += first.kv->blocks()[i].nbytes();
        }
        CHECK(first.kv->blocks()[2] != second.kv->blocks()[2]);
        CHECK(served.cache.nbytes() == 2 * bytes - shared);

        CHECK(served.answer(one).answer == answer_from_nothing(setting, one));
        CHECK(served.cache.erase(served.engine.model_key(), branch(one, 4 * batch, 0, 0)));
        const auto left = served.answer(two);
        CHECK(left.reused == 4 * batch);
        CHECK(left.answer == answer_from_nothing(setting, two));
        CHECK(served.cache.check_invariants());
    }
}

TEST_CASE("A system prompt below a conversation takes no bytes, and serves all conversations") {
    for (const Setting& setting : attention_settings()) {
        INFO(setting.name);
        CachedEngine<AttentionKV> served(setting);
        const std::size_t batch = served.engine.batch_tokens();
        const Tokens system = prompt_of(2 * batch, 1);
        const Tokens chat = branch(system, system.size(), 2 * batch, 2);
        served.answer(chat);
        const std::size_t bytes = served.cache.nbytes();
        CHECK(keep(served.cache, served.engine.model_key(), system, served.sequence, Tier::system)
                  .outcome == Outcome::stored);
        CHECK(served.cache.nbytes() == bytes);
        CHECK(served.cache.erase(served.engine.model_key(), chat));

        const Tokens other = branch(system, system.size(), batch, 3);
        const auto result = served.answer(other);
        CHECK(result.reused == system.size());
        CHECK(result.answer == answer_from_nothing(setting, other));
    }
}

TEMPLATE_TEST_CASE("State that is committed after other requests answers exactly", "", AttentionKV,
                   RecurrentKV) {
    const Setting setting = settings_of<TestType>().back();
    CachedEngine<TestType> served(setting);
    const std::size_t batch = served.engine.batch_tokens();
    const Tokens prompt = prompt_of(3 * batch + 1, 1);
    const Tokens other = branch(prompt, 2 * batch, 2 * batch, 2);
    const Tokens key(prompt.begin(), prompt.end() - 1);
    served.engine.prefill(key, 0);
    auto room = served.cache.reserve(served.engine.model_key(), key,
                                     served.sequence.nbytes(key.size()), Tier::user);
    REQUIRE(room);
    TestType kv(batch);
    served.sequence.save(kv, room.tokens());

    CHECK(served.answer(other).reused == 0); // not visible yet
    CHECK(room.commit(std::move(kv)).outcome == Outcome::stored);
    const auto result = served.answer(prompt);
    CHECK(result.reused == key.size());
    CHECK(result.answer == answer_from_nothing(setting, prompt));
    CHECK(served.answer(other).answer == answer_from_nothing(setting, other));
    CHECK(served.cache.check_invariants());
}

TEMPLATE_TEST_CASE("A lease outlives its entry and still restores exactly", "", AttentionKV,
                   RecurrentKV) {
    const Setting setting = settings_of<TestType>().back();
    CachedEngine<TestType> served(setting);
    const std::size_t batch = served.engine.batch_tokens();
    const Tokens prompt = prompt_of(3 * batch + 1, 1);
    served.answer(prompt);
    const auto lease =
        served.cache.lease_nearest(served.engine.model_key(), prompt, {.align = batch});
    served.cache.clear();
    CHECK(served.cache.size() == 0);
    REQUIRE(lease.reused() == 3 * batch);
    served.sequence.restore(lease.kv(), lease.reused());
    CHECK(finish(served.engine, prompt, lease.reused()) == answer_from_nothing(setting, prompt));
}

TEST_CASE("Weights of the same shape never share state") {
    const TemporaryModel other(small_llama, 2);
    CachedEngine<AttentionKV> first({"one", small_model("aaa"), {}});
    const Engine second(other.path(), Engine::Options{});
    const Tokens prompt = prompt_of(100, 1);
    first.answer(prompt);
    CHECK(first.reusable(prompt) > 0);
    CHECK(first.cache.probe(second.model_key(), prompt).reused() == 0);
}
