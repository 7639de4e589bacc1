// SPDX-License-Identifier: MIT
// LruShadow: the hits of LRU caches of several sizes.

#include <promptkv/detail/lru_shadow.hpp>
#include <promptkv/detail/lru_watch.hpp>
#include <promptkv/detail/observed_edge.hpp>

#include "catch.hpp"

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <vector>

namespace {

using promptkv::detail::LruShadow;

LruShadow shadow_of(std::initializer_list<double> tokens) {
    LruShadow shadow(tokens.size());
    std::size_t i = 0;
    for (const double each : tokens)
        shadow.sizes()[i++].tokens = each;
    return shadow;
}

/// Requests from number `from` on, each of new tokens.
void use_new(LruShadow& shadow, std::uint64_t from, std::uint64_t requests, double tokens) {
    for (std::uint64_t number = from; number < from + requests; ++number) {
        shadow.next_request(number);
        shadow.use(0, tokens, tokens);
    }
}

TEST_CASE("What was used within the last tokens is a hit for each size that holds so many") {
    LruShadow shadow = shadow_of({512, 2'048});
    use_new(shadow, 1, 1'000, 2);
    shadow.next_request(1'001);
    shadow.use(900, 2, 2); // 200 tokens ago
    shadow.use(500, 2, 1); // 1,000; one token is asked for
    shadow.use(0, 2, 2);
    CHECK(shadow.sizes()[0].hits == 2);
    CHECK(shadow.sizes()[1].hits == 3);
}

TEST_CASE("A size that is never full takes a bounded number of slots") {
    constexpr double endless = 1e300;
    constexpr std::uint64_t requests = 300'000;
    LruShadow shadow = shadow_of({512, 100'000, endless});
    use_new(shadow, 1, requests, 2);
    CHECK(shadow.nbytes() < 4'000'000);

    const auto hits_of = [&](std::uint64_t last) {
        const LruShadow before = shadow;
        shadow.use(last, 2, 2);
        std::size_t hits = 0; // a digit for each size
        for (std::size_t i = 3; i-- > 0;)
            hits = 10 * hits + (shadow.sizes()[i].hits > before.sizes()[i].hits + 1 ? 1 : 0);
        shadow = before;
        return hits;
    };
    CHECK(hits_of(requests - 100) == 111);
    CHECK(hits_of(requests - 1'000) == 110);
    CHECK(hits_of(requests - 40'000) == 110);
    CHECK(hits_of(requests - 60'000) == 100);
    CHECK(hits_of(10) == 100);
}

TEST_CASE("An edge that was cut within the part that was used later uses no more than it has") {
    promptkv::detail::LruWatch watch(false, std::vector<std::size_t>{100});
    std::uint64_t request = 0;
    const auto begin = [&] { watch.begin(++request, 100, 1); };
    promptkv::detail::ObservedEdge edge;
    begin();
    watch.use_new(100);
    edge.begin(0, {1, 100, 0});
    begin();
    watch.use(edge, 80, 100);
    begin();
    watch.use_new(45);
    promptkv::detail::ObservedEdge other;
    other.begin(0, {3, 45, 0});
    begin();
    watch.use(edge, 50, 50); // its last 50 tokens were evicted
    begin();
    watch.use(other, 45, 45); // LRU holds both: 95 tokens
    CHECK(std::lround(watch.curve()[0].hit_ratio * 320) == 80 + 50 + 45);
}

TEST_CASE("The guard compares with LRU only where there is a budget") {
    const auto says_recency = [](std::size_t max_bytes) {
        promptkv::detail::LruWatch watch(true, {});
        promptkv::detail::ObservedEdge edge;
        edge.begin(0, {1, 100, 0});
        for (std::uint64_t request = 1; request <= 1'000; ++request) {
            watch.begin(request, max_bytes, 1);
            watch.use(edge, 100, 100);
            watch.end(0); // the cache has evicted it
        }
        return watch.says_recency();
    };
    CHECK(says_recency(1'000'000));
    CHECK_FALSE(says_recency(promptkv::unlimited)); // an LRU that evicts nothing is no LRU
}

} // namespace
