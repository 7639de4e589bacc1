// SPDX-License-Identifier: MIT
// Payloads of the unit, cost, regression and reference tests, and keys written as words.
//
// A word is a key: one token a letter. A payload knows the word that it was computed from, so that a
// test can read what it was given.
#ifndef PROMPTKV_TESTS_UNIT_PAYLOADS_HPP
#define PROMPTKV_TESTS_UNIT_PAYLOADS_HPP

#include <promptkv/block_kv.hpp>
#include <promptkv/cache_types.hpp>
#include <promptkv/kv_traits.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <numeric>
#include <optional>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

namespace promptkv_test {

// keys ///////////////////////////////////////////////////////////////////////

using Key = std::vector<std::int32_t>;

inline Key key(std::string_view word) {
    Key tokens;
    for (const char letter : word)
        tokens.push_back(static_cast<unsigned char>(letter));
    return tokens;
}

inline std::string word(std::span<const std::int32_t> tokens) {
    std::string letters;
    for (const std::int32_t token : tokens)
        letters.push_back(static_cast<char>(token));
    return letters;
}

/// `n` tokens that count up from `first`.
inline Key counting(std::size_t n, std::int32_t first = 0) {
    Key tokens(n);
    std::iota(tokens.begin(), tokens.end(), first);
    return tokens;
}

// tapes: state without blocks ////////////////////////////////////////////////

/// Which prefixes a tape serves, and its weight.
struct Shape {
    /// 1: every prefix. 0: the whole key alone. k: every multiple of k tokens, and the whole key.
    std::size_t step = 1;
    std::size_t bytes_per_token = 1;
    std::size_t overhead = 0;
    std::size_t block_tokens = 1;
};

/// Of what serves no part of its key.
inline constexpr Shape whole_only = {.step = 0};

/// What a type of tape offers beside `nbytes`, `length` and `block_tokens`; combined with |.
enum Ability : unsigned { reuses = 1, clones = 2, truncates = 4, copies = 8 };

namespace detail {

struct Copyable {};

struct MoveOnly {
    MoveOnly() = default;
    MoveOnly(MoveOnly&&) noexcept = default;
    MoveOnly& operator=(MoveOnly&&) noexcept = default;
};

} // namespace detail

/// A payload that owns all of its state.
template <unsigned abilities>
class BasicTape
    : private std::conditional_t<(abilities & copies) != 0U, detail::Copyable, detail::MoveOnly> {
public:
    explicit BasicTape(std::string_view text, Shape shape = {}) : text_(text), shape_(shape) {}

    [[nodiscard]] const std::string& text() const noexcept { return text_; }

    [[nodiscard]] std::size_t nbytes() const noexcept {
        return shape_.overhead + shape_.bytes_per_token * text_.size();
    }
    [[nodiscard]] std::size_t length() const noexcept { return text_.size(); }
    [[nodiscard]] std::size_t block_tokens() const noexcept { return shape_.block_tokens; }

    [[nodiscard]] std::size_t reusable_prefix(std::size_t n) const noexcept
        requires((abilities & reuses) != 0U)
    {
        return served(n);
    }

    [[nodiscard]] BasicTape clone_prefix(std::size_t n) const
        requires((abilities & clones) != 0U)
    {
        return BasicTape(std::string_view(text_).substr(0, served(n) == n ? n : 0), shape_);
    }

    /// A cut to a prefix that it does not serve leaves a blank tape, which no comparison accepts.
    void truncate(std::size_t n) noexcept
        requires((abilities & truncates) != 0U)
    {
        text_.resize(served(n) == n ? n : 0);
    }

private:
    [[nodiscard]] std::size_t served(std::size_t n) const noexcept {
        if (n >= text_.size())
            return text_.size();
        return shape_.step == 0 ? 0 : n / shape_.step * shape_.step;
    }

    std::string text_;
    Shape shape_;
};

using Tape = BasicTape<reuses | clones | truncates | copies>;
using UncutTape = BasicTape<reuses | clones>;              ///< a victim of it is dropped whole
using CopiedTape = BasicTape<reuses | truncates | copies>; ///< fetched whole or not at all
using MoveOnlyTape = BasicTape<reuses | truncates>;        ///< leased and taken only
using WholeTape = BasicTape<copies>;                       ///< serves its whole key only

// blocks: shared state ///////////////////////////////////////////////////////

/// One byte a letter.
struct TextBlock {
    std::string text;

    [[nodiscard]] std::size_t nbytes() const noexcept { return text.size(); }
};

using Blocks = promptkv::BlockKV<TextBlock>;
using Hybrid = promptkv::BlockKV<TextBlock, TextBlock>;

inline constexpr std::size_t tokens_a_block = 2;

/// Adds the blocks of `text` from `kv.length()` on.
template <class KV>
void append_rest(KV& kv, std::string_view text) {
    while (kv.length() < text.size()) {
        const std::string_view part = text.substr(kv.length(), kv.block_tokens());
        kv.append(TextBlock{std::string(part)}, part.size());
    }
}

/// A payload of new blocks of two tokens; the state of a Hybrid is the whole text.
template <class KV = Blocks>
KV blocks(std::string_view text, std::size_t block_tokens = tokens_a_block) {
    KV kv(block_tokens);
    append_rest(kv, text);
    if constexpr (std::is_same_v<KV, Hybrid>)
        kv.set_state(TextBlock{std::string(text)});
    return kv;
}

// what a payload was computed from ///////////////////////////////////////////

template <unsigned abilities>
std::string text_of(const BasicTape<abilities>& kv) {
    return kv.text();
}

template <class State>
std::string text_of(const promptkv::BlockKV<TextBlock, State>& kv) {
    std::string text;
    for (const auto& block : kv.blocks())
        text += block->text;
    return text.substr(0, kv.length());
}

/// "-" where there is none.
template <class KV>
std::string text_of(const std::optional<KV>& kv) {
    return kv ? text_of(*kv) : "-";
}

// a cache of them ////////////////////////////////////////////////////////////

template <class Cache>
using PayloadOf = typename decltype(Cache::Fetched::kv)::value_type;

/// A payload of any type, computed from the word.
template <class KV>
KV payload(std::string_view text, Shape shape = {}) {
    if constexpr (promptkv::BlockPayload<KV>)
        return blocks<KV>(text);
    else
        return KV(text, shape);
}

/// Stores a payload of the word for the model "m".
template <class Cache, class TierEnum>
auto store(Cache& cache, std::string_view text, TierEnum tier, Shape shape = {},
           promptkv::InsertOptions options = {}) {
    return cache.insert("m", key(text), payload<PayloadOf<Cache>>(text, shape), tier, options);
}

/// The words that `cache` holds, in alphabetical order, each followed by the number of its tier.
template <class Cache>
std::string contents(const Cache& cache) {
    std::vector<std::string> entries;
    cache.for_each([&entries](const auto& entry) {
        entries.push_back(word(entry.tokens) + std::to_string(static_cast<int>(entry.tier)));
    });
    std::sort(entries.begin(), entries.end());
    std::string line;
    for (const std::string& entry : entries)
        line += (line.empty() ? "" : " ") + entry;
    return line;
}

/// Evicts entry by entry. Returns the words in the order in which they leave.
template <class Cache>
std::string eviction_order(Cache& cache) {
    std::string order;
    cache.set_removal_listener([&order](const auto& removal) {
        order += (order.empty() ? "" : " ") + word(removal.tokens);
    });
    while (!cache.empty() && cache.trim_to({.max_entries = cache.size() - 1}) > 0) {
    }
    cache.set_removal_listener(nullptr);
    return order;
}

// payloads for one purpose each //////////////////////////////////////////////

/// State of so many bytes, for tokens of any type.
struct Sized {
    std::size_t bytes = 0;

    [[nodiscard]] std::size_t nbytes() const noexcept { return bytes; }
    [[nodiscard]] std::size_t reusable_prefix(std::size_t n) const noexcept { return n; }
    [[nodiscard]] Sized clone_prefix(std::size_t n) const { return {n}; }
};

/// State of a number, whose weight does not depend on its length; used in part, or whole only.
class Sheet {
public:
    Sheet(int id, std::size_t nbytes, bool trimmable, std::size_t length)
        : id_(id), nbytes_(nbytes), trimmable_(trimmable), length_(length) {}

    [[nodiscard]] int id() const noexcept { return id_; }
    [[nodiscard]] std::size_t nbytes() const noexcept { return nbytes_; }
    [[nodiscard]] std::size_t length() const noexcept { return length_; }
    [[nodiscard]] std::size_t reusable_prefix(std::size_t n) const noexcept {
        if (n >= length_)
            return length_;
        return trimmable_ ? n : 0;
    }
    [[nodiscard]] Sheet clone_prefix(std::size_t n) const { return {id_, nbytes_, trimmable_, n}; }

private:
    int id_;
    std::size_t nbytes_;
    bool trimmable_;
    std::size_t length_;
};

/// A draft model that is two tokens behind: it does not serve its whole key.
struct Lagging {
    std::size_t tokens = 0;

    [[nodiscard]] std::size_t nbytes() const noexcept { return tokens; }
    [[nodiscard]] std::size_t reusable_prefix(std::size_t n) const noexcept {
        return n + 2 > tokens ? tokens - 2 : n;
    }
    [[nodiscard]] Lagging clone_prefix(std::size_t n) const { return {n + 2}; }
};

/// A block that the engine pads: four bytes, whatever it holds. It counts how often it is asked.
struct PaddedBlock {
    std::size_t* asked;

    [[nodiscard]] std::size_t nbytes() const noexcept {
        ++*asked;
        return 4;
    }
};

/// Says that it can be cut, and frees nothing.
struct Stubborn {
    std::size_t bytes = 0;

    [[nodiscard]] std::size_t nbytes() const noexcept { return bytes; }
    [[nodiscard]] std::size_t reusable_prefix(std::size_t n) const noexcept { return n; }
    void truncate(std::size_t) noexcept {}
};

/// Calls a function when it is destroyed. One byte.
class Farewell {
public:
    explicit Farewell(std::function<void()> call)
        : call_(std::make_unique<Call>(Call{std::move(call)})) {}

    [[nodiscard]] std::size_t nbytes() const noexcept { return 1; }

private:
    struct Call {
        std::function<void()> function;

        explicit Call(std::function<void()> f) : function(std::move(f)) {}
        Call(Call&& other) noexcept : function(std::exchange(other.function, nullptr)) {}
        Call& operator=(Call&&) = delete;
        ~Call() {
            if (function)
                function();
        }
    };
    std::unique_ptr<Call> call_;
};

#ifdef __cpp_exceptions
/// A copy of it throws.
struct ThrowsWhenCopied {
    ThrowsWhenCopied() = default;
    ThrowsWhenCopied(ThrowsWhenCopied&&) noexcept = default;
    ThrowsWhenCopied& operator=(ThrowsWhenCopied&&) noexcept = default;
    ThrowsWhenCopied(const ThrowsWhenCopied&) { throw std::runtime_error("no memory"); }
    ~ThrowsWhenCopied() = default;

    [[nodiscard]] std::size_t nbytes() const noexcept { return 1; }
};
#endif

/// The calls that counted payloads have answered.
struct Calls {
    std::size_t nbytes = 0;
    std::size_t reusable_prefix = 0;
    std::size_t clones = 0;
    std::size_t cloned_tokens = 0;
    std::size_t truncates = 0;
    std::size_t moves = 0;
};

/// Full attention that counts its calls. One byte a token; it owns no memory.
class Counted {
public:
    Counted(Calls& calls, std::size_t tokens, bool whole = false)
        : calls_(&calls), tokens_(tokens), whole_only_(whole) {}
    Counted(Counted&& other) noexcept
        : calls_(other.calls_), tokens_(other.tokens_), whole_only_(other.whole_only_) {
        ++calls_->moves;
    }
    Counted& operator=(Counted&& other) noexcept {
        calls_ = other.calls_;
        tokens_ = other.tokens_;
        whole_only_ = other.whole_only_;
        ++calls_->moves;
        return *this;
    }
    ~Counted() = default;

    [[nodiscard]] std::size_t nbytes() const noexcept {
        ++calls_->nbytes;
        return tokens_;
    }
    [[nodiscard]] std::size_t reusable_prefix(std::size_t n) const noexcept {
        ++calls_->reusable_prefix;
        return n >= tokens_ || !whole_only_ ? n : 0;
    }
    [[nodiscard]] Counted clone_prefix(std::size_t n) const {
        ++calls_->clones;
        calls_->cloned_tokens += n;
        return {*calls_, n, whole_only_};
    }
    void truncate(std::size_t n) noexcept {
        ++calls_->truncates;
        tokens_ = n;
    }
    [[nodiscard]] std::size_t length() const noexcept { return tokens_; }

private:
    Calls* calls_;
    std::size_t tokens_;
    bool whole_only_;
};

/// Blocks of 64 tokens that count how often they are visited. They own no memory of their own.
struct VisitedBlock {
    [[nodiscard]] std::size_t nbytes() const noexcept { return 64; }
};

class VisitedBlocks : public promptkv::BlockKV<VisitedBlock> {
public:
    using Base = promptkv::BlockKV<VisitedBlock>;

    VisitedBlocks(std::size_t& visits, std::size_t tokens) : Base(64), visits_(&visits) {
        while (length() < tokens)
            append(VisitedBlock{}, std::min<std::size_t>(64, tokens - length()));
    }

    template <class F>
    void for_each_block(std::size_t from, F&& f) const noexcept {
        Base::for_each_block(from, [&](const auto& use, std::size_t nbytes, bool in_use) {
            ++*visits_;
            f(use, nbytes, in_use);
        });
    }
    [[nodiscard]] VisitedBlocks clone_prefix(std::size_t n) const {
        return {Base::clone_prefix(n), visits_};
    }
    std::optional<VisitedBlocks> truncate(std::size_t n) noexcept {
        std::optional<Base> tail = Base::truncate(n);
        if (!tail)
            return std::nullopt;
        return VisitedBlocks(std::move(*tail), visits_);
    }
    std::optional<VisitedBlocks> adopt_blocks(std::size_t n, const VisitedBlocks& other) noexcept {
        std::optional<Base> given_up = Base::adopt_blocks(n, other);
        if (!given_up)
            return std::nullopt;
        return VisitedBlocks(std::move(*given_up), visits_);
    }

private:
    VisitedBlocks(Base base, std::size_t* visits) : Base(std::move(base)), visits_(visits) {}

    std::size_t* visits_;
};

// for kv_traits //////////////////////////////////////////////////////////////

/// Has `nbytes` and nothing else.
struct BytesAlone {
    [[nodiscard]] std::size_t nbytes() const noexcept { return 3; }
};

/// Has no `nbytes`.
struct NoBytes {};

struct ThrowsWhenMoved {
    ThrowsWhenMoved() = default;
    ThrowsWhenMoved(ThrowsWhenMoved&&) noexcept(false) {}
    ThrowsWhenMoved& operator=(ThrowsWhenMoved&&) noexcept(false) { return *this; }
    [[nodiscard]] std::size_t nbytes() const noexcept { return 0; }
};

struct ThrowsWhenDestroyed {
    ThrowsWhenDestroyed() = default;
    ThrowsWhenDestroyed(ThrowsWhenDestroyed&&) noexcept = default;
    ThrowsWhenDestroyed& operator=(ThrowsWhenDestroyed&&) noexcept = default;
    ~ThrowsWhenDestroyed() noexcept(false) {}
    [[nodiscard]] std::size_t nbytes() const noexcept { return 0; }
};

/// Misspells each optional function.
struct Misspelt {
    [[nodiscard]] std::size_t nbytes() const noexcept { return 1; }
    [[nodiscard]] std::size_t reuseable_prefix(std::size_t n) const noexcept { return n; }
    [[nodiscard]] Misspelt clone_prefixes(std::size_t) const { return {}; }
    void truncated(std::size_t) noexcept {}
    [[nodiscard]] std::size_t len() const noexcept { return 1; }
    template <class F>
    void for_each_blocks(std::size_t, F&&) const noexcept {}
    void adopt_block(std::size_t, const Misspelt&) noexcept {}
};

/// A type that is not ours: it has no such members. kv_traits is specialised for it, and answers with ints.
struct Foreign {
    std::vector<int> cells;
};

/// A type whose members of these names mean something else. kv_traits is specialised for it.
struct Misleading {
    int reusable_prefix(int) { return 0; }
    void clone_prefix(std::size_t) {}
    const char* length() { return ""; }
};

} // namespace promptkv_test

template <>
struct promptkv::kv_traits<promptkv_test::Foreign> {
    using Foreign = promptkv_test::Foreign;

    static int nbytes(const Foreign& kv) noexcept { return length(kv) * int{sizeof(int)}; }
    static std::size_t reusable_prefix(const Foreign&, std::size_t n) noexcept { return n; }
    static Foreign clone_prefix(const Foreign& kv, std::size_t n) {
        return {std::vector<int>(kv.cells.begin(), kv.cells.begin() + static_cast<int>(n))};
    }
    static void truncate(Foreign& kv, std::size_t n) { kv.cells.resize(n); }
    static int length(const Foreign& kv) noexcept { return static_cast<int>(kv.cells.size()); }
};

template <>
struct promptkv::kv_traits<promptkv_test::Misleading> {
    static std::size_t nbytes(const promptkv_test::Misleading&) noexcept { return 1; }
};

#endif
