// expect: a second level needs a cache whose payload is a BlockKV
// SPDX-License-Identifier: MIT
// A second level for a payload of one's own.
#include <promptkv/file_store.hpp>
#include <promptkv/promptkv.hpp>
#include <promptkv/second_level.hpp>

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

struct Block {
    std::vector<std::byte> bytes;

    std::size_t nbytes() const noexcept { return bytes.size(); }
    template <class Sink>
    void write_block(Sink& sink) const {
        sink(std::span(bytes));
    }
    static std::optional<Block> make_block(std::span<const std::byte> bytes) {
        return Block{{bytes.begin(), bytes.end()}};
    }
};

#if REJECT == 0
using KV = promptkv::BlockKV<Block>;
#else
using KV = Block;
#endif

using SecondLevel = promptkv::SecondLevel<promptkv::LRUPromptCache<KV>, promptkv::FileStore>;
std::size_t size() {
    return sizeof(SecondLevel);
}
