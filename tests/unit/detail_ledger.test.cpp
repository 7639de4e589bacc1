// SPDX-License-Identifier: MIT
// Ledger: bytes and counts, without a cache.

#include <promptkv/detail/ledger.hpp>

#include "catch.hpp"
#include "detail_parts.hpp"

#include <cstddef>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace of_ledger {

using namespace promptkv_test;
using promptkv::Tier;

using R = RecordOf<Blocks>;
using Ledger = promptkv::detail::Ledger<R>;
using Home = promptkv::detail::Partition<R>;

/// A ledger and entries without an index.
class Book {
public:
    Book() = default;
    Book(const Book&) = delete;
    Book& operator=(const Book&) = delete;
    ~Book() {
        while (!entries_.empty())
            remove(*entries_.back());
    }

    R& add(Blocks kv, Tier tier = Tier::user) {
        R& record = *new R();
        record.home = &home_;
        record.tier = tier;
        record.is_entry = true;
        const std::size_t nbytes = kv.nbytes();
        const std::size_t added = ledger.hold(kv, nbytes);
        record.payload = shared_payload<Blocks>(ledger.account(), std::move(kv)).release();
        record.payload->record = &record;
        ledger.add(record, added);
        entries_.push_back(&record);
        return record;
    }
    Ledger::Left remove(R& record) {
        std::erase(entries_, &record);
        const Ledger::Left left = ledger.remove(record);
        record.payload->record = nullptr;
        if (!left.leased)
            record.payload->drop(R::Payload::in_cache);
        delete &record;
        return left;
    }
    [[nodiscard]] bool is_sound() const {
        std::vector<promptkv::detail::PayloadLease<Blocks>> pins;
        const auto each_entry = [this](auto f) {
            for (R* record : entries_)
                f(*record);
        };
        return ledger.check_invariants(each_entry, pins);
    }

    Ledger ledger;

private:
    Home home_{"m", 0};
    std::vector<R*> entries_;
};

TEST_CASE("A ledger counts each block once, and what entries refer to as often as they do") {
    Book book;
    const Blocks kv = blocks("abcdef");
    R& first = book.add(kv, Tier::system);
    Blocks longer = kv.clone_prefix(4);
    append_rest(longer, "abcdxyz");
    R& second = book.add(std::move(longer));
    CHECK(book.ledger.nbytes() == 6 + 3);
    CHECK(book.ledger.referenced() == 6 + 7);
    CHECK(book.ledger.referenced(Tier::system) == 6);
    CHECK(book.ledger.referenced(Tier::user) == 7);
    CHECK(book.ledger.size() == 2);
    CHECK(book.ledger.entries(Tier::user) == 1);
    CHECK(book.ledger.peak() == 9);
    CHECK(book.is_sound());

    CHECK(book.remove(first).freed == 2);
    CHECK(book.ledger.nbytes() == 7);
    CHECK(book.is_sound());
    CHECK(book.remove(second).freed == 7);
    CHECK(book.ledger.nbytes() == 0);
    CHECK(book.ledger.referenced() == 0);
    CHECK(book.ledger.peak() == 9);
    CHECK(book.is_sound());
}

TEST_CASE("A ledger moves an entry to another tier, and cuts it") {
    Book book;
    R& record = book.add(blocks("abcdef"));
    book.ledger.retier(record, Tier::system);
    CHECK(record.tier == Tier::system);
    CHECK(book.ledger.entries(Tier::user) == 0);
    CHECK(book.ledger.referenced(Tier::user) == 0);
    CHECK(book.ledger.referenced(Tier::system) == 6);
    CHECK(book.is_sound());

    const Ledger::Cut cut = book.ledger.cut(record, 2);
    CHECK(cut.nbytes == 4);
    CHECK(cut.freed == 4);
    CHECK(book.ledger.nbytes() == 2);
    CHECK(book.ledger.referenced() == 2);
    CHECK(book.is_sound());
}

TEST_CASE("A cut frees what no other payload holds") {
    Book book;
    const Blocks kv = blocks("abcdef");
    R& record = book.add(kv.clone_prefix(6));
    book.add(kv.clone_prefix(5));
    const Ledger::Cut cut = book.ledger.cut(record, 2);
    CHECK(cut.nbytes == 4);
    CHECK(cut.freed == 0); // blocks of two tokens: the other one holds the last as well
    CHECK(book.ledger.nbytes() == 6);
    CHECK(book.is_sound());
}

TEST_CASE("A ledger says which bytes an entry holds alone") {
    Book book;
    const Blocks kv = blocks("abcdef");
    R& first = book.add(kv.clone_prefix(6));
    CHECK(Ledger::held_alone(first, 0, false) == 6);
    CHECK(Ledger::held_alone(first, 3, false) == 2);
    CHECK(Ledger::held_alone(first, 0, true) == 0); // `kv` of this test uses all of them
    R& second = book.add(kv.clone_prefix(2));
    CHECK(Ledger::held_alone(first, 0, false) == 4);
    CHECK(Ledger::held_alone(second, 0, false) == 0);
}

TEST_CASE("A leased entry that leaves stays in the account until its lease ends") {
    Book book;
    R& record = book.add(blocks("abcd"));
    auto lease = book.ledger.leases().begin(*record.payload);
    CHECK(book.ledger.leases().sums().nbytes == 4);
    CHECK(book.ledger.leases().sums().entries == 1);
    CHECK(book.is_sound());
    const auto left = book.remove(record);
    CHECK(left.leased);
    CHECK(left.freed == 0);
    CHECK(book.ledger.size() == 0);
    CHECK(book.ledger.nbytes() == 4);
    CHECK(book.ledger.leases().sums().nbytes == 4);
    CHECK(book.ledger.leases().sums().entries == 0);
    CHECK(book.is_sound());
    lease.reset();
    CHECK(book.ledger.nbytes() == 0);
    CHECK(book.ledger.leases().sums().nbytes == 0);
    book.ledger.leases().drain([](R&) { FAIL("it is no entry any more"); });
    CHECK(book.is_sound());
}

TEST_CASE("drain names the entries that were set aside and whose last lease has ended") {
    Book book;
    R& first = book.add(blocks("ab"));
    R& second = book.add(blocks("cd"));
    R& third = book.add(blocks("ef"));
    auto of_first = book.ledger.leases().begin(*first.payload);
    auto again = book.ledger.leases().begin(*first.payload);
    auto of_second = book.ledger.leases().begin(*second.payload);
    auto of_third = book.ledger.leases().begin(*third.payload);
    for (R* record : {&first, &second}) {
        record->aside = true;
        record->set_aside_at = static_cast<std::uint32_t>(record == &second);
        CHECK(record->payload->set_aside());
    }
    std::vector<R*> ended;
    const auto note = [&ended](R& record) { ended.push_back(&record); };
    book.ledger.leases().drain(note);
    CHECK(ended.empty());
    of_first.reset();
    of_third.reset();
    book.ledger.leases().drain(note);
    CHECK(ended.empty()); // one lease is still held, and the third was not set aside
    again.reset();
    book.ledger.leases().drain(note);
    CHECK(ended == std::vector<R*>{&first});
    of_second.reset();
    book.ledger.leases().drain(note);
    CHECK(ended == std::vector<R*>{&first, &second});
    CHECK(book.is_sound());
}

TEST_CASE("The sums of leases that were not walked never say too little") {
    Book book;
    R& record = book.add(blocks("abcd"));
    auto lease = book.ledger.leases().begin(*record.payload);
    CHECK(book.ledger.pinned_at_most() == 4);
    CHECK(book.ledger.leases().at_most().entries == 1);
    lease.reset();
    CHECK(book.ledger.leases().sums().nbytes == 0);
    CHECK(book.is_sound());

    SECTION("and follow the leases in the long run") {
        for (int i = 0; i < 100; ++i) {
            R& other = book.add(blocks("xy"));
            book.ledger.leases().begin(*other.payload).reset();
            book.remove(other);
        }
        CHECK(book.ledger.pinned_at_most() <= 10);
        CHECK(book.is_sound());
    }
}

TEST_CASE("A ledger counts bytes that are reserved") {
    Book book;
    book.add(blocks("ab"));
    {
        auto held = book.ledger.reserve(10);
        CHECK(book.ledger.reserved() == 10);
        CHECK(book.ledger.nbytes() == 12);
        CHECK(book.ledger.peak() == 12);
        auto moved = std::move(held);
        CHECK(book.ledger.reserved() == 10);
        CHECK(book.is_sound());
    }
    CHECK(book.ledger.reserved() == 0);
    CHECK(book.ledger.nbytes() == 2);
}

TEST_CASE("A payload may be leased that never was an entry") {
    Book book;
    R& record = book.add(blocks("abcd"));
    Blocks prefix = record.kv().clone_prefix(2);
    auto lease = book.ledger.lease_apart([&] { return std::move(prefix); });
    CHECK(book.ledger.nbytes() == 4); // the block is shared
    CHECK(book.ledger.leases().sums().nbytes == 2);
    CHECK(book.ledger.leases().sums().entries == 0);
    CHECK(Ledger::held_alone(record, 0, false) == 2);
    book.remove(record);
    CHECK(book.ledger.nbytes() == 2);
    lease.reset();
    CHECK(book.ledger.nbytes() == 0);
    book.ledger.leases().drain([](R&) { FAIL("it never was an entry"); });
    CHECK(book.is_sound());
}

TEST_CASE("A ledger ends the lease of such a payload, and hands the payload out") {
    Book book;
    R& record = book.add(blocks("abcd"));
    auto lease = book.ledger.lease_apart([&] { return record.kv().clone_prefix(2); });
    const auto stays = GENERATE(true, false);
    if (!stays)
        book.remove(record);
    std::optional<Blocks> kv;
    {
        std::vector<promptkv::detail::PayloadLease<Blocks>> pins;
        const auto walked = book.ledger.pinned(pins);
        CHECK(walked.nbytes == 2);
        book.ledger.end_apart(lease, kv);
        CHECK_FALSE(kv); // the walk holds it too
        CHECK(lease);
        CHECK(book.is_sound());
    }
    book.ledger.end_apart(lease, kv);
    CHECK_FALSE(lease);
    REQUIRE(kv);
    CHECK(kv->length() == 2);
    CHECK(book.ledger.nbytes() == (stays ? 4U : 0U));
    CHECK(book.ledger.pinned_at_most() == 0);
    CHECK_FALSE(book.ledger.leases().has_ended());
    CHECK(book.is_sound());
}

TEST_CASE("pinned counts the blocks of leased payloads once, and pins the payloads") {
    Book book;
    const Blocks kv = blocks("abcd");
    R& first = book.add(kv.clone_prefix(4));
    Blocks branch = kv.clone_prefix(2);
    append_rest(branch, "abxy");
    R& second = book.add(std::move(branch));
    auto of_first = book.ledger.leases().begin(*first.payload);
    auto of_second = book.ledger.leases().begin(*second.payload);
    const auto held = book.ledger.reserve(10);
    CHECK(book.ledger.leases().sums().nbytes == 8);
    std::vector<promptkv::detail::PayloadLease<Blocks>> pins;
    const auto leased = book.ledger.pinned(pins);
    CHECK(leased.nbytes == 6 + 10);
    CHECK(leased.blocks.size() == 3);
    CHECK(leased.blocks.contains(&kv.blocks()[1].use()));
    CHECK(pins.size() == 2);
    of_first.reset();
    CHECK(first.payload->leased());
    pins.clear();
    CHECK_FALSE(first.payload->leased());
}

TEST_CASE("A lease may outlive its ledger") {
    promptkv::detail::PayloadLease<Blocks> lease;
    {
        Book book;
        lease = book.ledger.leases().begin(*book.add(blocks("abcd")).payload);
    }
    CHECK(text_of(lease.get()->kv) == "abcd");
    lease.reset();
}

} // namespace of_ledger
