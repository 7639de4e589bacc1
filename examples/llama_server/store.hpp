// SPDX-License-Identifier: MIT
// The prompt cache of the server: what it keeps of llama.cpp's sequences, and what it tells about that.
#ifndef PROMPTKV_EXAMPLES_LLAMA_SERVER_STORE_HPP
#define PROMPTKV_EXAMPLES_LLAMA_SERVER_STORE_HPP

#include "text.hpp"

#include <promptkv/cache_types.hpp>
#include <promptkv/stats.hpp>
#include <promptkv/tier.hpp>

#include <llama.h>
#include <prometheus/metric_family.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

namespace llama_server {

using Lookup = promptkv::Lookup<llama_token, promptkv::Tier>;
using Explanation = promptkv::Explanation<llama_token, promptkv::Tier>;

/// A ConcurrentPromptCache, and the sequences of a context that it is filled from.
///
/// The payload depends on the model: blocks that can be cut anywhere, or blocks with a recurrent state.
/// `make_store` chooses; the rest of the server does not see the difference, except by `cuttable()`.
///
/// Thread safety: restore, keep and clear belong to the thread of the engine. The others: any thread.
class Store {
public:
    struct Options {
        std::size_t max_bytes = std::size_t{1} << 30;
        std::size_t block_tokens = 32;
        std::size_t min_reuse =
            8;                    ///< a shorter match is no reuse: a BOS token, a template's header
        std::string second_level; ///< a directory or redis://HOST:PORT; empty: none
        std::uint64_t max_disk_bytes = std::uint64_t{4} << 30;
    };

    /// An entry, as GET /cache shows it.
    struct Entry {
        std::size_t tokens = 0;
        promptkv::Tier tier{};
        std::size_t nbytes = 0;    ///< that it refers to
        std::size_t own_bytes = 0; ///< of these, bytes that no other entry refers to
        std::uint64_t session = 0;
        std::uint64_t hits = 0; ///< by prompts that hold its whole key
        double age_seconds = 0;
        Tokens begin, end; ///< some of its first and last tokens
        /// Its blocks: ranges [first, last] of numbers that are the same for the same block.
        std::vector<std::pair<std::uint32_t, std::uint32_t>> blocks;
    };

    /// A payload, or the tail of one, that left.
    struct Departure {
        std::uint64_t number = 0; ///< counts from 1
        std::string model;
        promptkv::RemovalReason reason{};
        promptkv::Tier tier{};
        std::size_t tokens = 0, kept_tokens = 0, nbytes = 0;
    };

    virtual ~Store() = default;

    /// Brings to memory what the second level has of the prompt, and waits for that. What was loaded
    /// cannot be evicted as long as the answer lives. Null without a second level.
    virtual std::shared_ptr<void> prefetch(const std::string& model, TokenSpan prompt,
                                           std::uint64_t session) = 0;

    // state of a slot's sequence /////////////////////////////////////////////////////////////////

    /// Makes the slot's sequence the longest prefix of the prompt that is stored: `reused()` tokens.
    virtual Lookup restore(llama_seq_id slot, const std::string& model, TokenSpan prompt) = 0;
    /// Stores the first `tokens.size()` tokens of the slot's sequence. Copies only what is not stored.
    /// Requires: the sequence holds these tokens; if !cuttable(): nothing else.
    virtual promptkv::Inserted keep(llama_seq_id slot, const std::string& model, TokenSpan tokens,
                                    promptkv::Tier tier, promptkv::InsertOptions options) = 0;
    virtual void clear(llama_seq_id slot) = 0;

    // the cache //////////////////////////////////////////////////////////////////////////////////

    /// Whether an entry serves any prefix of its key.
    [[nodiscard]] virtual bool cuttable() const = 0;
    /// The entries of a model, tier by tier, the next victims first.
    [[nodiscard]] virtual std::vector<Entry> entries(const std::string& model) const = 0;
    /// What left of a model after departure number `since`; the last few hundred are remembered.
    [[nodiscard]] virtual std::vector<Departure> departures(const std::string& model,
                                                            std::uint64_t since) const = 0;
    [[nodiscard]] virtual Explanation explain(const std::string& model, TokenSpan tokens) const = 0;
    virtual std::size_t erase_session(const std::string& model, std::uint64_t session) = 0;
    virtual std::size_t erase_below(const std::string& model, TokenSpan prefix) = 0;
    virtual std::size_t erase_model(const std::string& model) = 0;
    virtual void set_max_bytes(std::size_t max_bytes) = 0;
    [[nodiscard]] virtual std::size_t max_bytes() const = 0;
    [[nodiscard]] virtual std::size_t nbytes() const = 0;
    [[nodiscard]] virtual promptkv::Stats stats() const = 0;
    [[nodiscard]] virtual std::vector<prometheus::MetricFamily> metrics() const = 0;
};

/// The store for the sequences 0 .. slots - 1 of a context; sequence number `slots` is its scratch.
/// Requires: what llama_kv::Sequence requires of a context.
[[nodiscard]] std::unique_ptr<Store> make_store(llama_context* context, llama_seq_id slots,
                                                const Store::Options& options);

} // namespace llama_server

#endif
