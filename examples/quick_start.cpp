// SPDX-License-Identifier: MIT
// The README's quick start, word for word.

#include <promptkv/promptkv.hpp>

#include <cstdint>
#include <cstdio>
#include <utility>
#include <vector>

// Your engine's KV state. Here: full attention at 128 KiB a token, without the numbers.
struct KvState {
    std::size_t tokens = 0;

    std::size_t nbytes() const { return tokens << 17; }
    std::size_t reusable_prefix(std::size_t n) const { return n; }
    KvState clone_prefix(std::size_t n) const { return {n}; }
    void truncate(std::size_t n) { tokens = n; }
};

int main() {
    promptkv::LRUPromptCache<KvState> cache({.max_bytes = std::size_t{1} << 30});

    std::vector<std::int32_t> prompt(1000, 7); // the system prompt and the first question
    for (int turn = 1; turn <= 3; ++turn) {
        auto hit = cache.fetch_nearest("my-model", prompt);
        KvState kv = hit ? std::move(*hit.kv) : KvState{};
        std::printf("turn %d: %4zu tokens, %4zu reused, %4zu to compute\n", turn, prompt.size(), hit.reused,
                    hit.remaining.size());

        kv.tokens = prompt.size(); // your engine computes hit.remaining here
        cache.insert("my-model", prompt, std::move(kv), promptkv::Tier::assistant);
        prompt.resize(prompt.size() + 200, turn); // the answer and the next question
    }
    std::printf("%zu entry, %zu MiB\n", cache.size(), cache.nbytes() >> 20);
}
