// SPDX-License-Identifier: MIT
// What the code in the guides is compiled against: an engine that remembers its tokens as its state.
#ifndef PROMPTKV_TESTS_PAGES_ENGINE_HPP
#define PROMPTKV_TESTS_PAGES_ENGINE_HPP

#include <promptkv/promptkv.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <optional>
#include <span>
#include <vector>

namespace guide {

using Tokens = std::vector<std::int32_t>;

struct Block {
    Tokens state;

    std::size_t nbytes() const { return state.size() * sizeof(std::int32_t); }

    // for a second level
    template <class Sink>
    void write_block(Sink& sink) const {
        sink(std::as_bytes(std::span(state)));
    }
    static std::optional<Block> make_block(std::span<const std::byte> bytes) {
        Block block{Tokens(bytes.size() / sizeof(std::int32_t))};
        std::memcpy(block.state.data(), bytes.data(), bytes.size());
        return block;
    }
};

class Engine {
public:
    static constexpr std::size_t block_tokens = 16;

    static std::size_t nbytes(std::size_t n) { return n * sizeof(std::int32_t); }
    void prefill(std::span<const std::int32_t> tokens) {
        state_.insert(state_.end(), tokens.begin(), tokens.end());
    }
    Tokens generate(std::size_t n) {
        const Tokens answer(n, static_cast<std::int32_t>(state_.size()));
        prefill(answer);
        return answer;
    }
    template <class KV>
    void restore(const KV& kv, std::size_t tokens) {
        for (const auto& block : kv.blocks())
            prefill(block->state);
        state_.resize(tokens);
    }
    template <class KV>
    void copy_out(KV& kv, std::size_t tokens) const {
        while (kv.length() < tokens) {
            const std::size_t n = std::min(kv.block_tokens(), tokens - kv.length());
            const auto part = std::span(state_).subspan(kv.length(), n);
            kv.append(Block{{part.begin(), part.end()}}, n);
        }
    }
    bool holds(const Tokens& tokens) const { return state_ == tokens; }

private:
    Tokens state_;
};

/// A text of n tokens.
inline Tokens text(std::size_t n, std::int32_t token) {
    return Tokens(n, token);
}
inline Tokens operator+(Tokens tokens, const Tokens& more) {
    tokens.insert(tokens.end(), more.begin(), more.end());
    return tokens;
}

/// Serves a prompt and keeps its state. Returns how many tokens were reused.
template <class Cache>
std::size_t serve(Cache& cache, const Tokens& tokens, promptkv::Tier tier = promptkv::Tier::user,
                  promptkv::InsertOptions options = {}) {
    using KV = promptkv::BlockKV<Block>;
    Engine engine;
    std::size_t reused = 0;
    if (auto hit = cache.lease_nearest("model", tokens)) {
        reused = hit.reused();
        options.request = hit.request();
        engine.restore(hit.kv(), reused);
    }
    engine.prefill(std::span(tokens).subspan(reused));
    if (auto room = cache.reserve("model", tokens, Engine::nbytes(tokens.size()), tier, options)) {
        KV kv = room.prefix().value_or(KV(Engine::block_tokens));
        engine.copy_out(kv, room.tokens());
        room.commit(std::move(kv));
    }
    return reused;
}

} // namespace guide

#endif
