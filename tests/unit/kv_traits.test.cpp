// SPDX-License-Identifier: MIT
// kv_traits: what the cache asks of a payload, each optional function given and left out.

#include <promptkv/kv_traits.hpp>
#include <promptkv/lru_prompt_cache.hpp>

#include "catch.hpp"
#include "unit_payloads.hpp"

#include <cstddef>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace {

using namespace promptkv_test;
using promptkv::AdoptingPayload;
using promptkv::BlockPayload;
using promptkv::ClonablePayload;
using promptkv::kv_traits;
using promptkv::KVPayload;
using promptkv::MeasuredPayload;
using promptkv::PrefixClonable;
using promptkv::PrefixReusable;
using promptkv::SharedPrefixPayload;
using promptkv::SizedPayload;
using promptkv::TruncatablePayload;

TEST_CASE("kv_traits forwards each function to the member of its name") {
    SECTION("of a payload without blocks") {
        Tape kv("abcdef", {.step = 2, .bytes_per_token = 3, .block_tokens = 4});
        using Traits = kv_traits<Tape>;
        CHECK(Traits::nbytes(kv) == 18);
        CHECK(Traits::reusable_prefix(kv, 5) == 4);
        CHECK(Traits::clone_prefix(kv, 4).text() == "abcd");
        CHECK(Traits::length(kv) == 6);
        CHECK(Traits::block_tokens(kv) == 4);
        Traits::truncate(kv, 2);
        CHECK(kv.text() == "ab");
    }
    SECTION("of a payload with blocks") {
        Blocks kv = blocks("abcdef");
        using Traits = kv_traits<Blocks>;
        std::size_t visited = 0;
        Traits::for_each_block(kv, 2, [&](const auto&, std::size_t, bool) { ++visited; });
        CHECK(visited == 2);
        const Blocks other = blocks("abxy");
        Traits::adopt_blocks(kv, 2, other);
        CHECK(kv.blocks()[0] == other.blocks()[0]);
        CHECK(text_of(Traits::truncate(kv, 2)) == "cdef");
    }
    SECTION("of a payload with a state") {
        CHECK(text_of(kv_traits<Hybrid>::shared_prefix(blocks<Hybrid>("abcdef"), 5)) == "abcd");
    }
}

TEST_CASE("The concepts tell which functions a payload has") {
    STATIC_REQUIRE(PrefixReusable<Tape>);
    STATIC_REQUIRE(PrefixClonable<Tape>);
    STATIC_REQUIRE(TruncatablePayload<Tape>);
    STATIC_REQUIRE(MeasuredPayload<Tape>);
    STATIC_REQUIRE_FALSE(BlockPayload<Tape>);
    STATIC_REQUIRE_FALSE(AdoptingPayload<Tape>);
    STATIC_REQUIRE_FALSE(SharedPrefixPayload<Tape>);

    STATIC_REQUIRE(PrefixReusable<Blocks>);
    STATIC_REQUIRE(PrefixClonable<Blocks>);
    STATIC_REQUIRE(TruncatablePayload<Blocks>);
    STATIC_REQUIRE(MeasuredPayload<Blocks>);
    STATIC_REQUIRE(BlockPayload<Blocks>);
    STATIC_REQUIRE(AdoptingPayload<Blocks>);
    STATIC_REQUIRE_FALSE(SharedPrefixPayload<Blocks>);

    STATIC_REQUIRE(BlockPayload<Hybrid>);
    STATIC_REQUIRE(AdoptingPayload<Hybrid>);
    STATIC_REQUIRE(SharedPrefixPayload<Hybrid>);
    STATIC_REQUIRE_FALSE(TruncatablePayload<Hybrid>);
    STATIC_REQUIRE_FALSE(PrefixClonable<Hybrid>);
    STATIC_REQUIRE(ClonablePayload<Hybrid>); // whole, by its copy constructor

    STATIC_REQUIRE_FALSE(PrefixReusable<WholeTape>);
    STATIC_REQUIRE(ClonablePayload<WholeTape>);
    STATIC_REQUIRE_FALSE(ClonablePayload<MoveOnlyTape>);
    STATIC_REQUIRE_FALSE(TruncatablePayload<UncutTape>);
}

TEST_CASE("A misspelt function is one that the payload does not have") {
    STATIC_REQUIRE(KVPayload<Misspelt>);
    STATIC_REQUIRE_FALSE(PrefixReusable<Misspelt>);
    STATIC_REQUIRE_FALSE(PrefixClonable<Misspelt>);
    STATIC_REQUIRE_FALSE(TruncatablePayload<Misspelt>);
    STATIC_REQUIRE_FALSE(MeasuredPayload<Misspelt>);
    STATIC_REQUIRE_FALSE(BlockPayload<Misspelt>);
    STATIC_REQUIRE_FALSE(AdoptingPayload<Misspelt>);
}

TEST_CASE("KVPayload needs the bytes, and moves and destructors that do not throw") {
    STATIC_REQUIRE(KVPayload<Tape>);
    STATIC_REQUIRE(KVPayload<MoveOnlyTape>);
    STATIC_REQUIRE(KVPayload<Blocks>);
    STATIC_REQUIRE(KVPayload<BytesAlone>);
    STATIC_REQUIRE_FALSE(KVPayload<NoBytes>);
    STATIC_REQUIRE_FALSE(KVPayload<ThrowsWhenMoved>);
    STATIC_REQUIRE_FALSE(KVPayload<ThrowsWhenDestroyed>);
    STATIC_REQUIRE_FALSE(KVPayload<std::unique_ptr<BytesAlone>>);
    STATIC_REQUIRE_FALSE(KVPayload<const BytesAlone>);
    STATIC_REQUIRE_FALSE(SizedPayload<NoBytes>);
}

TEST_CASE("kv_traits may be specialised for a type of somebody else") {
    STATIC_REQUIRE(KVPayload<Foreign>);
    STATIC_REQUIRE(TruncatablePayload<Foreign>);
    const Foreign kv{{1, 2, 3}};
    CHECK(kv_traits<Foreign>::nbytes(kv) == 3 * sizeof(int));
    CHECK(kv_traits<Foreign>::clone_prefix(kv, 2).cells == std::vector<int>{1, 2});
}

TEST_CASE("Sizes may be of any type that converts to a number of bytes or tokens") {
    promptkv::LRUPromptCache<Foreign> cache({.max_bytes = 5 * sizeof(int)});
    cache.insert("m", key("abc"), Foreign{{1, 2, 3}}, promptkv::Tier::user);
    cache.insert("m", key("xyz"), Foreign{{7, 8, 9}}, promptkv::Tier::user); // cuts the other one
    CHECK(cache.nbytes() == 5 * sizeof(int));
    auto room = cache.reserve("m", key("xyzv"), 4 * sizeof(int), promptkv::Tier::user);
    CHECK(room.commit(Foreign{{7, 8}}).tokens == 2);
    CHECK(cache.check_invariants());
}

TEST_CASE("A specialisation counts, and the members of the type do not") {
    STATIC_REQUIRE(KVPayload<Misleading>);
    STATIC_REQUIRE_FALSE(PrefixReusable<Misleading>);
    STATIC_REQUIRE_FALSE(PrefixClonable<Misleading>);
    STATIC_REQUIRE_FALSE(MeasuredPayload<Misleading>);
}

} // namespace
