// SPDX-License-Identifier: MIT
// Text to tokens and back, and chats in a model's template.
#ifndef PROMPTKV_EXAMPLES_LLAMA_TEXT_HPP
#define PROMPTKV_EXAMPLES_LLAMA_TEXT_HPP

#include <llama.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

using Tokens = std::vector<llama_token>;
using TokenSpan = std::span<const llama_token>;

struct Message {
    std::string role;
    std::string content;
};
using Chat = std::vector<Message>;

/// The vocabulary of a model and its chat template. Thread safety: const, as the vocabulary is.
class LlamaText {
public:
    explicit LlamaText(const llama_model* model) : vocabulary_(llama_model_get_vocab(model)) {
        if (const char* own = llama_model_chat_template(model, nullptr)) {
            const llama_chat_message any{"user", "."};
            const bool known = // llama.cpp knows the usual templates only
                llama_chat_apply_template(own, &any, 1, true, nullptr, 0) > 0;
            template_ = known ? own : "chatml";
        }
    }

    /// `begin`: adds what the model wants at the start of a prompt. `special`: control tokens are read.
    /// Throws:     std::runtime_error if the engine fails.
    [[nodiscard]] Tokens tokenize(std::string_view text, bool begin, bool special = true) const {
        const auto length = static_cast<std::int32_t>(text.size());
        Tokens tokens(text.size() + 8);
        const std::int32_t count =
            llama_tokenize(vocabulary_, text.data(), length, tokens.data(),
                           static_cast<std::int32_t>(tokens.size()), begin, special);
        if (count < 0)
            throw std::runtime_error("llama.cpp could not tokenize a text");
        tokens.resize(static_cast<std::size_t>(count));
        return tokens;
    }

    /// Bytes of a token; perhaps a part of a character.
    [[nodiscard]] std::string piece(llama_token token, bool special = false) const {
        std::string piece(256, '\0');
        const std::int32_t size = llama_token_to_piece(
            vocabulary_, token, piece.data(), static_cast<std::int32_t>(piece.size()), 0, special);
        piece.resize(static_cast<std::size_t>(std::max(size, 0)));
        return piece;
    }
    [[nodiscard]] std::string text(TokenSpan tokens) const {
        std::string text;
        for (const llama_token token : tokens)
            text += piece(token, true);
        return text;
    }

    /// Whether an answer ends here. Some small models begin a new text where this one ends.
    [[nodiscard]] bool ends(llama_token token) const {
        return llama_vocab_is_eog(vocabulary_, token) || token == llama_vocab_bos(vocabulary_);
    }
    [[nodiscard]] std::int32_t vocabulary_size() const { return llama_vocab_n_tokens(vocabulary_); }

    /// Empty: the model has none.
    [[nodiscard]] const std::string& chat_template() const { return template_; }

    /// A chat in the model's template; one line a message where it has none. `answer_next`: up to where the
    /// model answers.
    [[nodiscard]] std::string render(const Chat& chat, bool answer_next) const {
        std::string text;
        std::vector<llama_chat_message> messages;
        for (const auto& [role, content] : chat) {
            messages.push_back({role.c_str(), content.c_str()});
            if (template_.empty())
                text += (text.empty() || role == "assistant" ? "" : "\n") + content;
        }
        const auto write = [&] { // as much as there is room for; it says how much it needs
            return llama_chat_apply_template(template_.c_str(), messages.data(), messages.size(),
                                             answer_next, text.data(),
                                             static_cast<std::int32_t>(text.size()));
        };
        if (!template_.empty()) {
            text.resize(static_cast<std::size_t>(std::max(write(), 0)));
            write();
        }
        return text;
    }

    /// How many leading tokens of `prompt` are those of `part`, a part of the chat that it renders.
    [[nodiscard]] std::size_t tokens_of(const Chat& part, TokenSpan prompt) const {
        const Tokens tokens = tokenize(render(part, false), true);
        return static_cast<std::size_t>(std::ranges::mismatch(tokens, prompt).in1 - tokens.begin());
    }

private:
    const llama_vocab* vocabulary_;
    std::string template_;
};

#endif
