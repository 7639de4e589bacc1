// SPDX-License-Identifier: MIT
// RecordQueue: which records a store has, and which of them is deleted first.
#ifndef PROMPTKV_DETAIL_RECORD_QUEUE_HPP
#define PROMPTKV_DETAIL_RECORD_QUEUE_HPP

#include <promptkv/block_store.hpp>
#include <promptkv/config.hpp>
#include <promptkv/version.hpp>

#include <cstddef>
#include <cstdint>
#include <iterator>
#include <list>
#include <unordered_map>
#include <utility>

namespace promptkv::inline PROMPTKV_ABI::detail {

/// What makes no room: a record, and those that were used after the first `uses` uses.
struct SparedRecords {
    BlockName name{};
    std::uint64_t uses = RecordWrite::spares_nothing;
};

/// Records by name, and in the order of their use. The coldest is the least recently used one that no other
/// record continues: of a chain the end is the first to be deleted, since it is useless without its beginning.
///
/// Thread safety: none.
class RecordQueue {
public:
    struct Stored : RecordInfo {
        explicit Stored(const RecordInfo& info) : RecordInfo(info) {}
        std::uint64_t written = 0; ///< which insert made it

    private:
        friend class RecordQueue;
        std::uint64_t used = 0;    // which use was its last
        bool is_continued = false; // by another record
    };
    using Records = std::list<Stored>;

    /// A record with the memory that its place in the queue takes.
    class Incoming {
    public:
        /// Throws: what an allocation throws.
        explicit Incoming(const RecordInfo& info) {
            place_.emplace(info.name, record_.emplace(record_.end(), info));
            parent_.emplace(info.parent, 0);
        }

    private:
        friend class RecordQueue;
        Records record_;
        std::unordered_map<BlockName, Records::iterator> place_;
        std::unordered_map<BlockName, std::size_t> parent_;
    };

    [[nodiscard]] std::size_t size() const noexcept { return places_.size(); }
    [[nodiscard]] bool empty() const noexcept { return places_.empty(); }
    /// Null: there is none. Valid until the record is taken.
    [[nodiscard]] const Stored* find(const BlockName& name) const {
        const auto found = places_.find(name);
        return found != places_.end() ? &*found->second : nullptr;
    }
    /// Calls `f(record)` for each.
    template <class F>
    void for_each(F f) const {
        for (const Records* records : {&ends_, &continued_})
            for (const Stored& record : *records)
                f(record);
    }

    /// The record becomes the most recently used one. Null: there is none.
    const Stored* use(const BlockName& name) {
        const auto found = places_.find(name);
        if (found == places_.end())
            return nullptr;
        Stored& record = *found->second;
        record.used = ++uses_;
        Records& in = record.is_continued ? continued_ : ends_;
        in.splice(in.begin(), in, found->second);
        return &record;
    }

    /// After this the next insert allocates nothing. Throws: what an allocation throws.
    void reserve_one() {
        if (places_.size() + 1 >= places_.bucket_count())
            places_.reserve(2 * places_.size() + 2);
        children_.reserve(places_.bucket_count());
    }
    /// The record is the most recently used one. Requires: there is none of its name.
    void insert(Incoming incoming) {
        Stored& record = incoming.record_.front();
        record.used = ++uses_;
        record.written = ++inserts_;
        link(std::move(incoming), ends_.begin());
    }
    /// Takes back the last of `taken`. Throws what an allocation throws.
    void put_back(Records& taken) {
        Incoming incoming(taken.back());
        reserve_one();
        Stored& record = incoming.record_.front();
        record = taken.back();
        record.is_continued = false;
        link(std::move(incoming), place_of(record));
        taken.pop_back();
    }

    /// Moves a record to the end of `taken`. False: there is none. Allocates nothing.
    bool take(const BlockName& name, Records& taken) {
        const auto found = places_.find(name);
        if (found != places_.end())
            take(found->second, taken);
        return found != places_.end();
    }
    /// Does so with the coldest record that is not spared. False: there is none.
    bool take_coldest(Records& taken, const SparedRecords& spared = {}) {
        Records& in = ends_.empty() ? continued_ : ends_;
        auto coldest = in.end();
        do {
            if (coldest == in.begin())
                return false;
            --coldest;
        } while (coldest->name == spared.name);
        if (coldest->used > spared.uses)
            return false;
        take(coldest, taken);
        return true;
    }
    /// How often records were used so far.
    [[nodiscard]] std::uint64_t uses() const noexcept { return uses_; }

private:
    static constexpr int most_passed = 1024; // records, to find a place among the ends

    void link(Incoming incoming, Records::iterator place) {
        const auto record = incoming.record_.begin();
        PROMPTKV_ASSERT(!places_.contains(record->name));
        ends_.splice(place, incoming.record_);
        places_.merge(incoming.place_);
        children_.merge(incoming.parent_);
        ++children_.find(record->parent)->second;
        if (children_.contains(record->name))
            park(record);
        if (const auto parent = places_.find(record->parent);
            parent != places_.end() && !parent->second->is_continued)
            park(parent->second);
    }
    void take(Records::iterator record, Records& taken) {
        places_.erase(record->name);
        taken.splice(taken.end(), record->is_continued ? continued_ : ends_, record);
        const auto siblings = children_.find(record->parent);
        if (--siblings->second > 0)
            return;
        children_.erase(siblings);
        if (const auto parent = places_.find(record->parent);
            parent != places_.end() && parent->second->is_continued)
            unpark(parent->second);
    }
    /// Another record continues it from now on.
    void park(Records::iterator record) {
        record->is_continued = true;
        continued_.splice(continued_.begin(), ends_, record);
    }
    /// No record continues it any more.
    void unpark(Records::iterator record) {
        record->is_continued = false;
        ends_.splice(place_of(*record), continued_, record);
    }
    /// The place among the ends that its last use gives a record, or one near that.
    [[nodiscard]] Records::iterator place_of(const Stored& record) {
        auto place = ends_.end();
        for (int passed = 0; place != ends_.begin() && passed < most_passed; ++passed) {
            if (std::prev(place)->used > record.used)
                break;
            --place;
        }
        return place;
    }

    Records ends_;      // records that no other continues, the most recently used first
    Records continued_; // the others, in any order
    std::unordered_map<BlockName, Records::iterator> places_;
    std::unordered_map<BlockName, std::size_t>
        children_; // of the records, and of parents not there
    std::uint64_t uses_ = 0;
    std::uint64_t inserts_ = 0;
};

} // namespace promptkv::inline PROMPTKV_ABI::detail

#endif
