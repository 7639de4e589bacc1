// SPDX-License-Identifier: MIT
// A second level below llama.cpp: what compression gains on its state, and the time to the first token.
//
//   promptkv_level_engine DIRECTORY [redis://HOST:PORT] [MODEL.gguf]
//
// The model of the times has random weights (26.7 M parameters), so that it can be made anywhere. A given
// model is used for compression as well: its state is of real text.
#include "engine.hpp"
#include "embed.hpp"
#include "llama_kv.hpp"
#include "random_model.hpp"

#include <promptkv/file_store.hpp>
#include <promptkv/redis_store.hpp>
#include <promptkv/second_level.hpp>
#include <promptkv/zstd_codec.hpp>

#include <lz4.h>

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <filesystem>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <fcntl.h>
#include <unistd.h>

namespace {

using KV = llama_kv::AttentionKV;
using ModelCache = Cache<KV>;
constexpr std::size_t batch = 64;

double seconds(const std::function<void()>& f) {
    const auto begin = std::chrono::steady_clock::now();
    f();
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}
double median(std::vector<double> values) {
    std::sort(values.begin(), values.end());
    return values[values.size() / 2];
}
void need(bool holds, const char* what) {
    if (!holds) {
        std::fprintf(stderr, "promptkv_level_engine: %s\n", what);
        std::exit(1);
    }
}

Tokens some_text(const Engine& engine, std::size_t n) {
    const std::string line = "Once upon a time there was a little girl named Lily. She had a red "
                             "ball and a brown dog. One day the dog ran to the pond and the ball "
                             "fell into the water. Then Tom came and wanted to help. ";
    Tokens tokens;
    for (std::size_t i = 0; tokens.size() < n; ++i) {
        const Tokens more =
            engine.tokenize(line + "It was day " + std::to_string(i) + ". ", i == 0);
        tokens.insert(tokens.end(), more.begin(), more.end());
    }
    tokens.resize(n);
    return tokens;
}

// compression ////////////////////////////////////////////////////////////////

void compress(const char* model, const std::string& file, const char* type, ggml_type kv_type) {
    Engine engine(file, {.context_tokens = 1024, .batch_tokens = batch, .kv_type = kv_type});
    llama_kv::Sequence<KV> sequence(engine.context(), 0, 1, batch);
    const Tokens tokens = some_text(engine, 512);
    engine.prefill(tokens, 0);
    KV kv(batch);
    sequence.save(kv, tokens.size());
    std::size_t raw = 0;
    std::size_t by_zstd = 0;
    std::size_t by_lz4 = 0;
    double zstd_in = 0;
    double zstd_out = 0;
    double lz4_in = 0;
    double lz4_out = 0;
    const promptkv::ZstdCodec codec;
    for (const auto& block : kv.blocks()) {
        const auto bytes = std::as_bytes(std::span(block->data));
        std::vector<std::byte> packed;
        std::vector<std::byte> unpacked;
        raw += bytes.size();
        zstd_in += seconds([&] { need(codec.compress(bytes, packed), "zstd failed"); });
        zstd_out +=
            seconds([&] { need(codec.decompress(packed, bytes.size(), unpacked), "zstd failed"); });
        by_zstd += packed.size();
        std::vector<char> small(
            static_cast<std::size_t>(LZ4_compressBound(static_cast<int>(bytes.size()))));
        int size = 0;
        lz4_in += seconds([&] {
            size = LZ4_compress_default(reinterpret_cast<const char*>(bytes.data()), small.data(),
                                        static_cast<int>(bytes.size()),
                                        static_cast<int>(small.size()));
        });
        lz4_out += seconds([&] {
            need(LZ4_decompress_safe(small.data(), reinterpret_cast<char*>(unpacked.data()), size,
                                     static_cast<int>(bytes.size())) ==
                     static_cast<int>(bytes.size()),
                 "lz4 failed");
        });
        by_lz4 += static_cast<std::size_t>(size);
    }
    const auto r = static_cast<double>(raw);
    std::printf("%s,%s,%zu,%.3f,%.2f,%.2f,%.3f,%.2f,%.2f\n", model, type, raw,
                static_cast<double>(by_zstd) / r, r / zstd_in / 1e9, r / zstd_out / 1e9,
                static_cast<double>(by_lz4) / r, r / lz4_in / 1e9, r / lz4_out / 1e9);
    std::fflush(stdout);
}

// time to the first token ////////////////////////////////////////////////////

/// Forgets what the page cache holds of the files.
void drop_page_cache(const std::string& directory) {
    for (const auto& entry : std::filesystem::recursive_directory_iterator(directory)) {
        if (!entry.is_regular_file())
            continue;
        const int file = ::open(entry.path().c_str(), O_RDONLY);
        ::fdatasync(file);
        ::posix_fadvise(file, 0, 0, POSIX_FADV_DONTNEED);
        ::close(file);
    }
}

class FirstToken {
public:
    FirstToken(Engine& engine, std::size_t prefix)
        : engine_(engine), sequence_(engine.context(), 0, 1, batch),
          prompt_(some_text(engine, prefix + 16)), prefix_(prefix) {}

    double computed() {
        return seconds([&] {
            sequence_.clear();
            engine_.prefill(prompt_, 0);
        });
    }
    /// Puts the prefix into a cache. Requires: `computed` was called.
    void keep_in(ModelCache& cache) {
        const auto kept = std::span<const llama_token>(prompt_).first(prefix_);
        need(keep(cache, "m", kept, sequence_, promptkv::Tier::user).tokens == prefix_,
             "the prefix was not kept");
    }
    double restored(ModelCache& cache) {
        std::size_t reused = 0;
        const double time = seconds([&] {
            reused = restore(cache, "m", prompt_, sequence_).reused();
            engine_.prefill(prompt_, reused);
        });
        need(reused == prefix_, "the prefix was not restored");
        return time;
    }
    template <class Store>
    double loaded(Store& store) {
        ModelCache cache;
        promptkv::SecondLevel<ModelCache, Store> second(cache, store, options<Store>());
        double time = 0;
        promptkv::LoadEnd end{};
        time = seconds([&] { end = second.prefetch("m", prompt_).end(); });
        need(end == promptkv::LoadEnd::loaded, "the prefix was not loaded");
        return time + restored(cache);
    }
    template <class Store>
    void write(ModelCache& cache, Store& store) {
        promptkv::SecondLevel<ModelCache, Store> second(cache, store, options<Store>());
        need(second.flush(std::chrono::steady_clock::now() + std::chrono::minutes(1)),
             "the prefix was not written");
    }

private:
    template <class Store>
    static auto options() {
        return typename promptkv::SecondLevel<ModelCache, Store>::Options{
            .fingerprint = promptkv::fingerprint_of("benchmark"), .block_tokens = batch};
    }

    Engine& engine_;
    llama_kv::Sequence<KV> sequence_;
    Tokens prompt_;
    std::size_t prefix_;
};

void first_tokens(Engine& engine, std::size_t prefix, const std::string& directory,
                  promptkv::RedisStore* redis) {
    promptkv::FileStore store({.directory = directory, .min_free_bytes = 0});
    FirstToken first(engine, prefix);
    ModelCache cache;
    first.computed(); // warms up
    first.keep_in(cache);
    first.write(cache, store);
    if (redis != nullptr)
        first.write(cache, *redis);
    std::vector<double> computed;
    std::vector<double> memory;
    std::vector<double> warm;
    std::vector<double> dropped;
    std::vector<double> shared;
    for (int round = 0; round < 5; ++round) {
        computed.push_back(first.computed());
        memory.push_back(first.restored(cache));
        warm.push_back(first.loaded(store));
        drop_page_cache(directory);
        dropped.push_back(first.loaded(store));
        if (redis != nullptr)
            shared.push_back(first.loaded(*redis));
    }
    std::printf("%zu,%.2f,%.1f,%.1f,%.1f,%.1f", prefix, static_cast<double>(cache.nbytes()) / 1e6,
                median(computed) * 1e3, median(memory) * 1e3, median(warm) * 1e3,
                median(dropped) * 1e3);
    if (redis != nullptr)
        std::printf(",%.1f", median(shared) * 1e3);
    std::printf("\n");
    std::fflush(stdout);
}

} // namespace

int main(int argc, char** argv) try {
    std::unique_ptr<promptkv::RedisStore> redis;
    std::string model;
    for (int i = 2; i < argc; ++i) {
        promptkv::RedisStoreOptions options;
        if (promptkv::parse_redis_url(argv[i], options))
            redis = std::make_unique<promptkv::RedisStore>(options);
        else
            model = argv[i];
    }
    if (argc < 2) {
        std::fprintf(stderr, "usage: promptkv_level_engine DIRECTORY [redis://HOST:PORT] "
                             "[MODEL.gguf]\n");
        return 2;
    }
    const random_model::TemporaryModel made({.width = 512});
    std::printf("model,kv_type,bytes,zstd_ratio,zstd_in_gb_s,zstd_out_gb_s,lz4_ratio,"
                "lz4_in_gb_s,lz4_out_gb_s\n");
    if (!model.empty())
        compress("trained", model, "f16", GGML_TYPE_F16);
    compress("random", made.path(), "f16", GGML_TYPE_F16);
    compress("random", made.path(), "q8_0", GGML_TYPE_Q8_0);

    std::printf("prefix_tokens,state_mb,computed_ms,memory_ms,file_ms,file_dropped_ms%s\n",
                redis != nullptr ? ",redis_ms" : "");
    Engine engine(made.path(), {.context_tokens = 4096, .batch_tokens = batch, .threads = 2});
    for (const std::size_t prefix : {512U, 2048U})
        first_tokens(engine, prefix, std::string(argv[1]) + "/" + std::to_string(prefix),
                     redis.get());
} catch (const std::exception& error) {
    std::fprintf(stderr, "promptkv_level_engine: %s\n", error.what());
    return 1;
}
