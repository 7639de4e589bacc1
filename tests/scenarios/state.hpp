// SPDX-License-Identifier: MIT
// What the scenario tests share: payloads that carry the model and the tokens that they were
// computed from, smaller ones that only know their length, and checks that a prompt was served from
// a prefix of itself.
#ifndef PROMPTKV_TESTS_SCENARIOS_STATE_HPP
#define PROMPTKV_TESTS_SCENARIOS_STATE_HPP

#include "catch.hpp"

#include <atomic>
#include <cstddef>
#include <cstdio>
#include <cstdlib>

#ifdef PROMPTKV_ASSERT
#error "include state.hpp before the headers of promptkv"
#endif

namespace scenario {

/// While it is true, a broken precondition is counted. Otherwise it ends the program.
inline std::atomic<bool> counts_broken = false;
inline std::atomic<std::size_t> broken_preconditions = 0;

inline void broken(const char* condition) {
    if (!counts_broken) {
        std::fprintf(stderr, "broken precondition: %s\n", condition);
        std::abort();
    }
    ++broken_preconditions;
}

} // namespace scenario

#define PROMPTKV_ASSERT(condition)                                                                 \
    ((condition) ? static_cast<void>(0) : ::scenario::broken(#condition))

#include <promptkv/promptkv.hpp>

#include <algorithm>
#include <cstdint>
#include <limits>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace scenario {

template <class Token>
using BasicTokens = std::vector<Token>;
using Tokens = BasicTokens<std::int32_t>;

/// The tokens first, first + 1, ... (`count` of them).
inline Tokens run(std::int32_t first, std::size_t count) {
    Tokens tokens(count);
    for (std::size_t i = 0; i < count; ++i)
        tokens[i] = first + static_cast<std::int32_t>(i);
    return tokens;
}

template <class Token>
BasicTokens<Token> join(BasicTokens<Token> head, const BasicTokens<Token>& tail) {
    head.insert(head.end(), tail.begin(), tail.end());
    return head;
}

template <class Token>
BasicTokens<Token> first_of(const BasicTokens<Token>& tokens, std::size_t count) {
    if (count > tokens.size())
        throw std::out_of_range("asked for more tokens than there are");
    return BasicTokens<Token>(tokens.begin(), tokens.begin() + static_cast<std::ptrdiff_t>(count));
}

/// State of full attention: can be cut anywhere.
template <class Token>
struct BasicState {
    std::string model;
    BasicTokens<Token> tokens;
    std::size_t bytes_per_token = 1;

    std::size_t nbytes() const noexcept { return tokens.size() * bytes_per_token; }
    std::size_t reusable_prefix(std::size_t n) const noexcept { return std::min(n, tokens.size()); }
    BasicState clone_prefix(std::size_t n) const {
        return BasicState{model, first_of(tokens, n), bytes_per_token};
    }
    void truncate(std::size_t n) noexcept { tokens.resize(n); }
    std::size_t length() const noexcept { return tokens.size(); }
};

using State = BasicState<std::int32_t>;

/// Recurrent state: of one size whatever its length, and of no use but for its whole key.
struct Recurrent {
    std::string model;
    Tokens tokens;
    std::size_t bytes = 10;

    std::size_t nbytes() const noexcept { return bytes; }
    std::size_t length() const noexcept { return tokens.size(); }
};

/// State that can be taken back to its checkpoints (in ascending order) and nowhere else.
struct Checkpointed {
    std::string model;
    Tokens tokens;
    std::vector<std::size_t> checkpoints;
    std::size_t bytes_per_checkpoint = 0;

    std::size_t nbytes() const noexcept {
        return tokens.size() + checkpoints.size() * bytes_per_checkpoint;
    }
    std::size_t reusable_prefix(std::size_t n) const noexcept {
        if (n >= tokens.size())
            return tokens.size();
        const auto above = std::upper_bound(checkpoints.begin(), checkpoints.end(), n);
        return above == checkpoints.begin() ? 0 : *(above - 1);
    }
    Checkpointed clone_prefix(std::size_t n) const {
        Checkpointed result{model, first_of(tokens, n), checkpoints, bytes_per_checkpoint};
        result.drop_checkpoints_from(n);
        return result;
    }
    void truncate(std::size_t n) noexcept {
        tokens.resize(n);
        drop_checkpoints_from(n);
    }
    std::size_t length() const noexcept { return tokens.size(); }

private:
    void drop_checkpoints_from(std::size_t n) {
        checkpoints.erase(std::lower_bound(checkpoints.begin(), checkpoints.end(), n),
                          checkpoints.end());
    }
};

/// Full attention without the tokens: a byte a token, cut anywhere.
struct Plain {
    std::size_t n_tokens = 0;

    std::size_t nbytes() const noexcept { return n_tokens; }
    std::size_t reusable_prefix(std::size_t n) const noexcept { return std::min(n, n_tokens); }
    Plain clone_prefix(std::size_t n) const noexcept { return Plain{n}; }
    void truncate(std::size_t n) noexcept { n_tokens = n; }
    std::size_t length() const noexcept { return n_tokens; }
};

/// A state of one byte that serves its whole key only.
struct Whole {
    std::size_t n_tokens = 0;

    std::size_t nbytes() const noexcept { return 1; }
    std::size_t length() const noexcept { return n_tokens; }
};

/// A block of tokens: a byte each.
struct Block {
    std::int32_t first_token = 0;
    std::size_t n_tokens = 0;

    std::size_t nbytes() const noexcept { return n_tokens; }
};

using Blocks = promptkv::BlockKV<Block>;

/// Appends the blocks of `tokens` that `kv` does not hold yet. Requires: `kv` ends at a whole block.
inline void fill(Blocks& kv, const Tokens& tokens) {
    for (std::size_t n = kv.length(); n < tokens.size(); n = kv.length()) {
        const std::size_t count = std::min(kv.block_tokens(), tokens.size() - n);
        kv.append(Block{tokens[n], count}, count);
    }
}

/// Blocks of its own for all of `tokens`.
inline Blocks blocks_of(const Tokens& tokens, std::size_t block_tokens) {
    Blocks kv(block_tokens);
    fill(kv, tokens);
    return kv;
}

/// Stores `tokens` as an engine does that makes only the blocks which are not stored yet.
template <class Cache>
promptkv::Inserted store_new_blocks(Cache& cache, const Tokens& tokens, promptkv::Tier tier,
                                    std::size_t block_tokens) {
    auto room = cache.reserve("m", tokens, tokens.size(), tier);
    if (!room)
        return {.outcome = room.outcome()};
    Blocks kv = room.prefix().value_or(Blocks(block_tokens));
    fill(kv, first_of(tokens, room.tokens()));
    return room.commit(std::move(kv));
}

/// Whether the first `n` tokens of `kv` are those of `prompt`, as far as blocks can tell.
inline bool begins_as(const Blocks& kv, const Tokens& prompt, std::size_t n) {
    std::size_t start = 0;
    for (const auto& block : kv.blocks()) {
        if (start >= n)
            return true;
        if (block->first_token != prompt[start])
            return false;
        start += kv.block_tokens();
    }
    return start >= n;
}

/// The payload of `tokens`, by its type; a block has 64 tokens.
template <class KV>
KV payload_of(const Tokens& tokens) {
    if constexpr (std::is_same_v<KV, Blocks>)
        return blocks_of(tokens, 64);
    else
        return KV{tokens.size()};
}

/// Evicts whatever can be evicted. Returns the number of entries.
template <class Cache>
std::size_t evict_all(Cache& cache) {
    return cache.trim_to({.max_bytes = 0, .max_entries = 0});
}

/// Stores `payload` under the model and the tokens that it was computed from.
template <class Cache, class KV>
auto store(Cache& cache, KV payload, promptkv::Tier tier) {
    const auto model = payload.model;
    const auto tokens = payload.tokens;
    return cache.insert(model, tokens, std::move(payload), tier);
}

/// Erases the entry at `tokens`, which may be a temporary.
template <class Cache, class Model>
bool erase(Cache& cache, const Model& model, const Tokens& tokens) {
    return cache.erase(model, tokens);
}

/// Requires that what was reused and what remains make up the prompt.
template <class Hit, class Token>
void require_split(const Hit& hit, const BasicTokens<Token>& prompt) {
    REQUIRE(hit.reused() + hit.remaining(prompt).size() == prompt.size());
    REQUIRE(hit.remaining(prompt).data() == prompt.data() + hit.reused());
}

/// Requires a copy of the state of exactly the first `reused` tokens of the prompt.
template <class Hit, class Token>
void require_served(const Hit& hit, std::string_view model, const BasicTokens<Token>& prompt,
                    std::size_t reused, promptkv::Match match) {
    require_split(hit, prompt);
    REQUIRE(static_cast<bool>(hit));
    REQUIRE(hit.kv.has_value());
    REQUIRE(hit.reused() == reused);
    REQUIRE(hit.match() == match);
    REQUIRE(hit.kv->model == model);
    REQUIRE(hit.kv->tokens == first_of(prompt, reused));
}

/// Requires nothing to be handed back.
template <class Hit, class Token>
void require_miss(const Hit& hit, const BasicTokens<Token>& prompt) {
    require_split(hit, prompt);
    REQUIRE_FALSE(static_cast<bool>(hit));
    REQUIRE(hit.reused() == 0);
    REQUIRE(hit.match() == promptkv::Match::none);
}

/// Whether the whole of `tokens` would be reused, without a trace in the cache.
template <class Cache, class Model>
bool holds(const Cache& cache, const Model& model, const Tokens& tokens) {
    return cache.probe(model, tokens, {.min_remaining = 0}).reused() == tokens.size();
}

/// Requires the account to be whole: the total is the sum over entries, tiers and models.
/// For caches without leases; `models` are all the models in use.
template <class Cache, class Model>
void require_balanced(const Cache& cache, const std::vector<Model>& models) {
    REQUIRE(cache.check_invariants());
    std::size_t entries = 0;
    std::size_t bytes = 0;
    cache.for_each([&](const auto& entry) {
        ++entries;
        bytes += entry.nbytes;
    });
    REQUIRE(cache.size() == entries);
    REQUIRE(cache.nbytes() == bytes);

    std::size_t tier_entries = 0;
    std::size_t tier_bytes = 0;
    for (const auto tier :
         {promptkv::Tier::assistant, promptkv::Tier::user, promptkv::Tier::system}) {
        tier_entries += cache.stats(tier).entries;
        tier_bytes += cache.stats(tier).nbytes;
    }
    REQUIRE(tier_entries == entries);
    REQUIRE(tier_bytes == bytes);

    std::size_t model_bytes = 0;
    for (const auto& model : models)
        model_bytes += cache.nbytes(model);
    REQUIRE(model_bytes == bytes);
    REQUIRE(bytes <= cache.limits().max_bytes);
    REQUIRE(entries <= cache.limits().max_entries);
}

/// Those of a cache with one model.
inline const std::vector<std::string> models{"m"};

} // namespace scenario

#endif
