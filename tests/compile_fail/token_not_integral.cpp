// expect: integral
// SPDX-License-Identifier: MIT
// Tokens that are not integers.
#include <promptkv/promptkv.hpp>

#include <cstddef>
#include <cstdint>
#include <string>

struct KV {
    std::size_t nbytes() const noexcept { return 1; }
};

#if REJECT
using Token = float;
#else
using Token = std::uint16_t;
#endif

promptkv::LRUPromptCache<KV, std::string, Token> cache;
