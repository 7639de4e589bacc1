// SPDX-License-Identifier: MIT
// The README's quick start, word for word.

#include <promptkv/promptkv.hpp>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <span>
#include <utility>
#include <vector>

// The state of 64 tokens. An engine copies it from its own memory; here it is one number per token.
struct Block {
    std::vector<std::uint64_t> kv;
    std::size_t nbytes() const { return kv.size() * sizeof(std::uint64_t); }
};
using KV = promptkv::BlockKV<Block>;

// A toy engine. The state of a token depends on all tokens before it, as in a real one.
struct Engine {
    std::vector<std::uint64_t> kv;

    static std::size_t nbytes(std::size_t tokens) { return tokens * sizeof(std::uint64_t); }

    void prefill(std::span<const std::int32_t> tokens) {
        for (std::int32_t token : tokens)
            kv.push_back((kv.empty() ? 0 : kv.back()) * 31 + static_cast<std::uint64_t>(token));
    }
    std::int32_t generate() { // one more token
        const auto token = static_cast<std::int32_t>(kv.back() % 50'000);
        prefill({&token, 1});
        return token;
    }
    void restore(const KV& stored, std::size_t tokens) {
        for (const auto& block : stored.blocks())
            kv.insert(kv.end(), block->kv.begin(), block->kv.end());
        kv.resize(tokens); // the last block may hold more
    }
    void copy_out(KV& to, std::size_t tokens) const {
        while (to.length() < tokens) {
            const std::size_t n = std::min(to.block_tokens(), tokens - to.length());
            const auto part = std::span(kv).subspan(to.length(), n);
            to.append(Block{{part.begin(), part.end()}}, n);
        }
    }
};

int main() {
    promptkv::PromptCache<KV> cache({.max_bytes = std::size_t{8} << 30});
    const char* model = "my-model"; // state of different models is never shared

    for (int chat = 1; chat <= 2; ++chat) {
        std::vector<std::int32_t> tokens(1000, 7); // the system prompt: the same in both chats
        for (int turn = 1; turn <= 3; ++turn) {
            tokens.resize(tokens.size() + 100, 10 * chat + turn); // the question
            Engine engine;

            std::size_t reused = 0;
            if (auto hit = cache.lease_nearest(model, tokens)) {
                reused = hit.reused();
                engine.restore(hit.kv(), reused); // a copy; the lease ends with this block
            }
            engine.prefill(std::span(tokens).subspan(reused)); // only what is new
            std::printf("chat %d, turn %d: %zu tokens, %4zu reused, %4zu prefilled\n", chat, turn,
                        tokens.size(), reused, tokens.size() - reused);

            for (int i = 0; i < 60; ++i) // the answer
                tokens.push_back(engine.generate());

            if (auto room = cache.reserve(model, tokens, engine.nbytes(tokens.size()),
                                          promptkv::Tier::assistant)) {
                // What the cache has of it already: whole blocks, shared. Only the rest is copied.
                auto kv = room.prefix().value_or(KV(64));
                engine.copy_out(kv, room.tokens());
                room.commit(std::move(kv));
            }
        }
    }
    std::printf("%zu chats of %zu KiB take %zu KiB: the system prompt is held once\n", cache.size(),
                cache.stats().bytes_referenced >> 10, cache.nbytes() >> 10);
}
