// SPDX-License-Identifier: MIT
// FileStore where memory fails: a write is done or not, and the account says what is on disk.

#if __has_include(<xxhash.h>) && __has_include(<sys/file.h>)

#define XXH_INLINE_ALL // without the library
#include <promptkv/file_store.hpp>

#include "catch.hpp"
#include "counting_new.hpp"

#include <cstddef>
#include <filesystem>
#include <new>
#include <span>
#include <string>
#include <vector>

#include <unistd.h>

namespace {

using namespace promptkv_test;
using promptkv::BlockName;
using promptkv::FileStore;
using promptkv::PutResult;
using promptkv::RecordInfo;

/// A folder that is removed in the end.
struct Folder {
    const std::string path = (std::filesystem::temp_directory_path() /
                              ("promptkv_exceptions_" + std::to_string(::getpid())))
                                 .string();
    Folder() { std::filesystem::remove_all(path); }
    Folder(const Folder&) = delete;
    Folder& operator=(const Folder&) = delete;
    ~Folder() { std::filesystem::remove_all(path); }
};

PutResult put(FileStore& store, const RecordInfo& info, const std::vector<std::byte>& bytes) {
    const promptkv::RecordWrite write{info, bytes};
    PutResult result = PutResult::failed;
    store.put(std::span(&write, 1), std::span(&result, 1));
    return result;
}

TEST_CASE("A write that runs out of memory leaves no record and holds no room") {
    const bool replaces = GENERATE(false, true);
    CAPTURE(replaces);
    const std::vector<std::byte> bytes(5000);
    RecordInfo info;
    info.name = BlockName{1, 2};
    info.nbytes = bytes.size();
    std::size_t failures = 0;
    for (std::size_t skip = 0;; ++skip) {
        CAPTURE(skip);
        const Folder folder;
        FileStore store({.directory = folder.path, .min_free_bytes = 0});
        if (replaces)
            REQUIRE(put(store, info, bytes) == PutResult::written);
        const auto before = store.stats();
        bool written = false;
        {
            FailingNew failing(skip);
            try {
                written = put(store, info, bytes) == PutResult::written;
            } catch (const std::bad_alloc&) {
            }
        }
        const auto after = store.stats();
        RecordInfo found;
        store.find(std::span(&info.name, 1), std::span(&found, 1));
        CHECK(found.nbytes == (written || replaces ? bytes.size() : 0));
        CHECK(after.records == (written ? 1 : before.records));
        CHECK(after.nbytes == (written ? 8192 : before.nbytes));
        if (written)
            break;
        ++failures;
    }
    CHECK(failures > 0);
}

} // namespace

#endif
