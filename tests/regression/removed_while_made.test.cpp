// SPDX-License-Identifier: MIT
// A listener lowered the limits while an insert waited for its payload: the model of the key, which had
// no entry yet, stayed behind, empty.
#include <promptkv/lru_prompt_cache.hpp>

#include "catch.hpp"
#include "unit_payloads.hpp"

#include <cstddef>

using namespace promptkv_test;
using promptkv::LRUPromptCache;
using promptkv::Outcome;
using promptkv::Tier;

TEST_CASE("LRUPromptCache keeps no model of a key that was not stored in the end") {
    LRUPromptCache<Tape> cache({.max_bytes = 2});
    store(cache, "a", Tier::system);
    store(cache, "b", Tier::system);
    cache.set_removal_listener([&cache](auto&) { cache.set_limits({.max_entries = 0}); });
    const std::size_t before = cache.index_nbytes();
    const auto inserted =
        cache.insert("other", key("c"), 1, Tier::assistant, [] { return Tape("c"); });
    CHECK(inserted.outcome == Outcome::no_room);
    CHECK(cache.empty());
    CHECK(cache.nbytes() == 0);
    CHECK(cache.check_invariants());
    CHECK(cache.index_nbytes() < before);
}
