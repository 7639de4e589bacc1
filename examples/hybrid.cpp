// SPDX-License-Identifier: MIT
// A hybrid model: attention layers, whose blocks can be shared and cut, and recurrent layers, whose
// state exists only at the token where the engine copied it.
//
// What you learn here: BlockKV with a State; which states are worth their memory; and how
// `Lookup::matched()` tells where prompts branch, so that no template has to be parsed for it.
#include <promptkv/promptkv.hpp>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <span>
#include <utility>
#include <vector>

namespace {

using Tokens = std::vector<std::int32_t>;
constexpr std::size_t block_tokens = 64;

/// The attention layers' part of 64 tokens, at 24 KiB a token. Its numbers are left out.
struct Block {
    std::size_t nbytes() const { return block_tokens * (24 << 10); }
};
/// The recurrent layers' state: as large as the attention part of 3,200 tokens. In the place of its
/// numbers is a hash of all the tokens that went into it.
struct State {
    std::uint64_t hash;
    std::size_t nbytes() const { return std::size_t{75} << 20; }
};
using KV = promptkv::BlockKV<Block, State>;
using Cache = promptkv::LRUPromptCache<KV>;
using promptkv::Tier;

/// The recurrent layers read one token after the other.
std::uint64_t read(std::span<const std::int32_t> tokens) {
    std::uint64_t hash = 0;
    for (const std::int32_t token : tokens)
        hash = hash * 0x9e3779b97f4a7c15 + static_cast<std::uint64_t>(token);
    return hash;
}

/// Stores a copy of the state at the end of `prefix`. Blocks that the cache has are shared.
void store(Cache& cache, std::span<const std::int32_t> prefix, Tier tier,
           promptkv::InsertOptions options) {
    const std::size_t n_blocks = (prefix.size() + block_tokens - 1) / block_tokens;
    const std::size_t nbytes = n_blocks * Block{}.nbytes() + State{}.nbytes();
    if (auto room = cache.reserve("model", prefix, nbytes, tier, options)) {
        KV kv = room.prefix().value_or(KV(block_tokens));
        while (kv.length() < prefix.size())
            kv.append(Block{}, std::min(block_tokens, prefix.size() - kv.length()));
        kv.set_state({read(prefix)});
        room.commit(std::move(kv));
    }
}

enum class Keep { nothing, every_512_tokens, turn_ends, turn_ends_and_branches };

/// Serves one turn: the prompt is the first `prompt` tokens, the answer follows. Returns how many
/// tokens were prefilled.
std::size_t serve(Cache& cache, Keep keep, std::uint64_t session, const Tokens& tokens,
                  std::size_t prompt) {
    const std::span all(tokens);
    const auto hit = cache.fetch_nearest("model", all.first(prompt));
    if (hit && hit.kv->state().hash != read(all.first(hit.reused()))) {
        std::puts("a wrong state was restored");
        std::exit(EXIT_FAILURE);
    }
    // The engine stops where a state is to be copied: at the end of the answer anyway, and before
    // that where the prefill is made to end.
    const promptkv::InsertOptions options{.session = session, .request = hit.request()};
    if (keep == Keep::every_512_tokens)
        for (std::size_t n = hit.reused() / 512 * 512 + 512; n <= all.size(); n += 512)
            store(cache, all.first(n), Tier::assistant, options);
    // A stored prompt is the same up to matched(), but no state is there. With one, the next prompt
    // that branches here need not be prefilled again. The few tokens of a template's header that all
    // prompts share are not worth it.
    if (keep == Keep::turn_ends_and_branches && hit.matched() >= hit.reused() + 256)
        store(cache, all.first(hit.matched()), Tier::system, {});
    if (keep == Keep::turn_ends || keep == Keep::turn_ends_and_branches)
        store(cache, all, Tier::assistant, options); // the next prompt of this chat begins so
    return prompt - hit.reused();
}

struct Chat {
    std::uint64_t session = 0;
    Tokens tokens{};
};

/// Prints the tokens that 600 turns prefill: 12 chats at a time, on four system prompts.
void simulate(const char* name, Keep keep) {
    std::printf("%-36s", name);
    for (const std::size_t gib : {1u, 2u, 3u}) {
        Cache cache({.max_bytes = gib << 30});
        std::mt19937 random(1);
        std::vector<Chat> chats(12);
        std::uint64_t sessions = 0;
        std::size_t prefilled = 0;
        for (int turn = 0; turn < 600; ++turn) {
            Chat& chat = chats[random() % chats.size()];
            if (chat.session == 0 || random() % 8 == 0) // it ended, and another one begins
                chat = {++sessions, Tokens(1500, -1 - static_cast<std::int32_t>(random() % 4))};
            const auto append = [&](std::size_t n) {
                for (; n > 0; --n)
                    chat.tokens.push_back(static_cast<std::int32_t>(random() % 50'000));
            };
            append(30 + random() % 200); // the question
            const std::size_t prompt = chat.tokens.size();
            append(100 + random() % 300); // the answer
            prefilled += serve(cache, keep, chat.session, chat.tokens, prompt);
        }
        std::printf("%10zu", prefilled);
    }
    std::printf("\n");
}

} // namespace

int main() {
    std::printf("tokens prefilled with %19s GiB%6s GiB%6s GiB\n", "1", "2", "3");
    simulate("no state kept", Keep::nothing);
    simulate("a state every 512 tokens", Keep::every_512_tokens);
    simulate("a state at the end of each turn", Keep::turn_ends);
    simulate("the same, and where prompts branch", Keep::turn_ends_and_branches);
}
