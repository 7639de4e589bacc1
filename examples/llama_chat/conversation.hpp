// SPDX-License-Identifier: MIT
// A chat as tokens, and the scripted workload of the example.
#ifndef PROMPTKV_EXAMPLES_LLAMA_CONVERSATION_HPP
#define PROMPTKV_EXAMPLES_LLAMA_CONVERSATION_HPP

#include "engine.hpp"
#include "llama_text.hpp"

#include <array>
#include <cstddef>
#include <string>
#include <utility>
#include <vector>

/// One user's chat. Answers stay the tokens that the model chose: their text is never tokenized
/// again, so that a prompt begins with the previous prompt and its answer.
class Conversation {
public:
    explicit Conversation(std::string system) : system_(std::move(system)) {}

    /// Adds a turn of the user's.
    void say(std::string text) { turns_.push_back({std::move(text), {}}); }

    /// Replaces turn number `turn` (from 0), and drops the turns after it.
    void edit(std::size_t turn, std::string text) {
        turns_.resize(turn);
        say(std::move(text));
    }

    /// Drops the last answer.
    void retract() { turns_.back().answer.clear(); }

    void answer(Tokens tokens) { turns_.back().answer = std::move(tokens); }

    /// The tokens of the whole chat, up to where the model answers.
    [[nodiscard]] Tokens prompt(const Engine& engine) const {
        const LlamaText& model = engine.text();
        Chat messages = {{"system", system_}};
        std::string text;
        Tokens tokens;
        for (const Turn& turn : turns_) {
            messages.push_back({"user", turn.text});
            const std::string full = model.render(messages, true);
            if (tokens.empty() || !full.starts_with(text)) { // a template that rewrites history
                tokens = model.tokenize(full, true);
            } else {
                const Tokens added = model.tokenize(full.substr(text.size()), false);
                tokens.insert(tokens.end(), added.begin(), added.end());
            }
            messages.push_back({"assistant", model.text(turn.answer)});
            text = full + messages.back().content;
            tokens.insert(tokens.end(), turn.answer.begin(), turn.answer.end());
        }
        return tokens;
    }

    /// How many tokens of `prompt` belong to the system prompt.
    [[nodiscard]] std::size_t system_tokens(const Engine& engine, const Tokens& prompt) const {
        return engine.text().tokens_of({{"system", system_}}, prompt);
    }

private:
    struct Turn {
        std::string text;
        Tokens answer;
    };

    std::string system_;
    std::vector<Turn> turns_;
};

/// One request of the workload.
struct Request {
    enum class Kind { say, edit, regenerate };

    std::size_t user;
    Kind kind = Kind::say;
    std::string text;
    std::size_t turn = 0; // the edited one
};

inline const char* kind_name(Request::Kind kind) {
    static constexpr std::array names = {"turn", "edited", "again"};
    return names[static_cast<std::size_t>(kind)];
}

/// Six users who tell a story together with the model, three on each of two system prompts.
struct Workload {
    static constexpr std::size_t answer_tokens = 32;

    std::vector<std::string> systems;
    std::vector<std::string> users;
    std::vector<Request> requests;

    [[nodiscard]] const std::string& system_of(std::size_t user) const {
        return systems[user % systems.size()];
    }
};

inline Workload story_workload() {
    using enum Request::Kind;
    Workload work;
    work.systems = {
        "Once upon a time there was a little girl named Lily. She lived in a small house near the "
        "park with her mom and her dad. Lily had a red ball, a big brown dog named Max and a best "
        "friend named Tom. Every day they played in the park. There was a tall tree, a blue pond "
        "with ducks and a bench where an old man liked to sit. Lily was kind and she liked to "
        "help. Her mom always said that it is good to share. We tell what Lily did, one small "
        "step at a time.",
        "Once upon a time there was a small bear named Ben. He lived in a warm cave in the big "
        "forest with his sister Sue. Ben was brave, but he did not like the dark. Near the cave "
        "there was a river with fish, a hill with sweet berries and a tree where a wise owl lived. "
        "Ben had a green hat and a yellow boat. The animals of the forest were his friends, and "
        "they all helped each other. We tell what Ben did, one small step at a time.",
    };
    work.users = {"ana", "bob", "cem", "dot", "eli", "fay"}; // even ones tell of Lily, odd of Ben
    const std::vector<std::vector<std::string>> lines = {
        {"One day, Lily went to the park with her red ball.", "Then Tom came and wanted to play.",
         "Max ran to the pond and barked.", "The old man gave them a box.",
         "In the box there was a small key."},
        {"One day, Ben found a big fish in the river.", "His sister Sue wanted to see it.",
         "The owl said that the fish was sad.", "So they took the yellow boat.",
         "At the end of the day, Ben was happy."},
        {"One day, Lily saw a bird on the tall tree.", "The bird could not fly.",
         "Lily asked her mom to help.", "They made a soft bed for the bird.",
         "The next day, the bird could sing."},
        {"One day, it was dark and Ben was scared.", "Sue had a little light.",
         "They heard a loud noise near the cave.", "It was the wise owl.",
         "Then all the animals came to visit."},
        {"One day, it was raining and Lily stayed at home.", "Her dad wanted to bake a cake.",
         "Max jumped up and the milk fell down.", "Lily was not angry.",
         "Tom came with an umbrella."},
        {"One day, Ben lost his green hat on the hill.", "He looked under the berries.",
         "A rabbit had seen the hat.", "They walked to the river.", "The hat was in the boat."},
    };
    std::vector<std::size_t> next(lines.size(), 0);
    const auto say_next = [&](const std::vector<std::size_t>& users) {
        for (const std::size_t user : users)
            work.requests.push_back({user, say, lines[user][next[user]++], 0});
    };
    // Some come back at once and some after a long time.
    say_next({0, 1, 0, 2, 1, 0, 3, 2, 1});
    work.requests.push_back({1, regenerate, "", 0});
    say_next({4, 3, 0, 5, 2, 4, 3});
    work.requests.push_back({0, edit, "Then Tom came and he was very sad.", 1});
    say_next({5, 1, 4, 2, 5, 3, 4});
    work.requests.push_back({4, regenerate, "", 0});
    say_next({1, 2, 5, 3, 4, 5, 0});
    return work;
}

#endif
