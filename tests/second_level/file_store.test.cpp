// SPDX-License-Identifier: MIT
// FileStore: what survives a restart, a crash, a full disk and damage; what the directory may be.

#include "catch.hpp"
#include "counting_new.hpp"
#include "fixture.hpp"

#include <promptkv/zstd_codec.hpp>

#include <array>
#include <atomic>
#include <csignal>
#include <new>
#include <random>
#include <thread>

#include <fcntl.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

namespace {

using namespace promptkv_test;
using promptkv::FileStore;
using promptkv::FileStoreError;
using promptkv::FileStoreOptions;
using FileSecond = Second<Cache, FileStore>;
namespace fs = std::filesystem;

/// Writes keys to a directory and ends, as a process does.
void put(const FileStoreOptions& options, std::initializer_list<Tokens> keys,
         Tier tier = Tier::user) {
    FileStore store(options);
    Cache cache;
    FileSecond second(cache, store);
    for (const Tokens& key : keys)
        promptkv_test::store(cache, key, tier);
    REQUIRE(second.flush(soon()));
}

/// A process that finds a directory.
struct Process {
    explicit Process(const FileStoreOptions& options) : store(options), second(cache, store) {}

    std::size_t load(const Tokens& key) {
        auto load = second.prefetch("m", key, {.min_remaining = 0});
        if (load.tokens() > 0) {
            const auto hit = load.lease({.min_remaining = 0});
            if (!is_state_of(hit.kv(), Key(key).first(hit.reused())))
                return 1'000'000; // wrong state
        }
        return load.tokens();
    }
    std::size_t faults(RecordFault fault) {
        return static_cast<std::size_t>(second.stats().faults[static_cast<std::size_t>(fault)]);
    }

    FileStore store;
    Cache cache;
    FileSecond second;
};

FileStoreError::Reason refusal(const FileStoreOptions& options) {
    try {
        const FileStore store(options);
    } catch (const FileStoreError& error) {
        CHECK(std::string(error.what()).find(options.directory) != std::string::npos);
        return error.reason();
    }
    FAIL("it was not refused");
    return {};
}

mode_t mode_of(const fs::path& path) {
    struct stat status {};
    REQUIRE(::lstat(path.c_str(), &status) == 0);
    return status.st_mode & 0777U;
}

// restarts ///////////////////////////////////////////////////////////////////

TEST_CASE("what was written is found by the next process") {
    const Folder folder;
    put(folder.options(), {sequence(1, 10)});
    Process next(folder.options());
    CHECK(next.store.stats().records == 3);
    CHECK(next.store.stats().nbytes == folder.bytes_on_disk());
    CHECK(next.second.locate("m", sequence(1, 10), 0).tokens == 10);
    CHECK(next.load(sequence(1, 10)) == 10);
}

TEST_CASE("records written through are found as well") {
    const Folder folder;
    FileStoreOptions options = folder.options();
    options.sync = true;
    put(options, {sequence(1, 8)});
    CHECK(Process(options).load(sequence(1, 8)) == 8);
}

TEST_CASE("a smaller budget holds from the start, and the most recently used stay") {
    const Folder folder;
    put(folder.options(), {sequence(1, 4), sequence(100, 4), sequence(200, 4)});
    {
        Process second(folder.options());
        for (const std::int32_t first : {200, 1, 100})
            CHECK(second.load(sequence(first, 4)) == 4);
    }
    FileStoreOptions options = folder.options();
    options.max_bytes = 8192;
    Process third(options);
    CHECK(folder.bytes_on_disk() <= 8192);
    CHECK(third.load(sequence(100, 4)) == 4);
    CHECK(third.load(sequence(1, 4)) == 4);
    CHECK(third.load(sequence(200, 4)) == 0);
}

TEST_CASE("a clock that goes backwards does not change the order of use") {
    const Folder folder;
    put(folder.options(), {sequence(1, 4), sequence(100, 4), sequence(200, 4)});
    for (const fs::path& record : folder.records()) // the last process had a clock of the future
        fs::last_write_time(record, fs::last_write_time(record) + std::chrono::hours(1000));
    {
        Process second(folder.options());
        CHECK(second.load(sequence(1, 4)) == 4); // later than the future
    }
    FileStoreOptions options = folder.options();
    options.max_bytes = 4096;
    Process third(options);
    CHECK(third.load(sequence(1, 4)) == 4);
}

TEST_CASE("the budget holds while it writes, the least recently used first") {
    const Folder folder;
    FileStoreOptions options = folder.options();
    options.max_bytes = 40'960;
    Process process(options);
    for (std::int32_t i = 0; i < 30; ++i) {
        promptkv_test::store(process.cache, sequence(1000 * i, 4));
        REQUIRE(process.second.flush(soon()));
        REQUIRE(folder.bytes_on_disk() <= 40'960);
        evict_to_store(process);
        CHECK(process.load(sequence(0, 4)) == 4); // used each time: it stays
        evict_to_store(process);
    }
    CHECK(process.store.stats().records == 10);
    CHECK(process.store.stats().evicted == 20);
}

TEST_CASE("a record larger than the budget is refused") {
    const Folder folder;
    FileStoreOptions options = folder.options();
    options.max_bytes = 4095;
    Process process(options);
    promptkv_test::store(process.cache, sequence(1, 4));
    CHECK_FALSE(process.second.flush(soon()));
    CHECK(process.second.stats().refused_too_large == 1);
    CHECK(process.store.stats().nbytes == 0);
}

TEST_CASE("the floor of free space holds") {
    const Folder folder;
    FileStoreOptions options = folder.options();
    options.min_free_bytes = ~std::uint64_t{0} / 2;
    Process process(options);
    promptkv_test::store(process.cache, sequence(1, 4));
    CHECK_FALSE(process.second.flush(soon()));
    CHECK(process.second.stats().refused_full == 1);
    CHECK(folder.records().empty());
}

// damage /////////////////////////////////////////////////////////////////////

TEST_CASE("a damaged file is set aside and never served") {
    const Folder folder;
    const Tokens key = sequence(1, 4);
    put(folder.options(), {key});
    const fs::path file = folder.records().at(0);
    const std::vector<char> sound = read_file(file);
    const auto with = [&](auto change) {
        std::vector<char> bytes = sound;
        change(bytes);
        write_file(file, bytes);
        CHECK(read_file(file) != sound);
    };

    SECTION("before the start") {
        SECTION("truncated") {
            with([](auto& bytes) { bytes.resize(bytes.size() - 1); });
        }
        SECTION("empty") {
            with([](auto& bytes) { bytes.clear(); });
        }
        SECTION("with more behind it") {
            with([](auto& bytes) { bytes.push_back('x'); });
        }
        SECTION("a header that is flipped somewhere") {
            const std::size_t at = GENERATE(
                range(std::size_t{0}, sizeof(promptkv::detail::RecordHeader), std::size_t{5}));
            with([&](auto& bytes) { bytes[at] = static_cast<char>(bytes[at] ^ 4); });
        }
        SECTION("of an older or a newer format") {
            const char version = GENERATE(char{1}, char{3});
            with([&](auto& bytes) { bytes[8] = version; });
        }
        SECTION("something else") {
            with([](auto& bytes) { bytes.assign(5000, 'z'); });
        }
        SECTION("another record under this name") {
            put(folder.options(), {sequence(100, 4)});
            for (const fs::path& other : folder.records()) {
                if (other != file)
                    fs::rename(other, file);
            }
            CHECK(read_file(file) != sound);
        }
        Process process(folder.options());
        CHECK(process.store.stats().set_aside == 1);
        CHECK(process.store.stats().records == 0);
        CHECK(process.store.stats().nbytes == folder.bytes_on_disk());
        CHECK(process.load(key) == 0);
        CHECK(folder.records().empty());
        // Its place is free again.
        promptkv_test::store(process.cache, key);
        CHECK(process.second.flush(soon()));
        evict_to_store(process);
        CHECK(process.load(key) == 4);
    }
    SECTION("in the tokens, behind them or in the payload: found when it is read") {
        const std::size_t at = GENERATE(std::size_t{136}, std::size_t{151}, std::size_t{160},
                                        std::size_t{192}, std::size_t{250}, std::size_t{291});
        with([&](auto& bytes) { bytes[at] = static_cast<char>(bytes[at] ^ 1); });
        Process process(folder.options());
        CHECK(process.store.stats().records == 1);
        CHECK(process.load(key) == 0);
        CHECK(process.faults(RecordFault::damaged) == 1);
        CHECK(process.store.stats().set_aside == 1);
        CHECK(process.store.stats().records == 0);
    }
    SECTION("while the process runs") {
        Process process(folder.options());
        SECTION("truncated") {
            with([](auto& bytes) { bytes.resize(200); });
        }
        SECTION("empty") {
            with([](auto& bytes) { bytes.clear(); });
        }
        SECTION("flipped") {
            with([](auto& bytes) { bytes[20] = 'z'; });
        }
        SECTION("with more behind it") {
            with([](auto& bytes) { bytes.resize(10'000); });
        }
        CHECK(process.load(key) == 0);
        CHECK(process.store.stats().nbytes == folder.bytes_on_disk());
        process.second.erase("m", key);
        CHECK(process.store.stats().nbytes == 0);
    }
    SECTION("removed while the process runs: it is no hit any more") {
        Process process(folder.options());
        fs::remove(file);
        CHECK(process.load(key) == 0);
        CHECK(process.store.stats().vanished == 1);
        CHECK(process.second.locate("m", key, 0).tokens == 0);
        CHECK(process.store.stats().nbytes == 0);
    }
}

TEST_CASE("a file that grew is not read whole, and a pipe in its place is not waited for") {
    const Folder folder;
    put(folder.options(), {sequence(1, 4)});
    const fs::path file = folder.records().at(0);
    FileStoreOptions options = folder.options();
    options.read_only = GENERATE(false, true);
    Process process(options);
    SECTION("it grew") {
        fs::resize_file(file, std::size_t{256} << 20U);
        const std::size_t before = promptkv_test::allocated_bytes;
        CHECK(process.load(sequence(1, 4)) == 0);
        CHECK(promptkv_test::allocated_bytes - before < 1U << 20U);
    }
    SECTION("it is a pipe") {
        fs::remove(file);
        REQUIRE(::mkfifo(file.c_str(), 0600) == 0);
        CHECK(process.load(sequence(1, 4)) == 0);
    }
    CHECK(process.store.stats().set_aside == (options.read_only ? 0 : 1));
}

TEST_CASE("a file may be cut short while its record is read") {
    const Folder folder;
    put(folder.options(), {sequence(1, 4)});
    FileStore store(folder.options());
    std::vector<promptkv::BlockName> names;
    store.for_each([&](const RecordInfo& info) { names.push_back(info.name); });
    REQUIRE(names.size() == 1);
    std::vector<std::byte> first;
    store.get(names, [&](std::size_t, std::span<const std::byte> record) {
        first.assign(record.begin(), record.end());
        fs::resize_file(folder.records().at(0), 0);
        CHECK(std::ranges::equal(record, first));
        return true;
    });
    CHECK(first.size() > 100);
}

TEST_CASE("what was set aside is deleted before any record") {
    const Folder folder;
    put(folder.options(), {sequence(1, 4), sequence(100, 4)});
    write_file(folder.records().at(0), std::vector<char>(100, 'x'));
    FileStoreOptions options = folder.options();
    options.max_bytes = 8192;
    Process process(options);
    CHECK(process.store.stats().nbytes == 8192);
    promptkv_test::store(process.cache, sequence(200, 4));
    REQUIRE(process.second.flush(soon()));
    CHECK(process.store.stats().records == 2);
    CHECK(process.store.stats().evicted == 0);
    CHECK(folder.bytes_on_disk() == 8192);
}

TEST_CASE("what two processes set aside under one name is counted once each") {
    const Folder folder;
    put(folder.options(), {sequence(1, 4)});
    const fs::path file = folder.records().at(0);
    for (int process = 1; process <= 2; ++process) {
        write_file(file, std::vector<char>(100, 'x'));
        const FileStore store(folder.options());
        CHECK(store.stats().nbytes == folder.bytes_on_disk());
        CHECK(store.stats().nbytes == static_cast<std::uint64_t>(process) * 4096);
    }
}

TEST_CASE(
    "a record that is erased or set aside while it is written is there or not, as the store says") {
    const Folder folder;
    FileStore store(folder.options());
    RecordInfo info;
    info.name = BlockName{7, 7};
    const std::vector<std::byte> bytes(5000);
    const auto write = [&] {
        const RecordWrite one{info, bytes};
        PutResult result = PutResult::failed;
        store.put(std::span(&one, 1), std::span(&result, 1));
    };
    constexpr int times = 300;
    std::atomic<int> begun{0};
    std::atomic<int> ended{0};
    std::thread writer([&] {
        for (int i = 1; i <= times; ++i) {
            while (begun < i)
                std::this_thread::yield();
            write();
            ended = i;
        }
    });
    std::mt19937 random(7);
    int wrong = 0;
    for (int i = 1; i <= times; ++i) {
        write();
        begun = i;
        const auto until = Clock::now() + std::chrono::microseconds(random() % 100);
        while (Clock::now() < until) {
        }
        if (i % 2 == 0)
            store.erase(std::span(&info.name, 1));
        else
            store.set_aside(info.name);
        while (ended < i)
            std::this_thread::yield();
        wrong += store.stats().records == folder.records().size() ? 0 : 1;
        store.erase(std::span(&info.name, 1));
    }
    writer.join();
    CHECK(wrong == 0);
    CHECK(store.stats().nbytes == folder.bytes_on_disk());
}

TEST_CASE("files of others stay where they are, and are counted") {
    const Folder folder;
    put(folder.options(), {sequence(1, 4)});
    const fs::path theirs = folder.records().at(0).parent_path() / "README";
    write_file(theirs, {'h', 'i'});
    fs::create_symlink("/etc/passwd", theirs.parent_path() / std::string(32, '0'));
    const Process process(folder.options());
    CHECK(process.store.stats().foreign == 2);
    CHECK(process.store.stats().records == 1);
    CHECK(fs::exists(theirs));
}

TEST_CASE("a record whose place is taken is a miss, and is written anew") {
    const Folder folder;
    put(folder.options(), {sequence(1, 4)});
    Process process(folder.options());
    const fs::path record = folder.records().at(0);
    const fs::path parent = record.parent_path();
    SECTION("by a socket") {
        REQUIRE(fs::remove(record));
        REQUIRE(::mknod(record.c_str(), S_IFSOCK | 0600, 0) == 0);
    }
    SECTION("by a link") {
        REQUIRE(fs::remove(record));
        fs::create_symlink("/etc/passwd", record);
    }
    SECTION("by a folder") {
        REQUIRE(fs::remove(record));
        fs::create_directory(record);
    }
    SECTION("its folder is a file") {
        fs::remove_all(parent);
        write_file(parent, {'h', 'i'});
        CHECK(process.load(sequence(1, 4)) == 0);
        fs::remove(parent);
    }
    CHECK(process.load(sequence(1, 4)) == 0);
    CHECK(process.second.locate("m", sequence(1, 4), 0).tokens == 0);
    promptkv_test::store(process.cache, sequence(1, 4));
    evict_to_store(process);
    CHECK(process.load(sequence(1, 4)) == 4);
}

TEST_CASE("nothing is written behind a link in the place of a folder") {
    const Folder folder;
    put(folder.options(), {sequence(1, 4)});
    const Folder elsewhere;
    const fs::path parent = folder.records().at(0).parent_path();
    fs::remove_all(parent);
    fs::create_symlink(elsewhere.path(), parent);
    Process process(folder.options());
    promptkv_test::store(process.cache, sequence(1, 4));
    CHECK_FALSE(process.second.flush(soon()));
    CHECK(process.second.stats().refused_failed == 1);
    CHECK(elsewhere.records().empty());
    CHECK(process.store.stats().nbytes == 0);
}

TEST_CASE("a directory with a link in the place of tmp or aside is refused") {
    const Folder folder;
    const Folder elsewhere;
    const auto name = GENERATE(as<std::string>(), "tmp", "aside");
    fs::create_directory_symlink(elsewhere.path(), fs::path(folder.path()) / name);
    CHECK(refusal(folder.options()) == FileStoreError::Reason::cannot_open);
}

TEST_CASE("the directory may be removed under a running process") {
    const Folder folder;
    put(folder.options(), {sequence(1, 8)});
    Process process(folder.options());
    fs::remove_all(folder.path());
    CHECK(process.load(sequence(1, 8)) == 0);
    promptkv_test::store(process.cache, sequence(100, 8));
    CHECK_FALSE(process.second.flush(soon()));
    CHECK(process.second.stats().refused_failed == 2);
    CHECK(process.store.stats().failed == 2);
    CHECK(process.second.erase_other_than({}) <= 1);
}

// crashes ////////////////////////////////////////////////////////////////////

TEST_CASE("a process that is killed while it writes leaves no torn record, 100 times") {
    const Folder folder;
    constexpr std::size_t big = 4000; // bytes a token: 16 KB a block
    FileStoreOptions options = folder.options();
    options.max_bytes = 400'000;
    std::mt19937 random(7);
    std::size_t left_over = 0;
    std::size_t records = 0;
    std::size_t served = 0;
    for (int i = 0; i < 100; ++i) {
        std::array<int, 2> pipe{};
        REQUIRE(::pipe(pipe.data()) == 0);
        const pid_t child = ::fork();
        REQUIRE(child >= 0);
        if (child == 0) {
            FileStore store(options);
            Cache cache;
            FileSecond second(cache, store);
            for (std::int32_t first = i * 1000 % 40'000;; first = (first + 1000) % 40'000) {
                const Tokens key = sequence(first, 10);
                cache.insert("m", key, payload_of(key, big), Tier::user);
                evict_all(cache);
                static_cast<void>(second.wait_written(soon()));
                static_cast<void>(::write(pipe[1], "x", 1) + 0);
            }
        }
        char written = 0; // by now it writes the second key
        REQUIRE(::read(pipe[0], &written, 1) == 1);
        ::usleep(static_cast<useconds_t>(random() % 2000));
        REQUIRE(::kill(child, SIGKILL) == 0);
        int status = 0;
        REQUIRE(::waitpid(child, &status, 0) == child);
        REQUIRE(WIFSIGNALED(status));
        ::close(pipe[0]);
        ::close(pipe[1]);

        REQUIRE(folder.bytes_on_disk() <= options.max_bytes);
        Process next(options);
        left_over += static_cast<std::size_t>(next.store.stats().left_over);
        records += next.store.stats().records;
        CHECK(next.store.stats().set_aside == 0);
        CHECK(next.store.stats().nbytes == folder.bytes_on_disk());
        for (std::int32_t first = 0; first < 40'000; first += 5'000) {
            const Tokens key = sequence(first, 10);
            auto load = next.second.prefetch("m", key, {.min_remaining = 0});
            served += load.tokens();
            if (load.tokens() > 0) {
                const auto hit = load.lease({.min_remaining = 0});
                REQUIRE(is_state_of(hit.kv(), Key(key).first(hit.reused()), big));
            }
        }
        CHECK(next.faults(RecordFault::damaged) == 0);
    }
    CHECK(records > 100);
    CHECK(served > 0);
    UNSCOPED_INFO(left_over << " files were left over");
    CHECK(left_over < 100);
}

TEST_CASE("a writer that was killed leaves its files, which the next one deletes") {
    const Folder folder;
    put(folder.options(), {sequence(1, 4)});
    write_file(folder.path() + "/tmp/torn", std::vector<char>(10'000, 'x'));
    const Process next(folder.options());
    CHECK(next.store.stats().left_over == 1);
    CHECK(next.store.stats().nbytes == folder.bytes_on_disk());
}

// full disks /////////////////////////////////////////////////////////////////

TEST_CASE("on a full disk the oldest records make room, or nothing is written") {
    const Folder folder;
    FileStoreOptions options = folder.options();
    if (::mount("promptkv", folder.path().c_str(), "tmpfs", 0, "size=256k,mode=0700") != 0) {
        WARN("a tmpfs may not be mounted here: this test was not run");
        CHECK(true);
        return;
    }
    {
        Process process(options); // its own budget is without a limit
        for (std::int32_t i = 0; i < 40; ++i) {
            const Tokens key = sequence(1000 * i, 4);
            process.cache.insert("m", key, payload_of(key, 5000), Tier::user); // 20 KB
            evict_all(process.cache);
            static_cast<void>(process.second.flush(soon()));
        }
        CHECK(process.store.stats().evicted > 0);
        CHECK(process.store.stats().records > 3);
        const Tokens last = sequence(39'000, 4);
        auto load = process.second.prefetch("m", last, {.min_remaining = 0});
        CHECK(load.tokens() == 4);
        CHECK(is_state_of(load.lease({.min_remaining = 0}).kv(), last, 5000));
        load = {};
        evict_all(process.cache);
        const Tokens large = sequence(50'000, 4);
        process.cache.insert("m", large, payload_of(large, 100'000), Tier::user); // 400 KB
        CHECK_FALSE(process.second.flush(soon()));
        CHECK(process.second.stats().refused_full >= 1);
    }
    CHECK(::umount(folder.path().c_str()) == 0);
}

TEST_CASE("a limit on the size of files is a refusal") {
    const Folder folder;
    const pid_t child = ::fork(); // the limit is the process's own
    if (child == 0) {
        const rlimit limit{1000, 1000};
        ::setrlimit(RLIMIT_FSIZE, &limit);
        bool sound = false;
        {
            Process process(folder.options());
            const Tokens key = sequence(1, 4);
            process.cache.insert("m", key, payload_of(key, 1000), Tier::user);
            promptkv_test::store(process.cache, sequence(100, 4)); // small enough
            sound = !process.second.flush(soon()) && process.second.stats().refused_full == 1 &&
                    process.second.stats().written == 1;
        }
        ::_exit(sound ? 0 : 1);
    }
    int status = 0;
    REQUIRE(::waitpid(child, &status, 0) == child);
    CHECK((WIFEXITED(status) && WEXITSTATUS(status) == 0));
    CHECK(folder.records().size() == 1);
}

// what the system refuses /////////////////////////////////////////////////////

/// While it lives, permissions hold for this process. Its folder is the process's then.
class Unprivileged {
public:
    explicit Unprivileged(const Folder& folder) : was_root_(::geteuid() == 0) {
        works = !was_root_ ||
                (::chown(folder.path().c_str(), 65534, 65534) == 0 && ::seteuid(65534) == 0 &&
                 ::faccessat(AT_FDCWD, folder.path().c_str(), R_OK | W_OK | X_OK, AT_EACCESS) == 0);
        if (!works) {
            WARN("the user cannot be changed here, or would not get here: this test was not run");
            CHECK(true);
        }
    }
    Unprivileged(const Unprivileged&) = delete;
    Unprivileged& operator=(const Unprivileged&) = delete;
    ~Unprivileged() {
        if (was_root_ && ::seteuid(0) != 0)
            std::abort();
    }
    bool works = false;

private:
    bool was_root_;
};

void set_modes(const std::vector<fs::path>& folders, unsigned mode) {
    for (const fs::path& folder : folders)
        fs::permissions(folder, static_cast<fs::perms>(mode));
}

std::vector<fs::path> folders_of_records(const Folder& folder) {
    std::vector<fs::path> folders;
    for (const fs::path& record : folder.records())
        folders.push_back(record.parent_path());
    return folders;
}

TEST_CASE("what cannot be removed stays in the account") {
    const Folder folder;
    const Unprivileged unprivileged(folder);
    if (!unprivileged.works)
        return;
    FileStoreOptions options = folder.options();
    options.max_bytes = 3 * 4096;
    put(options, {sequence(1, 4), sequence(100, 4), sequence(200, 4)});
    Process process(options);
    const std::vector<fs::path> folders = folders_of_records(folder);
    REQUIRE(folders.size() == 3);
    set_modes(folders, 0500);
    SECTION("when room is made") {
        promptkv_test::store(process.cache, sequence(300, 4));
        CHECK_FALSE(process.second.flush(soon()));
        CHECK(process.second.stats().refused_full == 1);
        CHECK(process.store.stats().evicted == 0);
        for (const std::int32_t first : {1, 100, 200}) // they are still found
            CHECK(process.second.locate("m", sequence(first, 4), 0).tokens == 4);
    }
    SECTION("when it is erased") {
        process.second.erase("m", sequence(1, 4));
        CHECK(process.second.stats().erased == 0);
        CHECK(process.second.locate("m", sequence(1, 4), 0).tokens == 0);
    }
    CHECK(process.store.stats().failed == 1);
    CHECK(process.store.stats().nbytes == 3 * 4096);
    CHECK(folder.bytes_on_disk() == 3 * 4096);
    set_modes(folders, 0700);
    // What was to be erased goes first now.
    promptkv_test::store(process.cache, sequence(300, 4));
    REQUIRE(process.second.flush(soon()));
    CHECK(process.second.locate("m", sequence(1, 4), 0).tokens <= 4);
    CHECK(process.second.locate("m", sequence(300, 4), 0).tokens == 4);
    CHECK(process.store.stats().nbytes == 3 * 4096);
    CHECK(folder.bytes_on_disk() == 3 * 4096);
}

TEST_CASE("a file that stays where it is keeps no other one") {
    const Folder folder;
    const Unprivileged unprivileged(folder);
    if (!unprivileged.works)
        return;
    put(folder.options(), {sequence(1, 4), sequence(100, 4), sequence(200, 4)});
    Process process(folder.options());
    const std::vector<fs::path> folders = folders_of_records(folder);
    REQUIRE(folders.size() == 3);
    set_modes(folders, 0500);
    for (const std::int32_t first : {1, 100, 200})
        process.second.erase("m", sequence(first, 4));
    REQUIRE(process.store.stats().nbytes == 3 * 4096);
    for (std::size_t i = 0; i < 3; ++i) {
        set_modes(folders, 0500);
        set_modes({folders[i]}, 0700);
        process.second.erase("m", sequence(300, 4));
        CHECK(process.store.stats().nbytes == (2 - i) * 4096);
    }
    CHECK(folder.records().empty());
    set_modes(folders, 0700);
}

TEST_CASE("what was set aside or left over, and cannot be deleted, stays in the account") {
    const Folder folder;
    const Unprivileged unprivileged(folder);
    if (!unprivileged.works)
        return;
    put(folder.options(), {sequence(1, 4)});
    write_file(folder.records().at(0), std::vector<char>(100, 'x'));
    write_file(folder.path() + "/tmp/torn", std::vector<char>(10'000, 'x'));
    const std::vector<fs::path> both = {folder.path() + "/tmp", folder.path() + "/aside"};
    set_modes({both[0]}, 0500);
    Process process(folder.options());
    set_modes({both[1]}, 0500);
    CHECK(process.store.stats().nbytes == 4 * 4096);
    process.second.erase("m", sequence(1, 4));
    CHECK(process.store.stats().nbytes == folder.bytes_on_disk());
    set_modes(both, 0700);
    process.second.erase("m", sequence(1, 4)); // tries once more
    CHECK(process.store.stats().nbytes == 3 * 4096);
    CHECK(process.store.stats().nbytes == folder.bytes_on_disk());
}

TEST_CASE("a record that is written anew is not counted beside its erased one") {
    const Folder folder;
    const Unprivileged unprivileged(folder);
    if (!unprivileged.works)
        return;
    put(folder.options(), {sequence(1, 4)});
    Process process(folder.options());
    const std::vector<fs::path> folders = folders_of_records(folder);
    set_modes(folders, 0500);
    process.second.erase("m", sequence(1, 4));
    REQUIRE(process.store.stats().nbytes == 4096);
    set_modes(folders, 0700);
    promptkv_test::store(process.cache, sequence(1, 4));
    REQUIRE(process.second.flush(soon()));
    CHECK(process.store.stats().nbytes == 4096);
    CHECK(folder.bytes_on_disk() == 4096);
}

TEST_CASE("a directory that is not seen as a whole is refused") {
    const Folder folder;
    const Unprivileged unprivileged(folder);
    if (!unprivileged.works)
        return;
    put(folder.options(), {sequence(1, 4), sequence(100, 4)});
    const std::vector<fs::path> folders = folders_of_records(folder);
    set_modes({folders.at(0)}, 0);
    CHECK(refusal(folder.options()) == FileStoreError::Reason::cannot_open);
    set_modes(folders, 0700);
    CHECK(FileStore(folder.options()).stats().records == 2);
}

TEST_CASE("a record that cannot be opened, for want of a descriptor, is not set aside") {
    const Folder folder;
    put(folder.options(), {sequence(1, 4), sequence(100, 4)});
    // UndefinedBehaviorSanitizer needs descriptors to check an object of a class that it has not
    // seen: it must see a refusal while there are some.
    FileStoreOptions missing;
    missing.directory = folder.path() + "/no/parent";
    REQUIRE(refusal(missing) == FileStoreError::Reason::cannot_open);
    const std::size_t left = GENERATE(std::size_t{2}, std::size_t{3}, std::size_t{4});
    std::array<int, 5> free{}; // the next numbers
    for (int& number : free)
        number = ::dup(STDERR_FILENO);
    rlimit before{};
    REQUIRE(::getrlimit(RLIMIT_NOFILE, &before) == 0);
    const rlimit lower{static_cast<rlim_t>(free[left]), before.rlim_max};
    for (const int number : free)
        ::close(number);
    REQUIRE(::setrlimit(RLIMIT_NOFILE, &lower) == 0);
    std::optional<FileStoreError::Reason> reason;
    try {
        const FileStore store(folder.options());
    } catch (const FileStoreError& error) {
        reason = error.reason();
    }
    REQUIRE(::setrlimit(RLIMIT_NOFILE, &before) == 0);
    CHECK(reason == FileStoreError::Reason::cannot_open);
    const FileStore store(folder.options());
    CHECK(store.stats().records == 2);
    CHECK(store.stats().set_aside == 0);
}

TEST_CASE("what was compressed in a way that is not known is written anew") {
    const Folder folder;
    const Tokens key = sequence(1, 4);
    {
        using Packed = promptkv::SecondLevel<Cache, FileStore, promptkv::ZstdCodec>;
        FileStore store(folder.options());
        Cache cache;
        Packed second(cache, store, {.fingerprint = fingerprint, .block_tokens = block_tokens});
        KV kv(block_tokens);
        kv.append(Bytes{std::vector<std::byte>(10'000)}, 4);
        cache.insert("m", key, std::move(kv), Tier::user);
        REQUIRE(second.flush(soon()));
    }
    Process process(folder.options());
    CHECK(process.load(key) == 0);
    CHECK(process.faults(RecordFault::codec) == 1);
    promptkv_test::store(process.cache, key);
    evict_to_store(process);
    CHECK(process.load(key) == 4);
}

TEST_CASE("of a chain the end is deleted first") {
    const Folder folder;
    FileStoreOptions options = folder.options();
    options.max_bytes = 5 * 4096;
    std::optional<Process> process(std::in_place, options);
    const auto put = [&](const Tokens& key) {
        promptkv_test::store(process->cache, key);
        evict_to_store(*process);
    };
    const auto stored = [&](const Tokens& key) {
        return process->second.locate("m", key, 0).tokens;
    };
    put(sequence(1, 16));  // four blocks
    put(sequence(100, 8)); // two
    CHECK(stored(sequence(1, 16)) == 12);
    CHECK(stored(sequence(100, 8)) == 8);
    SECTION("whether it was read before or not") {
        put(sequence(200, 8));
        CHECK(stored(sequence(1, 16)) == 4);
        CHECK(stored(sequence(100, 8)) == 8);
    }
    SECTION("also after a restart") {
        process.reset();
        process.emplace(options);
        put(sequence(200, 8));
        CHECK(stored(sequence(1, 16)) == 4);
        CHECK(stored(sequence(100, 8)) == 8);
    }
    SECTION("what memory evicts again was used again") {
        put(sequence(1, 12));
        put(sequence(200, 8));
        CHECK(stored(sequence(1, 16)) == 12);
        CHECK(stored(sequence(100, 8)) == 0);
    }
    CHECK(process->store.stats().nbytes == folder.bytes_on_disk());
}

TEST_CASE("a chain that is larger than the budget keeps its beginning") {
    const Folder folder;
    FileStoreOptions options = folder.options();
    options.max_bytes = 5 * 4096;
    Process process(options);
    promptkv_test::store(process.cache, sequence(100, 4));
    evict_to_store(process);
    promptkv_test::store(process.cache, sequence(1, 12 * block_tokens));
    SECTION("that is evicted") {
        evict_to_store(process);
        CHECK(process.store.stats().records == 5);
    }
    SECTION("that a flush writes") {
        CHECK_FALSE(process.second.flush(soon()));
        evict_to_store(process);
    }
    CHECK(process.second.locate("m", sequence(1, 12 * block_tokens), 0).tokens == 20);
    CHECK(process.second.locate("m", sequence(100, 4), 0).tokens == 0);
    CHECK(process.second.stats().refused_full >= 7);
    CHECK(process.store.stats().evicted == 1);
}

TEST_CASE("a flush into a store that is too small keeps what is most important") {
    const Folder folder;
    FileStoreOptions options = folder.options();
    options.max_bytes = 4 * 4096;
    {
        Process first(options);
        promptkv_test::store(first.cache, sequence(900, 4)); // of before: it makes room
        evict_to_store(first);
        for (std::int32_t user = 0; user < 5; ++user)
            promptkv_test::store(first.cache, sequence(1000 * user, 4), Tier::user);
        promptkv_test::store(first.cache, sequence(100'000, 4), Tier::system);
        CHECK_FALSE(first.second.flush(soon()));
        CHECK(first.store.stats().evicted == 1);
    }
    const auto stored = [&](Process& process, std::int32_t first) {
        return process.second.locate("m", sequence(first, 4), 0).tokens;
    };
    {
        Process second(options);
        CHECK(stored(second, 100'000) == 4);
        CHECK(stored(second, 4000) == 4);
        CHECK(stored(second, 3000) == 4);
        CHECK(stored(second, 2000) == 4);
        CHECK(stored(second, 1000) == 0);
    }
    options.max_bytes = 2 * 4096; // and the most important are the last to go
    Process third(options);
    CHECK(stored(third, 100'000) == 4);
    CHECK(stored(third, 4000) == 4);
    CHECK(stored(third, 3000) == 0);
}

TEST_CASE("of a long chain the end is deleted first as well") {
    const Folder folder;
    FileStoreOptions options = folder.options();
    constexpr std::size_t blocks = 1100;
    options.max_bytes = blocks * 4096;
    Process process(options);
    const Tokens chain = sequence(1, blocks * block_tokens);
    promptkv_test::store(process.cache, chain);
    evict_to_store(process);
    CHECK(process.second.locate("m", chain, 0).tokens == chain.size());
    promptkv_test::store(process.cache, sequence(1'000'000, block_tokens));
    evict_to_store(process);
    CHECK(process.store.stats().evicted == 1);
    CHECK(process.second.locate("m", chain, 0).tokens == chain.size() - block_tokens);
}

TEST_CASE("an erase leaves nothing that was set aside") {
    const Folder folder;
    Process process(folder.options());
    promptkv_test::store(process.cache, sequence(1, 4));
    evict_to_store(process);
    std::vector<char> bytes = read_file(folder.records().front());
    bytes.back() = static_cast<char>(bytes.back() ^ 1);
    write_file(folder.records().front(), bytes);
    CHECK(process.load(sequence(1, 4)) == 0);
    CHECK(process.store.stats().nbytes == 4096); // aside
    process.second.erase("m", sequence(1, 4));
    CHECK(process.store.stats().nbytes == 0);
    CHECK(folder.bytes_on_disk() == 0);
}

TEST_CASE("what somebody else deleted of what was set aside leaves the account") {
    const Folder folder;
    put(folder.options(), {sequence(1, 4)});
    write_file(folder.records().at(0), std::vector<char>(100, 'x'));
    Process process(folder.options());
    CHECK(process.store.stats().nbytes == 4096);
    for (const auto& file : fs::directory_iterator(folder.path() + "/aside"))
        fs::remove(file);
    process.second.erase("m", sequence(1, 4));
    CHECK(process.store.stats().nbytes == 0);
}

TEST_CASE("a write that cannot have room deletes nothing") {
    const Folder folder;
    FileStoreOptions options = folder.options();
    put(options, {sequence(1, 8)});
    options.min_free_bytes = std::uint64_t{1} << 60U; // others took the disk
    Process process(options);
    promptkv_test::store(process.cache, sequence(100, 8));
    evict_to_store(process);
    CHECK(process.second.stats().refused_full == 2);
    CHECK(process.store.stats().evicted == 0);
    CHECK(process.load(sequence(1, 8)) == 8);
}

TEST_CASE("folders that somebody removed are made again") {
    const Folder folder;
    Process process(folder.options());
    promptkv_test::store(process.cache, sequence(1, 4));
    evict_to_store(process);
    fs::remove_all(folder.path() + "/tmp");
    fs::remove_all(folder.path() + "/aside");
    promptkv_test::store(process.cache, sequence(100, 4));
    evict_to_store(process);
    CHECK(process.second.stats().refused_failed == 0);
    CHECK(process.load(sequence(100, 4)) == 4);
    for (const fs::path& record : folder.records())
        write_file(record, {'x'});
    evict_all(process.cache);
    CHECK(process.load(sequence(1, 4)) == 0);
    CHECK(process.store.stats().set_aside == 1);
    CHECK(process.store.stats().nbytes == folder.bytes_on_disk());
}

TEST_CASE("the account is right where memory fails") {
    FileStoreOptions options;
    options.min_free_bytes = 0;
    options.max_bytes = 4 * 4096;
    const std::vector<std::byte> bytes(std::size_t{3} * 4096);
    const auto with_number = [](std::uint64_t number) {
        RecordInfo info;
        info.name = BlockName{number << 56U, number};
        return info;
    };
    const auto write = [&](FileStore& store, std::uint64_t number, std::size_t size,
                           std::uint64_t spares = ~std::uint64_t{0}) {
        const RecordWrite one{with_number(number), std::span(bytes).first(size), spares};
        PutResult result = PutResult::failed;
        store.put(std::span(&one, 1), std::span(&result, 1));
    };
    const auto change = GENERATE(0, 1, 2, 3);
    bool struck = true;
    for (std::size_t skip = 0; struck; ++skip) {
        CAPTURE(change, skip);
        const Folder folder;
        options.directory = folder.path();
        FileStore store(options);
        for (std::uint64_t number = 1; number <= 4; ++number)
            write(store, number, 4096);
        const BlockName second = with_number(2).name;
        {
            FailingNew failing(skip);
            try {
                if (change == 0)
                    write(store, 5, bytes.size()); // three others make room
                else if (change == 3)
                    write(store, 5, bytes.size(), 2); // two could, which is not enough: they stay
                else if (change == 1)
                    store.erase(std::span(&second, 1));
                else
                    store.set_aside(second);
            } catch (const std::bad_alloc&) {
            }
            struck = failing.stop();
        }
        CHECK(store.stats().nbytes == folder.bytes_on_disk());
    }
}

// who may do what ////////////////////////////////////////////////////////////

TEST_CASE("directories have mode 0700 and files 0600") {
    const Folder parent;
    FileStoreOptions options{.directory = parent.path() + "/new", .min_free_bytes = 0};
    const mode_t before = ::umask(0);
    put(options, {sequence(1, 10)});
    ::umask(before);
    CHECK(mode_of(options.directory) == 0700);
    for (const auto& entry : fs::recursive_directory_iterator(options.directory))
        CHECK(mode_of(entry.path()) == (entry.is_directory() ? 0700 : 0600));
}

TEST_CASE("a directory that others may enter, or that is another user's, is refused") {
    const Folder folder;
    SECTION("others may read it") {
        fs::permissions(folder.path(), static_cast<fs::perms>(0750));
        CHECK(refusal(folder.options()) == FileStoreError::Reason::open_to_others);
        CHECK(mode_of(folder.path()) == 0750);
    }
    SECTION("it is another user's") {
        if (::chown(folder.path().c_str(), 12345, 12345) == 0) {
            CHECK(refusal(folder.options()) == FileStoreError::Reason::other_owner);
            REQUIRE(::chown(folder.path().c_str(), ::geteuid(), ::getegid()) == 0);
        } else {
            CHECK(refusal({.directory = "/"}) == FileStoreError::Reason::other_owner);
        }
    }
    SECTION("it is a link") {
        fs::create_directory(folder.path() + "/real");
        fs::create_symlink("real", folder.path() + "/link");
        CHECK(refusal({.directory = folder.path() + "/link"}) ==
              FileStoreError::Reason::cannot_open);
    }
    SECTION("its parent is not there") {
        CHECK(refusal({.directory = folder.path() + "/no/such"}) ==
              FileStoreError::Reason::cannot_open);
    }
}

TEST_CASE("the second writer of a directory is refused; readers are not") {
    const Folder folder;
    put(folder.options(), {sequence(1, 8)});
    Process writer(folder.options());
    CHECK(refusal(folder.options()) == FileStoreError::Reason::locked);

    fs::remove(fs::path(folder.path()) / "lock"); // somebody tidies up
    CHECK(refusal(folder.options()) == FileStoreError::Reason::locked);

    FileStoreOptions options = folder.options();
    options.read_only = true;
    Process reader(options);
    CHECK(reader.load(sequence(1, 8)) == 8);
    promptkv_test::store(writer.cache, sequence(100, 8));
    REQUIRE(writer.second.flush(soon()));
    CHECK(reader.load(sequence(100, 8)) == 8); // written after the reader began
    promptkv_test::store(reader.cache, sequence(200, 8));
    CHECK_FALSE(reader.second.flush(soon()));
    CHECK(reader.second.stats().refused_read_only == 2);
    evict_all(reader.cache); // what it cannot write it does not look for
    CHECK(reader.second.stats().refused_read_only == 2 + 6);
    CHECK(reader.second.erase_other_than({}) == 0);
    CHECK(folder.records().size() == 4);
}

TEST_CASE("the lock ends with its process") {
    const Folder folder;
    put(folder.options(), {sequence(1, 8)});
    CHECK(Process(folder.options()).load(sequence(1, 8)) == 8);
}

} // namespace
