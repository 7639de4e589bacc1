// SPDX-License-Identifier: MIT
// Keys and payloads of the tests that attack the cache: exceptions, hostile, isolation, scale, threads.
#ifndef PROMPTKV_TESTS_FIRE_PAYLOADS_HPP
#define PROMPTKV_TESTS_FIRE_PAYLOADS_HPP

#include <promptkv/block_kv.hpp>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <set>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace promptkv_test {

// keys ///////////////////////////////////////////////////////////////////////

using Tokens = std::vector<std::int32_t>;
using Key = std::span<const std::int32_t>;

/// One token a letter.
inline Tokens key(std::string_view word) {
    return {word.begin(), word.end()};
}

/// The word that the tokens stand for.
inline std::string word(Key tokens) {
    std::string letters;
    for (const std::int32_t token : tokens)
        letters.push_back(static_cast<char>(token));
    return letters;
}

/// The keys that a cache holds, in alphabetical order, each followed by the number of its tier.
template <class Cache>
std::string contents(const Cache& cache) {
    std::vector<std::string> entries;
    cache.for_each([&entries](const auto& entry) {
        entries.push_back(std::string(entry.tokens.begin(), entry.tokens.end()) +
                          std::to_string(static_cast<int>(entry.tier)));
    });
    std::sort(entries.begin(), entries.end());
    std::string line;
    for (const std::string& entry : entries)
        line += line.empty() ? entry : " " + entry;
    return line;
}

/// Evicts entry by entry. Returns the keys in the order in which they left.
template <class Cache>
std::string eviction_order(Cache& cache) {
    std::string order;
    cache.set_removal_listener(
        [&order](const auto& removal) { order += word(removal.tokens) + " "; });
    while (!cache.empty() && cache.trim_to({.max_entries = cache.size() - 1}) > 0) {
    }
    cache.set_removal_listener(nullptr);
    return order;
}

// plain payloads /////////////////////////////////////////////////////////////

/// Serves every prefix, can be cut, and has one byte a token.
struct Cuttable {
    std::size_t n = 0;

    std::size_t nbytes() const noexcept { return n; }
    std::size_t length() const noexcept { return n; }
    std::size_t reusable_prefix(std::size_t wanted) const noexcept { return wanted; }
    Cuttable clone_prefix(std::size_t wanted) const noexcept { return {wanted}; }
    void truncate(std::size_t wanted) noexcept { n = wanted; }
};

/// Serves its whole key only, and has one byte a token.
struct Whole {
    std::size_t n = 0;

    std::size_t nbytes() const noexcept { return n; }
    std::size_t length() const noexcept { return n; }
};

/// Has as many bytes as it says, and can be cut.
struct Weight {
    std::size_t n = 0;
    std::size_t bytes = 0;

    std::size_t nbytes() const noexcept { return bytes; }
    std::size_t reusable_prefix(std::size_t wanted) const noexcept { return wanted; }
    Weight clone_prefix(std::size_t wanted) const noexcept {
        return {wanted, n == 0 ? 0 : bytes / n * wanted};
    }
    void truncate(std::size_t wanted) noexcept { *this = clone_prefix(wanted); }
};

/// Does not clear the cells that it points to.
struct Handle {
    std::span<char> cells;

    std::size_t nbytes() const noexcept { return cells.size(); }
};

// blocks that know what they were computed from //////////////////////////////

/// A number for a model and the tokens in front of a block.
inline std::uint64_t digest(std::string_view model, Key tokens) {
    std::uint64_t sum = 0xcbf29ce484222325U;
    for (const char letter : model)
        sum = (sum ^ static_cast<unsigned char>(letter)) * 0x100000001b3U;
    for (const std::int32_t token : tokens)
        sum = (sum ^ static_cast<std::uint32_t>(token)) * 0x100000001b3U + 1;
    return sum;
}

/// The state of some tokens, one byte each.
struct Page {
    std::uint64_t before = 0; ///< digest of the model and of the tokens in front
    Tokens tokens;

    std::size_t nbytes() const noexcept { return tokens.size(); }
};

/// The recurrent state at the end of a key.
struct Snapshot {
    std::uint64_t at = 0; ///< digest of the model and of the whole key
    std::size_t bytes = 2;

    std::size_t nbytes() const noexcept { return bytes; }
};

using Pages = promptkv::BlockKV<Page>;
using Hybrid = promptkv::BlockKV<Page, Snapshot>;

/// Appends the blocks of `tokens` that `kv` does not have yet.
template <class KV>
void compute(KV& kv, std::string_view model, Key tokens) {
    while (kv.length() < tokens.size()) {
        const std::size_t from = kv.length();
        const std::size_t n = std::min(kv.block_tokens(), tokens.size() - from);
        const Key page = tokens.subspan(from, n);
        kv.append(Page{digest(model, tokens.first(from)), {page.begin(), page.end()}}, n);
    }
    if constexpr (requires { kv.set_state(Snapshot{}); })
        kv.set_state(Snapshot{digest(model, tokens)});
}

template <class KV = Pages>
KV pages(std::string_view model, Key tokens, std::size_t block_tokens = 4) {
    KV kv(block_tokens);
    compute(kv, model, tokens);
    return kv;
}

/// Whether the first `n` tokens of `kv` are the state of the first `n` tokens of `prompt`.
template <class KV>
bool computed_from(const KV& kv, std::string_view model, Key prompt, std::size_t n) {
    if (n > kv.length() || n > prompt.size())
        return false;
    std::size_t from = 0;
    for (const auto& block : kv.blocks()) {
        if (from >= n)
            break;
        const std::size_t used = std::min(block->tokens.size(), n - from);
        if (block->before != digest(model, prompt.first(from)) ||
            !std::equal(block->tokens.begin(),
                        block->tokens.begin() + static_cast<std::ptrdiff_t>(used),
                        prompt.begin() + static_cast<std::ptrdiff_t>(from)))
            return false;
        from += used;
        if (used < kv.block_tokens())
            break;
    }
    if constexpr (requires { kv.state(); }) {
        if (kv.has_state() && kv.state().at != digest(model, prompt.first(n)))
            return false;
    }
    return from == n;
}

// payloads that fail /////////////////////////////////////////////////////////

/// What a type can be told to fail at; combined with |.
enum Call : unsigned {
    hash_call = 1,
    comparison_call = 2,
    model_copy_call = 4,
    payload_copy_call = 8,
    making_call = 16,
    visiting_call = 32
};

/// Thrown by what was told to fail.
struct Refusal : std::runtime_error {
    Refusal() : std::runtime_error("told to fail") {}
};

/// How calls fail: of those that `which` names, the one that comes after `skip` others; if
/// `lasting`, all later ones as well.
struct Refusing {
    unsigned which = 0;
    std::size_t skip = 0;
    bool lasting = false;
    bool struck = false;
};
inline Refusing refusing;

inline void called(Call call) {
    if ((refusing.which & call) == 0 || (refusing.struck && !refusing.lasting))
        return;
    if (refusing.skip > 0) {
        --refusing.skip;
        return;
    }
    refusing.struck = true;
    throw Refusal();
}

/// Calls that fail while it lives; for fail_each_allocation.
template <unsigned which>
class FailingCalls {
public:
    using Thrown = Refusal;

    explicit FailingCalls(std::size_t skip, bool lasting = false) noexcept {
        refusing = {which, skip, lasting, false};
    }
    ~FailingCalls() { refusing = {}; }
    FailingCalls(const FailingCalls&) = delete;
    FailingCalls& operator=(const FailingCalls&) = delete;

    /// Ends the failing early. Returns whether a call has failed.
    bool stop() noexcept { return std::exchange(refusing, {}).struck; }
};

/// A model whose hash, comparison and copy may fail.
struct Name {
    std::string name;

    explicit Name(std::string given) : name(std::move(given)) {}
    Name(const Name& other) : name((called(model_copy_call), other.name)) {}
    Name& operator=(const Name&) = delete;
    ~Name() = default;

    friend bool operator==(const Name& a, const Name& b) {
        called(comparison_call);
        return a.name == b.name;
    }
};

/// As Cuttable; its copy may fail, and allocates.
struct Reluctant {
    std::size_t n = 0;

    std::size_t nbytes() const noexcept { return n; }
    std::size_t length() const noexcept { return n; }
    std::size_t reusable_prefix(std::size_t wanted) const noexcept { return wanted; }
    Reluctant clone_prefix(std::size_t wanted) const {
        called(payload_copy_call);
        const std::string longer_than_a_string_holds(64, 'x');
        return {wanted + longer_than_a_string_holds.size() - 64};
    }
    void truncate(std::size_t wanted) noexcept { n = wanted; }
};

/// Serves its whole key only; its copy constructor may fail.
struct Unwilling {
    std::size_t n = 0;

    explicit Unwilling(std::size_t tokens) noexcept : n(tokens) {}
    Unwilling(const Unwilling& other) : n((called(payload_copy_call), other.n)) {}
    Unwilling(Unwilling&&) noexcept = default;
    Unwilling& operator=(const Unwilling&) = delete;
    Unwilling& operator=(Unwilling&&) noexcept = default;
    ~Unwilling() = default;

    std::size_t nbytes() const noexcept { return n; }
};

/// A payload of blocks whose `clone_prefix` or `shared_prefix` may fail.
template <class Blocks>
class ReluctantBlocks : public Blocks {
public:
    explicit ReluctantBlocks(Blocks blocks) noexcept : Blocks(std::move(blocks)) {}

    [[nodiscard]] ReluctantBlocks clone_prefix(std::size_t n) const
        requires requires(const Blocks& kv) { kv.clone_prefix(n); }
    {
        called(payload_copy_call);
        return ReluctantBlocks(Blocks::clone_prefix(n));
    }
    [[nodiscard]] ReluctantBlocks shared_prefix(std::size_t n) const
        requires requires(const Blocks& kv) { kv.shared_prefix(n); }
    {
        called(payload_copy_call);
        return ReluctantBlocks(Blocks::shared_prefix(n));
    }
    std::optional<ReluctantBlocks> truncate(std::size_t n) noexcept
        requires requires(Blocks& kv) { kv.truncate(n); }
    {
        return wrapped(Blocks::truncate(n));
    }
    std::optional<ReluctantBlocks> adopt_blocks(std::size_t n,
                                                const ReluctantBlocks& other) noexcept {
        return wrapped(Blocks::adopt_blocks(n, other));
    }

private:
    static std::optional<ReluctantBlocks> wrapped(std::optional<Blocks> blocks) noexcept {
        if (!blocks)
            return std::nullopt;
        return ReluctantBlocks(std::move(*blocks));
    }
};

// payloads that tell when they are called ////////////////////////////////////

/// A payload of `n` tokens and bytes that calls the functions that were hung on it.
class Hooked {
public:
    struct Hooks {
        std::function<void()> clone{};
        std::function<void()> truncate{};
        std::function<void()> destroy{};
    };

    explicit Hooked(std::size_t n, const Hooks* hooks = nullptr) noexcept : n_(n), hooks_(hooks) {}
    Hooked(Hooked&& other) noexcept : n_(other.n_), hooks_(std::exchange(other.hooks_, nullptr)) {}
    Hooked& operator=(Hooked&&) = delete;
    ~Hooked() {
        if (hooks_ != nullptr && hooks_->destroy)
            hooks_->destroy();
    }

    [[nodiscard]] std::size_t nbytes() const noexcept { return n_; }
    [[nodiscard]] std::size_t reusable_prefix(std::size_t n) const noexcept { return n; }
    [[nodiscard]] Hooked clone_prefix(std::size_t n) const {
        if (hooks_ != nullptr && hooks_->clone)
            hooks_->clone();
        return Hooked(n);
    }
    void truncate(std::size_t n) {
        n_ = n;
        if (hooks_ != nullptr && hooks_->truncate)
            hooks_->truncate();
    }

private:
    std::size_t n_;
    const Hooks* hooks_;
};

// payloads that clear their memory ///////////////////////////////////////////

/// Memory that outlives the payloads in it: a cell a token, 0 where nothing is written.
struct Arena {
    std::vector<char> cells = std::vector<char>(1'000);

    [[nodiscard]] std::size_t written() const {
        return cells.size() - static_cast<std::size_t>(std::ranges::count(cells, char{0}));
    }
};

/// Writes a cell for each of its tokens, and clears the cell when the token leaves.
class Wiped {
public:
    Wiped(Arena& arena, std::size_t n_tokens) : arena_(&arena) {
        while (cells_.size() < n_tokens) {
            char& cell = *std::ranges::find(arena.cells, char{0});
            cell = 'x';
            cells_.push_back(&cell);
        }
    }
    Wiped(Wiped&& other) noexcept : arena_(other.arena_), cells_(std::exchange(other.cells_, {})) {}
    Wiped& operator=(Wiped&&) = delete;
    ~Wiped() { truncate(0); }

    [[nodiscard]] std::size_t nbytes() const noexcept { return cells_.size(); }
    [[nodiscard]] std::size_t reusable_prefix(std::size_t n) const noexcept { return n; }
    [[nodiscard]] Wiped clone_prefix(std::size_t n) const { return {*arena_, n}; }
    void truncate(std::size_t n) noexcept {
        for (; cells_.size() > n; cells_.pop_back())
            *cells_.back() = 0;
    }

private:
    Arena* arena_;
    std::vector<char*> cells_;
};

/// Blocks that clear themselves.
using WipedPages = promptkv::BlockKV<Wiped>;

inline WipedPages wiped_pages(Arena& arena, std::size_t n_tokens, WipedPages kv = WipedPages(4)) {
    while (kv.length() < n_tokens) {
        const std::size_t n = std::min(kv.block_tokens(), n_tokens - kv.length());
        kv.append(Wiped(arena, n), n);
    }
    return kv;
}

/// Bytes of the distinct blocks and of the states that the entries hold.
template <class Cache>
std::size_t recount(const Cache& cache) {
    std::set<const void*> seen;
    std::size_t bytes = 0;
    cache.for_each([&](const auto& entry) {
        for (const auto& block : entry.kv.blocks())
            bytes += seen.insert(&*block).second ? block.nbytes() : 0;
        if constexpr (requires { entry.kv.state(); })
            bytes += entry.kv.has_state() ? entry.kv.state().nbytes() : 0;
    });
    return bytes;
}

} // namespace promptkv_test

template <>
struct std::hash<promptkv_test::Name> {
    std::size_t operator()(const promptkv_test::Name& name) const {
        promptkv_test::called(promptkv_test::hash_call);
        return name.name.size(); // some collide
    }
};

#endif
