// SPDX-License-Identifier: MIT
// RecordQueue: which record is deleted first.

#include "catch.hpp"

#include <promptkv/detail/record_queue.hpp>

#include <algorithm>
#include <cstdint>
#include <random>
#include <vector>

namespace {

using promptkv::BlockName;
using promptkv::RecordInfo;
using promptkv::detail::RecordQueue;
using promptkv::detail::SparedRecords;

RecordInfo record(std::uint64_t name, std::uint64_t parent) {
    RecordInfo info;
    info.name = {0, name};
    info.parent = {0, parent};
    info.nbytes = name;
    return info;
}

void insert(RecordQueue& queue, std::uint64_t name, std::uint64_t parent) {
    queue.reserve_one();
    queue.insert(RecordQueue::Incoming(record(name, parent)));
}

/// Takes all records; returns their names in that order.
std::vector<std::uint64_t> drain(RecordQueue& queue) {
    std::vector<std::uint64_t> names;
    while (!queue.empty()) {
        RecordQueue::Records taken;
        queue.take_coldest(taken);
        names.push_back(taken.front().name.low);
    }
    return names;
}

using Names = std::vector<std::uint64_t>;

TEST_CASE("of a chain of records the end is the coldest, whatever was used last") {
    RecordQueue queue;
    for (const std::uint64_t name : {1U, 2U, 3U})
        insert(queue, name, name - 1);
    insert(queue, 10, 0);
    SECTION("as they came") {
        CHECK(drain(queue) == Names{3, 2, 1, 10});
    }
    SECTION("in another order") {
        RecordQueue other;
        for (const std::uint64_t name : {3U, 1U, 2U})
            insert(other, name, name - 1);
        insert(other, 10, 0);
        CHECK(drain(other) == Names{3, 2, 1, 10});
    }
    SECTION("after a use") {
        REQUIRE(queue.use({0, 3}) != nullptr);
        CHECK(drain(queue) == Names{10, 3, 2, 1});
    }
}

TEST_CASE("where each record continues another, the queue still gives one") {
    RecordQueue queue;
    insert(queue, 1, 2);
    insert(queue, 2, 1);
    insert(queue, 7, 7); // of itself
    Names names = drain(queue);
    std::sort(names.begin(), names.end());
    CHECK(names == Names{1, 2, 7});
}

/// The same from the description, in linear time.
class PlainQueue {
public:
    void insert(std::uint64_t name, std::uint64_t parent) { records_.push_back({name, parent}); }
    bool use(std::uint64_t name) {
        const auto found = place(name);
        if (found == records_.end())
            return false;
        std::rotate(found, found + 1, records_.end());
        return true;
    }
    bool take(std::uint64_t name) {
        const auto found = place(name);
        if (found == records_.end())
            return false;
        records_.erase(found);
        return true;
    }
    /// Requires: no record continues itself, at whatever distance; there is a record.
    std::uint64_t take_coldest() {
        const auto found = std::find_if(records_.begin(), records_.end(), [&](const Each& each) {
            return std::none_of(records_.begin(), records_.end(),
                                [&](const Each& other) { return other.parent == each.name; });
        });
        const std::uint64_t name = found->name;
        records_.erase(found);
        return name;
    }
    std::size_t size() const { return records_.size(); }

private:
    struct Each {
        std::uint64_t name, parent;
    };
    std::vector<Each>::iterator place(std::uint64_t name) {
        return std::find_if(records_.begin(), records_.end(),
                            [&](const Each& each) { return each.name == name; });
    }

    std::vector<Each> records_; // the least recently used first
};

TEST_CASE("the queue answers as a plain list of its records does") {
    std::mt19937_64 random(7);
    RecordQueue queue;
    PlainQueue plain;
    std::size_t took_coldest = 0;
    for (int step = 0; step < 20'000; ++step) {
        const std::uint64_t name = 1 + random() % 64;
        const BlockName key{0, name};
        RecordQueue::Records taken;
        switch (random() % 6) {
        case 0:
            CHECK((queue.use(key) != nullptr) == plain.use(name));
            break;
        case 1:
            CHECK(queue.take(key, taken) == plain.take(name));
            CHECK((taken.empty() || taken.front().name == key));
            break;
        case 2:
            if (plain.size() > 0) {
                queue.take_coldest(taken);
                REQUIRE(taken.size() == 1);
                REQUIRE(taken.front().name.low == plain.take_coldest());
                ++took_coldest;
            }
            break;
        default: // a tree: each record continues a smaller name
            if (queue.find(key) == nullptr) {
                insert(queue, name, name / 2);
                plain.insert(name, name / 2);
            }
        }
        REQUIRE(queue.size() == plain.size());
    }
    CHECK(took_coldest > 1'000);
    std::size_t seen = 0;
    queue.for_each(
        [&](const RecordInfo& info) { seen += queue.find(info.name) == &info ? 1U : 0U; });
    CHECK(seen == plain.size());
}

TEST_CASE("records that were taken and put back have their places again") {
    RecordQueue queue;
    for (std::uint64_t name = 1; name <= 3; ++name)
        insert(queue, name, name - 1);
    insert(queue, 10, 0);
    const auto taken_in_order = [&](const SparedRecords& spared) {
        RecordQueue::Records taken;
        Names order;
        while (queue.take_coldest(taken, spared))
            order.push_back(taken.back().name.low);
        while (!taken.empty())
            queue.put_back(taken);
        return order;
    };
    const Names all{3, 2, 1, 10};
    CHECK(taken_in_order({}) == all);
    CHECK(taken_in_order({}) == all);
    CHECK(taken_in_order({.name = {0, 3}}) == Names{10});
    CHECK(taken_in_order({.uses = 3}) == Names{3, 2, 1});
    queue.use({0, 1});
    CHECK(taken_in_order({.uses = 4}) == Names{3, 2, 10});
    CHECK(taken_in_order({}) == Names{3, 2, 10, 1});
    CHECK(queue.size() == 4);
}

TEST_CASE("a record that was written anew is another one") {
    RecordQueue queue;
    insert(queue, 1, 0);
    const std::uint64_t first = queue.find({0, 1})->written;
    RecordQueue::Records taken;
    REQUIRE(queue.take({0, 1}, taken));
    CHECK(queue.find({0, 1}) == nullptr);
    insert(queue, 1, 0);
    CHECK(queue.find({0, 1})->written != first);
}

} // namespace
