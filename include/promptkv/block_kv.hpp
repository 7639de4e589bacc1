// SPDX-License-Identifier: MIT
// BlockUse, SharedBlock, BlockKV: a payload of shared blocks, ready to use.
#ifndef PROMPTKV_BLOCK_KV_HPP
#define PROMPTKV_BLOCK_KV_HPP

#include <promptkv/config.hpp>
#include <promptkv/detail/exceptions.hpp>
#include <promptkv/kv_traits.hpp>
#include <promptkv/version.hpp>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <type_traits>
#include <utility>
#include <vector>

namespace promptkv::inline PROMPTKV_ABI {

/// Counts the payloads in a cache's account that hold a block. Lives in the block, or beside it in an
/// engine's own pool; zero at first. The cache alone changes it, also of a const block.
///
/// A block belongs to one cache at a time (asserted): a payload that goes from one cache to another, such
/// as one that a removal listener got, needs blocks of its own there.
/// Thread safety: any.
class BlockUse {
public:
    BlockUse() = default;
    BlockUse(const BlockUse&) = delete;
    BlockUse& operator=(const BlockUse&) = delete;
    ~BlockUse() { PROMPTKV_ASSERT(count() == 0); } // a payload in a cache would point to nothing

    /// Payloads in a cache's account that hold the block.
    [[nodiscard]] std::uint32_t count() const noexcept {
        const std::uint32_t stored = stored_.load(std::memory_order_relaxed);
        const std::uint32_t holders = holders_.load(std::memory_order_acquire);
        return stored > 0 && holders > 0 ? holders - 1 + stored : holders;
    }

    // For the cache alone, all but `unpin` under the cache's lock.

    /// One stored payload more. Returns whether no payload held the block.
    bool store(const void* cache) const noexcept {
        const std::uint32_t stored = stored_.load(std::memory_order_relaxed);
        stored_.store(stored + 1, std::memory_order_relaxed);
        if (stored > 0) {
            assert_belongs_to(cache);
            return false;
        }
        if (holders_.load(std::memory_order_acquire) > 0)
            return add_holder(cache); // they may end meanwhile
        cache_.store(cache, std::memory_order_relaxed);
        holders_.store(1, std::memory_order_relaxed);
        return true;
    }
    /// One stored payload less. Returns whether it was the last payload.
    bool unstore() const noexcept {
        const std::uint32_t stored = stored_.load(std::memory_order_relaxed);
        stored_.store(stored - 1, std::memory_order_relaxed);
        if (stored > 1)
            return false;
        if (holders_.load(std::memory_order_acquire) > 1)
            return unpin(); // the others may end meanwhile
        holders_.store(0, std::memory_order_release);
        return true;
    }
    /// One leased payload more that is no entry's. Returns whether no payload held the block.
    bool pin(const void* cache) const noexcept {
        if (!is_stored() || holders_.load(std::memory_order_acquire) > 1)
            return add_holder(cache);
        holders_.store(2, std::memory_order_relaxed);
        assert_belongs_to(cache);
        return false;
    }
    /// Undoes one `pin`, on any thread. Returns whether it was the last payload.
    bool unpin() const noexcept { return holders_.fetch_sub(1, std::memory_order_acq_rel) == 1; }
    /// The same under the cache's lock.
    bool unpin_locked() const noexcept {
        if (!is_stored() || holders_.load(std::memory_order_acquire) > 2)
            return unpin();
        holders_.store(1, std::memory_order_relaxed);
        return false;
    }

private:
    [[nodiscard]] bool is_stored() const noexcept {
        return stored_.load(std::memory_order_relaxed) > 0;
    }
    bool add_holder(const void* cache) const noexcept {
        if (holders_.fetch_add(1, std::memory_order_acq_rel) == 0) {
            cache_.store(cache, std::memory_order_relaxed);
            return true;
        }
        assert_belongs_to(cache);
        return false;
    }
    void assert_belongs_to([[maybe_unused]] const void* cache) const noexcept {
        PROMPTKV_ASSERT(
            cache_.load(std::memory_order_relaxed) == cache &&
            "a block belongs to one cache at a time: copy what is in it to a new block");
    }

    // `holders_` rises under the lock alone. So a block without a pin of another thread's needs no
    // atomic read-modify-write: nobody else can change its counters.
    mutable std::atomic<std::uint32_t> stored_{0};  // payloads of entries; under the cache's lock
    mutable std::atomic<std::uint32_t> holders_{0}; // the entries' as one, and each other payload
    mutable std::atomic<const void*> cache_{nullptr};
};

/// A counted pointer to an immutable block. Copies share the block.
///
/// Requires of `T`: `kv_traits<T>::nbytes`, asked once.
/// Thread safety: as std::shared_ptr.
template <class T>
class SharedBlock {
    static_assert(SizedPayload<T>,
                  "a block needs nbytes: a member, or a specialisation of promptkv::kv_traits");

    struct Counted {
        explicit Counted(T&& block) : value(std::move(block)) {}
        T value;
        std::size_t nbytes = detail::bytes_of(value);
        BlockUse use;
    };

public:
    /// Throws:     what the allocation or the move of `block` throws.
    /// Complexity: one allocation.
    explicit SharedBlock(T block) : counted_(std::make_shared<Counted>(std::move(block))) {}

    [[nodiscard]] const T& operator*() const noexcept { return counted_->value; }
    [[nodiscard]] const T* operator->() const noexcept { return std::addressof(counted_->value); }
    [[nodiscard]] std::size_t nbytes() const noexcept { return counted_->nbytes; }
    [[nodiscard]] const BlockUse& use() const noexcept { return counted_->use; }

    /// Whether somebody outside of a cache's account holds the block too.
    [[nodiscard]] bool in_use() const noexcept {
        return static_cast<std::size_t>(counted_.use_count()) > counted_->use.count();
    }

    /// Whether nobody else holds the block.
    [[nodiscard]] bool is_sole_holder() const noexcept { return counted_.use_count() == 1; }

    /// Whether both point to the same block.
    friend bool operator==(const SharedBlock&, const SharedBlock&) = default;

private:
    std::shared_ptr<const Counted> counted_;
};

/// KV state as blocks of `block_tokens` tokens each, and optionally a state at the end of its key.
///
///     tokens   0 ...... 64 ..... 128 .. 150       block_tokens = 64, length() = 150
///     blocks  [   #0   ][   #1   ][   #2   ]      #2 may hold tokens beyond 150: a restore ignores them
///     state                           [ S ]       at 150, of a recurrent or hybrid model
///
/// Without a `State` it serves every prefix of its key, and can be cut and cloned; a clone shares its blocks.
/// With one it serves its whole key only, and still shares the blocks of its attention layers; as long as
/// `set_state` was not called it serves nothing.
///
/// `nbytes()` is the sum over its blocks and the state, as their `kv_traits` say.
/// Thread safety: a const object may be read from several threads.
/// Exceptions: strong guarantee.
template <class Block, class State = void>
class BlockKV {
    static constexpr bool has_states = !std::is_void_v<State>;
    using StateOrNone = std::conditional_t<has_states, State, std::byte>;

public:
    using block_type = SharedBlock<Block>;

    /// Without blocks. Requires: block_tokens > 0.
    explicit BlockKV(std::size_t block_tokens) noexcept : block_tokens_(block_tokens) {
        PROMPTKV_ASSERT(block_tokens > 0);
    }
    BlockKV(const BlockKV&) = default;
    BlockKV& operator=(const BlockKV&) = default;
    BlockKV(BlockKV&& other) noexcept
        : blocks_(std::move(other.blocks_)), state_(std::move(other.state_)),
          block_tokens_(other.block_tokens_), length_(std::exchange(other.length_, 0)),
          block_bytes_(std::exchange(other.block_bytes_, 0)) {
        other.blocks_.clear();
    }
    BlockKV& operator=(BlockKV&& other) noexcept {
        BlockKV(std::move(other)).swap(*this);
        return *this;
    }
    ~BlockKV() = default;

    void swap(BlockKV& other) noexcept {
        blocks_.swap(other.blocks_);
        state_.swap(other.state_);
        std::swap(block_tokens_, other.block_tokens_);
        std::swap(length_, other.length_);
        std::swap(block_bytes_, other.block_bytes_);
    }

    // building ///////////////////////////////////////////////////////////////

    /// Adds the block of the next `tokens` tokens: of block_tokens, or fewer for the last one. Invalidates
    /// what blocks() returned.
    /// Requires:   length() is a multiple of block_tokens(), for a fetched payload by `FetchOptions::align`;
    ///             0 < tokens <= block_tokens().
    /// Throws:     what an allocation, or the move of a Block, throws; nothing has changed then.
    /// Complexity: O(1), amortised.
    void append(block_type block, std::size_t tokens) {
        PROMPTKV_ASSERT(length_ % block_tokens_ == 0);
        PROMPTKV_ASSERT(tokens > 0 && tokens <= block_tokens_);
        const std::size_t nbytes = block.nbytes();
        blocks_.push_back(std::move(block));
        length_ += tokens;
        block_bytes_ += nbytes;
    }
    void append(Block block, std::size_t tokens) { append(block_type(std::move(block)), tokens); }

    /// Sets the state at the end of the key. Invalidates what state() returned.
    /// Throws: what the allocation or the move of `state` throws; nothing has changed then.
    void set_state(StateOrNone state)
        requires has_states
    {
        state_ = std::make_shared<const StateOrNone>(std::move(state));
    }
    void set_state(std::shared_ptr<const StateOrNone> state) noexcept
        requires has_states
    {
        state_ = std::move(state);
    }

    // observers //////////////////////////////////////////////////////////////

    /// Valid until *this is changed, moved or destroyed.
    [[nodiscard]] std::span<const block_type> blocks() const noexcept { return blocks_; }
    [[nodiscard]] bool has_state() const noexcept { return state_ != nullptr; }
    /// Valid until another one is set, or *this is moved or destroyed. Requires: has_state().
    [[nodiscard]] const StateOrNone& state() const noexcept
        requires has_states
    {
        PROMPTKV_ASSERT(has_state());
        return *state_;
    }
    /// The state, shared with the payload; null: there is none.
    [[nodiscard]] const std::shared_ptr<const StateOrNone>& shared_state() const noexcept
        requires has_states
    {
        return state_;
    }

    // what the cache asks: see kv_traits /////////////////////////////////////

    [[nodiscard]] std::size_t nbytes() const noexcept {
        if constexpr (has_states) {
            static_assert(
                SizedPayload<State>,
                "a State needs nbytes: a member, or a specialisation of promptkv::kv_traits");
            return block_bytes_ + (state_ ? detail::bytes_of(*state_) : 0);
        } else {
            return block_bytes_;
        }
    }
    [[nodiscard]] std::size_t length() const noexcept { return length_; }
    [[nodiscard]] std::size_t block_tokens() const noexcept { return block_tokens_; }

    [[nodiscard]] std::size_t reusable_prefix(std::size_t n) const noexcept {
        if constexpr (has_states)
            return n >= length_ && has_state() ? length_ : 0;
        else
            return n < length_ ? n : length_;
    }

    /// The first `n` tokens; the blocks are shared.
    /// Requires:   n <= length().
    /// Throws:     what an allocation throws.
    /// Complexity: O(n / block_tokens).
    [[nodiscard]] BlockKV clone_prefix(std::size_t n) const
        requires(!has_states)
    {
        return first(n);
    }

    /// The whole blocks of the first `n` tokens, without a state.
    /// Throws:     what an allocation throws.
    /// Complexity: O(n / block_tokens).
    [[nodiscard]] BlockKV shared_prefix(std::size_t n) const
        requires has_states
    {
        return first((n < length_ ? n : length_) / block_tokens_ * block_tokens_);
    }

    /// Drops the blocks that begin at or beyond `n` and returns them; nothing if memory ran out. O(these).
    std::optional<BlockKV> truncate(std::size_t n) noexcept
        requires(!has_states)
    {
        if (n >= length_)
            return std::nullopt;
        const std::size_t keep = blocks_of(n);
        std::optional<BlockKV> tail(std::in_place, block_tokens_);
        tail->length_ = length_ - (keep * block_tokens_ < length_ ? keep * block_tokens_ : length_);
        if (!move_blocks(keep, *tail))
            tail.reset();
        length_ = n;
        return tail;
    }

    /// O(blocks from there on); throws what `f` throws.
    template <class F>
    void for_each_block(std::size_t from, F&& f) const {
        for (std::size_t i = blocks_of(from); i < blocks_.size(); ++i)
            f(blocks_[i].use(), blocks_[i].nbytes(), InUse{blocks_[i]});
    }

    /// Returns the blocks that it gave up, if there are any and there is memory. O(n / block_tokens).
    std::optional<BlockKV> adopt_blocks(std::size_t n, const BlockKV& other) noexcept {
        if (other.block_tokens_ != block_tokens_)
            return std::nullopt;
        std::size_t whole = n / block_tokens_;
        whole = whole < blocks_.size() ? whole : blocks_.size();
        whole = whole < other.blocks_.size() ? whole : other.blocks_.size();
        std::optional<BlockKV> given_up;
        for (std::size_t i = 0; i < whole; ++i) {
            if (blocks_[i] == other.blocks_[i])
                continue;
            if (!given_up) {
                given_up.emplace(block_tokens_);
                static_cast<void>(given_up->try_reserve(whole - i));
            }
            block_bytes_ += other.blocks_[i].nbytes() - blocks_[i].nbytes();
            if (given_up->blocks_.size() < given_up->blocks_.capacity())
                given_up->blocks_.push_back(std::move(blocks_[i]));
            blocks_[i] = other.blocks_[i];
        }
        return given_up;
    }

private:
    /// Asks a block whether it is in use only where somebody wants to know.
    struct InUse {
        const block_type& block;
        operator bool() const noexcept { // NOLINT(google-explicit-constructor): converts when asked
            return block.in_use();
        }
    };

    /// How many blocks the first `n` tokens are in. `block_tokens` may be any number.
    [[nodiscard]] std::size_t blocks_of(std::size_t n) const noexcept {
        return n / block_tokens_ + (n % block_tokens_ > 0 ? 1 : 0);
    }

    [[nodiscard]] BlockKV first(std::size_t n) const {
        PROMPTKV_ASSERT(n <= length_);
        BlockKV prefix(block_tokens_);
        prefix.blocks_.assign(blocks_.begin(),
                              blocks_.begin() + static_cast<std::ptrdiff_t>(blocks_of(n)));
        for (const block_type& block : prefix.blocks_)
            prefix.block_bytes_ += block.nbytes();
        prefix.length_ = n;
        return prefix;
    }

    [[nodiscard]] bool try_reserve(std::size_t n) noexcept {
        PROMPTKV_TRY {
            blocks_.reserve(n);
        }
        PROMPTKV_CATCH_ALL {
            return false;
        }
        return true;
    }

    /// Moves the blocks from number `from` on to `tail`, as far as there is memory, and drops the others.
    [[nodiscard]] bool move_blocks(std::size_t from, BlockKV& tail) noexcept {
        const bool moves = tail.try_reserve(blocks_.size() - from);
        std::size_t nbytes = 0;
        for (std::size_t i = from; i < blocks_.size(); ++i) {
            nbytes += blocks_[i].nbytes();
            if (moves)
                tail.blocks_.push_back(std::move(blocks_[i]));
        }
        block_bytes_ -= nbytes;
        tail.block_bytes_ += nbytes;
        blocks_.erase(blocks_.begin() + static_cast<std::ptrdiff_t>(from), blocks_.end());
        return moves;
    }

    std::vector<block_type> blocks_;
    std::shared_ptr<const StateOrNone> state_;
    std::size_t block_tokens_;
    std::size_t length_ = 0;
    std::size_t block_bytes_ = 0;
};

} // namespace promptkv::inline PROMPTKV_ABI

#endif
