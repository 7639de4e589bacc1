// SPDX-License-Identifier: MIT
// generate_trace: a small model of chat users.
#include "generate.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <random>
#include <span>
#include <utility>
#include <vector>

namespace replay {
namespace {

/// A log-normal number of tokens: half of them below `median`, the tail the heavier the larger
/// `sigma`, none beyond `most`.
struct Length {
    double median;
    double sigma;
    double most;
};

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

/// Random numbers that are the same with every standard library: only the engine is from there.
class Random {
public:
    explicit Random(std::uint64_t seed) : engine_(seed) {}

    /// In [0, 1).
    double uniform() { return static_cast<double>(engine_() >> 11U) * 0x1p-53; }

    bool chance(double share) { return uniform() < share; }

    std::size_t below(std::size_t end) {
        return static_cast<std::size_t>(uniform() * static_cast<double>(end));
    }

    /// At least 1.
    std::uint64_t length(const Length& length) {
        constexpr double two_pi = 6.283185307179586;
        const double radius = std::sqrt(-2.0 * std::log(1.0 - uniform()));
        const double normal = radius * std::cos(two_pi * uniform());
        const double drawn = length.median * std::exp(length.sigma * normal);
        return static_cast<std::uint64_t>(std::clamp(drawn, 1.0, length.most));
    }

private:
    std::mt19937_64 engine_;
};

/// System prompt, question, answer, question, answer, …
struct Chat {
    std::vector<Range> parts;
    std::uint64_t session = 0;
    std::uint64_t turns_left = 0;
};

std::uint64_t tokens_of(const std::vector<Range>& parts) {
    std::uint64_t tokens = 0;
    for (const Range& part : parts) {
        tokens += part.length;
    }
    return tokens;
}

class Generator {
public:
    explicit Generator(std::uint64_t seed) : random_(seed) {
        trace_.name = fmt::format("generated-{}", seed);
        for (std::size_t i = 0; i < n_system_prompts; ++i) {
            system_prompts_.push_back(fresh(system_length));
        }
        for (std::size_t i = 0; i < n_live_chats; ++i) {
            chats_.push_back(new_chat());
        }
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

    /// The first prompt is about n times as popular as the n-th.
    Range popular_system_prompt() {
        const double rank = std::pow(static_cast<double>(n_system_prompts + 1), random_.uniform());
        return system_prompts_[static_cast<std::size_t>(rank) - 1];
    }

    Chat new_chat() {
        return {{popular_system_prompt()}, ++last_session_, random_.length(turns_length)};
    }

    void take_turn(Chat& chat) {
        const std::size_t turns = chat.parts.size() / 2;
        if (turns > 0 && random_.chance(again_share)) {
            chat.parts.pop_back();
        } else {
            if (turns > 0 && random_.chance(edit_share)) {
                chat.parts.resize(1 + 2 * random_.below(turns));
            }
            chat.parts.push_back(fresh(question_length));
        }
        const Range answer = fresh(answer_length);
        append(chat.parts, chat.session, std::span(&answer, 1));
        chat.parts.push_back(answer);
        --chat.turns_left;
        if (chat.turns_left == 0 || tokens_of(chat.parts) > longest_chat) {
            chat = new_chat();
        }
    }

    void append(const std::vector<Range>& parts, std::uint64_t session,
                std::span<const Range> answer) {
        trace_.append(tokens_of(parts), parts.front().length, parts, session, answer);
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
    for (std::size_t i = 0; i < n_requests; ++i) {
        generator.add_request();
    }
    return std::move(generator).release();
}

} // namespace replay
