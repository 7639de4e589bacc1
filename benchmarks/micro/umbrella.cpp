// SPDX-License-Identifier: MIT
// The file whose compile time is measured: the umbrella header and a cache whose functions are used.
#include <promptkv/promptkv.hpp>

#include <cstdint>
#include <vector>

struct KV {
    std::vector<float> state;

    std::size_t nbytes() const noexcept { return state.size() * sizeof(float); }
    std::size_t reusable_prefix(std::size_t n) const noexcept { return n; }
    KV clone_prefix(std::size_t n) const {
        return {std::vector<float>(state.begin(), state.begin() + static_cast<std::ptrdiff_t>(n))};
    }
    void truncate(std::size_t n) { state.resize(n); }
};

std::size_t serve(const std::vector<std::int32_t>& prompt) {
    promptkv::LRUPromptCache<KV> cache({.max_bytes = std::size_t{8} << 30U});
    auto hit = cache.fetch_nearest("model", prompt);
    KV kv = hit ? std::move(*hit.kv) : KV{};
    kv.state.resize(prompt.size());
    cache.insert("model", prompt, std::move(kv), promptkv::Tier::assistant);
    return hit.reused + cache.lease_nearest("model", prompt).reused;
}
