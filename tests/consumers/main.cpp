// SPDX-License-Identifier: MIT
// The smallest user of promptkv: stores one prompt and asks for a longer one.
#include <promptkv/promptkv.hpp>

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

struct TokenKV {
    std::vector<std::int32_t> tokens;

    std::size_t nbytes() const noexcept { return tokens.size() * sizeof(std::int32_t); }
};

int main() {
    promptkv::LRUPromptCache<TokenKV> cache({.max_bytes = 1024});
    const std::vector<std::int32_t> stored{1, 2, 3};
    const std::vector<std::int32_t> prompt{1, 2, 3, 4};
    cache.insert("model", stored, TokenKV{stored}, promptkv::Tier::assistant);
    const auto hit = cache.fetch_nearest("model", prompt);
    return hit.reused == 3 && hit.match == promptkv::Match::shorter ? 0 : 1;
}
