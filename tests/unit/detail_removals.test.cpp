// SPDX-License-Identifier: MIT
// Removals: what left is reported, then destroyed, without the lock.

#include <promptkv/detail/removals.hpp>

#include "catch.hpp"
#include "detail_parts.hpp"

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>

namespace {

using namespace promptkv_test;
using promptkv::RemovalReason;
using promptkv::Tier;

using R = TestIndex::R;
using Removals = promptkv::detail::Removals<R>;
using Removal = promptkv::Removal<Tape, std::string, std::int32_t, Tier>;

/// A mutex that knows whether it is locked.
struct Lock {
    bool is_locked = false;

    void lock() {
        REQUIRE_FALSE(is_locked);
        is_locked = true;
    }
    void unlock() {
        REQUIRE(is_locked);
        is_locked = false;
    }
};

/// Takes a record out of its test as a cache does, and hands it over. Its key is reported from the index.
void leave(TestIndex& test, Removals& gone, R& record, RemovalReason reason) {
    test.let_go(record);
    record.is_entry = false;
    record.left_bytes = record.payload->nbytes;
    record.reason = reason;
    test.index.show(record, false);
    gone.push(record);
}

TEST_CASE("Removals report each record in order, without the lock, and then destroy it") {
    TestIndex test;
    Removals gone;
    Lock lock;
    leave(test, gone, test.add("abc", Tier::system), RemovalReason::evicted);
    leave(test, gone, test.add("abcdef"), RemovalReason::erased);
    std::string log;
    const auto listener = std::make_shared<const Removals::Listener>([&](Removal& removal) {
        CHECK_FALSE(lock.is_locked);
        log += removal.model + "/" + word(removal.tokens) + " " +
               std::string(name(removal.reason)) + " " + std::string(name(removal.tier)) + " " +
               std::to_string(removal.bytes) + " " + std::to_string(removal.kept_tokens) + " " +
               (removal.payload != nullptr ? text_of(*removal.payload) : "-") + "; ";
        CHECK(test.locate("abc").record(3) == nullptr); // each left the index before
    });
    lock.lock();
    gone.deliver(test.index, lock, listener, [&] {
        CHECK_FALSE(lock.is_locked);
        log += log.empty() ? "unlocked; " : "";
    });
    CHECK_FALSE(lock.is_locked);
    CHECK(log == "unlocked; m/abc evicted system 3 0 abc; m/abcdef erased user 6 0 abcdef; ");
    CHECK(test.index.find("m") == nullptr);
}

TEST_CASE("Removals destroy without a listener, too") {
    TestIndex test;
    Removals gone;
    Lock lock;
    R& record = test.add("abc");
    leave(test, gone, record, RemovalReason::evicted);
    test.index.unlink(record); // nobody asks for its key
    lock.lock();
    bool was_unlocked = false;
    gone.deliver(test.index, lock, nullptr, [&] { was_unlocked = !lock.is_locked; });
    CHECK_FALSE(lock.is_locked);
    CHECK(was_unlocked);
}

TEST_CASE("Removals hand out no payload that was taken") {
    TestIndex test;
    Removals gone;
    Lock lock;
    leave(test, gone, test.add("abc"), RemovalReason::taken);
    bool had_payload = true;
    const auto listener = std::make_shared<const Removals::Listener>(
        [&](Removal& removal) { had_payload = removal.payload != nullptr; });
    lock.lock();
    gone.deliver(test.index, lock, listener, [] {});
    CHECK_FALSE(had_payload);
}

TEST_CASE("A listener may add removals of its own, which are others") {
    TestIndex test;
    Removals gone;
    Lock lock;
    R& second = test.add("xyz");
    leave(test, gone, test.add("abc"), RemovalReason::evicted);
    std::string log;
    std::shared_ptr<const Removals::Listener> listener;
    listener = std::make_shared<const Removals::Listener>([&](Removal& removal) {
        log += word(removal.tokens) + "(";
        if (word(removal.tokens) == "abc") {
            Removals inner;
            lock.lock();
            leave(test, inner, second, RemovalReason::erased);
            inner.deliver(test.index, lock, listener, [] {});
        }
        log += ")";
    });
    lock.lock();
    gone.deliver(test.index, lock, listener, [] {});
    CHECK(log == "abc(xyz())");
    listener = nullptr;
}

} // namespace
