// SPDX-License-Identifier: MIT
// LRUPromptCache: payloads that serve some prefixes of their keys, and not others.

#include <promptkv/lru_prompt_cache.hpp>

#include "catch.hpp"
#include "unit_payloads.hpp"

#include <cstddef>
#include <string_view>
#include <utility>

namespace {

using namespace promptkv_test;
using promptkv::LRUPromptCache;
using promptkv::Outcome;
using promptkv::Tier;

/// Shared blocks of two tokens that can be used up to a multiple of `step` tokens, and whole.
template <std::size_t step>
struct Checkpoints : Blocks {
    explicit Checkpoints(Blocks kv) : Blocks(std::move(kv)) {}
    explicit Checkpoints(std::string_view text) : Blocks(promptkv_test::blocks(text)) {}

    [[nodiscard]] std::size_t reusable_prefix(std::size_t n) const noexcept {
        return n >= length() ? length() : n - n % step;
    }
    [[nodiscard]] Checkpoints clone_prefix(std::size_t n) const {
        return Checkpoints(Blocks::clone_prefix(n));
    }
    void truncate(std::size_t n) noexcept { Blocks::truncate(n); }
    void adopt_blocks(std::size_t n, const Checkpoints& other) noexcept {
        Blocks::adopt_blocks(n, other);
    }
};

template <class KV>
void insert(LRUPromptCache<KV>& cache, std::string_view word) {
    cache.insert("m", key(word), KV(word), Tier::user);
}

// reservations ///////////////////////////////////////////////////////////////

TEST_CASE("A reservation counts as shared what it shares, up to a checkpoint, and no more") {
    using KV = Checkpoints<8>;
    SECTION("of the whole key") {
        LRUPromptCache<KV> cache({.max_bytes = 26});
        insert(cache, "abcdefghijklmno");
        const auto lease = cache.lease_nearest("m", key("abcdefghijklmno?"));
        REQUIRE(lease.reused() == 15);
        const auto room = cache.reserve("m", key("abcdefghijklmnopqrst"), 20, Tier::user);
        REQUIRE(room);
        CHECK(room.tokens() == 18);
        CHECK(room.prefix()->length() == 8);
        CHECK(cache.nbytes() == 15 + 10);
        CHECK(cache.check_invariants());
    }
    SECTION("where there is room for one more block") {
        LRUPromptCache<KV> cache({.max_bytes = 20});
        insert(cache, "abcdefghijklmnop");
        insert(cache, "01");
        const auto lease = cache.lease_nearest("m", key("abcdefghijklmnop?"));
        const auto other = cache.lease_nearest("m", key("01?"));
        const auto room = cache.reserve("m", key("abcdefghijklmnopqrst"), 20, Tier::user);
        REQUIRE(room);
        CHECK(room.tokens() == 18);
        CHECK(room.prefix()->length() == 16);
        CHECK(cache.nbytes() == 20);
    }
    SECTION("of a part of the key, what is shared of the part") {
        LRUPromptCache<KV> cache({.max_bytes = 24});
        insert(cache, "abcdefghijklmnop");
        insert(cache, "012345");
        const auto lease = cache.lease_nearest("m", key("abcdefghijklmnop?"));
        const auto other = cache.lease_nearest("m", key("012345?"));
        REQUIRE(lease.reused() + other.reused() == 22);
        const auto room = cache.reserve("m", key("abcdefghijklmnopqrstuvwxyz"), 26, Tier::user);
        REQUIRE(room);
        CHECK(cache.nbytes() <= 24);
        CHECK(cache.check_invariants());
    }
}

// parts and cuts /////////////////////////////////////////////////////////////

TEST_CASE("A part ends at a checkpoint that is a multiple of block_tokens") {
    const std::string_view text = "abcdefghijklmnopqrstuvwxyz";
    SECTION("shared blocks") {
        LRUPromptCache<Checkpoints<3>> cache({.max_bytes = 20});
        CHECK(cache.insert("m", key(text), Checkpoints<3>(text), Tier::user).tokens == 6);
        CHECK(contents(cache) == "abcdef1");
        CHECK(cache.check_invariants());
    }
    SECTION("a payload without blocks") {
        LRUPromptCache<Tape> cache({.max_bytes = 20});
        CHECK(store(cache, text, Tier::user, {.step = 3, .block_tokens = 2}).tokens == 6);
        CHECK(contents(cache) == "abcdef1");
        CHECK(cache.check_invariants());
    }
}

TEST_CASE("A cut ends at a checkpoint that is a multiple of block_tokens") {
    LRUPromptCache<Tape> cache({.max_bytes = 20});
    store(cache, "abcdefghijklmnop", Tier::user, {.step = 3, .block_tokens = 2});
    store(cache, "0123456789", Tier::user); // of 16 tokens 10 might stay
    CHECK(contents(cache) == "01234567891 abcdef1");
    CHECK(cache.check_invariants());
}

} // namespace
