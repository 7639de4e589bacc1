// SPDX-License-Identifier: MIT
// generate_trace: a small model of chat users.
#include "generate.hpp"

#include "random.hpp"

#include <fmt/format.h>

#include <span>
#include <utility>
#include <vector>

namespace replay {
namespace {

constexpr std::size_t n_system_prompts = 12;
constexpr std::size_t n_live_chats = 64;
constexpr std::uint64_t longest_chat = 32'768; // tokens

constexpr Length system_length{900, 0.9, 12'000};
constexpr Length question_length{60, 1.3, 8'000};
constexpr Length answer_length{220, 0.8, 4'000};
constexpr Length document_length{2'500, 1.0, 30'000};
constexpr Length turns_length{4, 0.9, 60};

constexpr double one_off_share = 0.06;
constexpr double edit_share = 0.05;
constexpr double again_share = 0.04;

/// System prompt, question, answer, question, answer, …
struct Chat {
    std::vector<Range> parts;
    std::uint64_t session = 0;
    std::uint64_t turns_left = 0;
};

class Generator {
public:
    explicit Generator(std::uint64_t seed) : random_(seed) {
        trace_.name = fmt::format("generated-{}", seed);
        for (std::size_t i = 0; i < n_system_prompts; ++i)
            system_prompts_.push_back(fresh(system_length));
        for (std::size_t i = 0; i < n_live_chats; ++i)
            chats_.push_back(new_chat());
    }

    void add_request() {
        if (random_.chance(one_off_share)) {
            append({popular_system_prompt(), fresh(document_length)}, 0, {});
        } else {
            // squared: some users write much more often than others
            const double u = random_.uniform();
            take_turn(chats_[static_cast<std::size_t>(u * u * static_cast<double>(n_live_chats))]);
        }
    }

    Trace release() && { return std::move(trace_); }

private:
    /// Tokens that occur nowhere else.
    Range fresh(const Length& length) {
        const Range range{next_id_, random_.length(length)};
        next_id_ += static_cast<std::int64_t>(range.length);
        return range;
    }

    Range popular_system_prompt() { return system_prompts_[random_.popular(n_system_prompts)]; }

    Chat new_chat() {
        return {{popular_system_prompt()}, ++last_session_, random_.length(turns_length)};
    }

    void take_turn(Chat& chat) {
        const std::size_t turns = chat.parts.size() / 2;
        if (turns > 0 && random_.chance(again_share)) {
            chat.parts.pop_back();
        } else {
            if (turns > 0 && random_.chance(edit_share))
                chat.parts.resize(1 + 2 * random_.below(turns));
            chat.parts.push_back(fresh(question_length));
        }
        const Range answer = fresh(answer_length);
        append(chat.parts, chat.session, std::span(&answer, 1));
        chat.parts.push_back(answer);
        --chat.turns_left;
        if (chat.turns_left == 0 || length_of(chat.parts) > longest_chat)
            chat = new_chat();
    }

    void append(const std::vector<Range>& parts, std::uint64_t session,
                std::span<const Range> answer) {
        trace_.append(length_of(parts), parts.front().length, parts, session, answer);
    }

    Random random_;
    std::int64_t next_id_ = 0;
    std::uint64_t last_session_ = 0;
    std::vector<Range> system_prompts_;
    std::vector<Chat> chats_;
    Trace trace_;
};

} // namespace

Trace generate_trace(std::uint64_t seed, std::size_t n_requests) {
    Generator generator(seed);
    for (std::size_t i = 0; i < n_requests; ++i)
        generator.add_request();
    return std::move(generator).release();
}

} // namespace replay
