// SPDX-License-Identifier: MIT
// Payloads for tests: state that remembers what it was computed from.
#ifndef PROMPTKV_TESTS_PAYLOADS_HPP
#define PROMPTKV_TESTS_PAYLOADS_HPP

#include <promptkv/block_kv.hpp>

#include <cstddef>
#include <cstdint>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

namespace promptkv_test {

using Tokens = std::vector<std::int32_t>;

/// Which prefixes a payload serves, and its size.
struct Shape {
    /// 1: every prefix. 0: the whole key only. k: every multiple of k tokens, and the whole key.
    std::size_t step = 1;
    std::size_t bytes_per_token = 1;
    std::size_t overhead = 0; ///< bytes beside those of the tokens
    std::size_t block = 1;    ///< tokens of a block

    friend bool operator==(const Shape&, const Shape&) = default;
};

/// The content of a tape: the model and the tokens that it was computed from. Also used by itself,
/// where a test needs the arithmetic of a payload without its type.
struct Recording {
    int id = 0;
    std::string model;
    Tokens tokens;
    Shape shape;

    [[nodiscard]] std::size_t nbytes() const noexcept {
        return shape.overhead + shape.bytes_per_token * tokens.size();
    }

    [[nodiscard]] std::size_t reusable_prefix(std::size_t n) const noexcept {
        if (n >= tokens.size())
            return tokens.size();
        return shape.step == 0 ? 0 : n / shape.step * shape.step;
    }

    /// Cuts to the first `n` tokens. Where that is not possible the recording is blank afterwards,
    /// so that any comparison of contents fails.
    void truncate(std::size_t n) noexcept { tokens.resize(reusable_prefix(n) == n ? n : 0); }

    friend bool operator==(const Recording&, const Recording&) = default;
};

/// The optional functions of a payload; combined with |.
enum Ability : unsigned {
    can_reuse = 1,    ///< has reusable_prefix
    can_clone = 2,    ///< has clone_prefix
    can_truncate = 4, ///< has truncate
    can_copy = 8,     ///< has a copy constructor
    has_blocks = 16,  ///< has for_each_block and adopt_blocks
    has_state = 32    ///< has shared_prefix
};

namespace detail {

struct Copyable {};

struct MoveOnly {
    MoveOnly() = default;
    MoveOnly(MoveOnly&&) noexcept = default;
    MoveOnly& operator=(MoveOnly&&) noexcept = default;
    MoveOnly(const MoveOnly&) = delete;
    MoveOnly& operator=(const MoveOnly&) = delete;
    ~MoveOnly() = default;
};

} // namespace detail

/// A payload that carries its recording: what is served must be the beginning of the prompt asked.
template <unsigned abilities>
class BasicTape
    : private std::conditional_t<(abilities & can_copy) != 0U, detail::Copyable, detail::MoveOnly> {
public:
    /// A combination of Ability.
    static constexpr unsigned offered = abilities;

    explicit BasicTape(Recording recording) noexcept : recording_(std::move(recording)) {}

    [[nodiscard]] const Recording& recording() const noexcept { return recording_; }

    [[nodiscard]] std::size_t nbytes() const noexcept { return recording_.nbytes(); }

    [[nodiscard]] std::size_t length() const noexcept { return recording_.tokens.size(); }

    [[nodiscard]] std::size_t block_tokens() const noexcept { return recording_.shape.block; }

    [[nodiscard]] std::size_t reusable_prefix(std::size_t n) const noexcept
        requires((abilities & can_reuse) != 0U)
    {
        return recording_.reusable_prefix(n);
    }

    [[nodiscard]] BasicTape clone_prefix(std::size_t n) const
        requires((abilities & can_clone) != 0U)
    {
        Recording copy = recording_;
        copy.truncate(n);
        return BasicTape(std::move(copy));
    }

    void truncate(std::size_t n) noexcept
        requires((abilities & can_truncate) != 0U)
    {
        recording_.truncate(n);
    }

private:
    Recording recording_;
};

/// Can do everything that a payload without blocks can.
using Tape = BasicTape<can_reuse | can_clone | can_truncate | can_copy>;
/// A victim of it is dropped whole.
using ClonedTape = BasicTape<can_reuse | can_clone>;
/// Cloned whole or not at all.
using CopiedTape = BasicTape<can_reuse | can_truncate | can_copy>;
/// Leased and taken only.
using MoveOnlyTape = BasicTape<can_reuse | can_truncate>;
/// Serves its whole key only, and is copied.
using WholeTape = BasicTape<can_copy>;

/// A block that remembers its tokens. No two blocks have the same id.
struct TapeBlock {
    int id = 0;
    std::string model;
    Tokens tokens; ///< the first ones are those of the key
    std::size_t bytes = 0;

    [[nodiscard]] std::size_t nbytes() const noexcept { return bytes; }
};

/// The recurrent state at the end of a key.
struct TapeState {
    int id = 0;
    std::string model;
    Tokens tokens;
    std::size_t bytes = 0;

    [[nodiscard]] std::size_t nbytes() const noexcept { return bytes; }
};

/// Full attention in shared blocks.
using BlockTape = promptkv::BlockKV<TapeBlock>;
/// A hybrid model: shared blocks, and a state that serves the whole key only.
using HybridTape = promptkv::BlockKV<TapeBlock, TapeState>;

} // namespace promptkv_test

#endif
