// SPDX-License-Identifier: MIT
// The options of a FileStore, its counters and its error.
#ifndef PROMPTKV_FILE_STORE_TYPES_HPP
#define PROMPTKV_FILE_STORE_TYPES_HPP

#include <promptkv/version.hpp>

#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>

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
    std::uint64_t foreign = 0;   ///< files that are not the store's; they stay
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

/// A directory that a FileStore does not take.
class FileStoreError : public std::runtime_error {
public:
    enum class Reason : std::uint8_t {
        cannot_open,
        other_owner,    ///< it belongs to another user
        open_to_others, ///< others may read or write it: it must be of mode 0700
        locked          ///< another writer has it; it may still be opened with `read_only`
    };

    FileStoreError(Reason reason, const std::string& what)
        : std::runtime_error(what), reason_(reason) {}
    [[nodiscard]] Reason reason() const noexcept { return reason_; }

private:
    Reason reason_;
};

} // namespace promptkv::inline PROMPTKV_ABI

#endif
