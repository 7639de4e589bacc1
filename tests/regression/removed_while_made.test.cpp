// SPDX-License-Identifier: MIT
// A listener that forbids everything while an insert waits for its payload: the key, which had neither
// payload nor anchor yet, went, and its model stayed behind, empty.
#include <promptkv/lru_prompt_cache.hpp>

#include "catch.hpp"
#include "letters.hpp"

#include <cstddef>

using namespace promptkv_test;
using promptkv::Outcome;
using promptkv::Tier;

TEST_CASE("LRUPromptCache keeps no model whose only key went while its payload was made") {
    LRUPromptCache<Tape> cache({.max_entries = 2});
    store(cache, "a"_key, Tier::system);
    store(cache, "b"_key, Tier::system);
    cache.on_removal([&cache](auto&) { cache.set_limits({.max_entries = 0}); });
    const std::size_t before = cache.index_nbytes();
    const auto inserted =
        cache.insert("other", "c"_key, 1, Tier::assistant, [] { return tape("c"_key); });
    CHECK(inserted.outcome == Outcome::no_room);
    CHECK(cache.empty());
    CHECK(cache.check_invariants());
    CHECK(cache.index_nbytes() < before);
}
