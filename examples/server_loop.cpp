// SPDX-License-Identifier: MIT
// The loop of a server: worker threads, each with an engine, serve many chats with one cache. A prompt is
// stored at the end of its prefill, or as far as it came if the client goes away; what is generated only if
// a later prompt repeats it, without thinking. Sessions tell the cache which branches are dead.
#include <promptkv/concurrent_prompt_cache.hpp>
#include <promptkv/promptkv.hpp>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstdio>
#include <mutex>
#include <random>
#include <thread>
#include <utility>
#include <vector>

namespace {

using Tokens = std::vector<std::int32_t>;
constexpr std::size_t block_tokens = 16;

/// The state of 16 tokens: here a hash of all tokens up to its end, so that a wrong state shows.
struct Block {
    std::uint64_t hash;
    std::size_t nbytes() const { return block_tokens << 17; } // 128 KiB a token
};
using KV = promptkv::BlockKV<Block>;
using Cache = promptkv::ConcurrentPromptCache<KV>;

Block compute(const Tokens& tokens, std::size_t end) {
    std::uint64_t hash = 0;
    for (std::size_t i = 0; i < end; ++i)
        hash = hash * 31 + static_cast<std::uint64_t>(tokens[i]);
    return {hash};
}

struct Server {
    Cache cache;
    std::atomic<std::size_t> requests{0}, asked{0}, prefilled{0}, wrong{0};

    /// Serves a prompt. `continued` is what the engine generates, if a later prompt will repeat it.
    void serve(Tokens tokens, promptkv::InsertOptions options, const Tokens& continued = {},
               bool cancelled = false) {
        std::size_t reused = 0;
        {
            const auto hit = cache.lease_nearest("model", tokens, {.align = block_tokens});
            reused = hit.reused();
            options.request = hit.request();
            for (std::size_t n = block_tokens; n <= reused; n += block_tokens) // the engine copies
                wrong += hit.kv().blocks()[n / block_tokens - 1]->hash != compute(tokens, n).hash;
        } // end the lease before the work begins
        auto room = reserve(tokens, options);
        const std::size_t end = cancelled ? (reused + tokens.size()) / 2 : tokens.size();
        ++requests, asked += tokens.size(), prefilled += end - reused; // the engine works
        commit(std::move(room), tokens, end);
        if (!continued.empty()) {
            tokens.insert(tokens.end(), continued.begin(), continued.end());
            commit(reserve(tokens, options), tokens, tokens.size());
        }
    }
    Cache::Reservation reserve(const Tokens& tokens, promptkv::InsertOptions options) {
        const std::size_t blocks = (tokens.size() + block_tokens - 1) / block_tokens;
        return cache.reserve("model", tokens, blocks * Block{}.nbytes(), promptkv::Tier::assistant,
                             options);
    }
    static void commit(Cache::Reservation room, const Tokens& tokens, std::size_t end) {
        if (!room) // it is stored already, or nothing can be evicted for it
            return;
        end = std::min(end, room.tokens());
        KV kv = room.prefix().value_or(KV(block_tokens)); // the blocks that the cache has
        while (kv.length() < end) {
            const std::size_t n = std::min(block_tokens, end - kv.length());
            kv.append(compute(tokens, kv.length() + n), n);
        }
        room.commit(std::move(kv)); // may hold fewer tokens than there is room for
    }
};

Tokens operator+(Tokens tokens, const Tokens& more) {
    tokens.insert(tokens.end(), more.begin(), more.end());
    return tokens;
}

struct Chat {
    promptkv::InsertOptions options; // its session
    std::mt19937 random;
    Tokens history;  // as the next prompt repeats it: without thinking
    Tokens before{}; // the same before the last question
    int turns = 0;

    Tokens text(std::size_t n) { // n to 2 n times a token
        n += random() % n;
        return Tokens(n, static_cast<std::int32_t>(random() / 2));
    }

    void turn(Server& server) {
        if (turns > 0 && random() % 5 == 0)
            history = before; // the user edits the last question
        before = history;
        Tokens prompt = history = history + text(40);
        if (random() % 5 == 0)
            server.serve(prompt, options, {}, true); // the client goes away, and asks again
        for (auto calls = 1 + random() % 4; calls > 0; --calls) {
            const Tokens thinking = text(200), call = text(20), result = text(60);
            server.serve(prompt, options, thinking + call);
            prompt = prompt + thinking + call + result;
            history = history + call + result;
        }
        for (auto answers = 1 + (random() % 5 == 0); answers > 0; --answers)
            server.serve(prompt, options); // again, if the user wants another answer
        history = history + text(80);      // the answer without its thinking
        server.serve(history + text(10),   // asks for a title
                     {.session = options.session, .side_request = true});
    }
};

} // namespace

int main() {
    for (const bool sessions : {false, true}) {
        Server server{Cache({.max_bytes = std::size_t{5} << 30})};
        std::vector<Chat> waiting; // 16 chats on two system prompts
        for (unsigned id = 1; id <= 16; ++id)
            waiting.push_back({{.session = sessions ? id : 0},
                               std::mt19937(id),
                               Tokens(500, id % 2 == 0 ? 0 : 1)});
        std::mt19937 random(1);
        std::mutex mutex; // of these two
        const auto work = [&] {
            std::unique_lock lock(mutex);
            while (!waiting.empty()) {
                std::swap(waiting[random() % waiting.size()], waiting.back());
                Chat chat = std::move(waiting.back());
                waiting.pop_back();
                lock.unlock();
                chat.turn(server);
                lock.lock();
                if (++chat.turns < 10)
                    waiting.push_back(std::move(chat));
            }
        };
        std::vector<std::jthread> workers(4);
        std::ranges::generate(workers, [&] { return std::jthread(work); });
        workers.clear(); // waits for them
        std::printf("%zu requests, %zu tokens; %zu prefilled %s sessions; %zu wrong blocks\n",
                    server.requests.load(), server.asked.load(), server.prefilled.load(),
                    sessions ? "with" : "without", server.wrong.load());
    }
}
