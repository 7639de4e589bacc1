// SPDX-License-Identifier: MIT
// llama-server's policy, as examples/llama_chat/server_policy.hpp describes it.
#include "server_policy.hpp"

#include "catch.hpp"

#include <cstddef>
#include <vector>

namespace {

struct KV {
    int id;
};

struct Cache {
    explicit Cache(std::size_t max_bytes) : policy(max_bytes) {}

    /// A token takes a byte.
    void save(const std::vector<int>& tokens, int id) {
        policy.save(tokens, tokens.size(), [&] { return KV{id}; });
    }

    /// The id of the payload that is taken; 0: none.
    int take(const std::vector<int>& tokens) {
        const auto taken = policy.take(tokens);
        return taken ? taken->kv.id : 0;
    }

    ServerPolicy<KV, int> policy;
};

} // namespace

TEST_CASE("llama-server's policy hands out what shares most, once") {
    Cache cache(100);
    cache.save({1, 2, 3, 4}, 1);
    cache.save({1, 2, 5, 6}, 2);
    const std::vector<int> prompt = {1, 2, 5, 7};
    const auto taken = cache.policy.take(prompt);
    REQUIRE(taken.has_value());
    CHECK(taken->kv.id == 2);
    CHECK(taken->reused == 3);
    CHECK(cache.policy.nbytes() == 4);
    CHECK(cache.take({1, 2, 5, 7}) == 1);
    CHECK(cache.take({1, 2, 5, 7}) == 0);
}

TEST_CASE("llama-server's policy spares a prompt if less than a quarter of it would be kept") {
    Cache cache(100);
    cache.save({1, 2, 3, 4, 5, 6, 7, 8}, 1);
    CHECK(cache.take({1, 9}) == 0);
    CHECK(cache.take({1, 2, 9}) == 1);
}

TEST_CASE("llama-server's policy drops what a new prompt contains, and keeps what contains it") {
    Cache cache(100);
    cache.save({1, 2}, 1);
    cache.save({1, 2, 3}, 2);
    CHECK(cache.policy.nbytes() == 3);
    cache.save({1, 2}, 3);
    CHECK(cache.policy.nbytes() == 3);
    CHECK(cache.take({1, 2, 3, 4}) == 2);
    CHECK(cache.policy.evicted() == 0);
}

TEST_CASE("llama-server's policy makes room first in, first out") {
    Cache cache(5);
    cache.save({1, 1}, 1);
    cache.save({2, 2}, 2);
    cache.save({3, 3}, 3);
    CHECK(cache.policy.evicted() == 1);
    CHECK(cache.policy.nbytes() == 4);
    cache.save({4, 4, 4, 4, 4, 4}, 4);
    CHECK(cache.policy.nbytes() == 4);
    CHECK(cache.take({4, 4, 4, 4, 4, 4}) == 0);
    CHECK(cache.take({1, 1}) == 0);
    CHECK(cache.take({2, 2}) == 2);
    CHECK(cache.take({3, 3}) == 3);
}
