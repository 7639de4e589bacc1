// SPDX-License-Identifier: MIT
// FileStore: records as files in a directory. Needs POSIX and libxxhash; not in the umbrella header.
#ifndef PROMPTKV_FILE_STORE_HPP
#define PROMPTKV_FILE_STORE_HPP

#include <promptkv/block_store.hpp>
#include <promptkv/detail/block_records.hpp>
#include <promptkv/detail/posix_files.hpp>
#include <promptkv/detail/record_directory.hpp>
#include <promptkv/version.hpp>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <iterator>
#include <list>
#include <mutex>
#include <new>
#include <optional>
#include <span>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include <sys/stat.h>

namespace promptkv::inline PROMPTKV_ABI {

struct FileStoreOptions {
    std::string directory; ///< made with mode 0700 if it is not there; its parent must be
    std::uint64_t max_bytes = ~std::uint64_t{0}; ///< a hard budget, in whole pages of 4 KiB
    /// Nothing is written that would leave less free space on the disk: the least recently used records
    /// are deleted instead.
    std::uint64_t min_free_bytes = std::uint64_t{1} << 30U;
    /// Writes each record through to the disk before it is found. Without it a power cut may leave torn
    /// records, which their checksums find.
    bool sync = false;
    /// Reads what another process writes.
    bool read_only = false;
};

/// What a FileStore counts. It only grows, but for the gauges at the end.
struct FileStoreStats {
    std::uint64_t written = 0; ///< records
    std::uint64_t bytes_written = 0;
    std::uint64_t read = 0; ///< records
    std::uint64_t bytes_read = 0;
    std::uint64_t evicted = 0;   ///< records deleted for room
    std::uint64_t erased = 0;    ///< records that the caller erased
    std::uint64_t full = 0;      ///< writes without room
    std::uint64_t failed = 0;    ///< writes and reads that the system refused
    std::uint64_t vanished = 0;  ///< records that somebody else removed
    std::uint64_t set_aside = 0; ///< files that are no sound records, at the start or later
    std::uint64_t foreign = 0;   ///< files with names of others, which stay where they are
    std::uint64_t left_over = 0; ///< files of a writer that was killed, deleted at the start
    std::size_t records = 0;
    std::uint64_t nbytes = 0; ///< on disk, what was set aside included
};

/// Calls `f(name, value)` for each.
template <class F>
void for_each_counter(const FileStoreStats& s, F f) {
    f("written", s.written);
    f("bytes_written", s.bytes_written);
    f("read", s.read);
    f("bytes_read", s.bytes_read);
    f("evicted", s.evicted);
    f("erased", s.erased);
    f("full", s.full);
    f("failed", s.failed);
    f("vanished", s.vanished);
    f("set_aside", s.set_aside);
    f("foreign", s.foreign);
    f("left_over", s.left_over);
    f("records", s.records);
    f("nbytes", s.nbytes);
}

/// Records as files, the least recently used deleted first; of a chain its end, since the rest is of no use
/// without its beginning.
///
///     directory/lock            held by the one process that writes
///     directory/4f/4f3a...      a record; its time says when it was used last
///     directory/tmp/            records that are being written
///     directory/aside/          files that are no sound records; they are the first to be deleted
///
/// A record is written to tmp and renamed, so that it is there whole or not at all. At the start the headers
/// of all records are read, not their payloads. The order of use does not depend on the clock: times only
/// go forward. A record is read into memory, not mapped: what somebody does to the file meanwhile, or a disk
/// that fails, costs a miss.
///
/// Directories have mode 0700 and files 0600. State is not encrypted.
/// Thread safety: all functions.
class FileStore {
public:
    static constexpr bool is_local = true;
    using Options = FileStoreOptions;
    using Stats = FileStoreStats;

    /// Throws: FileStoreError.
    explicit FileStore(Options options)
        : options_(std::move(options)), directory_(options_.directory, options_.read_only) {
        if (!options_.read_only)
            scan();
    }
    FileStore(const FileStore&) = delete;
    FileStore& operator=(const FileStore&) = delete;
    ~FileStore() = default;

    // what BlockStore asks ///////////////////////////////////////////////////

    void find(std::span<const BlockName> names, std::span<RecordInfo> infos) {
        if (options_.read_only) {
            for (std::size_t i = 0; i < names.size(); ++i)
                infos[i] = directory_.read_info(names[i]);
            return;
        }
        const std::lock_guard lock(mutex_);
        for (std::size_t i = 0; i < names.size(); ++i) {
            const auto found = index_.find(names[i]);
            infos[i] = found != index_.end() ? *found->second : RecordInfo{};
        }
    }

    template <class F>
    bool get(std::span<const BlockName> names, F&& f) {
        bool works = true;
        detail::FileReader reader;
        swap_spare(reader); // memory that is used again takes no page faults
        for (std::size_t i = 0; i < names.size(); ++i) {
            const std::optional<std::uint64_t> known = use(names[i]);
            if (!known) {
                if (!f(i, std::span<const std::byte>()))
                    break;
                continue;
            }
            const detail::Descriptor file = directory_.open(names[i]);
            struct stat status {};
            if (!file || ::fstat(file.get(), &status) != 0) {
                works = lost(names[i], errno) && works;
                if (!f(i, std::span<const std::byte>()))
                    break;
                continue;
            }
            // What the record has, and a byte more: a file that grew is damaged, and takes no memory.
            const std::uint64_t most =
                options_.read_only ? detail::RecordDirectory::read_info(file).nbytes : *known;
            const std::uint64_t there =
                S_ISREG(status.st_mode) ? static_cast<std::uint64_t>(status.st_size) : 0;
            const auto size = static_cast<std::size_t>((std::min)(there, detail::sum_of(most, 1)));
            const std::span<const std::byte> record = reader.read(file, size);
            {
                const std::lock_guard lock(mutex_);
                if (record.size() < size) // it is cut short, or the disk failed
                    ++stats_.failed;
                stats_.read += record.empty() ? 0U : 1U;
                stats_.bytes_read += record.size();
            }
            if (size == 0)
                set_aside(names[i]);
            if (!f(i, record))
                break;
        }
        swap_spare(reader);
        return works;
    }

    void put(std::span<const RecordWrite> writes, std::span<PutResult> results) {
        for (std::size_t i = 0; i < writes.size(); ++i) {
            results[i] = options_.read_only ? PutResult::read_only : put(writes[i]);
            const std::lock_guard lock(mutex_);
            switch (results[i]) {
            case PutResult::written:
                ++stats_.written;
                stats_.bytes_written += writes[i].record.size();
                break;
            case PutResult::failed:
                ++stats_.failed;
                break;
            case PutResult::full:
            case PutResult::too_large:
                ++stats_.full;
                break;
            case PutResult::read_only:
                break;
            }
        }
    }

    /// Nothing is written: after a restart the order of use does not know of it.
    void touch(std::span<const BlockName> names) {
        const std::lock_guard lock(mutex_);
        for (const BlockName& name : names) {
            if (const auto found = index_.find(name); found != index_.end())
                records_.splice(records_.begin(), records_, found->second);
        }
    }

    std::size_t erase(std::span<const BlockName> names) {
        std::size_t erased = 0;
        for (const BlockName& name : names) {
            const std::optional<std::uint64_t> size = forget(name);
            if (!size)
                continue;
            if (directory_.remove(name)) {
                ++erased;
                continue;
            }
            const std::lock_guard lock(mutex_);
            stays(*size);
        }
        const std::lock_guard lock(mutex_);
        stats_.erased += erased;
        return erased;
    }

    void set_aside(const BlockName& name) {
        if (options_.read_only)
            return;
        if (const std::optional<std::uint64_t> size = forget(name))
            move_aside(name, *size);
    }

    template <class F>
    void for_each(F&& f) {
        std::vector<RecordInfo> infos;
        {
            const std::lock_guard lock(mutex_);
            infos.assign(records_.begin(), records_.end());
        }
        for (const RecordInfo& info : infos)
            f(info);
    }

    // observers //////////////////////////////////////////////////////////////

    [[nodiscard]] Stats stats() const {
        const std::lock_guard lock(mutex_);
        Stats stats = stats_;
        stats.records = index_.size();
        stats.nbytes = used_;
        return stats;
    }

private:
    using Records = std::list<RecordInfo>;
    using Index = std::unordered_map<BlockName, Records::iterator>;
    using Continued = std::unordered_map<BlockName, std::size_t>;

    static constexpr int max_asked = 1024; // records, for one that may be deleted

    void scan() {
        stats_.left_over = directory_.empty("tmp");
        directory_.for_each_aside([this](std::uint64_t size) { count_aside(size); });
        struct Found {
            detail::FileTime used;
            RecordInfo info;
        };
        std::vector<Found> found;
        directory_.scan(
            [&](const RecordInfo& info, detail::FileTime used) {
                found.push_back({used, info});
            },
            [&](const char* file, std::uint64_t size) { move_aside(file, size); },
            [&] { ++stats_.foreign; });
        std::sort(found.begin(), found.end(),
                  [](const Found& a, const Found& b) { return a.used > b.used; });
        for (const Found& each : found) {
            last_used_ = (std::max)(last_used_, each.used);
            used_ += detail::disk_bytes(each.info.nbytes);
            index_.emplace(each.info.name, records_.insert(records_.end(), each.info));
            ++continued_[each.info.parent];
        }
        make_room(0); // the budget may be smaller than it was
    }

    // use ////////////////////////////////////////////////////////////////////

    void swap_spare(detail::FileReader& reader) noexcept {
        const std::lock_guard lock(mutex_);
        std::swap(reader, spare_);
    }

    /// A time that is later than all that were given before, whatever the clock says. Under the lock.
    [[nodiscard]] detail::FileTime next_time() noexcept {
        last_used_ = (std::max)(detail::file_time_now(), last_used_ + 1);
        return last_used_;
    }

    /// The record becomes the most recently used. Returns its size, unless this only reads. Empty: there is
    /// none.
    [[nodiscard]] std::optional<std::uint64_t> use(const BlockName& name) {
        if (options_.read_only)
            return 0;
        std::uint64_t size = 0;
        detail::FileTime now = 0;
        {
            const std::lock_guard lock(mutex_);
            const auto found = index_.find(name);
            if (found == index_.end())
                return std::nullopt;
            records_.splice(records_.begin(), records_, found->second);
            size = found->second->nbytes;
            now = next_time();
        }
        directory_.set_time(name, now);
        return size;
    }

    /// A record could not be opened. False: the store is in trouble.
    bool lost(const BlockName& name, int error) {
        if (error == ENOENT && !options_.read_only)
            forget(name);
        const std::lock_guard lock(mutex_);
        ++(error == ENOENT ? stats_.vanished : stats_.failed);
        return error == ENOENT;
    }

    // room ///////////////////////////////////////////////////////////////////

    /// Takes a record out of the index. Returns its size.
    std::optional<std::uint64_t> forget(const BlockName& name) {
        const std::lock_guard lock(mutex_);
        const auto found = index_.find(name);
        if (found == index_.end())
            return std::nullopt;
        Records gone;
        unlink(found->second, gone);
        return gone.front().nbytes;
    }
    /// Moves a record from the index and the account to the end of `gone`. Under the lock. Allocates nothing.
    void unlink(Records::iterator record, Records& gone) {
        used_ -= detail::disk_bytes(record->nbytes);
        const auto parent = continued_.find(record->parent);
        if (--parent->second == 0)
            continued_.erase(parent);
        index_.erase(record->name);
        gone.splice(gone.end(), records_, record);
    }

    void count_aside(std::uint64_t size) {
        ++stats_.set_aside;
        aside_ += detail::disk_bytes(size);
        used_ += detail::disk_bytes(size);
    }

    /// `file`: a record's name or a path.
    template <class File>
    void move_aside(const File& file, std::uint64_t size) {
        const std::lock_guard lock(mutex_);
        if (directory_.move_aside(file, ++counter_))
            count_aside(size);
        else if (errno != ENOENT)
            stays(size);
    }
    /// A file could not be removed or moved: its bytes are still there. Under the lock.
    void stays(std::uint64_t size) noexcept {
        used_ += detail::disk_bytes(size);
        ++stats_.failed;
    }

    /// Whether `need` bytes fit, once `freed` bytes are deleted.
    [[nodiscard]] bool has_room(std::uint64_t need, std::uint64_t freed) const {
        const std::uint64_t most = options_.max_bytes - (std::min)(options_.max_bytes, need);
        const std::uint64_t least = options_.min_free_bytes;
        return used_ <= most &&
               (least == 0 || directory_.free_bytes() + freed >= detail::sum_of(need, least));
    }

    /// The least recently used record that no other continues, among the first few. Under the lock. Requires:
    /// there is a record.
    [[nodiscard]] Records::iterator coldest() {
        auto record = std::prev(records_.end());
        for (int asked = 1; continued_.contains(record->name); ++asked, --record) {
            if (record == records_.begin() || asked == max_asked)
                return std::prev(records_.end());
        }
        return record;
    }

    /// Deletes what was set aside, then the least recently used records, until `need` more bytes fit, which
    /// are counted then. `at_least`: so many records, whatever the account says.
    bool make_room(std::uint64_t need, std::size_t at_least = 0) {
        Records victims; // without an allocation: what leaves the index leaves the disk
        bool fits = false;
        {
            const std::lock_guard lock(mutex_);
            std::uint64_t freed = 0;
            while (victims.size() < at_least || !has_room(need, freed)) {
                if (aside_ > 0) {
                    directory_.empty("aside");
                    used_ -= std::exchange(aside_, 0);
                    continue;
                }
                if (records_.empty())
                    break;
                unlink(coldest(), victims);
                freed += detail::disk_bytes(victims.back().nbytes);
            }
            fits = has_room(need, freed) && victims.size() >= at_least;
            if (fits)
                used_ += need;
        }
        std::uint64_t evicted = 0;
        for (const RecordInfo& victim : victims) {
            if (directory_.remove(victim.name)) {
                ++evicted;
                continue;
            }
            const std::lock_guard lock(mutex_);
            stays(victim.nbytes);
            used_ -= std::exchange(fits, false) ? need : 0;
        }
        const std::lock_guard lock(mutex_);
        stats_.evicted += evicted;
        return fits;
    }
    void give_back(std::uint64_t room) {
        const std::lock_guard lock(mutex_);
        used_ -= room;
    }

    // writing ////////////////////////////////////////////////////////////////

    [[nodiscard]] PutResult put(const RecordWrite& write) {
        const std::uint64_t need = detail::disk_bytes(write.record.size());
        if (need > options_.max_bytes)
            return PutResult::too_large;
        const std::lock_guard writing(writing_);
        // All allocations of the index come first, so that a file that was written is in it.
        Records record{write.info};
        record.front().nbytes = write.record.size();
        Index entry;
        entry.emplace(write.info.name, record.begin());
        Continued parent;
        parent.emplace(write.info.parent, 0);
        {
            const std::lock_guard lock(mutex_);
            if (index_.size() + 1 >= index_.bucket_count())
                index_.reserve(2 * index_.size() + 2);
            continued_.reserve(index_.bucket_count());
        }
        if (!make_room(need))
            return PutResult::full;
        int error = write_file(write);
        if (error == ENOSPC || error == EDQUOT) { // the disk says so before the account does
            give_back(need);
            if (!make_room(need, 1))
                return PutResult::full;
            error = write_file(write);
        }
        if (error != 0) {
            give_back(need);
            return error == ENOSPC || error == EDQUOT || error == EFBIG ? PutResult::full
                                                                        : PutResult::failed;
        }
        const std::lock_guard lock(mutex_);
        Records replaced;
        if (const auto former = index_.find(write.info.name); former != index_.end())
            unlink(former->second, replaced); // the rename has
        records_.splice(records_.begin(), record);
        index_.merge(entry);
        continued_.merge(parent);
        ++continued_.find(write.info.parent)->second;
        return PutResult::written;
    }

    /// Returns 0 or errno.
    [[nodiscard]] int write_file(const RecordWrite& write) {
        detail::FileTime now = 0;
        std::uint64_t number = 0;
        {
            const std::lock_guard lock(mutex_);
            now = next_time();
            number = ++counter_;
        }
        try {
            return directory_.write(write.info.name, write.record, now, options_.sync, number);
        } catch (const std::bad_alloc&) {
            return ENOMEM;
        }
    }

    const Options options_;
    const detail::RecordDirectory directory_;
    std::mutex writing_;       // one write at a time; taken before the other
    mutable std::mutex mutex_; // of what follows; never held while a record is read or written
    Records records_;          // the most recently used first
    Index index_;
    Continued continued_;     // by so many records each; of those that some continue
    std::uint64_t used_ = 0;  // bytes on disk, with what is being written
    std::uint64_t aside_ = 0; // of these, what was set aside
    std::uint64_t counter_ = 0;
    detail::FileTime last_used_ = 0;
    detail::FileReader spare_; // as large as the largest record that was read
    Stats stats_;
};

static_assert(BlockStore<FileStore>);

} // namespace promptkv::inline PROMPTKV_ABI

#endif
