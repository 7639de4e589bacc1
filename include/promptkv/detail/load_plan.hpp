// SPDX-License-Identifier: MIT
// LoadPlan: what a second level has of a prompt that memory lacks.
#ifndef PROMPTKV_DETAIL_LOAD_PLAN_HPP
#define PROMPTKV_DETAIL_LOAD_PLAN_HPP

#include <promptkv/block_store.hpp>
#include <promptkv/detail/block_names.hpp>
#include <promptkv/detail/record_writer.hpp>
#include <promptkv/detail/saturating.hpp>
#include <promptkv/version.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

namespace promptkv::inline PROMPTKV_ABI::detail {

/// What is to be read so that memory serves `tokens` tokens.
struct LoadPlan {
    std::size_t in_memory = 0; // tokens that it serves already
    std::size_t held = 0;      // blocks that it holds already
    std::size_t tokens = 0;
    std::vector<BlockName> chain;
    std::optional<BlockName> end;
    std::uint64_t nbytes = 0;        // to read
    std::uint64_t payload_bytes = 0; // of these in memory
    std::uint8_t tier = 0;
    bool works = true; // the store

    void add(const RecordInfo& info) {
        nbytes += info.nbytes;
        payload_bytes += info.payload_bytes;
        tier = info.tier;
    }
};

/// Finds what a prompt lacks: in the queue of what is not written yet, and in the store. Reads no record.
template <class Types, class Store, class Writer>
class LoadPlanner {
public:
    using Cache = typename Types::Cache;
    using Token = typename Types::Token;
    using Tokens = typename Types::Tokens;

    LoadPlanner(Store& store, Writer& writer, std::size_t block_tokens) noexcept
        : store_(store), writer_(writer), block_tokens_(block_tokens) {}

    /// Less of it, or nothing, where `is_over()` says that there is no time left.
    template <class IsOver>
    [[nodiscard]] LoadPlan plan(const Cache& cache, typename Types::ModelView model, Tokens prompt,
                                std::size_t min_remaining, const RecordHome& home, IsOver is_over) {
        LoadPlan plan;
        plan.in_memory = cache.probe(model, prompt, {.min_remaining = min_remaining}).reused();
        plan.tokens = plan.in_memory;
        if (plan.in_memory + min_remaining >= prompt.size())
            return plan; // no more could be used
        plan.held = cache.held_tokens(model, prompt) / block_tokens_;
        BlockNames<Token> names;
        plan.chain = names.chain(home.root, prompt, block_tokens_);
        std::vector<RecordInfo> blocks(plan.chain.size() - 1 - plan.held);
        const auto wanted = std::span<const BlockName>(plan.chain).subspan(plan.held + 1);
        std::size_t found = 0;
        for (std::size_t at = 0; found == at && at < blocks.size() && !is_over(); at += window) {
            const std::size_t n = (std::min)(window, blocks.size() - at);
            find(plan, wanted.subspan(at, n), std::span(blocks).subspan(at, n));
            while (found < at + n && blocks[found].nbytes > 0)
                ++found;
        }
        const std::size_t n = plan.held + found;
        const std::size_t last =
            n * block_tokens_ + block_tokens_ - 1; // of these blocks and an end
        if constexpr (Types::has_states) {
            const std::size_t most = (std::min)(last, less(prompt.size(), min_remaining));
            if (find_end(plan, names, prompt, most, is_over)) {
                const std::uint8_t tier = plan.tier; // the end's: it is of this key alone
                for (std::size_t i = 0; plan.held + i < plan.tokens / block_tokens_; ++i)
                    plan.add(blocks[i]);
                plan.tier = tier;
            }
        } else {
            for (std::size_t i = 0; i < found; ++i)
                plan.add(blocks[i]);
            plan.tokens = (std::max)(plan.tokens, n * block_tokens_);
            find_end(plan, names, prompt, (std::min)(last, prompt.size()), is_over);
        }
        return plan;
    }

private:
    static constexpr std::size_t window = 256; // records that a store is asked for at once

    /// Looks in the queue, then in the store: what is written meanwhile is in one of them.
    void find(LoadPlan& plan, std::span<const BlockName> names, std::span<RecordInfo> infos) {
        std::vector<RecordInfo> waiting(names.size());
        for (std::size_t i = 0; i < names.size(); ++i)
            writer_.queue.visit(
                names[i], [&](const typename Writer::Waiting& item) { waiting[i] = item.info(); });
        plan.works = store_.find(names, infos) && plan.works;
        for (std::size_t i = 0; i < names.size(); ++i)
            infos[i] = infos[i].nbytes > 0 ? infos[i] : waiting[i];
    }

    /// The longest end record of a key with more tokens than the plan has, and at most `most`; adds it to the plan.
    template <class IsOver>
    bool find_end(LoadPlan& plan, BlockNames<Token>& names, Tokens prompt, std::size_t most,
                  IsOver is_over) {
        while (most > plan.tokens && !is_over()) {
            const std::size_t least = most - (std::min)(window, most - plan.tokens);
            std::vector<BlockName> ends;
            for (std::size_t n = least + 1; n <= most; ++n) {
                const std::size_t rest = n % block_tokens_;
                ends.push_back(
                    names.end(plan.chain[n / block_tokens_], prompt.subspan(n - rest, rest)));
            }
            std::vector<RecordInfo> infos(ends.size());
            find(plan, ends, infos);
            for (std::size_t i = ends.size(); i-- > 0;) {
                if (infos[i].nbytes == 0)
                    continue;
                plan.tokens = least + 1 + i;
                plan.end = ends[i];
                plan.add(infos[i]);
                return true;
            }
            most = least;
        }
        return false;
    }

    Store& store_;
    Writer& writer_;
    std::size_t block_tokens_;
};

} // namespace promptkv::inline PROMPTKV_ABI::detail

#endif
