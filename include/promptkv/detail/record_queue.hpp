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

namespace promptkv::inline PROMPTKV_ABI::detail {

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
        const auto record = incoming.record_.begin();
        PROMPTKV_ASSERT(!places_.contains(record->name));
        record->used = ++uses_;
        record->written = ++inserts_;
        ends_.splice(ends_.begin(), incoming.record_);
        places_.merge(incoming.place_);
        children_.merge(incoming.parent_);
        ++children_.find(record->parent)->second;
        if (children_.contains(record->name))
            park(record);
        if (const auto parent = places_.find(record->parent);
            parent != places_.end() && !parent->second->is_continued)
            park(parent->second);
    }

    /// Moves a record to the end of `taken`. False: there is none. Allocates nothing.
    bool take(const BlockName& name, Records& taken) {
        const auto found = places_.find(name);
        if (found != places_.end())
            take(found->second, taken);
        return found != places_.end();
    }
    /// Does so with the coldest record. Requires: !empty().
    void take_coldest(Records& taken) {
        take(std::prev(ends_.empty() ? continued_.end() : ends_.end()), taken);
    }

private:
    static constexpr int most_passed = 1024; // records, to find a place among the ends

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
    /// No record continues it any more: it gets the place among the ends that its last use gives it, or one
    /// near that.
    void unpark(Records::iterator record) {
        record->is_continued = false;
        auto place = ends_.end();
        for (int passed = 0; place != ends_.begin() && passed < most_passed; ++passed) {
            if (std::prev(place)->used > record->used)
                break;
            --place;
        }
        ends_.splice(place, continued_, record);
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
