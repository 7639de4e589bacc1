// SPDX-License-Identifier: MIT
// A program that stops with a cache, a trie and two answers to look at.
#include <promptkv/promptkv.hpp>

#include <cstdint>
#include <vector>

namespace {

struct Block {
    std::vector<std::int32_t> state;

    std::size_t nbytes() const { return state.size() * sizeof(std::int32_t); }
};
using KV = promptkv::BlockKV<Block>;
using Tokens = std::vector<std::int32_t>;

KV state_of(const Tokens& tokens) {
    KV kv(64);
    kv.append(Block{tokens}, tokens.size());
    return kv;
}

} // namespace

extern "C" void stop_here() {}

int main() {
    promptkv::LRUPromptCache<KV> cache({.max_bytes = 1000});
    const Tokens chat{1, 2, 3, 4, 5}, other{1, 2, 9};
    cache.insert("model-a", chat, state_of(chat), promptkv::Tier::user);
    cache.insert("model-a", other, state_of(other), promptkv::Tier::assistant);
    cache.insert("model-b", chat, state_of(chat), promptkv::Tier::system);
    promptkv::PromptTrie<int> trie;
    trie.insert_or_assign(chat, 41);
    trie.insert_or_assign(other, 42);
    const auto hit = cache.probe("model-a", Tokens{1, 2, 3, 7});
    const auto miss = cache.probe("model-a", Tokens{8});
    stop_here();
    return hit && !miss ? 0 : 1;
}
