// SPDX-License-Identifier: MIT
// The prompt cache policy of llama.cpp's llama-server, over the same payloads, for comparison.
//
// A list, oldest first, which a lookup scans. A hit moves the prompt out of the list; the prompt is
// saved again, with its answer, when the request is done. Written from its description, for one slot.
#ifndef PROMPTKV_EXAMPLES_LLAMA_SERVER_POLICY_HPP
#define PROMPTKV_EXAMPLES_LLAMA_SERVER_POLICY_HPP

#include <algorithm>
#include <cstddef>
#include <list>
#include <optional>
#include <span>
#include <utility>
#include <vector>

/// Requires:   a KV can be cut to any length.
template <class KV, class Token>
class ServerPolicy {
public:
    struct Taken {
        KV kv;
        std::size_t reused;
    };

    explicit ServerPolicy(std::size_t max_bytes) : max_bytes_(max_bytes) {}

    /// Takes out the prompt that shares most with `tokens`; a prompt is passed over if less than a
    /// quarter of it would be kept, and a later one has to be better in both respects: the share of
    /// it that is kept and the share of `tokens` that it covers.
    std::optional<Taken> take(std::span<const Token> tokens) {
        auto best = entries_.end();
        double best_kept = -1;
        std::size_t best_shared = 0;
        for (auto entry = entries_.begin(); entry != entries_.end(); ++entry) {
            const std::size_t shared = common_prefix(entry->tokens, tokens);
            const double kept =
                static_cast<double>(shared) / static_cast<double>(entry->tokens.size());
            if (kept >= 0.25 && kept > best_kept && shared > best_shared) {
                best = entry;
                best_kept = kept;
                best_shared = shared;
            }
        }
        if (best == entries_.end())
            return std::nullopt;
        Taken taken{std::move(best->kv), best_shared};
        nbytes_ -= best->nbytes;
        entries_.erase(best);
        return taken;
    }

    /// Saves a prompt, made by `make()` once there is room: prompts that are its prefixes are deleted,
    /// then the oldest ones. Saves nothing if a stored prompt contains it, or if it is too large.
    template <class Make>
    void save(std::span<const Token> tokens, std::size_t nbytes, Make make) {
        for (const Entry& entry : entries_) {
            if (common_prefix(entry.tokens, tokens) == tokens.size())
                return;
        }
        if (nbytes > max_bytes_)
            return;
        entries_.remove_if([&](const Entry& entry) {
            const bool contained = common_prefix(entry.tokens, tokens) == entry.tokens.size();
            nbytes_ -= contained ? entry.nbytes : 0;
            return contained;
        });
        while (nbytes_ + nbytes > max_bytes_) {
            nbytes_ -= entries_.front().nbytes;
            entries_.pop_front();
            ++evicted_;
        }
        entries_.push_back({{tokens.begin(), tokens.end()}, make(), nbytes});
        nbytes_ += nbytes;
    }

    [[nodiscard]] std::size_t evicted() const { return evicted_; }
    [[nodiscard]] std::size_t nbytes() const { return nbytes_; }

private:
    struct Entry {
        std::vector<Token> tokens;
        KV kv;
        std::size_t nbytes;
    };

    static std::size_t common_prefix(std::span<const Token> a, std::span<const Token> b) {
        return static_cast<std::size_t>(std::ranges::mismatch(a, b).in1 - a.begin());
    }

    std::list<Entry> entries_; // oldest first
    std::size_t max_bytes_;
    std::size_t nbytes_ = 0;
    std::size_t evicted_ = 0;
};

#endif
