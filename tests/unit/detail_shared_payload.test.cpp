// SPDX-License-Identifier: MIT
// SharedPayload: a payload, its owners, and who destroys it.

#include <promptkv/detail/shared_payload.hpp>

#include "catch.hpp"
#include "detail_parts.hpp"

#include <cstddef>
#include <string>
#include <utility>

namespace {

using namespace promptkv_test;
using promptkv::detail::PayloadLease;

using FarewellPayload = promptkv::detail::SharedPayload<Farewell>;
using BlockShared = promptkv::detail::SharedPayload<Blocks>;

/// Begins a lease, as the ledger does.
template <class KV>
PayloadLease<KV> begin(promptkv::detail::SharedPayload<KV>& payload) {
    payload.owners.fetch_add(1);
    return PayloadLease<KV>(&payload);
}

/// A payload that the test owns as a cache does, and what became of it.
struct Watched {
    Watched()
        : payload(shared_payload<Farewell>(*account, Farewell([this] {
                      is_destroyed = true;
                  })).release()) {}

    TestAccount<Farewell> account;
    bool is_destroyed = false;
    FarewellPayload* payload;

    [[nodiscard]] PayloadLease<Farewell> lease() const { return begin(*payload); }
};

TEST_CASE("A payload without leases is destroyed by the cache") {
    Watched watched;
    CHECK_FALSE(watched.payload->leased());
    watched.payload->drop(FarewellPayload::in_cache);
    CHECK(watched.is_destroyed);
}

TEST_CASE("A payload whose leases end first is destroyed by the cache") {
    Watched watched;
    auto first = watched.lease();
    auto second = watched.lease();
    CHECK(watched.payload->leased());
    first.reset();
    CHECK(watched.payload->leased());
    second.reset();
    CHECK_FALSE(watched.payload->leased());
    CHECK_FALSE(watched.is_destroyed);
    watched.payload->drop(FarewellPayload::in_cache);
    CHECK(watched.is_destroyed);
}

TEST_CASE("A payload that left the cache is destroyed by its last lease") {
    Watched watched;
    auto first = watched.lease();
    auto second = watched.lease();
    watched.payload->drop(FarewellPayload::in_cache);
    CHECK_FALSE(watched.is_destroyed);
    first.reset();
    CHECK_FALSE(watched.is_destroyed);
    second.reset();
    CHECK(watched.is_destroyed);
}

TEST_CASE("A lease is shared only where there is one already") {
    Watched watched;
    CHECK_FALSE(watched.payload->share_lease());
    auto lease = watched.lease();
    CHECK(watched.payload->share_lease());
    PayloadLease<Farewell> shared(watched.payload);
    lease.reset();
    CHECK(watched.payload->leased());
    shared.reset();
    CHECK_FALSE(watched.payload->leased());
    watched.payload->drop(FarewellPayload::in_cache);
}

TEST_CASE("The last lease of an entry that was set aside queues it for the cache") {
    Watched watched;
    CHECK_FALSE(watched.payload->set_aside()); // it has no lease that could end
    auto first = watched.lease();
    auto second = watched.lease();
    CHECK(watched.payload->set_aside());
    first.reset();
    CHECK(watched.account->ended.load() == nullptr);
    second.reset();
    CHECK(watched.account->ended.load() == watched.payload);
    CHECK_FALSE(watched.is_destroyed);
    watched.account->ended.store(nullptr); // as a drain does
    watched.payload->drop(FarewellPayload::queued);
    CHECK_FALSE(watched.is_destroyed);

    SECTION("once") {
        watched.lease().reset();
        CHECK(watched.account->ended.load() == nullptr);
    }
    watched.payload->drop(FarewellPayload::in_cache);
    CHECK(watched.is_destroyed);
}

TEST_CASE("A lease moves its ownership along") {
    Watched watched;
    auto first = watched.lease();
    PayloadLease<Farewell> second = std::move(first);
    CHECK_FALSE(first); // NOLINT(bugprone-use-after-move)
    CHECK(second.get() == watched.payload);
    first = std::move(second);
    CHECK(watched.payload->leased());
    first = {};
    CHECK_FALSE(watched.payload->leased());
    watched.payload->drop(FarewellPayload::in_cache);
}

TEST_CASE("Blocks that are held again are told apart from new ones") {
    const Blocks kv = blocks("abcd");
    const Blocks prefix = kv.clone_prefix(2);
    const int cache = 0;
    CHECK(promptkv::detail::store_blocks(kv, &cache) == 0);
    CHECK(promptkv::detail::store_blocks(prefix, &cache) == 2); // held before
    CHECK(promptkv::detail::unstore_blocks(kv, 0) == 2);        // still held
    CHECK(promptkv::detail::store_blocks(kv, &cache) == 2);
    CHECK(promptkv::detail::unstore_blocks(kv, 2) == 0); // the tail alone
    CHECK(promptkv::detail::unstore_blocks(prefix, 0) == 2);
    CHECK(promptkv::detail::unstore_blocks(kv.clone_prefix(2), 0) == 0);
}

TEST_CASE("Stored and pinned payloads hold a block together") {
    const Blocks kv = blocks("abcd");
    const Blocks prefix = kv.clone_prefix(2);
    const promptkv::BlockUse& use = kv.blocks()[0].use();
    const int cache = 0;
    CHECK(promptkv::detail::store_blocks(kv, &cache) == 0);
    CHECK(promptkv::detail::pin_blocks(prefix, &cache) == 2);
    CHECK(promptkv::detail::store_blocks(prefix, &cache) == 2);
    CHECK(promptkv::detail::pin_blocks(kv, &cache) == 4);
    CHECK(use.count() == 4);
    CHECK(promptkv::detail::unpin_blocks(prefix) == 2);
    CHECK(promptkv::detail::unstore_blocks(kv, 0) == 4);
    CHECK(use.count() == 2);
    CHECK(promptkv::detail::unstore_blocks(prefix, 0) == 2);
    CHECK(use.count() == 1);
    CHECK(promptkv::detail::unpin_blocks(kv) == 0);
    CHECK(use.count() == 0);
}

TEST_CASE("The last lease of a payload that left takes its blocks out of the account") {
    const TestAccount<Blocks> account;
    auto* payload = shared_payload<Blocks>(*account, blocks("abcd")).release();
    promptkv::detail::pin_blocks(payload->kv, &*account);
    account->bytes.fetch_add(4);
    PayloadLease<Blocks> lease = begin(*payload);
    payload->drop(BlockShared::in_cache);
    CHECK(account->bytes.load() == 4);
    lease.reset();
    CHECK(account->bytes.load() == 0);
}

} // namespace
