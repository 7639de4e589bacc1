// SPDX-License-Identifier: MIT
// A trace through memory and a disk: tokens reused and bytes written, by what is written when.
//
//   promptkv_level_replay TRACE MEMORY_SHARE DISK_SHARE [REQUESTS]
//
// The shares are of the distinct blocks of the trace. The disk is a list of blocks, the least recently used
// deleted first; state is only its size. A request looks up memory, gets what the disk has beyond it, and stores its
// prompt. Everything waits for the writer, so that each run gives the same figures.
#include "replay/input.hpp"
#include "replay/trace.hpp"

#include <promptkv/promptkv.hpp>
#include <promptkv/second_level.hpp>

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <list>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

namespace {

using namespace promptkv;
using Token = std::int64_t;

/// A block of which only the size is simulated.
struct Block {
    static constexpr std::size_t size = 1000;
    [[nodiscard]] std::size_t nbytes() const noexcept { return size; }
    void write_block(BlockSink& /*sink*/) const {}
    static std::optional<Block> make_block(std::span<const std::byte> /*bytes*/) { return Block{}; }
};
using KV = BlockKV<Block>;
using Cache = LRUPromptCache<KV, std::string, Token>;

/// A disk for so many blocks.
class Disk {
public:
    static constexpr bool is_local = true;

    explicit Disk(std::size_t blocks) : blocks_(blocks) {}

    bool find(std::span<const BlockName> names, std::span<RecordInfo> infos) {
        const std::lock_guard lock(mutex_);
        for (std::size_t i = 0; i < names.size(); ++i) {
            const auto found = where_.find(names[i]);
            infos[i] = found != where_.end() ? found->second->info : RecordInfo{};
            infos[i].payload_bytes = infos[i].nbytes > 0 ? Block::size : 0;
        }
        return true;
    }
    template <class F>
    bool get(std::span<const BlockName> names, F&& f) {
        const std::lock_guard lock(mutex_);
        for (std::size_t i = 0; i < names.size(); ++i) {
            const auto found = where_.find(names[i]);
            if (found != where_.end())
                records_.splice(records_.begin(), records_, found->second);
            if (!f(i, found != where_.end() ? std::span<const std::byte>(found->second->record)
                                            : std::span<const std::byte>()))
                break;
        }
        return true;
    }
    void put(std::span<const RecordWrite> writes, std::span<PutResult> results) {
        const std::lock_guard lock(mutex_);
        for (std::size_t i = 0; i < writes.size(); ++i) {
            results[i] = PutResult::written;
            records_.push_front(
                {writes[i].info, {writes[i].record.begin(), writes[i].record.end()}});
            where_[writes[i].info.name] = records_.begin();
            while (records_.size() > blocks_) {
                where_.erase(records_.back().info.name);
                records_.pop_back();
            }
        }
    }
    std::size_t erase(std::span<const BlockName> /*names*/) { return 0; }
    void set_aside(const BlockName& /*name*/) { std::abort(); }
    template <class F>
    void for_each(F&& /*f*/) {}

private:
    struct Stored {
        RecordInfo info;
        std::vector<std::byte> record;
    };
    std::mutex mutex_;
    std::list<Stored> records_; // the most recently used first
    std::unordered_map<BlockName, std::list<Stored>::iterator> where_;
    const std::size_t blocks_;
};

struct Figures {
    double reused = 0; // of all tokens
    double loaded = 0; // of all tokens
    std::uint64_t blocks_written = 0;
    std::uint64_t blocks_dropped = 0; // the queue was full
};

Figures replay_trace(const replay::Trace& trace, std::size_t memory_blocks, std::size_t disk_blocks,
                     std::optional<WriteWhen> when) {
    Cache cache({.max_bytes = memory_blocks * Block::size});
    Disk disk(disk_blocks);
    std::optional<SecondLevel<Cache, Disk>> second;
    if (when) {
        second.emplace(cache, disk,
                       SecondLevel<Cache, Disk>::Options{.fingerprint = fingerprint_of("replay"),
                                                         .block_tokens = 1,
                                                         .write = *when});
    }
    const auto deadline = std::chrono::steady_clock::time_point::max();
    std::uint64_t tokens = 0;
    std::uint64_t reused = 0;
    std::uint64_t loaded = 0;
    std::vector<Token> ids;
    for (const replay::Request& request : trace.requests) {
        replay::expand(trace, request, ids);
        ids.resize(std::min<std::size_t>(ids.size(), request.input_tokens / trace.block_size));
        tokens += request.input_tokens;
        if (ids.empty())
            continue;
        {
            std::optional<SecondLevel<Cache, Disk>::Prefetch> load;
            if (second) {
                load.emplace(second->prefetch("replay", ids, {.min_remaining = 0}));
                loaded += load->loaded() * trace.block_size;
            }
            const auto hit = cache.lease_nearest("replay", ids, {.min_remaining = 0});
            reused +=
                std::min<std::uint64_t>(hit.reused() * trace.block_size, request.input_tokens);
            if (second && hit)
                second->reused("replay", ids, hit);
        }
        if (auto room = cache.reserve("replay", ids, ids.size() * Block::size, Tier::assistant)) {
            KV kv = room.prefix().value_or(KV(1));
            while (kv.length() < room.tokens())
                kv.append(Block{}, 1);
            if (second)
                second->inserted("replay", std::span<const Token>(ids).first(kv.length()), kv,
                                 Tier::assistant);
            room.commit(std::move(kv));
        }
        if (second)
            second->wait_written(deadline);
    }
    const auto share = [&](std::uint64_t n) {
        return static_cast<double>(n) / static_cast<double>(tokens);
    };
    const SecondLevelStats stats = second ? second->stats() : SecondLevelStats{};
    return {share(reused), share(loaded), stats.written, stats.dropped_queue_full};
}

} // namespace

int main(int argc, char** argv) try {
    if (argc < 4) {
        std::fprintf(stderr,
                     "usage: promptkv_level_replay TRACE MEMORY_SHARE DISK_SHARE [REQUESTS]\n");
        return 2;
    }
    const replay::Trace trace = replay::load_trace(
        argv[1], argc > 4 ? std::strtoull(argv[4], nullptr, 10) : ~std::size_t{0});
    const auto distinct = static_cast<double>(replay::summarize(trace).distinct_blocks);
    const auto memory = static_cast<std::size_t>(std::strtod(argv[2], nullptr) * distinct);
    const auto disk = static_cast<std::size_t>(std::strtod(argv[3], nullptr) * distinct);
    std::printf("trace,memory_blocks,disk_blocks,written_when,tokens_reused,tokens_loaded,"
                "blocks_written,blocks_dropped,tokens_written\n");
    const auto print = [&](std::string_view when, std::size_t memory_blocks,
                           std::size_t disk_blocks, const Figures& figures) {
        std::printf("%s,%zu,%zu,%s,%.4f,%.4f,%llu,%llu,%llu\n", trace.name.c_str(), memory_blocks,
                    disk_blocks, std::string(when).c_str(), figures.reused, figures.loaded,
                    static_cast<unsigned long long>(figures.blocks_written),
                    static_cast<unsigned long long>(figures.blocks_dropped),
                    static_cast<unsigned long long>(figures.blocks_written * trace.block_size));
        std::fflush(stdout);
    };
    print("no disk", memory, 0, replay_trace(trace, memory, 0, std::nullopt));
    print("no disk", memory + disk, 0, replay_trace(trace, memory + disk, 0, std::nullopt));
    for (const WriteWhen when : {WriteWhen::evicted, WriteWhen::inserted, WriteWhen::second_use})
        print(name(when), memory, disk, replay_trace(trace, memory, disk, when));
} catch (const std::exception& error) {
    std::fprintf(stderr, "promptkv_level_replay: %s\n", error.what());
    return 1;
}
