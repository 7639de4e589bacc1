// SPDX-License-Identifier: MIT
// Payloads whose bytes say which tokens they are of, folders, and a store with faults.
#ifndef PROMPTKV_TESTS_SECOND_LEVEL_FIXTURE_HPP
#define PROMPTKV_TESTS_SECOND_LEVEL_FIXTURE_HPP

#include <promptkv/block_kv.hpp>
#include <promptkv/concurrent_prompt_cache.hpp>
#include <promptkv/file_store.hpp>
#include <promptkv/second_level.hpp>

#include <algorithm>
#include <array>
#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iterator>
#include <map>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

namespace promptkv_test {

using promptkv::BlockName;
using promptkv::LoadEnd;
using promptkv::PutResult;
using promptkv::RecordFault;
using promptkv::RecordInfo;
using promptkv::RecordWrite;
using promptkv::Tier;
using promptkv::WriteWhen;
using Tokens = std::vector<std::int32_t>;
using Key = std::span<const std::int32_t>;
using Clock = std::chrono::steady_clock;

inline constexpr std::size_t block_tokens = 4;
inline constexpr std::size_t token_bytes = 25; // of state, for each token: 100 bytes a block

// payloads ///////////////////////////////////////////////////////////////////

/// A block, or a State. It is written in two pieces.
struct Bytes {
    std::vector<std::byte> data;

    [[nodiscard]] std::size_t nbytes() const noexcept { return data.size(); }
    void write_block(promptkv::BlockSink& sink) const {
        const std::span<const std::byte> all(data);
        sink(all.first(all.size() / 2));
        sink(all.subspan(all.size() / 2));
    }
    /// Refuses what no block of these tests begins with.
    static std::optional<Bytes> make_block(std::span<const std::byte> bytes) {
        if (!bytes.empty() && bytes[0] == std::byte{0xee})
            return std::nullopt;
        return Bytes{{bytes.begin(), bytes.end()}};
    }
    friend bool operator==(const Bytes&, const Bytes&) = default;
};

using KV = promptkv::BlockKV<Bytes>;
using HybridKV = promptkv::BlockKV<Bytes, Bytes>;
using Cache = promptkv::LRUPromptCache<KV>;
using HybridCache = promptkv::LRUPromptCache<HybridKV>;
using SharedCache = promptkv::ConcurrentPromptCache<KV>;

/// State that depends on all tokens up to its end, as an engine's does.
inline Bytes state_of(Key prefix, std::size_t n, unsigned salt = 0) {
    std::uint64_t hash = 0xcbf29ce484222325U + salt;
    for (const std::int32_t token : prefix)
        hash = (hash ^ static_cast<std::uint32_t>(token)) * 0x100000001b3U;
    Bytes bytes{std::vector<std::byte>(n)};
    for (std::byte& byte : bytes.data) {
        hash = hash * 6364136223846793005U + 1442695040888963407U;
        byte = static_cast<std::byte>(hash >> 56U);
    }
    if (n > 0)
        bytes.data[0] = std::byte{1};
    return bytes;
}

template <class Payload = KV>
Payload payload_of(Key key, std::size_t bytes_a_token = token_bytes) {
    Payload kv(block_tokens);
    while (kv.length() < key.size()) {
        const std::size_t n = std::min(block_tokens, key.size() - kv.length());
        kv.append(state_of(key.first(kv.length() + n), n * bytes_a_token), n);
    }
    if constexpr (std::is_same_v<Payload, HybridKV>)
        kv.set_state(state_of(key, 40, 7));
    return kv;
}

/// Whether the first blocks of `kv` are the state of `key`; a last block may go beyond the key.
template <class Payload>
bool is_state_of(const Payload& kv, Key key, std::size_t bytes_a_token = token_bytes) {
    for (std::size_t at = 0; at + block_tokens <= key.size(); at += block_tokens) {
        if (!(*kv.blocks()[at / block_tokens] ==
              state_of(key.first(at + block_tokens), block_tokens * bytes_a_token)))
            return false;
    }
    return true;
}

/// n, n + 1, ...
inline Tokens sequence(std::int32_t first, std::size_t n) {
    Tokens tokens(n);
    for (std::size_t i = 0; i < n; ++i)
        tokens[i] = first + static_cast<std::int32_t>(i);
    return tokens;
}

template <class SomeCache>
void store(SomeCache& cache, const Tokens& key, Tier tier = Tier::assistant,
           const std::string& model = "m") {
    using Payload = std::conditional_t<std::is_same_v<SomeCache, HybridCache>, HybridKV, KV>;
    cache.insert(model, key, payload_of<Payload>(key), tier);
}

/// Evicts everything.
template <class SomeCache>
void evict_all(SomeCache& cache) {
    cache.trim_to({.max_bytes = 0});
}

inline Clock::time_point soon() {
    return Clock::now() + std::chrono::seconds(60); // never reached where all is well
}

/// Evicts everything, and waits until nothing waits to be written: what is found then is in the store.
template <class Levels>
void evict_to_store(Levels& levels) {
    evict_all(levels.cache);
    static_cast<void>(levels.second.wait_written(soon()));
}

// folders ////////////////////////////////////////////////////////////////////

/// A folder that is deleted at the end.
class Folder {
public:
    Folder() {
        std::string pattern = (std::filesystem::temp_directory_path() / "promptkv-XXXXXX").string();
        path_ = ::mkdtemp(pattern.data());
    }
    Folder(const Folder&) = delete;
    Folder& operator=(const Folder&) = delete;
    ~Folder() {
        std::error_code ignored;
        std::filesystem::remove_all(path_, ignored);
    }
    [[nodiscard]] std::string path() const { return path_; }

    /// The files of records, in any order.
    [[nodiscard]] std::vector<std::filesystem::path> records() const {
        std::vector<std::filesystem::path> found;
        for (const auto& entry : std::filesystem::recursive_directory_iterator(path_)) {
            const std::string folder = entry.path().parent_path().filename().string();
            if (entry.is_regular_file() && folder != "tmp" && folder != "aside" &&
                entry.path().filename() != "lock")
                found.push_back(entry.path());
        }
        return found;
    }
    [[nodiscard]] std::uint64_t bytes_on_disk() const {
        std::uint64_t bytes = 0;
        for (const auto& entry : std::filesystem::recursive_directory_iterator(path_)) {
            if (entry.is_regular_file())
                bytes += promptkv::detail::disk_bytes(entry.file_size());
        }
        return bytes;
    }
    [[nodiscard]] promptkv::FileStoreOptions options() const {
        return {.directory = path_, .min_free_bytes = 0};
    }

private:
    std::string path_;
};

inline std::vector<char> read_file(const std::filesystem::path& path) {
    std::ifstream file(path, std::ios::binary);
    return {std::istreambuf_iterator<char>(file), {}};
}
inline void write_file(const std::filesystem::path& path, const std::vector<char>& bytes) {
    std::ofstream file(path, std::ios::binary | std::ios::trunc);
    file.write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
}

// stores /////////////////////////////////////////////////////////////////////

/// A store in memory whose answers a test may hold up, change or refuse.
class MemoryStore {
public:
    static constexpr bool is_local = true;

    bool find(std::span<const BlockName> names, std::span<RecordInfo> infos) {
        std::unique_lock lock(mutex_);
        ++finds;
        for (std::size_t i = 0; i < names.size(); ++i) {
            const auto found = records_.find(key(names[i]));
            infos[i] = found != records_.end() && !is_down ? found->second.info : RecordInfo{};
        }
        lock.unlock();
        if (on_found)
            on_found();
        return !is_down;
    }
    template <class F>
    bool get(std::span<const BlockName> names, F&& f) {
        for (std::size_t i = 0; i < names.size(); ++i) {
            std::vector<std::byte> record;
            {
                std::unique_lock lock(mutex_);
                ++gets;
                changed_.notify_all();
                changed_.wait(lock, [this] { return !holds_gets; });
                const auto found = records_.find(key(names[i]));
                if (found != records_.end() && !is_down)
                    record = found->second.record;
            }
            if (on_get)
                on_get();
            if (!f(i, std::span<const std::byte>(record)))
                break;
        }
        return !is_down;
    }
    void put(std::span<const RecordWrite> writes, std::span<PutResult> results) {
        if (on_put)
            on_put();
        std::unique_lock lock(mutex_);
        ++puts;
        changed_.notify_all();
        changed_.wait(lock, [this] { return !holds_puts; });
        for (std::size_t i = 0; i < writes.size(); ++i) {
            results[i] = is_down   ? PutResult::failed
                         : is_full ? PutResult::full
                                   : PutResult::written;
            if (results[i] == PutResult::written) {
                records_[key(writes[i].info.name)] = {
                    writes[i].info, {writes[i].record.begin(), writes[i].record.end()}};
            }
        }
    }
    std::size_t erase(std::span<const BlockName> names) {
        const std::lock_guard lock(mutex_);
        std::size_t erased = 0;
        for (const BlockName& name : names)
            erased += records_.erase(key(name));
        return erased;
    }
    void set_aside(const BlockName& name) { erase(std::span(&name, 1)); }
    template <class F>
    void for_each(F&& f) {
        std::vector<RecordInfo> infos;
        {
            const std::lock_guard lock(mutex_);
            for (const auto& each : records_)
                infos.push_back(each.second.info);
        }
        for (const RecordInfo& info : infos)
            f(info);
    }

    [[nodiscard]] std::size_t size() const {
        const std::lock_guard lock(mutex_);
        return records_.size();
    }
    /// Calls `f(record)` for each; it may change it.
    template <class F>
    void change(F f) {
        const std::lock_guard lock(mutex_);
        for (auto& each : records_)
            f(each.second.info, each.second.record);
    }
    void hold(bool of_gets, bool of_puts) {
        {
            const std::lock_guard lock(mutex_);
            holds_gets = of_gets;
            holds_puts = of_puts;
        }
        changed_.notify_all();
    }
    void wait_for_puts(std::size_t n) {
        std::unique_lock lock(mutex_);
        changed_.wait(lock, [&] { return puts >= n; });
    }
    void wait_for_gets(std::size_t n) {
        std::unique_lock lock(mutex_);
        changed_.wait(lock, [&] { return gets >= n; });
    }

    std::uint64_t name_mask = ~std::uint64_t{0}; // of the low half; with fewer bits names collide
    bool is_down = false;
    bool is_full = false;
    std::size_t finds = 0; // calls
    std::size_t gets = 0;
    std::size_t puts = 0;
    std::function<void()> on_found;
    std::function<void()> on_get;
    std::function<void()> on_put;

private:
    struct Stored {
        RecordInfo info;
        std::vector<std::byte> record;
    };
    using NameKey = std::pair<std::uint64_t, std::uint64_t>;

    [[nodiscard]] NameKey key(const BlockName& name) const {
        const bool whole = name_mask == ~std::uint64_t{0};
        return {whole ? name.high : 0, name.low & name_mask};
    }

    mutable std::mutex mutex_;
    std::condition_variable changed_;
    std::map<NameKey, Stored> records_;
    bool holds_gets = false;
    bool holds_puts = false;
};

/// Stores a key and evicts everything. Returns when the writer puts the first record into a store that holds puts.
template <class SomeCache>
void evict_to_writer(SomeCache& cache, MemoryStore& below, const Tokens& key,
                     Tier tier = Tier::assistant) {
    store(cache, key, tier);
    evict_all(cache);
    below.wait_for_puts(1);
}

inline const promptkv::Fingerprint fingerprint = promptkv::fingerprint_of("weights 1");

template <class SomeCache, class Store>
class Second : public promptkv::SecondLevel<SomeCache, Store> {
public:
    using Base = promptkv::SecondLevel<SomeCache, Store>;
    using Options = typename Base::Options;

    Second(SomeCache& cache, Store& store, Options options = {})
        : Base(cache, store, with_defaults(std::move(options))) {}

    /// Evicts everything and waits until it is written.
    void write_all(SomeCache& cache) {
        static_cast<void>(Base::flush(soon()));
        evict_all(cache);
    }

private:
    static Options with_defaults(Options options) {
        if (options.block_tokens == 0)
            options.block_tokens = block_tokens;
        if (options.fingerprint == promptkv::Fingerprint{})
            options.fingerprint = fingerprint;
        return options;
    }
};

} // namespace promptkv_test

#endif
