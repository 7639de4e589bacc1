// SPDX-License-Identifier: MIT
// The file whose compile time is measured: the umbrella header and a cache whose functions are used.
#include <promptkv/promptkv.hpp>

#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

struct KV { // next to no code of its own
    std::size_t n_tokens = 0;

    std::size_t nbytes() const noexcept { return n_tokens; }
    std::size_t reusable_prefix(std::size_t n) const noexcept { return n; }
    KV clone_prefix(std::size_t n) const { return {n}; }
    void truncate(std::size_t n) noexcept { n_tokens = n; }
};

std::size_t serve(const std::vector<std::int32_t>& prompt) {
    promptkv::LRUPromptCache<KV> cache({.max_bytes = std::size_t{8} << 30U});
    auto hit = cache.fetch_nearest("model", prompt);
    KV kv = hit ? std::move(*hit.kv) : KV{};
    kv.n_tokens = prompt.size();
    cache.insert("model", prompt, std::move(kv), promptkv::Tier::assistant);
    return hit.reused() + cache.lease_nearest("model", prompt).reused();
}
