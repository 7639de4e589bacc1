// SPDX-License-Identifier: MIT
// RecordDirectory: a directory of records as files. It knows where a record is, and how it is written.
#ifndef PROMPTKV_DETAIL_RECORD_DIRECTORY_HPP
#define PROMPTKV_DETAIL_RECORD_DIRECTORY_HPP

#include <promptkv/block_store.hpp>
#include <promptkv/detail/block_records.hpp>
#include <promptkv/detail/blocked_signal.hpp>
#include <promptkv/detail/posix_files.hpp>
#include <promptkv/file_store_types.hpp>
#include <promptkv/version.hpp>

#include <array>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <ctime>
#include <span>
#include <string>
#include <system_error>

#include <sys/file.h>

namespace promptkv::inline PROMPTKV_ABI::detail {

/// Times in nanoseconds, as files have them.
using FileTime = std::int64_t;

[[nodiscard]] inline FileTime to_file_time(const timespec& time) noexcept {
    constexpr FileTime latest = std::int64_t{1} << 62U; // one may still be added
    const FileTime seconds = time.tv_sec < latest / 1'000'000'000 ? time.tv_sec : 0;
    return seconds * 1'000'000'000 + time.tv_nsec;
}
[[nodiscard]] inline std::array<timespec, 2> to_timespecs(FileTime time) noexcept {
    timespec both{};
    both.tv_sec = static_cast<std::time_t>(time / 1'000'000'000);
    both.tv_nsec = static_cast<long>(time % 1'000'000'000);
    return {both, both};
}
[[nodiscard]] inline FileTime file_time_now() noexcept {
    timespec now{};
    ::clock_gettime(CLOCK_REALTIME, &now);
    return to_file_time(now);
}

/// All paths are relative to the descriptor of the directory: it may be moved. A link in the place of a
/// record is not followed.
class RecordDirectory {
public:
    using Reason = FileStoreError::Reason;

    /// A writer makes the directory if need be, and locks it. Throws: FileStoreError.
    RecordDirectory(const std::string& directory, bool read_only) : name_(directory) {
        open(read_only);
        if (!read_only)
            lock();
    }

    [[nodiscard]] std::uint64_t free_bytes() const noexcept { return detail::free_bytes(root_); }
    [[nodiscard]] Descriptor open(const BlockName& record) const noexcept {
        return open_at(root_, Path(record).c_str(), O_RDONLY | O_NONBLOCK); // it may be a pipe
    }
    /// What is known of a record whose header is sound; else nbytes is 0.
    [[nodiscard]] RecordInfo read_info(const BlockName& record) const noexcept {
        return read_info(open(record));
    }
    [[nodiscard]] static RecordInfo read_info(const Descriptor& file) noexcept {
        if (!file)
            return {};
        std::array<std::byte, sizeof(RecordHeader)> start{};
        RecordHeader header;
        const std::size_t n = read_start(file, start);
        return read_header(std::span(start).first(n), header) == RecordFault::none ? header.info()
                                                                                   : RecordInfo{};
    }
    /// False: it is still there.
    [[nodiscard]] bool remove(const BlockName& record) const noexcept {
        return ::unlinkat(root_.get(), Path(record).c_str(), 0) == 0 || errno == ENOENT;
    }
    void set_time(const BlockName& record, FileTime time) const noexcept {
        ::utimensat(root_.get(), Path(record).c_str(), to_timespecs(time).data(),
                    AT_SYMLINK_NOFOLLOW);
    }

    /// Writes a record to a temporary file and renames that. Returns 0 or errno; then nothing is left. Throws
    /// what an allocation throws, before there is a file.
    [[nodiscard]] int write(const BlockName& record, std::span<const std::byte> bytes,
                            FileTime time, bool sync, std::uint64_t number) const {
        const std::string target = Path(record).c_str();
        const std::string temporary = "tmp/" + hex(record) + "." + std::to_string(number);
        Descriptor file;
        if (!in_folder("tmp", [&] {
                file = open_at(root_, temporary.c_str(), O_WRONLY | O_CREAT | O_EXCL, 0600);
                return static_cast<bool>(file);
            }))
            return errno;
        const BlockedSignal too_large(SIGXFSZ);
        int error = write_all(file, bytes);
        if (error == 0 && sync && ::fdatasync(file.get()) != 0)
            error = errno;
        if (error == 0) {
            ::futimens(file.get(), to_timespecs(time).data());
            error = rename(temporary, target);
        }
        if (error != 0)
            ::unlinkat(root_.get(), temporary.c_str(), 0);
        return error;
    }

    /// Bytes of a file with a record's path; 0: there is none.
    [[nodiscard]] std::uint64_t size_of(const char* file) const noexcept {
        return size_in(root_, file);
    }
    [[nodiscard]] std::uint64_t size_of(const BlockName& record) const noexcept {
        return size_of(Path(record).c_str());
    }

    /// Moves a file with a record's path out of the way. False: it could not be moved.
    bool move_aside(const char* file, std::uint64_t number) const noexcept {
        std::array<char, 64> target{};
        std::snprintf(target.data(), target.size(), "aside/%.32s.%llu", file + 3,
                      static_cast<unsigned long long>(number));
        return in_folder("aside", [&] {
            return ::renameat(root_.get(), file, root_.get(), target.data()) == 0;
        });
    }
    bool move_aside(const BlockName& record, std::uint64_t number) const noexcept {
        return move_aside(Path(record).c_str(), number);
    }
    /// Deletes what is in "tmp" or "aside"; calls `f(size, is_gone)` for each file. False: not all was seen.
    template <class F>
    bool empty(const char* folder, F f) const {
        return for_each_in(root_, folder, [&](const char* file, const Descriptor& in) {
                   const std::uint64_t size = size_in(in, file);
                   f(size, ::unlinkat(in.get(), file, 0) == 0);
               }) == 0;
    }

    // the start //////////////////////////////////////////////////////////////

    // What is not seen would not be in the account: then these throw FileStoreError.

    /// Calls `f(size)` for each file in "tmp" or "aside".
    template <class F>
    void for_each_left(const char* folder, F f) const {
        require(for_each_in(root_, folder,
                            [&](const char* file, const Descriptor& in) { f(size_in(in, file)); }));
    }

    /// Calls `sound(info, time)` for each record whose header is sound, `bad(path, size)` for each other file
    /// with a record's name, and `foreign()` for all else.
    template <class Sound, class Bad, class Foreign>
    void scan(Sound sound, Bad bad, Foreign foreign) const {
        for (unsigned i = 0; i < 256; ++i) {
            const std::string folder = hex(BlockName{std::uint64_t{i} << 56U, 0}).substr(0, 2);
            const auto look = [&](const std::string& file, const Descriptor& in) {
                struct stat status {};
                if (::fstatat(in.get(), file.c_str(), &status, AT_SYMLINK_NOFOLLOW) != 0 ||
                    !S_ISREG(status.st_mode) || !is_record_name(file, folder)) {
                    foreign();
                    return;
                }
                const Descriptor opened = open_at(in, file.c_str(), O_RDONLY | O_NONBLOCK);
                if (!opened && (errno == EMFILE || errno == ENFILE || errno == ENOMEM))
                    require(errno); // it says nothing of the record
                const RecordInfo info = read_info(opened);
                const auto size = static_cast<std::uint64_t>(status.st_size);
                if (info.nbytes == 0 || info.nbytes != size || hex(info.name) != file)
                    bad((folder + "/" + file).c_str(), size);
                else
                    sound(info, to_file_time(status.st_mtim));
            };
            const int error = for_each_in(root_, folder.c_str(), look);
            if (error == ENOTDIR || error == ELOOP)
                foreign();
            else
                require(error);
        }
    }

private:
    [[nodiscard]] static std::uint64_t size_in(const Descriptor& folder,
                                               const char* file) noexcept {
        struct stat status {};
        if (::fstatat(folder.get(), file, &status, AT_SYMLINK_NOFOLLOW) != 0)
            return 0;
        return static_cast<std::uint64_t>(status.st_size);
    }

    /// "4f/4f3a...", without an allocation: what is read and removed must not depend on memory.
    class Path {
    public:
        explicit Path(const BlockName& record) noexcept {
            write_hex(record, &text_[3]);
            text_[0] = text_[3];
            text_[1] = text_[4];
            text_[2] = '/';
        }
        [[nodiscard]] const char* c_str() const noexcept { return text_.data(); }

    private:
        std::array<char, 36> text_{};
    };
    [[nodiscard]] static bool is_record_name(const std::string& file, const std::string& folder) {
        return file.size() == 32 && file.starts_with(folder) &&
               file.find_first_not_of("0123456789abcdef") == std::string::npos;
    }

    /// A link in the place of the folder is not followed either: a scan would not find what is behind it.
    [[nodiscard]] int rename(const std::string& temporary, const std::string& target) const {
        const std::string folder = target.substr(0, 2);
        Descriptor in;
        const bool moved = in_folder(folder.c_str(), [&] {
            in = open_at(root_, folder.c_str(), O_RDONLY | O_DIRECTORY);
            return in && ::renameat(root_.get(), temporary.c_str(), in.get(), &target[3]) == 0;
        });
        return moved ? 0 : errno;
    }

    /// Calls `f()`; once more where it failed for want of a folder, which is made then. Sets errno.
    template <class F>
    bool in_folder(const char* folder, F f) const {
        if (f())
            return true;
        if (errno != ENOENT)
            return false;
        if (::mkdirat(root_.get(), folder, 0700) == 0)
            return f();
        errno = errno == EEXIST ? ENOENT : errno;
        return false;
    }

    [[noreturn]] void refuse(Reason reason, const std::string& why) const {
        throw FileStoreError(reason, "FileStore: " + name_ + " " + why);
    }
    [[noreturn]] void refuse_for(const char* what) const { refuse_for(what, errno); }
    [[noreturn]] void refuse_for(const char* what, int error) const {
        refuse(Reason::cannot_open, what + std::generic_category().message(error));
    }

    /// `error`: 0, or errno of what could not be read.
    void require(int error) const {
        if (error != 0)
            refuse_for("cannot be read: ", error);
    }

    void open(bool read_only) {
        if (!read_only)
            ::mkdir(name_.c_str(), 0700);
        root_ = Descriptor(::open(name_.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
        struct stat status {};
        if (!root_ || ::fstat(root_.get(), &status) != 0)
            refuse_for("cannot be opened: ");
        if (status.st_uid != ::geteuid())
            refuse(Reason::other_owner, "belongs to another user");
        if ((status.st_mode & 077U) != 0)
            refuse(Reason::open_to_others, "is open to other users: give it mode 0700");
    }

    void lock() {
        lock_ = open_at(root_, "lock", O_RDWR | O_CREAT, 0600);
        if (!lock_)
            refuse_for("cannot be written: ");
        // The directory as well, where the file system can: somebody may delete all files in it.
        if (::flock(lock_.get(), LOCK_EX | LOCK_NB) != 0 ||
            (::flock(root_.get(), LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK))
            refuse(Reason::locked, "has a writer already; others can open it with read_only");
        for (const char* folder : {"tmp", "aside"}) {
            const bool is_new = ::mkdirat(root_.get(), folder, 0700) == 0;
            if ((!is_new && errno != EEXIST) || !open_at(root_, folder, O_RDONLY | O_DIRECTORY))
                refuse_for("cannot be written: ");
        }
    }

    std::string name_;
    Descriptor root_;
    Descriptor lock_;
};

} // namespace promptkv::inline PROMPTKV_ABI::detail

#endif
