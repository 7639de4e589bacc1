// SPDX-License-Identifier: MIT
// Every kind of call of the caches, in a program without exceptions and without RTTI.
#include <promptkv/concurrent_prompt_cache.hpp>
#include <promptkv/promptkv.hpp>

#include "unit_payloads.hpp"

#include <cstddef>
#include <cstdio>
#include <optional>
#include <string>
#include <utility>

namespace {

using namespace promptkv_test;
using promptkv::Match;
using promptkv::Outcome;
using promptkv::Tier;

bool all_hold = true;

void check(bool holds, const char* what) {
    if (!holds) {
        std::printf("does not hold: %s\n", what);
        all_hold = false;
    }
}

/// Calls everything of an empty cache with room for 8 bytes.
template <class Cache>
void check_cache(Cache& cache) {
    const std::string model = "model";
    std::size_t n_removed = 0;
    cache.set_removal_listener([&n_removed](auto&) { ++n_removed; });

    check(cache.insert(model, key("abcd"), blocks("abcd"), Tier::user).outcome == Outcome::stored,
          "insert");
    check(cache.mark(model, key("ab"), Tier::system), "mark");
    check(cache.nbytes() == 4, "shared blocks");
    check(cache.probe(model, key("abcx")).reused() == 3, "probe");
    {
        const auto hit = cache.fetch_nearest(model, key("abcx"));
        check(hit && text_of(hit.kv) == "abc" && hit.match() == Match::longer, "fetch_nearest");
    }
    {
        const auto lease = cache.lease_nearest(model, key("abcx"));
        check(lease && lease.reused() == 3 && text_of(lease.kv()) == "abcd", "lease_nearest");
    }
    check(cache.touch(model, key("abcd")).match() == Match::exact, "touch");
    check(to_string(cache.explain(model, key("xyz"))).substr(0, 4) == "miss", "explain");

    auto room = cache.reserve(model, key("abcdef"), 6, Tier::user);
    check(room && room.tokens() == 6 && text_of(room.prefix()) == "abcd", "reserve");
    auto kv = room.prefix().value_or(blocks(""));
    append_rest(kv, "abcdef");
    check(room.commit(std::move(kv)).outcome == Outcome::stored, "commit");
    const auto made = [] { return std::optional(blocks("pqrs")); };
    const auto inserted = cache.insert(model, key("pqrs"), 4, Tier::assistant, made);
    check(inserted.outcome == Outcome::stored, "insert of a payload that is made late");
    check(n_removed > 0, "set_removal_listener");
    check(cache.nbytes() <= 8 && cache.check_invariants(), "the budget");

    const auto taken = cache.take_nearest(model, key("pqrs"), {.min_remaining = 0});
    check(text_of(taken.kv) == "pqrs" && taken.match() == Match::exact, "take_nearest");
    check(!cache.snapshot().empty(), "snapshot");
    check(cache.evict(1) > 0 && cache.evictable_nbytes() > 0, "evict");
    check(cache.erase_below(model, key("a")) > 0 && cache.empty(), "erase_below");
    check(cache.clear() == 0 && cache.trim_to({.max_bytes = 0}) == 0, "clear");
}

} // namespace

int main() {
    promptkv::LRUPromptCache<Blocks> cache({.max_bytes = 8});
    check_cache(cache);
    promptkv::ConcurrentPromptCache<Blocks> concurrent_cache({.max_bytes = 8});
    check_cache(concurrent_cache);
    return all_hold ? 0 : 1;
}
