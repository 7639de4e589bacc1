// SPDX-License-Identifier: MIT
// Files of POSIX: descriptors, reading and writing, folders.
#ifndef PROMPTKV_DETAIL_POSIX_FILES_HPP
#define PROMPTKV_DETAIL_POSIX_FILES_HPP

#include <promptkv/version.hpp>

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string_view>
#include <utility>

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

namespace promptkv::inline PROMPTKV_ABI::detail {

/// A file descriptor that closes itself.
class Descriptor {
public:
    Descriptor() = default;
    explicit Descriptor(int number) noexcept : number_(number) {}
    Descriptor(Descriptor&& other) noexcept : number_(std::exchange(other.number_, -1)) {}
    Descriptor& operator=(Descriptor&& other) noexcept {
        std::swap(number_, other.number_);
        return *this;
    }
    ~Descriptor() {
        if (number_ >= 0)
            ::close(number_);
    }
    [[nodiscard]] explicit operator bool() const noexcept { return number_ >= 0; }
    [[nodiscard]] int get() const noexcept { return number_; }
    [[nodiscard]] int release() noexcept { return std::exchange(number_, -1); }

private:
    int number_ = -1;
};

[[nodiscard]] inline Descriptor open_at(const Descriptor& folder, const char* path, int flags,
                                        mode_t mode = 0) noexcept {
    int number = -1;
    do {
        number = ::openat(folder.get(), path, flags | O_CLOEXEC | O_NOFOLLOW, mode);
    } while (number < 0 && errno == EINTR);
    return Descriptor(number);
}

/// Reads up to the end of `bytes` or of the file; returns how many bytes that were.
[[nodiscard]] inline std::size_t read_start(const Descriptor& file,
                                            std::span<std::byte> bytes) noexcept {
    std::size_t done = 0;
    while (done < bytes.size()) {
        const ssize_t n =
            ::pread(file.get(), bytes.data() + done, bytes.size() - done, static_cast<off_t>(done));
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            break;
        done += static_cast<std::size_t>(n);
    }
    return done;
}

/// Returns 0 or errno.
[[nodiscard]] inline int write_all(const Descriptor& file,
                                   std::span<const std::byte> bytes) noexcept {
    while (!bytes.empty()) {
        const ssize_t n = ::write(file.get(), bytes.data(), bytes.size());
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return n < 0 ? errno : EIO;
        bytes = bytes.subspan(static_cast<std::size_t>(n));
    }
    return 0;
}

/// Reads whole files into a buffer, which it keeps for the next file.
class FileReader {
public:
    /// The first `size` bytes of a file; fewer, if there are no more or they cannot be read.
    /// Invalidates: what was read before.
    [[nodiscard]] std::span<const std::byte> read(const Descriptor& file, std::size_t size) {
        if (size > capacity_) {
            capacity_ = 0;
            bytes_.reset(new std::byte[size]); // without zeros
            capacity_ = size;
        }
        return {bytes_.get(), read_start(file, {bytes_.get(), size})};
    }

private:
    std::unique_ptr<std::byte[]> bytes_;
    std::size_t capacity_ = 0;
};

/// Calls `f(name, descriptor of the folder)` for each thing in a folder; `f` may remove it. Returns 0, or errno
/// where not all of it was seen. A folder that is not there is empty.
template <class F>
int for_each_in(const Descriptor& parent, const char* name, F f) {
    Descriptor folder = open_at(parent, name, O_RDONLY | O_DIRECTORY);
    if (!folder)
        return errno == ENOENT ? 0 : errno;
    const Descriptor again(::fcntl(folder.get(), F_DUPFD_CLOEXEC, 0));
    DIR* listing = again ? ::fdopendir(folder.get()) : nullptr;
    if (listing == nullptr)
        return errno;
    static_cast<void>(folder.release()); // the listing closes it
    const std::unique_ptr<DIR, int (*)(DIR*)> closes(listing, ::closedir);
    for (;;) {
        errno = 0;
        const dirent* each = ::readdir(listing);
        if (each == nullptr)
            return errno;
        const std::string_view file = each->d_name;
        if (file != "." && file != "..")
            f(each->d_name, again);
    }
}

/// What a file takes on the disk, in pages.
[[nodiscard]] constexpr std::uint64_t disk_bytes(std::uint64_t size) noexcept {
    constexpr std::uint64_t page = 4096;
    return (size + page - 1) / page * page;
}

/// Bytes that an ordinary user may still write to the disk of a folder; the largest number where it does not say.
[[nodiscard]] inline std::uint64_t free_bytes(const Descriptor& folder) noexcept {
    struct statvfs disk {};
    if (::fstatvfs(folder.get(), &disk) != 0)
        return ~std::uint64_t{0};
    return static_cast<std::uint64_t>(disk.f_bavail) * static_cast<std::uint64_t>(disk.f_frsize);
}

} // namespace promptkv::inline PROMPTKV_ABI::detail

#endif
