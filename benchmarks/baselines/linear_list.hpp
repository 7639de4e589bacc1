// SPDX-License-Identifier: MIT
// LinearList: whole prompts in a list, scanned for the longest common prefix; a hit moves out.
//
// The way of llama-server's prompt cache: first in, first out; a saved prompt deletes those that are
// its prefixes. (Its rule that at least a quarter of an entry must be kept never applies here.)
#ifndef PROMPTKV_BENCHMARKS_LINEAR_LIST_HPP
#define PROMPTKV_BENCHMARKS_LINEAR_LIST_HPP

#include "prefix_store.hpp"

#include <list>
#include <utility>
#include <vector>

namespace baselines {

class LinearList final : public PrefixStore {
public:
    std::size_t match(Tokens prompt) const override { return scan(prompt).second; }

    std::size_t lookup(Tokens prompt) override {
        const auto [entry, reused] = scan(prompt);
        if (reused > 0) {
            held_ -= entry->size();
            entries_.erase(entry);
        }
        return reused;
    }

    void insert(Tokens prompt) override {
        for (auto entry = entries_.begin(); entry != entries_.end();) {
            const std::size_t shared = common_prefix(*entry, prompt);
            if (shared == prompt.size())
                return; // it is there already
            if (shared == entry->size()) {
                held_ -= shared;
                entry = entries_.erase(entry);
            } else {
                ++entry;
            }
        }
        entries_.emplace_back(prompt.begin(), prompt.end());
        held_ += prompt.size();
    }

    std::size_t evict(std::size_t n_tokens) override {
        const std::size_t before = held_;
        while (before - held_ < n_tokens && !entries_.empty()) {
            held_ -= entries_.front().size();
            entries_.pop_front();
        }
        return before - held_;
    }

    std::size_t tokens_held() const override { return held_; }

private:
    using Entries = std::list<std::vector<Token>>;

    std::pair<Entries::const_iterator, std::size_t> scan(Tokens prompt) const {
        std::pair<Entries::const_iterator, std::size_t> best{entries_.end(), 0};
        for (auto entry = entries_.begin(); entry != entries_.end(); ++entry) {
            const std::size_t shared = common_prefix(*entry, prompt);
            if (shared > best.second)
                best = {entry, shared};
        }
        return best;
    }

    Entries entries_; // oldest first
    std::size_t held_ = 0;
};

} // namespace baselines

#endif
