// SPDX-License-Identifier: MIT
// Functions in a caller's namespace have the names of the library's own, and are not called by it.

#include <promptkv/concurrent_prompt_cache.hpp>
#include <promptkv/promptkv.hpp>

#include "catch.hpp"

#include <cstddef>
#include <cstdint>
#include <functional>
#include <type_traits>
#include <vector>

namespace callers {

enum class Tier : std::uint8_t { low, high };

struct Model {
    int id = 0;
    friend bool operator==(const Model&, const Model&) = default;
};

struct Block {
    [[nodiscard]] std::size_t nbytes() const noexcept { return 4; }
};
struct State {
    [[nodiscard]] std::size_t nbytes() const noexcept { return 1; }
};

/// Can be cut, and shares nothing.
struct Flat {
    std::size_t tokens = 0;

    [[nodiscard]] std::size_t nbytes() const noexcept { return tokens; }
    [[nodiscard]] std::size_t length() const noexcept { return tokens; }
    [[nodiscard]] std::size_t reusable_prefix(std::size_t n) const noexcept { return n; }
    [[nodiscard]] Flat clone_prefix(std::size_t n) const { return {n}; }
    void truncate(std::size_t n) noexcept { tokens = n; }
};

// Each is as good a match as a template of the library's: a call that is not qualified does not compile.
#define PROMPTKV_TEST_GREEDY(name)                                                                 \
    template <class... Arguments>                                                                  \
    void name(Arguments&&...) = delete;
PROMPTKV_TEST_GREEDY(adopt_blocks)
PROMPTKV_TEST_GREEDY(any_entry)
PROMPTKV_TEST_GREEDY(any_remembered)
PROMPTKV_TEST_GREEDY(any_sharing)
PROMPTKV_TEST_GREEDY(assign)
PROMPTKV_TEST_GREEDY(block_tokens)
PROMPTKV_TEST_GREEDY(bytes_of_first)
PROMPTKV_TEST_GREEDY(choose)
PROMPTKV_TEST_GREEDY(clone)
PROMPTKV_TEST_GREEDY(clone_prefix)
PROMPTKV_TEST_GREEDY(count_lookup)
PROMPTKV_TEST_GREEDY(cut_between_blocks)
PROMPTKV_TEST_GREEDY(cut_point)
PROMPTKV_TEST_GREEDY(cut_point_of_incoming)
PROMPTKV_TEST_GREEDY(decide)
PROMPTKV_TEST_GREEDY(decide_part)
PROMPTKV_TEST_GREEDY(edge_start)
PROMPTKV_TEST_GREEDY(entry_at_or_above)
PROMPTKV_TEST_GREEDY(explain)
PROMPTKV_TEST_GREEDY(first_below)
PROMPTKV_TEST_GREEDY(fits_below)
PROMPTKV_TEST_GREEDY(for_each_block)
PROMPTKV_TEST_GREEDY(for_each_longer)
PROMPTKV_TEST_GREEDY(for_each_record)
PROMPTKV_TEST_GREEDY(given_up)
PROMPTKV_TEST_GREEDY(hand_back)
PROMPTKV_TEST_GREEDY(held_of_first)
PROMPTKV_TEST_GREEDY(is_continued)
PROMPTKV_TEST_GREEDY(least_cut)
PROMPTKV_TEST_GREEDY(length)
PROMPTKV_TEST_GREEDY(less)
PROMPTKV_TEST_GREEDY(longer_serving)
PROMPTKV_TEST_GREEDY(more)
PROMPTKV_TEST_GREEDY(most_that_fits)
PROMPTKV_TEST_GREEDY(nbytes)
PROMPTKV_TEST_GREEDY(others_serve)
PROMPTKV_TEST_GREEDY(pin_blocks)
PROMPTKV_TEST_GREEDY(prefix_continued_by)
PROMPTKV_TEST_GREEDY(prefix_of)
PROMPTKV_TEST_GREEDY(present_or_stored)
PROMPTKV_TEST_GREEDY(proportional_cut)
PROMPTKV_TEST_GREEDY(refresh)
PROMPTKV_TEST_GREEDY(reusable)
PROMPTKV_TEST_GREEDY(served_multiple)
PROMPTKV_TEST_GREEDY(served_prefix)
PROMPTKV_TEST_GREEDY(share)
PROMPTKV_TEST_GREEDY(share_of)
PROMPTKV_TEST_GREEDY(store_blocks)
PROMPTKV_TEST_GREEDY(sum_blocks)
PROMPTKV_TEST_GREEDY(supersede)
PROMPTKV_TEST_GREEDY(thinnest)
PROMPTKV_TEST_GREEDY(tier_index)
PROMPTKV_TEST_GREEDY(touch)
PROMPTKV_TEST_GREEDY(truncate)
PROMPTKV_TEST_GREEDY(unpin_blocks)
PROMPTKV_TEST_GREEDY(unpin_blocks_locked)
PROMPTKV_TEST_GREEDY(unstore_blocks)
#undef PROMPTKV_TEST_GREEDY

} // namespace callers

template <>
struct promptkv::tier_traits<callers::Tier> {
    static constexpr std::size_t count = 2;
};
template <>
struct std::hash<callers::Model> {
    std::size_t operator()(const callers::Model& model) const noexcept {
        return static_cast<std::size_t>(model.id);
    }
};

namespace of_callers_names {

using Tokens = std::vector<std::int32_t>;
using Blocks = promptkv::BlockKV<callers::Block>;
using Hybrid = promptkv::BlockKV<callers::Block, callers::State>;

template <class KV>
KV made(KV kv, std::size_t tokens) {
    while (kv.length() < tokens)
        kv.append(callers::Block{}, 4);
    if constexpr (requires { kv.set_state(callers::State{}); })
        kv.set_state(callers::State{});
    return kv;
}
template <class KV>
KV made(std::size_t tokens) {
    if constexpr (std::is_same_v<KV, callers::Flat>)
        return KV{tokens};
    else
        return made(KV(4), tokens);
}

template <class Cache, class KV>
void use_all(Cache& cache) {
    const callers::Model model{1};
    const Tokens first{1, 2, 3, 4, 5, 6, 7, 8};
    const Tokens longer{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12};
    CHECK(cache.insert(model, first, made<KV>(8), callers::Tier::low).outcome ==
          promptkv::Outcome::stored);
    CHECK(cache.lease_nearest(model, longer).reused() == 8);
    CHECK(cache.fetch_nearest(model, longer).reused() == 8);
    CHECK(cache.probe(model, longer).reused() == 8);
    CHECK(cache.explain(model, longer).reused == 8);
    CHECK(cache.touch(model, longer).reused() == 8);
    auto room = cache.reserve(model, longer, 12, callers::Tier::high);
    CHECK(room.tokens() == 12);
    if constexpr (promptkv::BlockPayload<KV>)
        CHECK(room.commit(made<KV>(room.prefix().value(), 12)).tokens == 12);
    else
        CHECK(room.commit(made<KV>(12)).tokens == 12);
    CHECK(cache.mark(model, first, callers::Tier::high));
    CHECK(cache.check_invariants());
    CHECK(cache.evictable_nbytes() == cache.nbytes());
    CHECK(cache.take_nearest(model, longer, {.min_remaining = 0}).reused() == 12);
    cache.insert(model, longer, made<KV>(12), callers::Tier::low);
    CHECK(cache.evict(1) > 0);
    cache.insert(model, longer, made<KV>(12), callers::Tier::low, {.session = 1});
    CHECK(cache.erase_session(model, 1) == 1);
    cache.insert(model, longer, made<KV>(12), callers::Tier::low);
    CHECK(cache.erase_below(model, first) > 0);
    cache.insert(model, longer, made<KV>(12), callers::Tier::low);
    CHECK(cache.trim_to({.max_bytes = 5}) <= 1);
    cache.clear();
    CHECK(cache.check_invariants());
}

TEMPLATE_TEST_CASE("A caller's functions with the names of the library's own are not called", "",
                   callers::Flat, Blocks, Hybrid) {
    SECTION("with TieredLRU") {
        promptkv::LRUPromptCache<TestType, callers::Model, std::int32_t, callers::Tier> cache;
        use_all<decltype(cache), TestType>(cache);
    }
    SECTION("with ReuseOrder") {
        promptkv::PromptCache<TestType, callers::Model, std::int32_t, callers::Tier> cache;
        use_all<decltype(cache), TestType>(cache);
    }
    SECTION("with a lock") {
        promptkv::ConcurrentPromptCache<TestType, callers::Model, std::int32_t, callers::Tier>
            cache;
        use_all<decltype(cache), TestType>(cache);
    }
}

} // namespace of_callers_names
