// SPDX-License-Identifier: MIT
// PrefixStore: the one interface behind which the ways of reusing prompt state are compared.
#ifndef PROMPTKV_BENCHMARKS_PREFIX_STORE_HPP
#define PROMPTKV_BENCHMARKS_PREFIX_STORE_HPP

#include <cstddef>
#include <cstdint>
#include <span>

namespace baselines {

using Token = std::int32_t;
using Tokens = std::span<const Token>;

/// What an engine asks of the part that remembers which prompt state it still has.
///
/// State is counted in tokens. A store that shares it between prompts counts a shared token once,
/// one that keeps whole entries counts it once an entry.
class PrefixStore {
public:
    virtual ~PrefixStore() = default;

    /// Returns: the number of leading tokens of `prompt` whose state is held. Changes nothing.
    virtual std::size_t match(Tokens prompt) const = 0;

    /// As `match`, at the start of a request: what was found counts as used, and a store whose hits
    /// move the state out does so.
    virtual std::size_t lookup(Tokens prompt) = 0;

    /// Stores the state of `prompt`, at the end of a request.
    virtual void insert(Tokens prompt) = 0;

    /// Frees the state of at least `n_tokens` tokens, or of all if fewer are held.
    /// Returns: how many were freed.
    virtual std::size_t evict(std::size_t n_tokens) = 0;

    /// Returns: the number of tokens whose state is held.
    virtual std::size_t tokens_held() const = 0;
};

/// Returns: the number of leading tokens that `a` and `b` share, compared one by one.
inline std::size_t common_prefix(Tokens a, Tokens b) {
    const std::size_t length = a.size() < b.size() ? a.size() : b.size();
    std::size_t n = 0;
    while (n < length && a[n] == b[n])
        ++n;
    return n;
}

} // namespace baselines

#endif
