// SPDX-License-Identifier: MIT
// RedisStore, with a server of its own: sharing, pieces, and a server that is full, slow or gone.
#ifdef PROMPTKV_REDIS_SERVER

#include "catch.hpp"
#include "counting_new.hpp"
#include "redis_server.hpp"

#include <promptkv/zstd_codec.hpp>

#include <new>
#include <thread>

namespace {

using namespace promptkv_test;
using promptkv::parse_redis_url;
using promptkv::RedisAddress;
using promptkv::RedisStore;
using promptkv::RedisStoreOptions;
using promptkv::detail::RedisConnection;
using promptkv::detail::RedisPipeline;
using promptkv::detail::RedisReply;
using Words = std::vector<std::string>;

/// One of the processes that share a server.
struct Machine {
    explicit Machine(const RedisStoreOptions& options) : store(options), second(cache, store) {}

    void put(const Tokens& key, std::size_t bytes_a_token = token_bytes) {
        cache.insert("m", key, payload_of(key, bytes_a_token), Tier::user);
        written = second.flush(soon());
        evict_to_store(*this); // asks the server again whether it has it
    }
    std::size_t load(const Tokens& key, std::size_t bytes_a_token = token_bytes) {
        auto load = second.prefetch("m", key, {.min_remaining = 0});
        end = load.end();
        if (load.tokens() > 0) {
            const auto hit = load.lease({.min_remaining = 0});
            if (!is_state_of(hit.kv(), Key(key).first(hit.reused()), bytes_a_token))
                return 1'000'000; // wrong state
        }
        return load.tokens();
    }

    RedisStore store;
    Cache cache;
    Second<Cache, RedisStore> second;
    bool written = false;
    LoadEnd end = LoadEnd::running;
};

TEST_CASE("machines share what they wrote to a Redis server") {
    const RedisServer server;
    Machine one(server.options());
    one.put(sequence(1, 10));
    CHECK(one.written);
    Machine other(server.options());
    CHECK(other.load(sequence(1, 10)) == 10);
    other.put(sequence(1, 10));
    CHECK(other.second.stats().stored_already >= 3); // asked, not written again
    CHECK(other.second.stats().written == 0);
}

TEST_CASE("two processes share a Redis server") {
    const RedisServer server;
    {
        Machine one(server.options());
        one.put(sequence(1, 10));
        CHECK(one.written);
    } // its threads end before the fork, or ThreadSanitizer ends the child
    const pid_t child = ::fork();
    if (child == 0) {
        Machine other(server.options());
        const bool loads = other.load(sequence(1, 10)) == 10;
        other.put(sequence(100, 8));
        ::_exit(loads && other.written ? 0 : 1);
    }
    int status = 0;
    REQUIRE(::waitpid(child, &status, 0) == child);
    CHECK((WIFEXITED(status) && WEXITSTATUS(status) == 0));
    CHECK(Machine(server.options()).load(sequence(100, 8)) == 8);
}

TEST_CASE("a large record is in pieces, and a missing piece is a miss") {
    const RedisServer server;
    RedisStoreOptions options = server.options();
    options.piece_bytes = 4096;
    Machine one(options);
    const Tokens key = sequence(1, 4);
    one.put(key, 4000); // 16 KB
    REQUIRE(one.written);
    CHECK(server.ask({"DBSIZE"}) == "4");
    CHECK(one.load(key, 4000) == 4);
    evict_to_store(one);
    SECTION("a piece that the server evicted") {
        const std::string last = server.ask({"EVAL", "return redis.call('keys', '*/2')[1]", "0"});
        REQUIRE(server.ask({"DEL", last}) == "1");
        CHECK(one.load(key, 4000) == 0);
        CHECK(one.end == LoadEnd::vanished);
        CHECK(one.store.stats().missing_pieces == 1);
        CHECK(server.ask({"DBSIZE"}) == "0");
        one.put(key, 4000); // it was computed again
        CHECK(one.load(key, 4000) == 4);
    }
    SECTION("pieces of two records that are mixed") {
        server.ask({"EVAL",
                    "local key = redis.call('keys', '*/2')[1]\n"
                    "return redis.call('set', key, string.rep('x', 4096))",
                    "0"});
        CHECK(one.load(key, 4000) == 0);
        CHECK(one.end == LoadEnd::bad_record);
        CHECK(server.ask({"DBSIZE"}) == "0"); // all pieces are removed
    }
    SECTION("erased with all pieces") {
        one.second.erase("m", key);
        CHECK(server.ask({"DBSIZE"}) == "0");
    }
    SECTION(
        "erased with all pieces, where the first one is gone or another process cut otherwise") {
        if (GENERATE(false, true)) {
            server.ask({"EVAL",
                        "for _, k in ipairs(redis.call('keys', '*')) do\n"
                        "  if not k:find('/') then redis.call('del', k) end\n"
                        "end",
                        "0"});
            REQUIRE(server.ask({"DBSIZE"}) == "3");
            one.second.erase("m", key);
        } else {
            options.piece_bytes = 1U << 20U;
            Machine(options).second.erase("m", key);
        }
        CHECK(server.ask({"DBSIZE"}) == "0");
    }
}

TEST_CASE("a damaged value is a miss and is removed") {
    const RedisServer server;
    Machine one(server.options());
    one.put(sequence(1, 4));
    const std::string change =
        GENERATE(std::string("'x'"), std::string("''"), std::string("string.sub(v, 1, 200)"),
                 std::string("string.sub(v, 1, 250) .. 'x' .. "
                             "string.sub(v, 252)"),
                 std::string("string.rep('x', 500)"));
    server.ask({"EVAL",
                "local k = redis.call('keys', '*')[1]\nlocal v = redis.call('get', k)\n"
                "return redis.call('set', k, " +
                    change + ")",
                "0"});
    CHECK(one.load(sequence(1, 4)) == 0);
    CHECK(one.cache.nbytes() == 0);
}

TEST_CASE("a value of another type under a record's key is a miss") {
    const RedisServer server;
    Machine one(server.options());
    one.put(sequence(1, 4));
    server.ask({"EVAL",
                "local k = redis.call('keys', '*')[1]\nredis.call('del', k)\n"
                "return redis.call('lpush', k, 'a list')",
                "0"});
    CHECK(one.load(sequence(1, 4)) == 0);
}

TEST_CASE("a server that is full refuses, and serves what it has") {
    const RedisServer server({"--maxmemory", "4mb", "--maxmemory-policy", "noeviction"});
    RedisStoreOptions options = server.options();
    options.piece_bytes = 4096;
    Machine one(options);
    one.put(sequence(1, 4));
    CHECK(one.written);
    const Tokens large = sequence(100, 40);
    one.put(large, 40'000); // 1.6 MB, and then some
    one.put(sequence(1000, 80), 40'000);
    CHECK_FALSE(one.written);
    one.second.erase_below("m", {});
    CHECK(server.ask({"DBSIZE"}) == "0"); // no piece of a refused record is left
    one.put(sequence(1, 4));
    CHECK(one.second.stats().refused_full > 0);
    CHECK(one.store.stats().full > 0);
    CHECK(one.load(sequence(1, 4)) == 4);
}

TEST_CASE("a server that goes away costs misses, and is used again when it is back") {
    RedisServer server;
    RedisStoreOptions options = server.options();
    options.retry_after = std::chrono::milliseconds(1);
    Machine one(options);
    one.put(sequence(1, 8));
    REQUIRE(one.written);
    server.stop();
    CHECK(one.load(sequence(1, 8)) == 0);
    one.put(sequence(100, 8));
    CHECK_FALSE(one.written);
    CHECK(one.second.stats().refused_failed >= 2);
    CHECK(one.store.stats().failed > 0);
    server.start(); // empty
    do {
        one.put(sequence(200, 8));
    } while (!one.written);
    CHECK(one.load(sequence(200, 8)) == 8);
    CHECK(one.load(sequence(1, 8)) == 0);
}

TEST_CASE("a server that became a replica is left, so that its successor can be found") {
    const RedisServer server;
    Machine one(server.options());
    one.put(sequence(1, 4));
    REQUIRE(one.written);
    server.ask({"REPLICAOF", "127.0.0.1", "1"});
    one.put(sequence(100, 4));
    CHECK_FALSE(one.written);
    CHECK(one.store.stats().refused > 0);
    CHECK(one.load(sequence(1, 4)) == 4); // it may be read
    const auto connects = one.store.stats().connects;
    server.ask({"REPLICAOF", "NO", "ONE"});
    one.put(sequence(200, 4));
    CHECK(one.written);
    CHECK(one.store.stats().connects == connects + 1);
}

TEST_CASE("a header that cannot be right is a miss, and is written anew") {
    const RedisServer server;
    Machine one(server.options());
    const Tokens key = sequence(1, 4);
    one.put(key);
    const std::string name = server.ask({"EVAL", "return redis.call('keys', '*')[1]", "0"});
    server.ask({"SETRANGE", name,
                std::to_string(offsetof(promptkv::detail::RecordHeader, block_bytes) + 5), "x"});
    CHECK(one.load(key) == 0);
    CHECK(one.end == LoadEnd::absent);
    one.put(key);
    CHECK(one.load(key) == 4);
}

TEST_CASE("nor are the sizes of a compressed record believed that are damaged") {
    const RedisServer server;
    RedisStore store(server.options());
    Cache cache({.max_bytes = std::size_t{1} << 20U});
    promptkv::SecondLevel<Cache, RedisStore, promptkv::ZstdCodec> second(
        cache, store, {.fingerprint = fingerprint, .block_tokens = block_tokens});
    const Tokens key = sequence(1, 4);
    const auto put = [&] {
        KV kv(block_tokens);
        kv.append(Bytes{std::vector<std::byte>(5000, std::byte{7})}, block_tokens);
        cache.insert("m", key, std::move(kv), Tier::user);
        CHECK(second.flush(soon()));
        evict_all(cache);
        CHECK(second.wait_written(soon())); // what is evicted waits to be compared with the store
    };
    put();
    const std::string name = server.ask({"EVAL", "return redis.call('keys', '*')[1]", "0"});
    server.ask({"SETRANGE", name,
                std::to_string(offsetof(promptkv::detail::RecordHeader, block_bytes) + 5), "x"});
    CHECK(second.prefetch("m", key, {.min_remaining = 0}).end() == LoadEnd::absent);
    put();
    CHECK(second.prefetch("m", key, {.min_remaining = 0}).tokens() == 4);
}

TEST_CASE("a server that is down is not asked again at once") {
    RedisServer server;
    RedisStoreOptions options = server.options();
    options.retry_after = std::chrono::hours(1);
    server.stop();
    Machine one(options);
    for (int i = 0; i < 10; ++i)
        CHECK(one.load(sequence(1, 8)) == 0);
    CHECK(one.store.stats().connects == 1);
    CHECK(one.store.stats().unavailable >= 9);
}

TEST_CASE("a server that does not answer costs a time-out") {
    const RedisServer server;
    RedisStoreOptions options = server.options();
    options.timeout = std::chrono::milliseconds(50);
    options.retry_after = std::chrono::hours(1);
    Machine one(options);
    server.freeze();
    CHECK(one.load(sequence(1, 8)) == 0);
    CHECK(one.store.stats().failed == 1);
    CHECK(one.load(sequence(1, 8)) == 0);
    CHECK(one.store.stats().failed == 1);
    server.thaw();
}

TEST_CASE("records of other fingerprints, and those below a prompt, are removed from a server") {
    const RedisServer server;
    Machine one(server.options());
    one.put(sequence(1, 12));
    one.put(sequence(100, 4));
    server.ask({"SET", "promptkv:not a record", "1"});
    server.ask({"SET", "somebody else's", "1"});
    one.second.erase_below("m", sequence(1, 6));
    CHECK(one.load(sequence(1, 12)) == 0);
    CHECK(server.ask({"DBSIZE"}) == "3");
    CHECK(one.second.erase_other_than({}) == 1);
    CHECK(server.ask({"DBSIZE"}) == "2");
}

TEST_CASE("a password and a database are used, and a wrong password costs misses") {
    const RedisServer server({"--requirepass", "secret"});
    RedisStoreOptions options = server.options();
    options.password = "secret";
    options.database = 3;
    options.time_to_live = std::chrono::hours(1);
    Machine one(options);
    one.put(sequence(1, 4));
    CHECK(one.written);
    CHECK(one.load(sequence(1, 4)) == 4);
    options.database = 0;
    CHECK(Machine(options).load(sequence(1, 4)) == 0);
    options.password = "wrong";
    Machine stranger(options);
    CHECK(stranger.load(sequence(1, 4)) == 0);
    CHECK(stranger.store.stats().failed == 1);
}

TEST_CASE("a server that wants a password and gets none refuses, which is counted") {
    const RedisServer server({"--requirepass", "secret"});
    Machine one(server.options());
    one.put(sequence(1, 4));
    CHECK_FALSE(one.written);
    CHECK(one.load(sequence(1, 4)) == 0);
    const BlockName name;
    const bool works =
        one.store.get(std::span(&name, 1), [](std::size_t, auto record) { return record.empty(); });
    CHECK_FALSE(works);
    CHECK(one.store.erase(std::span(&name, 1)) == 0);
    CHECK(one.store.stats().refused >= 4);
    CHECK(one.store.stats().erased == 0);
}

TEST_CASE("hybrid keys are found in a server without an index") {
    const RedisServer server;
    RedisStore store(server.options());
    HybridCache cache;
    Second<HybridCache, RedisStore> second(cache, store);
    promptkv_test::store(cache, sequence(1, 9));
    promptkv_test::store(cache, sequence(1, 14));
    REQUIRE(second.flush(soon()));
    evict_all(cache);
    auto load = second.prefetch("m", sequence(1, 30));
    CHECK(load.tokens() == 14);
    CHECK(load.lease().kv().state() == state_of(sequence(1, 14), 40, 7));
}

TEST_CASE("a connection is sound after a call that memory failed for") {
    const RedisServer server;
    RedisStoreOptions options = server.options();
    options.database = 7; // it has to log in
    const auto ask = [](RedisConnection& connection, std::initializer_list<Words> commands) {
        RedisPipeline all;
        for (const Words& command : commands)
            all.add(command);
        std::vector<RedisReply> replies;
        Words answers;
        if (connection.run(all, replies).works)
            for (const RedisReply& reply : replies)
                answers.emplace_back(promptkv::detail::text_of(reply));
        return answers;
    };
    RedisConnection other(options);
    REQUIRE(ask(other, {{"SET", "where", "database 7"}}) == Words{"OK"});
    RedisConnection used(options); // it was logged in before memory fails
    REQUIRE(ask(used, {{"ECHO", "zero"}}) == Words{"zero"});

    const bool is_new = GENERATE(true, false);
    std::size_t failures = 0;
    for (;; ++failures) {
        CAPTURE(is_new, failures);
        RedisConnection fresh(options);
        RedisConnection& connection = is_new ? fresh : used;
        bool struck = false;
        {
            promptkv_test::FailingNew failing(failures);
            try {
                static_cast<void>(ask(connection, {{"ECHO", "one"}, {"ECHO", "two"}}));
            } catch (const std::bad_alloc&) {
            }
            struck = failing.stop();
        }
        CHECK(ask(connection, {{"GET", "where"}, {"ECHO", "three"}}) ==
              Words{"database 7", "three"});
        if (!struck)
            break;
    }
    CHECK(failures > 10);
}

TEST_CASE("parse_redis_url reads addresses") {
    RedisAddress address;
    CHECK(parse_redis_url("redis://somewhere", address));
    CHECK(address.host == "somewhere");
    CHECK(address.port == 6379);
    CHECK(parse_redis_url("redis://me:pass@10.0.0.1:7000/5", address));
    CHECK(address.host == "10.0.0.1");
    CHECK(address.port == 7000);
    CHECK(address.user == "me");
    CHECK(address.password == "pass");
    CHECK(address.database == 5);
    CHECK_FALSE(parse_redis_url("rediss://somewhere", address));
    CHECK_FALSE(parse_redis_url("redis://", address));
    CHECK_FALSE(parse_redis_url("redis://somewhere:port", address));
    CHECK_FALSE(parse_redis_url("redis://somewhere/x", address));
    CHECK_FALSE(parse_redis_url("redis://me@somewhere", address));
}

} // namespace

#endif
