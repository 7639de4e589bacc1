// SPDX-License-Identifier: MIT
// KV memory that is cleared as soon as nobody holds it, for prompts that are nobody else's business.
//
// The block's destructor clears it. That covers every way out: a block that is evicted, cut, erased or
// replaced, a copy that a fetch handed out, and a block that is still read, as soon as its last
// reader is done. A removal listener would see less: it gets no payload that is leased.
#include <promptkv/promptkv.hpp>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <new>
#include <string_view>
#include <utility>
#include <vector>

namespace {

constexpr std::size_t block_tokens = 10;
using Memory = std::array<std::uint32_t, 64 * block_tokens>; // the KV state of so many tokens

/// All memory for KV state, as on a device: it is handed out by the block and comes back.
class Pool {
public:
    explicit Pool(std::size_t n_blocks) : memory_(n_blocks) {
        for (Memory& block : memory_)
            free_.push_back(&block);
    }

    [[nodiscard]] Memory* take() {
        if (free_.empty())
            throw std::bad_alloc();
        Memory* block = free_.back();
        free_.pop_back();
        return block;
    }

    /// Clears the block first. A volatile pointer keeps the compiler from leaving that out.
    void give_back(Memory* block) noexcept {
        volatile std::uint32_t* words = block->data();
        for (std::size_t i = 0; i < block->size(); ++i)
            words[i] = 0;
        free_.push_back(block); // does not allocate: all blocks have been in it
    }

    [[nodiscard]] std::size_t in_use() const { return memory_.size() - free_.size(); }

    /// Blocks in which something is written.
    [[nodiscard]] std::size_t written() const {
        return static_cast<std::size_t>(
            std::ranges::count_if(memory_, [](const Memory& block) { return block != Memory{}; }));
    }

private:
    std::vector<Memory> memory_;
    std::vector<Memory*> free_;
};

/// A block of the pool. It is cleared when its last holder lets it go.
class Block {
public:
    Block(Pool& pool, std::uint32_t value) : pool_(&pool), memory_(pool.take()) {
        memory_->fill(value);
    }
    Block(Block&& other) noexcept
        : pool_(other.pool_), memory_(std::exchange(other.memory_, nullptr)) {}
    Block& operator=(Block&&) = delete;
    ~Block() {
        if (memory_ != nullptr)
            pool_->give_back(memory_);
    }

    std::size_t nbytes() const { return sizeof(Memory); }

private:
    Pool* pool_;
    Memory* memory_;
};
using KV = promptkv::BlockKV<Block>;

/// Prints the pool's state, and ends the program where more is written than is in use.
void show(const char* what, const Pool& pool) {
    std::printf("%-24s %2zu blocks in use, %2zu written\n", what, pool.in_use(), pool.written());
    if (pool.written() != pool.in_use())
        std::exit(EXIT_FAILURE);
}

} // namespace

int main() {
    Pool pool(100);
    promptkv::LRUPromptCache<KV> cache({.max_bytes = 30 * sizeof(Memory)});
    const auto serve = [&](std::string_view tenant, const std::vector<std::int32_t>& prompt) {
        auto hit = cache.fetch_nearest(tenant, prompt, {.align = block_tokens});
        KV kv = hit ? std::move(*hit.kv) : KV(block_tokens);
        while (kv.length() < prompt.size()) {
            const auto value = static_cast<std::uint32_t>(prompt[kv.length()]);
            kv.append(Block(pool, value), block_tokens);
        }
        cache.insert(tenant, prompt, std::move(kv), promptkv::Tier::user);
    };

    const std::vector<std::int32_t> letter(200, 7);
    const std::vector<std::int32_t> contract(180, 8);
    serve("tenant A", letter);
    show("A's letter", pool);
    serve("tenant B", contract); // cuts 80 tokens off the letter
    show("and B's contract", pool);
    {
        const auto lease = cache.lease_nearest("tenant A", letter);
        cache.erase_model("tenant A");
        show("A leaves, still read", pool);
    }
    show("no longer read", pool);
    cache.clear();
    show("cleared", pool);
}
