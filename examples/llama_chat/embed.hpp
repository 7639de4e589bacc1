// SPDX-License-Identifier: MIT
// All that it takes to embed the cache: a lookup before the prefill, a reservation after it.
#ifndef PROMPTKV_EXAMPLES_LLAMA_EMBED_HPP
#define PROMPTKV_EXAMPLES_LLAMA_EMBED_HPP

#include "llama_kv.hpp"

#include <promptkv/promptkv.hpp>

#include <cstddef>
#include <span>
#include <string>
#include <utility>

template <class KV>
using Cache = promptkv::LRUPromptCache<KV, std::string, llama_token>;

/// Restores the longest prefix of `prompt` that the cache serves: `reused()` tokens, in whole blocks.
template <class KV>
typename Cache<KV>::Lookup restore(Cache<KV>& cache, const std::string& model,
                                   std::span<const llama_token> prompt,
                                   llama_kv::Sequence<KV>& sequence) {
    const std::size_t block = sequence.block_tokens();
    const auto hit = cache.lease_nearest(model, prompt, {.min_reuse = block, .align = block});
    if (hit)
        sequence.restore(hit.kv(), hit.reused()); // a copy from the cache's memory into the context
    else
        sequence.clear();
    return hit; // the lease ends here: it is for the time of the copy
}

/// Keeps the state of `tokens`. Only blocks that the cache does not have are copied out.
/// Requires: the sequence holds `tokens`; with a recurrent state: nothing else.
/// `AnyCache`: over KV, as Cache<KV> is.
template <class AnyCache, class KV>
promptkv::Inserted keep(AnyCache& cache, const std::string& model,
                        std::span<const llama_token> tokens, llama_kv::Sequence<KV>& sequence,
                        promptkv::Tier tier, const promptkv::InsertOptions& options = {}) {
    auto room = cache.reserve(model, tokens, sequence.nbytes(tokens.size()), tier, options);
    if (!room)
        return {.outcome = room.outcome()}; // present already, or there is no room
    KV kv = room.prefix().value_or(KV(sequence.block_tokens()));
    sequence.save(kv, room.tokens());
    return room.commit(std::move(kv));
}

#endif
