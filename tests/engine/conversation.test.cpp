// SPDX-License-Identifier: MIT
// Chats of examples/llama_chat/conversation.hpp as tokens.
#include "conversation.hpp"
#include "fixture.hpp"

#include <algorithm>
#include <cstddef>

using namespace engine_tests;

TEST_CASE("A chat's next prompt begins with the one before and its answer") {
    for (const Setting& setting : attention_settings()) {
        INFO(setting.name);
        const Engine engine(setting.model_file, setting.options);
        Conversation chat("You are a bear.");
        chat.say("Who are you?");
        Tokens expected = chat.prompt(engine);
        const std::size_t system = chat.system_tokens(engine, expected);
        CHECK(system > 0);
        CHECK(system < expected.size());

        const Tokens answer = prompt_of(7, 1); // no text that a tokenizer would make these of
        chat.answer(answer);
        expected.insert(expected.end(), answer.begin(), answer.end());
        chat.say("And then?");
        const Tokens next = chat.prompt(engine);
        REQUIRE(next.size() > expected.size());
        CHECK(std::equal(expected.begin(), expected.end(), next.begin()));
        CHECK(chat.system_tokens(engine, next) == system);
    }
}

TEST_CASE("An edited turn drops what followed it, a retracted answer itself alone") {
    const Setting setting = attention_settings().front();
    const Engine engine(setting.model_file, setting.options);
    Conversation chat("You are a bear.");
    chat.say("Who are you?");
    const Tokens first = chat.prompt(engine);
    chat.answer(prompt_of(7, 1));
    chat.retract();
    CHECK(chat.prompt(engine) == first);

    chat.answer(prompt_of(7, 1));
    chat.say("And then?");
    chat.answer(prompt_of(7, 2));
    chat.edit(0, "Who are you?");
    CHECK(chat.prompt(engine) == first);
}
