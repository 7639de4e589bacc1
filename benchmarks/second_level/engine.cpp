// SPDX-License-Identifier: MIT
// A second level below llama.cpp: what compression gains on its state, and the time to the first token.
//
//   promptkv_level_engine DIRECTORY [redis://HOST:PORT] [MODEL.gguf]
//
// A model of random weights (26.7 M parameters) is made, so that the times can be measured anywhere. State of random
// weights does not compress as real state does: the figures that count are those of MODEL.gguf, on a text that
// this model wrote itself. Its q8_0 state is its f16 state, quantized by ggml as the engine does it: a small
// model's heads are too narrow for a q8_0 cache.
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
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <filesystem>
#include <functional>
#include <memory>
#include <span>
#include <string>
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
void need(bool holds, const char* what) {
    if (!holds) {
        std::fprintf(stderr, "promptkv_level_engine: %s\n", what);
        std::exit(1);
    }
}

/// Stories that the model tells. Each begins in another way, so that none repeats another.
Tokens stories(Engine& engine, llama_kv::Sequence<KV>& sequence, std::size_t n) {
    const std::vector<std::string> beginnings{
        "Once upon a time, there was a little girl named Lily.",
        "One day, Tom and his dog went",
        "The old bear was sad.",
        "Mom said, \"No, Ben!\"",
        "A bird lived in a big tree.",
        "Sam wanted to play with the red ball.",
        "It was a cold day.",
        "The cat saw a mouse."};
    Tokens tokens;
    for (std::size_t i = 0; tokens.size() < n && i < 10 * beginnings.size(); ++i) {
        const Tokens more =
            engine.text().tokenize(beginnings[i % beginnings.size()], tokens.empty());
        tokens.insert(tokens.end(), more.begin(), more.end());
        sequence.clear();
        engine.prefill(tokens, 0);
        const Tokens story = engine.generate(tokens.size(), 120, i / beginnings.size());
        tokens.insert(tokens.end(), story.begin(), story.end());
    }
    need(tokens.size() >= n, "the model wrote too little");
    tokens.resize(n);
    return tokens;
}

/// Any text.
Tokens some_text(const Engine& engine, std::size_t n) {
    const std::string line = "Once upon a time there was a little girl named Lily. She had a red "
                             "ball and a brown dog. One day the dog ran to the pond and the ball "
                             "fell into the water. Then Tom came and wanted to help. ";
    Tokens tokens;
    for (std::size_t i = 0; tokens.size() < n; ++i) {
        const Tokens more =
            engine.text().tokenize(line + "It was day " + std::to_string(i) + ". ", i == 0);
        tokens.insert(tokens.end(), more.begin(), more.end());
    }
    tokens.resize(n);
    return tokens;
}

// compression ////////////////////////////////////////////////////////////////

/// The rows of a block of llama.cpp's state become q8_0. At its end stand, for the K of each layer and
/// then for the V: their type, the bytes of a row, and the rows. What comes before is small.
std::vector<std::byte> quantized(std::span<const std::byte> block, std::size_t layers,
                                 std::size_t cells, std::size_t values) {
    const std::size_t row = values * sizeof(ggml_fp16_t);
    const std::size_t head = sizeof(std::int32_t) + sizeof(std::uint64_t);
    const std::size_t part = head + cells * row;
    const std::size_t at = block.size() - 2 * layers * part;
    std::vector<std::byte> out(block.begin(), block.begin() + static_cast<std::ptrdiff_t>(at));
    std::vector<ggml_fp16_t> halves(cells * values);
    std::vector<float> floats(halves.size());
    std::vector<std::byte> packed(cells *
                                  ggml_row_size(GGML_TYPE_Q8_0, static_cast<std::int64_t>(values)));
    for (std::size_t i = 0; i < 2 * layers; ++i) {
        const auto from = block.subspan(at + i * part, part);
        std::int32_t type = 0;
        std::uint64_t size = 0;
        std::memcpy(&type, from.data(), sizeof type);
        std::memcpy(&size, from.data() + sizeof type, sizeof size);
        need(type == GGML_TYPE_F16 && size == row, "llama.cpp lays its state out in another way");
        std::memcpy(halves.data(), from.data() + head, cells * row);
        ggml_fp16_to_fp32_row(halves.data(), floats.data(),
                              static_cast<std::int64_t>(floats.size()));
        ggml_quantize_chunk(GGML_TYPE_Q8_0, floats.data(), packed.data(), 0,
                            static_cast<std::int64_t>(cells), static_cast<std::int64_t>(values),
                            nullptr);
        out.insert(out.end(), from.begin(), from.begin() + static_cast<std::ptrdiff_t>(head));
        out.insert(out.end(), packed.begin(), packed.end());
    }
    return out;
}

/// GB/s of the fastest of several rounds, and the bytes that are left.
struct Compression {
    std::size_t raw = 0;
    std::size_t packed = 0;
    double in = 1e9; // seconds
    double out = 1e9;

    [[nodiscard]] double share() const {
        return static_cast<double>(packed) / static_cast<double>(raw);
    }
    [[nodiscard]] double gb_s(double time) const { return static_cast<double>(raw) / time / 1e9; }
};

/// `pack(block, packed)` and `unpack(packed, block)` as a second level calls them: a block at a time, into
/// buffers that are there.
template <class Pack, class Unpack>
Compression measure(const std::vector<std::vector<std::byte>>& blocks, Pack pack, Unpack unpack) {
    Compression best;
    std::vector<std::byte> packed;
    std::vector<std::byte> unpacked;
    for (int round = 0; round < 20; ++round) {
        Compression now{.in = 0, .out = 0};
        for (const auto& block : blocks) {
            packed.clear();
            now.in += seconds([&] { need(pack(block, packed), "it was not compressed"); });
            unpacked.resize(block.size());
            now.out += seconds([&] { need(unpack(packed, unpacked), "it was not unpacked"); });
            need(unpacked == block, "what was unpacked is not what was packed");
            now.raw += block.size();
            now.packed += packed.size();
        }
        best = {now.raw, now.packed, std::min(best.in, now.in), std::min(best.out, now.out)};
    }
    return best;
}

void compress(const char* model, const char* type,
              const std::vector<std::vector<std::byte>>& blocks) {
    const promptkv::ZstdCodec codec;
    const Compression zstd = measure(
        blocks, [&](const auto& raw, auto& packed) { return codec.compress(raw, packed); },
        [&](const auto& packed, auto& raw) { return codec.decompress(packed, raw.size(), raw); });
    const auto size_of = [](const auto& bytes) { return static_cast<int>(bytes.size()); };
    const Compression lz4 = measure(
        blocks,
        [&](const auto& raw, auto& packed) {
            packed.resize(static_cast<std::size_t>(LZ4_compressBound(size_of(raw))));
            const int size = LZ4_compress_default(reinterpret_cast<const char*>(raw.data()),
                                                  reinterpret_cast<char*>(packed.data()),
                                                  size_of(raw), size_of(packed));
            packed.resize(static_cast<std::size_t>(size));
            return size > 0;
        },
        [&](const auto& packed, auto& raw) {
            return LZ4_decompress_safe(reinterpret_cast<const char*>(packed.data()),
                                       reinterpret_cast<char*>(raw.data()), size_of(packed),
                                       size_of(raw)) == size_of(raw);
        });
    std::printf("%s,%s,%zu,%.3f,%.2f,%.2f,%.3f,%.2f,%.2f\n", model, type,
                zstd.raw / blocks.size() / 1024, zstd.share(), zstd.gb_s(zstd.in),
                zstd.gb_s(zstd.out), lz4.share(), lz4.gb_s(lz4.in), lz4.gb_s(lz4.out));
    std::fflush(stdout);
}

/// The blocks of 512 tokens.
std::vector<std::vector<std::byte>> blocks_of(const std::string& file, ggml_type type,
                                              bool is_trained, bool quantize = false) {
    Engine engine(file, {.context_tokens = 1024, .batch_tokens = batch, .kv_type = type});
    llama_kv::Sequence<KV> sequence(engine.context(), 0, 1, batch);
    const Tokens tokens = is_trained ? stories(engine, sequence, 512) : some_text(engine, 512);
    sequence.clear();
    engine.prefill(tokens, 0);
    KV kv(batch);
    sequence.save(kv, tokens.size());
    const auto* model = engine.model();
    const auto layers = static_cast<std::size_t>(llama_model_n_layer(model));
    const auto values = static_cast<std::size_t>(
        llama_model_n_embd(model) / llama_model_n_head(model) * llama_model_n_head_kv(model));
    std::vector<std::vector<std::byte>> blocks;
    for (const auto& block : kv.blocks()) {
        const auto bytes = std::as_bytes(std::span(block->data));
        blocks.emplace_back(bytes.begin(), bytes.end());
        if (quantize)
            blocks.back() = quantized(bytes, layers, batch, values);
    }
    return blocks;
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
    [[nodiscard]] auto options() const {
        return typename promptkv::SecondLevel<ModelCache, Store>::Options{
            .fingerprint = promptkv::fingerprint_of(engine_.model_key()), .block_tokens = batch};
    }

    Engine& engine_;
    llama_kv::Sequence<KV> sequence_;
    Tokens prompt_;
    std::size_t prefix_;
};

void first_tokens(const char* model, const std::string& file, std::size_t prefix,
                  const std::string& directory, promptkv::RedisStore* redis) {
    Engine engine(file, {.context_tokens = 4096, .batch_tokens = batch});
    promptkv::FileStore store({.directory = directory, .min_free_bytes = 0});
    FirstToken first(engine, prefix);
    ModelCache cache;
    first.computed(); // warms up
    first.keep_in(cache);
    first.write(cache, store);
    if (redis != nullptr)
        first.write(cache, *redis);

    struct Way {
        const char* name;
        std::function<double()> run;
        std::vector<double> times{};
    };
    std::vector<Way> ways{{"computed", [&] { return first.computed(); }},
                          {"memory", [&] { return first.restored(cache); }},
                          {"file", [&] { return first.loaded(store); }},
                          {"file (page cache dropped)", [&] {
                               drop_page_cache(directory);
                               return first.loaded(store);
                           }}};
    if (redis != nullptr)
        ways.push_back({"redis", [&] { return first.loaded(*redis); }});
    for (int round = 0; round < 9; ++round) {
        for (Way& way : ways)
            way.times.push_back(way.run());
    }
    for (Way& way : ways) {
        std::sort(way.times.begin(), way.times.end());
        std::printf("%s,%zu,%.2f,%s,%.1f,%.1f,%.1f\n", model, prefix,
                    static_cast<double>(cache.nbytes()) / 1e6, way.name,
                    way.times[way.times.size() / 2] * 1e3, way.times.front() * 1e3,
                    way.times.back() * 1e3);
    }
    std::fflush(stdout);
}

} // namespace

int main(int argc, char** argv) try {
    std::unique_ptr<promptkv::RedisStore> redis;
    std::string trained;
    for (int i = 2; i < argc; ++i) {
        promptkv::RedisStoreOptions options;
        if (promptkv::parse_redis_url(argv[i], options))
            redis = std::make_unique<promptkv::RedisStore>(options);
        else
            trained = argv[i];
    }
    if (argc < 2) {
        std::fprintf(stderr, "usage: promptkv_level_engine DIRECTORY [redis://HOST:PORT] "
                             "[MODEL.gguf]\n");
        return 2;
    }
    const random_model::TemporaryModel made({.width = 512});
    std::printf("model,kv_type,block_kib,zstd_ratio,zstd_in_gb_s,zstd_out_gb_s,lz4_ratio,"
                "lz4_in_gb_s,lz4_out_gb_s\n");
    if (!trained.empty()) {
        compress("trained", "f16", blocks_of(trained, GGML_TYPE_F16, true));
        compress("trained", "q8_0", blocks_of(trained, GGML_TYPE_F16, true, true));
    }
    compress("random", "f16", blocks_of(made.path(), GGML_TYPE_F16, false));
    compress("random", "q8_0", blocks_of(made.path(), GGML_TYPE_Q8_0, false));

    std::printf("model,prefix_tokens,state_mb,from,median_ms,lowest_ms,highest_ms\n");
    const std::string directory = argv[1];
    for (const std::size_t prefix : {512U, 2048U}) {
        const std::string n = std::to_string(prefix);
        if (!trained.empty())
            first_tokens("trained", trained, prefix, directory + "/trained" + n, redis.get());
        first_tokens("random", made.path(), prefix, directory + "/random" + n, redis.get());
    }
} catch (const std::exception& error) {
    std::fprintf(stderr, "promptkv_level_engine: %s\n", error.what());
    return 1;
}
