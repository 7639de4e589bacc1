// SPDX-License-Identifier: MIT
// PromptTrie alone, without a cache: a router in front of N inference workers, each with a KV cache of
// its own. It sends a request to the worker that holds the longest prefix of the prompt. One trie
// remembers which worker got which prompt; the router asks the workers nothing.
//
//   token_router [WORKERS]                          chats that are made up
//   xz -dc NAME.ptrace.xz | token_router WORKERS -  a recorded trace: one request in each line; its
//                                                   7th column has block ids as start:length,...
//
// It prints which share of the prompts' tokens the workers held already, and the busiest worker's load
// relative to the average: for this router and for two that do not look at the prompt.
#include <promptkv/prompt_trie.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <iostream>
#include <numeric>
#include <random>
#include <sstream>
#include <string>
#include <vector>

namespace {

using Block = std::int64_t; // a token, or the id of a block of tokens
using Prompt = std::vector<Block>;

/// Workers that keep all state that they computed, and what the router knows of them.
class Fleet {
public:
    explicit Fleet(std::size_t workers) : computed_(workers), held_(workers) {}

    [[nodiscard]] std::size_t size() const { return computed_.size(); }

    [[nodiscard]] std::size_t least_loaded() const {
        return static_cast<std::size_t>(std::ranges::min_element(computed_) - computed_.begin());
    }

    /// The worker that was last sent a prompt with the longest prefix in common, unless it is more
    /// than a twentieth busier than the average: then the least loaded one.
    [[nodiscard]] std::size_t longest_prefix(const Prompt& prompt) const {
        const auto found = sent_.search(prompt);
        const auto holder = found.exact ? found.exact : found.longer ? found.longer : found.shorter;
        const double average =
            std::accumulate(computed_.begin(), computed_.end(), 0.0) / static_cast<double>(size());
        if (!holder || found.common_prefix == 0 ||
            computed_[*holder] > 1.05 * average + static_cast<double>(prompt.size())) {
            return least_loaded();
        }
        return *holder;
    }

    /// Sends a prompt to a worker. Returns how many tokens of the prompt the worker held.
    std::size_t send(std::size_t worker, const Prompt& prompt) {
        const std::size_t held = held_[worker].search(prompt).common_prefix;
        computed_[worker] += static_cast<double>(prompt.size() - held);
        held_[worker].insert_or_assign(prompt, true);
        sent_.insert_or_assign(prompt, worker);
        return held;
    }

    /// The busiest worker's computing, relative to the average.
    [[nodiscard]] double imbalance() const {
        const double sum = std::accumulate(computed_.begin(), computed_.end(), 0.0);
        return std::ranges::max(computed_) * static_cast<double>(size()) / std::max(sum, 1.0);
    }

private:
    std::vector<double> computed_;                        // tokens, by worker
    promptkv::PromptTrie<std::size_t, Block> sent_;       // prompt -> worker
    std::vector<promptkv::PromptTrie<bool, Block>> held_; // what each worker has
};

/// 400 chats on five system prompts, eight turns each, interleaved.
std::vector<Prompt> made_up_chats() {
    std::mt19937 random(1);
    const auto tokens = [&](std::size_t count) {
        Prompt prompt(count);
        std::ranges::generate(prompt, [&] { return static_cast<Block>(random() % 50'000); });
        return prompt;
    };
    std::vector<Prompt> systems(5);
    std::ranges::generate(systems, [&] { return tokens(500); });
    std::vector<Prompt> chats(400);
    std::ranges::generate(chats, [&] { return systems[random() % systems.size()]; });
    std::vector<Prompt> requests;
    for (std::size_t i = 0; i < chats.size() * 8; ++i) {
        Prompt& chat = chats[random() % std::min(chats.size(), i / 8 + 1)];
        const Prompt turn = tokens(20 + random() % 200);
        chat.insert(chat.end(), turn.begin(), turn.end());
        requests.push_back(chat);
    }
    return requests;
}

std::vector<Prompt> read_trace(std::istream& file) {
    std::vector<Prompt> requests;
    for (std::string line; std::getline(file, line);) {
        if (line.starts_with('#'))
            continue;
        std::istringstream columns(line);
        std::string ranges;
        for (int column = 1; column <= 7; ++column)
            std::getline(columns, ranges, '\t');
        std::istringstream runs(ranges);
        Prompt prompt;
        char separator = ',';
        for (Block start = 0, length = 0; runs >> start >> separator >> length; runs >> separator) {
            for (Block id = start; id < start + length; ++id)
                prompt.push_back(id);
        }
        requests.push_back(std::move(prompt));
    }
    return requests;
}

} // namespace

int main(int argc, char** argv) {
    const int workers = argc > 1 ? std::atoi(argv[1]) : 8;
    const std::vector<Prompt> requests = argc > 2 ? read_trace(std::cin) : made_up_chats();
    if (requests.empty() || workers < 1) {
        std::fprintf(stderr, "usage: token_router [WORKERS [-]]\n");
        return 2;
    }
    std::printf("%zu requests, %d workers\n\nrouter           held already   busiest worker\n",
                requests.size(), workers);

    std::size_t turn = 0;
    const auto replay = [&](const char* name, auto route) {
        Fleet fleet(static_cast<std::size_t>(workers));
        double held = 0;
        double asked = 0;
        for (const Prompt& prompt : requests) {
            held += static_cast<double>(fleet.send(route(fleet, prompt), prompt));
            asked += static_cast<double>(prompt.size());
        }
        std::printf("%-15s %10.1f %%   %12.2f x\n", name, 100 * held / asked, fleet.imbalance());
    };
    replay("round-robin", [&](const Fleet& fleet, const Prompt&) { return turn++ % fleet.size(); });
    replay("least-loaded", [](const Fleet& fleet, const Prompt&) { return fleet.least_loaded(); });
    replay("longest prefix",
           [](const Fleet& fleet, const Prompt& prompt) { return fleet.longest_prefix(prompt); });
}
