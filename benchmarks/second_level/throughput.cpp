// SPDX-License-Identifier: MIT
// GB/s of a store's put and get, against memcpy and a plain write and read of the same bytes.
//
//   promptkv_level_throughput DIRECTORY [redis://HOST:PORT]
//
// The files are in the page cache: what is measured is the store, not the disk. put: a record is made (a copy
// and its checksum) and written to a file that is renamed. get: it is mapped, checked, and copied to a
// block. A row has the median of interleaved rounds, the slowest and the fastest.
#include <promptkv/detail/block_records.hpp>
#include <promptkv/file_store.hpp>
#include <promptkv/redis_store.hpp>

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <fcntl.h>
#include <unistd.h>

namespace {

using namespace promptkv;
using Bytes = std::vector<std::byte>;

double seconds(const std::function<void()>& f) {
    const auto begin = std::chrono::steady_clock::now();
    f();
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

void need(bool holds, const char* what) {
    if (!holds) {
        std::fprintf(stderr, "%s\n", what);
        std::exit(1);
    }
}

BlockName name_of(std::uint64_t i) {
    return {i * 0x9e3779b97f4a7c15U, i};
}

/// As a second level does it.
template <class Store>
void put(Store& store, std::uint64_t i, const Bytes& block, Bytes& record) {
    detail::RecordHeader header;
    header.name = name_of(i);
    header.block_bytes = block.size();
    detail::begin_record(record, header, {});
    BlockSink sink(record);
    sink(block);
    Bytes packed;
    detail::finish_record(record, packed, header, NoCodec());
    const RecordWrite write{header.info(), record};
    PutResult result = PutResult::failed;
    store.put(std::span(&write, 1), std::span(&result, 1));
    need(result == PutResult::written, "a record was not written");
}

template <class Store>
void get(Store& store, std::uint64_t i, Bytes& block) {
    const BlockName name = name_of(i);
    store.get(std::span(&name, 1), [&](std::size_t, std::span<const std::byte> record) {
        detail::RecordView view;
        need(detail::read_record(record, view) == RecordFault::none, "a record was not read");
        block.assign(view.payload.begin(), view.payload.end());
        return true;
    });
}

struct Way {
    const char* name;
    std::function<void(std::uint64_t)> run;
    std::vector<double> times{};
};

void measure(std::size_t nbytes, const std::string& directory, RedisStore* redis) {
    const std::size_t count = std::clamp<std::size_t>((std::size_t{64} << 20U) / nbytes, 4, 128);
    FileStore store({.directory = directory + "/store", .min_free_bytes = 0});
    Bytes block(nbytes);
    for (std::size_t i = 0; i < nbytes; ++i)
        block[i] = static_cast<std::byte>(i * 2654435761U >> 13U);
    Bytes copy(nbytes);
    Bytes record;
    const auto path = [&](std::uint64_t i) { return directory + "/plain" + std::to_string(i); };

    std::vector<Way> ways;
    ways.push_back(
        {"memcpy", [&](std::uint64_t) { std::memcpy(copy.data(), block.data(), nbytes); }});
    ways.push_back({"plain write", [&](std::uint64_t i) {
                        const int file =
                            ::open(path(i).c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600);
                        need(::write(file, block.data(), nbytes) == static_cast<ssize_t>(nbytes),
                             "a file was not written");
                        ::close(file);
                    }});
    ways.push_back({"file put", [&](std::uint64_t i) { put(store, i, block, record); }});
    ways.push_back({"plain read", [&](std::uint64_t i) {
                        const int file = ::open(path(i).c_str(), O_RDONLY);
                        need(::read(file, copy.data(), nbytes) == static_cast<ssize_t>(nbytes),
                             "a file was not read");
                        ::close(file);
                    }});
    ways.push_back({"file get", [&](std::uint64_t i) { get(store, i, copy); }});
    if (redis != nullptr) {
        ways.push_back({"redis put", [&](std::uint64_t i) { put(*redis, i, block, record); }});
        ways.push_back({"redis get", [&](std::uint64_t i) { get(*redis, i, copy); }});
    }
    for (int round = 0; round < 9; ++round) {
        for (Way& way : ways) {
            way.times.push_back(seconds([&] {
                for (std::uint64_t i = 0; i < count; ++i)
                    way.run(i);
            }));
        }
    }
    need(copy == block, "what was read is not what was written");
    for (Way& way : ways) {
        std::sort(way.times.begin(), way.times.end());
        const auto gb_s = [&](double time) {
            return static_cast<double>(count * nbytes) / time / 1e9;
        };
        std::printf("%zu,%s,%.3f,%.3f,%.3f\n", nbytes / 1024, way.name,
                    gb_s(way.times[way.times.size() / 2]), gb_s(way.times.back()),
                    gb_s(way.times.front()));
    }
    std::fflush(stdout);
    for (std::uint64_t i = 0; i < count; ++i) {
        ::unlink(path(i).c_str());
        const BlockName name = name_of(i);
        store.erase(std::span(&name, 1));
        if (redis != nullptr)
            redis->erase(std::span(&name, 1));
    }
}

} // namespace

int main(int argc, char** argv) {
    if (argc < 2) {
        std::fprintf(stderr, "usage: promptkv_level_throughput DIRECTORY [redis://HOST:PORT]\n");
        return 2;
    }
    std::unique_ptr<RedisStore> redis;
    if (argc > 2) {
        RedisStoreOptions options;
        need(parse_redis_url(argv[2], options), "not the address of a Redis server");
        redis = std::make_unique<RedisStore>(options);
    }
    std::printf("block_kib,way,gb_s,slowest,fastest\n");
    for (std::size_t kib = 64; kib <= 16'384; kib *= 4)
        measure(kib << 10U, argv[1], redis.get());
}
