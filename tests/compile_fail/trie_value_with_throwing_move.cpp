// expect: moved and destroyed without throwing
// SPDX-License-Identifier: MIT
// A value of a trie whose move constructor may throw.
#include <promptkv/prompt_trie.hpp>

struct Value {
    Value() = default;
    Value(Value&&) noexcept(REJECT == 0) {}
};

promptkv::PromptTrie<Value> trie;
