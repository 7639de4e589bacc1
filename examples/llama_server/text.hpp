// SPDX-License-Identifier: MIT
// Text to tokens and back: chats in the model's template, answers piece by piece.
#ifndef PROMPTKV_EXAMPLES_LLAMA_SERVER_TEXT_HPP
#define PROMPTKV_EXAMPLES_LLAMA_SERVER_TEXT_HPP

#include <llama.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace llama_server {

using Tokens = std::vector<llama_token>;
using TokenSpan = std::span<const llama_token>;

struct Message {
    std::string role;
    std::string content;
};

/// Thread safety: const, as the vocabulary is.
class Text {
public:
    explicit Text(const llama_model* model) : vocabulary_(llama_model_get_vocab(model)) {
        if (const char* own = llama_model_chat_template(model, nullptr)) {
            const llama_chat_message any{"user", "."};
            const bool known = // llama.cpp knows the usual templates only
                llama_chat_apply_template(own, &any, 1, true, nullptr, 0) > 0;
            template_ = known ? own : "chatml";
        }
    }

    /// `begin`: adds what the model wants at the start of a prompt. `special`: control tokens are read.
    [[nodiscard]] Tokens tokenize(std::string_view text, bool begin, bool special = true) const {
        const auto length = static_cast<std::int32_t>(text.size());
        Tokens tokens(text.size() + 8);
        const std::int32_t count =
            llama_tokenize(vocabulary_, text.data(), length, tokens.data(),
                           static_cast<std::int32_t>(tokens.size()), begin, special);
        if (count < 0) {
            throw std::runtime_error("llama.cpp could not tokenize a text");
        }
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
        for (const llama_token token : tokens) {
            text += piece(token, true);
        }
        return text;
    }

    /// Whether an answer ends here. Some small models begin a new text where this one ends.
    [[nodiscard]] bool ends(llama_token token) const {
        return llama_vocab_is_eog(vocabulary_, token) || token == llama_vocab_bos(vocabulary_);
    }
    [[nodiscard]] bool valid(std::int64_t token) const {
        return token >= 0 && token < llama_vocab_n_tokens(vocabulary_);
    }
    [[nodiscard]] const std::string& chat_template() const { return template_; }

    /// A chat in the model's template, up to where the model answers; one line a message without one.
    [[nodiscard]] Tokens prompt(const std::vector<Message>& chat) const {
        return tokenize(render(chat, true), true);
    }

    /// How many leading tokens of `prompt` are the chat up to message number `last`, and of that one the
    /// first `bytes` of its content.
    [[nodiscard]] std::size_t tokens_until(const std::vector<Message>& chat, std::size_t last,
                                           std::size_t bytes, TokenSpan prompt) const {
        std::vector<Message> part(chat.begin(),
                                  chat.begin() + static_cast<std::ptrdiff_t>(last) + 1);
        part.back().content.resize(std::min(bytes, part.back().content.size()));
        const Tokens tokens = tokenize(render(part, false), true);
        return static_cast<std::size_t>(std::ranges::mismatch(tokens, prompt).in1 - tokens.begin());
    }

private:
    [[nodiscard]] std::string render(const std::vector<Message>& chat, bool answer_next) const {
        std::string text;
        std::vector<llama_chat_message> messages;
        for (const auto& [role, content] : chat) {
            messages.push_back({role.c_str(), content.c_str()});
            if (template_.empty()) {
                text += (text.empty() || role == "assistant" ? "" : "\n") + content;
            }
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

    const llama_vocab* vocabulary_;
    std::string template_;
};

/// The text of an answer as it grows: whole characters, and nothing that may be the start of a stop text.
class AnswerText {
public:
    explicit AnswerText(std::vector<std::string> stops = {}) : stops_(std::move(stops)) {}

    /// Adds a piece, and returns what may be shown now.
    std::string add(std::string_view piece) {
        held_ += piece;
        std::size_t hold = incomplete_character();
        for (const std::string& stop : stops_) {
            if (const std::size_t at = held_.find(stop); at != std::string::npos) {
                stopped_by_ = stop;
                held_.resize(at);
                return std::exchange(held_, {});
            }
            std::size_t n = std::min(stop.size() - 1, held_.size());
            while (n > hold && !held_.ends_with(std::string_view(stop).substr(0, n))) {
                --n;
            }
            hold = std::max(hold, n);
        }
        std::string shown = held_.substr(0, held_.size() - hold);
        held_.erase(0, shown.size());
        return shown;
    }

    /// What was held back.
    std::string rest() { return std::exchange(held_, {}); }
    /// The stop text that ended the answer, or nothing.
    [[nodiscard]] const std::string& stopped_by() const { return stopped_by_; }

private:
    /// Bytes at the end that begin a UTF-8 character which is not whole.
    [[nodiscard]] std::size_t incomplete_character() const {
        const auto first = std::find_if(held_.rbegin(), held_.rend(),
                                        [](unsigned char byte) { return (byte & 0xc0U) != 0x80; });
        const unsigned char byte = first == held_.rend() ? 0 : static_cast<unsigned char>(*first);
        const auto bytes = static_cast<std::size_t>(first - held_.rbegin()) + 1;
        const std::size_t whole = byte >= 0xf0 ? 4 : byte >= 0xe0 ? 3 : byte >= 0xc0 ? 2 : 1;
        return bytes < whole ? bytes : 0;
    }

    std::vector<std::string> stops_;
    std::string held_;
    std::string stopped_by_;
};

} // namespace llama_server

#endif
