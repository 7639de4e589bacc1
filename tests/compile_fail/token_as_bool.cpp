// expect: and not bool
// SPDX-License-Identifier: MIT
// Tokens that are true or false.
#include <promptkv/promptkv.hpp>

#include <cstddef>
#include <string>

struct KV {
    std::size_t nbytes() const noexcept { return 1; }
};

#if REJECT
using Token = bool;
#else
using Token = char;
#endif

promptkv::LRUPromptCache<KV, std::string, Token> cache;
