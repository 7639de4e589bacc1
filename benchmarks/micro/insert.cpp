// SPDX-License-Identifier: MIT
// Inserts against `memcmp` of the shared tokens and allocation and `memcpy` of the new ones.
#include "interleave.hpp"
#include "prompts.hpp"

#include <algorithm>
#include <cstdlib>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace bench {
namespace {

/// The least that an insert must do, many times over: compare the first tokens, keep the others.
class Bound {
public:
    Bound(const std::vector<Prompt>& prompts, std::size_t shared)
        : prompts_(prompts), copies_(prompts), kept_(prompts.size()), shared_(shared) {}

    void keep(std::size_t i) {
        const Prompt& prompt = prompts_[i];
        use(same(prompt, copies_[i], shared_));
        const std::size_t bytes = (prompt.size() - shared_) * sizeof(Token);
        kept_[i] = std::malloc(bytes);
        std::memcpy(kept_[i], prompt.data() + shared_, bytes);
        use(kept_[i]);
    }

    void drop() {
        for (void*& block : kept_) {
            std::free(block);
            block = nullptr;
        }
    }

private:
    const std::vector<Prompt>& prompts_;
    std::vector<Prompt> copies_;
    std::vector<void*> kept_;
    std::size_t shared_;
};

/// How many keys of `n` tokens are inserted in a batch: few enough to stay warm.
std::size_t batch_of(std::size_t n) {
    return std::clamp<std::size_t>(65'536 / n, 4, 64);
}

Allowance allowed_for(std::size_t blocks, std::string target = {}) {
    return {.factor = 1.7,
            .extra_ns = 300 + 10 * static_cast<double>(blocks),
            .target = std::move(target)};
}

/// Keys of `n` tokens, and for each a key that shares its first tokens.
struct Branches {
    std::vector<Prompt> stored;
    std::vector<Prompt> prompts;

    Branches(std::size_t n, std::size_t shared) : stored(prompts_of(batch_of(n), n)) {
        for (std::size_t i = 0; i < stored.size(); ++i) {
            prompts.push_back(stored[i]);
            prompts.back().resize(shared);
            prompts.back().push_back(unseen);
            append_tokens(prompts.back(), i << 40U, n - shared - 1);
        }
    }

    template <class KV>
    void erase(Cache<KV>& cache) const {
        require(cache.size() == 2 * prompts.size(), "keys that branch off stored");
        for (const Prompt& prompt : prompts)
            cache.erase(model, prompt);
        require(cache.size() == prompts.size(), "keys that branch off erased");
    }
};

/// Each new key shares its beginning with a stored key. Payloads without state.
void branch(Run& run, std::size_t n, std::size_t shared_percent) {
    const std::size_t shared = n * shared_percent / 100;
    const Branches keys(n, shared);
    Cache<Cuttable> cache;
    for (const Prompt& prompt : keys.stored)
        store(cache, prompt);
    Bound bound(keys.prompts, shared);
    const Paired times = interleave(
        run, keys.prompts.size(), [&](std::size_t i) { store(cache, keys.prompts[i]); },
        [&] { keys.erase(cache); }, [&](std::size_t i) { bound.keep(i); }, [&] { bound.drop(); });
    std::string target;
    if (shared_percent == 50)
        target = "insert of " + std::to_string(n) + " tokens half shared [ns]";
    report(run, times, allowed_for(0, target));
}

/// How the payload of a new key comes by the blocks of the tokens that a stored key shares.
enum class Blocks { shared, adopted, reserved };

/// The same with payloads of blocks; half of the tokens are shared.
///
/// The new payload points to the stored blocks (it was cloned from them), or has blocks of its own,
/// which the cache replaces by the stored ones, or is made of what a reservation hands out.
void branch_blocks(Run& run, std::size_t n, std::size_t block_tokens, Blocks how) {
    const std::size_t shared = n / 2;
    const Branches keys(n, shared);
    const std::size_t batch = keys.prompts.size();
    Cache<InBlocks> cache;
    std::vector<InBlocks> kept;                // the state of the new keys
    std::vector<std::optional<InBlocks>> kvs;  // copies to insert
    std::vector<std::optional<InBlocks>> gone; // what an adoption gives up
    for (const Prompt& prompt : keys.stored) {
        InBlocks kv = in_blocks(n, block_tokens);
        kept.push_back(how == Blocks::adopted ? InBlocks(block_tokens) : kv.clone_prefix(shared));
        append_blocks(kept.back(), n);
        store(cache, prompt, std::move(kv));
    }
    const std::size_t nbytes = cache.nbytes();
    const auto copy = [&] {
        kvs.assign(kept.begin(), kept.end());
        gone.clear();
        for (const InBlocks& kv : kept)
            gone.emplace_back(kv.clone_prefix(shared));
    };
    copy();
    const auto insert = [&](std::size_t i) {
        if (how == Blocks::reserved) {
            auto room = cache.reserve(model, keys.prompts[i], n, promptkv::Tier::assistant);
            InBlocks kv = room.prefix().value_or(InBlocks(block_tokens));
            for (std::size_t k = kv.blocks().size(); k < kept[i].blocks().size(); ++k)
                kv.append(kept[i].blocks()[k], block_tokens);
            room.commit(std::move(kv));
        } else {
            store(cache, keys.prompts[i], std::move(*kvs[i]));
        }
    };
    const auto undo = [&] {
        require(cache.nbytes() == nbytes + batch * (n - shared), "blocks shared");
        keys.erase(cache);
        copy();
    };
    Bound bound(keys.prompts, shared);
    const Paired times = interleave(
        run, batch, insert, undo,
        [&](std::size_t i) {
            bound.keep(i);
            if (how == Blocks::adopted)
                gone[i].reset();
        },
        [&] {
            bound.drop();
            copy();
        });
    std::string target;
    if (how != Blocks::reserved && n <= 32'768) {
        target = "insert of " + std::to_string(n) + " tokens half shared in blocks of " +
                 std::to_string(block_tokens) +
                 (how == Blocks::adopted ? " adopted [ns]" : " [ns]");
    }
    report(run, times, allowed_for(n / block_tokens, target));
}

/// A turn: an eighth is new, and the entry that it continues is absorbed.
void turn(Run& run, std::size_t n) {
    const std::size_t shared = n - n / 8;
    const std::size_t batch = batch_of(n);
    Cache<Cuttable> cache;
    const std::vector<Prompt> prompts = prompts_of(batch, n);
    std::vector<Prompt> before = prompts;
    for (Prompt& prompt : before) {
        prompt.resize(shared);
        store(cache, prompt);
    }
    const auto undo = [&] {
        require(cache.size() == batch && cache.nbytes() == batch * n, "turns absorb");
        for (std::size_t i = 0; i < batch; ++i) {
            cache.erase(model, prompts[i]);
            store(cache, before[i]);
        }
    };
    Bound bound(prompts, shared);
    const Paired times = interleave(
        run, batch, [&](std::size_t i) { store(cache, prompts[i]); }, undo,
        [&](std::size_t i) { bound.keep(i); }, [&] { bound.drop(); });
    report(run, times, allowed_for(0));
}

/// New prompts into a full cache: each insert evicts an entry.
void into_full(Run& run, std::size_t n, std::size_t entries) {
    Cache<Cuttable> cache({.max_entries = entries});
    std::uint64_t next = 0;
    for (std::size_t i = 0; i < entries; ++i)
        store(cache, prompt_of(next++, n));
    std::vector<Prompt> prompts(32);
    const auto choose = [&] {
        require(cache.size() == entries, "full cache stays full");
        for (Prompt& prompt : prompts)
            prompt = prompt_of(next++, n);
    };
    choose();
    Bound bound(prompts, 0);
    const Paired times = interleave(
        run, prompts.size(), [&](std::size_t i) { store(cache, prompts[i]); }, choose,
        [&](std::size_t i) { bound.keep(i); }, [&] { bound.drop(); });
    Allowance allowance = allowed_for(0);
    allowance.extra_ns += 200; // the eviction
    report(run, times, allowance);
}

} // namespace

void add_inserts(Cases& cases) {
    for (const std::size_t n : {128U, 1'024U, 4'096U, 32'768U, 131'072U}) {
        for (const std::size_t shared : {0U, 50U, 99U}) {
            add(cases, "insert", "shared " + std::to_string(shared) + " %", n,
                [=](Run& run) { branch(run, n, shared); });
        }
        add(cases, "insert", "turn", n, [=](Run& run) { turn(run, n); });
        for (const std::size_t block : {16U, 64U}) {
            const std::string series = "blocks of " + std::to_string(block);
            const auto add_blocks = [&](const std::string& kind, Blocks how) {
                add(cases, "insert", series + kind, n,
                    [=](Run& run) { branch_blocks(run, n, block, how); });
            };
            add_blocks("", Blocks::shared);
            if (n == 4'096) {
                add_blocks(" adopted", Blocks::adopted);
                add_blocks(" reserved", Blocks::reserved);
            }
        }
    }
    for (const std::size_t entries : {100U, 10'000U, 1'000'000U}) {
        add(cases, "insert_entries", "128 tokens full", entries,
            [=](Run& run) { into_full(run, 128, entries); });
    }
}

} // namespace bench
