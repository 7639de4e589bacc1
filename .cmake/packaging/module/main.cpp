// SPDX-License-Identifier: MIT
// The smallest user of the module: stores one prompt and asks for a longer one.
#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

import promptkv;

struct Block {
    std::vector<float> values;

    std::size_t nbytes() const noexcept { return values.size() * sizeof(float); }
};

int main() {
    using KV = promptkv::BlockKV<Block>;
    promptkv::ConcurrentPromptCache<KV> cache({.max_bytes = 1024});
    const std::vector<std::int32_t> stored{1, 2, 3};
    const std::vector<std::int32_t> prompt{1, 2, 3, 4};
    KV kv(64);
    kv.append(Block{{0.1F, 0.2F, 0.3F}}, stored.size());
    cache.insert("model", stored, std::move(kv), promptkv::Tier::assistant);
    const auto hit = cache.fetch_nearest("model", prompt);
    return hit.reused() == 3 && hit.match() == promptkv::Match::shorter ? 0 : 1;
}
