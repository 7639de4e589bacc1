// SPDX-License-Identifier: MIT
// Payload memory that is cleared when it leaves the cache, for prompts that are nobody else's business.
//
// The payload's destructor and `truncate` do it, because they see all that leaves: what is evicted,
// erased, replaced or cut, the copies that a fetch handed out, and what a lease still reads, as soon as
// it ends. A listener (`on_removal`) is told of removals only, and gets no payload that is leased.
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

/// The KV state of one token.
using Block = std::array<std::uint32_t, 64>;

/// All memory for KV state, as on a device: blocks are handed out and come back.
class Pool {
public:
    explicit Pool(std::size_t n_blocks) : blocks_(n_blocks) {
        for (Block& block : blocks_) {
            free_.push_back(&block);
        }
    }

    [[nodiscard]] Block* take() {
        if (free_.empty()) {
            throw std::bad_alloc();
        }
        Block* block = free_.back();
        free_.pop_back();
        return block;
    }

    /// Clears the block first. Through a volatile pointer, so that no compiler leaves it out.
    void give_back(Block* block) noexcept {
        volatile std::uint32_t* words = block->data();
        for (std::size_t i = 0; i < block->size(); ++i) {
            words[i] = 0;
        }
        free_.push_back(block); // no allocation: all blocks have been in it
    }

    [[nodiscard]] std::size_t in_use() const { return blocks_.size() - free_.size(); }

    /// Blocks in which something is written.
    [[nodiscard]] std::size_t written() const {
        return static_cast<std::size_t>(
            std::ranges::count_if(blocks_, [](const Block& block) { return block != Block{}; }));
    }

private:
    std::vector<Block> blocks_;
    std::vector<Block*> free_;
};

/// KV state in blocks of a pool.
class KvState {
public:
    explicit KvState(Pool& pool) : pool_(&pool) {}
    KvState(KvState&& other) noexcept : pool_(other.pool_) { blocks_.swap(other.blocks_); }
    KvState& operator=(KvState&& other) noexcept {
        std::swap(pool_, other.pool_);
        blocks_.swap(other.blocks_); // what was here is cleared with `other`
        return *this;
    }
    ~KvState() { truncate(0); }

    void compute(std::int32_t token) {
        blocks_.reserve(blocks_.size() + 1);
        blocks_.push_back(pool_->take());
        blocks_.back()->fill(static_cast<std::uint32_t>(token));
    }

    std::size_t nbytes() const noexcept { return blocks_.size() * sizeof(Block); }
    std::size_t reusable_prefix(std::size_t n) const noexcept { return n; }
    KvState clone_prefix(std::size_t n) const {
        KvState copy(*pool_);
        copy.blocks_.reserve(n);
        for (std::size_t i = 0; i < n; ++i) {
            copy.blocks_.push_back(pool_->take());
            *copy.blocks_.back() = *blocks_[i];
        }
        return copy;
    }
    void truncate(std::size_t n) noexcept {
        while (blocks_.size() > n) {
            pool_->give_back(blocks_.back());
            blocks_.pop_back();
        }
    }

private:
    Pool* pool_;
    std::vector<Block*> blocks_;
};

/// Prints what there is, and ends the program where more is written than is in use.
void show(const char* what, const Pool& pool) {
    std::printf("%-24s %3zu blocks in use, %3zu written\n", what, pool.in_use(), pool.written());
    if (pool.written() != pool.in_use()) {
        std::exit(EXIT_FAILURE);
    }
}

} // namespace

int main() {
    Pool pool(1000);
    promptkv::LRUPromptCache<KvState> cache(
        {.max_bytes = 300 * sizeof(Block), .cut_granularity = 10});
    const auto serve = [&](std::string_view tenant, const std::vector<std::int32_t>& prompt) {
        auto hit = cache.fetch_nearest(tenant, prompt);
        KvState kv = hit ? std::move(*hit.kv) : KvState(pool);
        for (const std::int32_t token : hit.remaining) {
            kv.compute(token);
        }
        cache.insert(tenant, prompt, std::move(kv), promptkv::Tier::user);
    };

    const std::vector<std::int32_t> letter(200, 7);
    const std::vector<std::int32_t> contract(180, 8);
    serve("tenant A", letter);
    show("A's letter", pool);
    serve("tenant B", contract); // cuts what is cached of the letter
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
