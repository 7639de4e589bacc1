// SPDX-License-Identifier: MIT
// Payloads that note whether they were destroyed under a cache's lock.
#ifndef PROMPTKV_TESTS_LEAVING_HPP
#define PROMPTKV_TESTS_LEAVING_HPP

#include <cstddef>
#include <optional>
#include <utility>

namespace promptkv_test {

/// A mutex of one thread, for BasicPromptCache, that knows whether it is held.
struct Watched {
    static inline bool is_held = false;
    static void lock() noexcept { is_held = true; }
    static void unlock() noexcept { is_held = false; }
};

/// A BlockKV that notes whether one that holds blocks was destroyed while a Watched was held.
template <class Blocks>
struct Leaving : Blocks {
    static inline bool under_lock = false;

    explicit Leaving(Blocks kv) : Blocks(std::move(kv)) {}
    Leaving(const Leaving&) = default;
    Leaving(Leaving&&) noexcept = default;
    Leaving& operator=(const Leaving&) = default;
    Leaving& operator=(Leaving&&) noexcept = default;
    ~Leaving() { under_lock = under_lock || (Watched::is_held && !this->blocks().empty()); }
    [[nodiscard]] Leaving clone_prefix(std::size_t n) const {
        return Leaving(Blocks::clone_prefix(n));
    }
    std::optional<Leaving> truncate(std::size_t n) noexcept { return of(Blocks::truncate(n)); }
    std::optional<Leaving> adopt_blocks(std::size_t n, const Leaving& other) noexcept {
        return of(Blocks::adopt_blocks(n, other));
    }

private:
    static std::optional<Leaving> of(std::optional<Blocks> kv) {
        return kv ? std::optional<Leaving>(Leaving(std::move(*kv))) : std::nullopt;
    }
};

} // namespace promptkv_test

#endif
