// SPDX-License-Identifier: MIT
// The prompt cache of the server: what it keeps of llama.cpp's sequences, and what it tells about that.
#ifndef PROMPTKV_EXAMPLES_LLAMA_SERVER_STORE_HPP
#define PROMPTKV_EXAMPLES_LLAMA_SERVER_STORE_HPP

#include "llama_text.hpp"

#include <promptkv/cache_types.hpp>

#include <llama.h>
#include <nlohmann/json.hpp>
#include <prometheus/metric_family.h>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace llama_server {

using json = nlohmann::json;
using Clock = std::chrono::steady_clock;
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
        llama_seq_id slots = 4;       ///< sequences that are computed together
        std::size_t cache_mib = 1024; ///< the most that it takes
        std::size_t block_tokens = 32;
        std::string second_level; ///< a directory or redis://HOST:PORT; empty: none
        std::uint64_t max_disk_mib = 4096;
    };

    virtual ~Store() = default;

    /// Brings to memory what the second level has of the prompt, and waits for that. What was loaded
    /// cannot be evicted as long as the answer lives. Null without a second level.
    virtual std::shared_ptr<void> prefetch(const std::string& model, TokenSpan prompt,
                                           std::uint64_t session) = 0;

    /// Makes the slot's sequence the longest prefix of the prompt that is stored: `reused()` tokens.
    /// Requires: the sequence is empty.
    virtual Lookup restore(llama_seq_id slot, const std::string& model, TokenSpan prompt) = 0;
    /// Stores these tokens of the slot's sequence. Copies only what is not stored. False: there is no room.
    /// Requires: the sequence begins with these tokens; if !cuttable(): it holds nothing else.
    virtual bool keep(llama_seq_id slot, const std::string& model, TokenSpan tokens,
                      promptkv::Tier tier, promptkv::InsertOptions options) = 0;
    virtual void clear(llama_seq_id slot) = 0;

    /// Whether an entry serves any prefix of its key.
    [[nodiscard]] virtual bool cuttable() const = 0;
    /// As GET /cache shows it, but for the text of tokens: the `limit` entries of a model that are evicted
    /// last, tier by tier, the next victims first; the counters.
    [[nodiscard]] virtual json show(const std::string& model, std::size_t limit) const = 0;
    [[nodiscard]] virtual Explanation explain(const std::string& model, TokenSpan tokens) const = 0;
    virtual std::size_t erase_session(const std::string& model, std::uint64_t session) = 0;
    /// What begins with the prefix; all of the model where that is empty.
    virtual std::size_t erase_below(const std::string& model, TokenSpan prefix) = 0;
    virtual void set_max_bytes(std::size_t max_bytes) = 0;
    [[nodiscard]] virtual std::vector<prometheus::MetricFamily> metrics() const = 0;
};

/// The store for the sequences 0 .. slots - 1 of a context; sequence number `slots` is its scratch.
/// Requires: what llama_kv::Sequence requires of a context.
[[nodiscard]] std::unique_ptr<Store> make_store(llama_context* context,
                                                const Store::Options& options);

} // namespace llama_server

#endif
