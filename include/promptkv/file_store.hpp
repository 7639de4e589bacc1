// SPDX-License-Identifier: MIT
// FileStore: records as files in a directory. Needs POSIX and libxxhash; not in the umbrella header.
#ifndef PROMPTKV_FILE_STORE_HPP
#define PROMPTKV_FILE_STORE_HPP

#include <promptkv/block_store.hpp>
#include <promptkv/detail/block_records.hpp>
#include <promptkv/detail/posix_files.hpp>
#include <promptkv/detail/record_directory.hpp>
#include <promptkv/detail/record_queue.hpp>
#include <promptkv/detail/saturating.hpp>
#include <promptkv/file_store_types.hpp>
#include <promptkv/version.hpp>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <new>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <sys/stat.h>

namespace promptkv::inline PROMPTKV_ABI {

/// Records as files, the least recently used deleted first. Of a chain the last record goes first: later ones
/// are useless without earlier ones.
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

    bool find(std::span<const BlockName> names, std::span<RecordInfo> infos) {
        if (options_.read_only) {
            for (std::size_t i = 0; i < names.size(); ++i)
                infos[i] = directory_.read_info(names[i]);
            return true;
        }
        const std::lock_guard lock(mutex_);
        for (std::size_t i = 0; i < names.size(); ++i) {
            const RecordInfo* found = records_.find(names[i]);
            infos[i] = found != nullptr ? *found : RecordInfo{};
        }
        return true;
    }

    template <class F>
    bool get(std::span<const BlockName> names, F&& f) {
        bool works = true;
        detail::FileReader reader;
        swap_spare(reader); // memory that is used again takes no page faults
        for (std::size_t i = 0; i < names.size(); ++i) {
            const std::optional<Known> known = use(names[i]);
            if (!known) {
                if (!f(i, std::span<const std::byte>()))
                    break;
                continue;
            }
            const detail::Descriptor file = directory_.open(names[i]);
            struct stat status {};
            if (!file || ::fstat(file.get(), &status) != 0) {
                works = lost(names[i], *known, errno) && works;
                if (!f(i, std::span<const std::byte>()))
                    break;
                continue;
            }
            // What the record has, and a byte more: a file that grew is damaged, and takes no memory.
            const std::uint64_t most = options_.read_only
                                           ? detail::RecordDirectory::read_info(file).nbytes
                                           : known->nbytes;
            const std::uint64_t there =
                S_ISREG(status.st_mode) ? static_cast<std::uint64_t>(status.st_size) : 0;
            const auto size = static_cast<std::size_t>((std::min)(there, detail::more(most, 1)));
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

    /// Unless `lasting` nothing is written: after a restart the order of use does not know of it.
    void touch(std::span<const BlockName> names, bool lasting = false) {
        for (const BlockName& name : names) {
            std::unique_lock lock(mutex_);
            if (records_.use(name) == nullptr || !lasting)
                continue;
            const detail::FileTime now = next_time();
            lock.unlock();
            directory_.set_time(name, now);
        }
    }

    [[nodiscard]] std::uint64_t uses() const {
        const std::lock_guard lock(mutex_);
        return records_.uses();
    }
    [[nodiscard]] bool is_read_only() const noexcept { return options_.read_only; }

    /// What was set aside is deleted as well: nobody can say whose state it is.
    std::size_t erase(std::span<const BlockName> names) {
        std::size_t erased = 0;
        // A file that is renamed meanwhile is another record's.
        const std::lock_guard writing(writing_);
        for (const BlockName& name : names) {
            std::unique_lock lock(mutex_);
            Records gone = forget(name);
            lock.unlock();
            if (gone.empty())
                continue;
            if (directory_.remove(name)) {
                ++erased;
                continue;
            }
            lock.lock();
            stays(gone.front().nbytes);
            remains_.splice(remains_.end(), gone);
        }
        if (!options_.read_only)
            remove_leftovers();
        const std::lock_guard lock(mutex_);
        stats_.erased += erased;
        return erased;
    }

    void set_aside(const BlockName& name) {
        if (options_.read_only)
            return;
        const std::lock_guard writing(writing_);
        const std::lock_guard lock(mutex_);
        if (const Records gone = forget(name); !gone.empty())
            move_aside(name, gone.front().nbytes);
    }

    template <class F>
    void for_each(F&& f) {
        std::vector<RecordInfo> infos;
        {
            const std::lock_guard lock(mutex_);
            infos.reserve(records_.size());
            records_.for_each([&](const RecordInfo& info) { infos.push_back(info); });
        }
        for (const RecordInfo& info : infos)
            f(info);
    }

    // observers //////////////////////////////////////////////////////////////

    [[nodiscard]] Stats stats() const {
        const std::lock_guard lock(mutex_);
        Stats stats = stats_;
        stats.records = records_.size();
        stats.nbytes = used_;
        return stats;
    }

private:
    using Records = detail::RecordQueue::Records;

    /// What was known of a record when it was asked for.
    struct Known {
        std::uint64_t nbytes = 0;
        std::uint64_t written = 0;
    };

    void scan() {
        counter_ = static_cast<std::uint64_t>(detail::file_time_now()); // unlike the last process's
        directory_.empty(
            "tmp", [this](std::uint64_t, bool is_gone) { stats_.left_over += is_gone ? 1U : 0U; });
        directory_.for_each_left("tmp", [this](std::uint64_t size) { stays(size); });
        directory_.for_each_left("aside", [this](std::uint64_t size) { count_aside(size); });
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
                  [](const Found& a, const Found& b) { return a.used < b.used; });
        for (const Found& each : found) {
            records_.insert(detail::RecordQueue::Incoming(each.info));
            last_used_ = (std::max)(last_used_, each.used);
            used_ += detail::disk_bytes(each.info.nbytes);
        }
        make_room(0, 0); // the budget may be smaller than it was
        make_room(0, options_.min_free_bytes);
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

    /// The record becomes the most recently used. Empty: there is none. If this only reads, nothing is known.
    [[nodiscard]] std::optional<Known> use(const BlockName& name) {
        if (options_.read_only)
            return Known{};
        Known known;
        detail::FileTime now = 0;
        {
            const std::lock_guard lock(mutex_);
            const auto* record = records_.use(name);
            if (record == nullptr)
                return std::nullopt;
            known = {record->nbytes, record->written};
            now = next_time();
        }
        directory_.set_time(name, now);
        return known;
    }

    /// A record could not be opened. False: the store is in trouble.
    bool lost(const BlockName& name, const Known& known, int error) {
        const std::lock_guard lock(mutex_);
        const bool is_other = error == ELOOP || error == ENXIO; // a link or a socket in its place
        if (error != ENOENT && error != ENOTDIR && !is_other) {
            ++stats_.failed;
            return false;
        }
        const auto* record = records_.find(name);
        if (options_.read_only) {
            ++stats_.vanished;
        } else if (record != nullptr && record->written == known.written) {
            forget(name); // else this store evicted it, and maybe wrote it anew
            ++stats_.vanished;
            if (is_other)
                move_aside(name, 0);
        }
        return true;
    }

    /// Takes a record out of the account. Returns it; nothing if there is none. Under the lock.
    Records forget(const BlockName& name) {
        Records gone;
        if (records_.take(name, gone))
            used_ -= detail::disk_bytes(gone.front().nbytes);
        return gone;
    }

    // room ///////////////////////////////////////////////////////////////////

    void count_aside(std::uint64_t size) {
        ++stats_.set_aside;
        aside_ += detail::disk_bytes(size);
        used_ += detail::disk_bytes(size);
    }

    /// Moves a file that is not in the account out of the way. `file`: a record's name or a path. `size`: as it
    /// is known; it may be another one now. Under the lock, or at the start.
    template <class File>
    void move_aside(const File& file, std::uint64_t size) {
        const std::uint64_t now = directory_.size_of(file);
        if (directory_.move_aside(file, ++counter_))
            count_aside(now);
        else if (errno != ENOENT)
            stays((std::max)(size, now));
    }
    /// Deletes what was set aside, and erased records that could not be removed before: some of these are tried
    /// in a call. False: there was nothing, or it is still there. Under `writing_`, or at the start.
    bool remove_leftovers() {
        std::uint64_t aside = 0;
        Records remains;
        {
            const std::lock_guard lock(mutex_);
            aside = aside_;
            remains.swap(remains_);
        }
        std::uint64_t left = 0; // of what was set aside
        const auto count = [&](std::uint64_t size, bool is_gone) {
            left += is_gone ? 0 : detail::disk_bytes(size);
        };
        if (aside > 0 && !directory_.empty("aside", count))
            left = aside;
        std::uint64_t freed = 0;
        for (std::size_t n = (std::min)(remains.size(), std::size_t{64}); n > 0; --n) {
            if (directory_.remove(remains.front().name)) {
                freed += detail::disk_bytes(remains.front().nbytes);
                remains.pop_front();
            } else {
                remains.splice(remains.end(), remains, remains.begin());
            }
        }
        const std::lock_guard lock(mutex_);
        remains_.splice(remains_.end(), remains);
        aside = detail::less(aside, left); // others may have deleted some of it
        aside_ -= aside;
        used_ -= aside + freed;
        return aside + freed > 0;
    }
    /// A file could not be removed or moved: its bytes are still there. Under the lock.
    void stays(std::uint64_t size) noexcept {
        used_ += detail::disk_bytes(size);
        ++stats_.failed;
    }

    /// Whether `need` bytes fit. `least`: bytes that must stay free of the `free` ones on the disk; 0: any.
    [[nodiscard]] bool has_room(std::uint64_t need, std::uint64_t free, std::uint64_t least) const {
        return used_ <= detail::less(options_.max_bytes, need) &&
               (least == 0 || free >= detail::more(need, least));
    }

    /// Deletes leftovers, then the least recently used records, until `need` more bytes fit, which
    /// are counted then. Nothing is deleted where that would not be enough. `least`: bytes that must stay free
    /// on the disk; 0: any. `at_least`: bytes that are deleted whatever the account and the disk say.
    bool make_room(std::uint64_t need, std::uint64_t least, std::uint64_t at_least = 0,
                   const detail::SparedRecords& spared = {}) {
        // The disk is asked without the lock, since that may take a while.
        const auto free_bytes = [&] { return least > 0 ? directory_.free_bytes() : 0; };
        std::uint64_t free = free_bytes();
        bool lacks = false;
        {
            const std::lock_guard lock(mutex_);
            if (at_least > used_ ||
                (least > 0 && detail::more(free, used_) < detail::more(need, least)))
                return false;
            lacks = at_least > 0 || !has_room(need, free, least);
        }
        if (lacks && remove_leftovers())
            free = free_bytes();
        Records victims; // without an allocation: what leaves the account leaves the disk
        {
            const std::lock_guard lock(mutex_);
            std::uint64_t freed = 0;
            const auto is_enough = [&](std::uint64_t deleted) {
                return freed >= deleted && has_room(need, detail::more(free, freed), least);
            };
            const std::uint64_t folder =
                at_least > 0 ? detail::disk_bytes(1) : 0; // if it needs one
            while (!is_enough(at_least + folder) && records_.take_coldest(victims, spared)) {
                const std::uint64_t size = detail::disk_bytes(victims.back().nbytes);
                used_ -= size;
                freed += size;
            }
            if (!is_enough(at_least)) {
                put_back(victims);
                return false;
            }
            used_ += need;
        }
        std::uint64_t evicted = 0;
        for (; !victims.empty() && directory_.remove(victims.front().name); victims.pop_front())
            ++evicted;
        const std::lock_guard lock(mutex_);
        stats_.evicted += evicted;
        if (victims.empty())
            return true;
        ++stats_.failed; // it is still there, as are those after it
        const BlockName name = victims.front().name;
        put_back(victims);
        records_.use(name); // another one is tried next
        used_ -= need;
        return false;
    }
    /// Victims that are still on the disk are records again, the coldest. Under the lock.
    void put_back(Records& victims) noexcept {
        for (const RecordInfo& victim : victims)
            used_ += detail::disk_bytes(victim.nbytes);
        try {
            while (!victims.empty())
                records_.put_back(victims);
        } catch (const std::bad_alloc&) { // the next start finds them
        }
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
        // All allocations come first, so that a file that was written is known.
        RecordInfo info = write.info;
        info.nbytes = write.record.size();
        detail::RecordQueue::Incoming incoming(info);
        {
            const std::lock_guard lock(mutex_);
            records_.reserve_one();
        }
        const std::uint64_t least = options_.min_free_bytes;
        // Without the records before it this one would be of no use.
        const detail::SparedRecords spared{info.parent, write.spares};
        if (!make_room(need, least, 0, spared))
            return PutResult::full;
        int error = write_file(write);
        if (is_full(error) && evicting_helps_) { // the disk says so before the account does
            give_back(need);
            if (!make_room(need, least, need, spared))
                return PutResult::full;
            error = write_file(write);
            evicting_helps_ = !is_full(error); // else others fill the disk
        }
        if (error != 0) {
            give_back(need);
            return is_full(error) || error == EFBIG ? PutResult::full : PutResult::failed;
        }
        evicting_helps_ = true;
        const std::lock_guard lock(mutex_);
        // The rename has replaced a file of this name.
        forget(info.name);
        std::erase_if(remains_, [&](const RecordInfo& each) {
            const bool is_replaced = each.name == info.name;
            used_ -= is_replaced ? detail::disk_bytes(each.nbytes) : 0;
            return is_replaced;
        });
        records_.insert(std::move(incoming));
        return PutResult::written;
    }

    [[nodiscard]] static bool is_full(int error) noexcept {
        return error == ENOSPC || error == EDQUOT;
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
    std::mutex writing_;         // one write at a time; taken before the other
    bool evicting_helps_ = true; // a full disk; under `writing_`
    mutable std::mutex mutex_;   // of what follows; never held while a record is read or written
    detail::RecordQueue records_;
    Records remains_;         // of erased records whose files could not be removed
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
