// SPDX-License-Identifier: MIT
// Scenarios 1 to 14: which entry serves a prompt, and by how much.
#include "state.hpp"

#include <chrono>
#include <iterator>
#include <limits>
#include <map>
#include <optional>
#include <random>

using namespace scenario;
using promptkv::Match;
using promptkv::Outcome;
using promptkv::Tier;

namespace {

using Cache = promptkv::LRUPromptCache<State>;
using RecurrentCache = promptkv::LRUPromptCache<Recurrent>;
using CheckpointedCache = promptkv::LRUPromptCache<Checkpointed>;
using Trie = promptkv::PromptTrie<int>;

/// Counts what the cache asks of it. Carries no tokens, so that long keys are cheap.
struct Metered {
    std::size_t n_tokens = 0;

    static inline std::size_t questions = 0;
    static inline std::size_t tokens_cloned = 0;
    static void reset() { questions = tokens_cloned = 0; }

    std::size_t nbytes() const noexcept { return n_tokens; }
    std::size_t reusable_prefix(std::size_t n) const noexcept {
        ++questions;
        return std::min(n, n_tokens);
    }
    Metered clone_prefix(std::size_t n) const {
        tokens_cloned += n;
        return Metered{n};
    }
    void truncate(std::size_t n) { n_tokens = n; }
    std::size_t length() const noexcept { return n_tokens; }
};

using MeteredCache = promptkv::LRUPromptCache<Metered>;

/// A long prompt, and beside it `branches` conversations that leave it at equal distances.
Tokens fill_with_branches(MeteredCache& cache, std::size_t length, std::size_t branches) {
    const Tokens prompt = run(0, length);
    for (std::size_t branch = 1; branch <= branches; ++branch) {
        const auto tail = run(-64 * static_cast<std::int32_t>(branch), 64);
        const auto key = join(first_of(prompt, length * branch / (branches + 1)), tail);
        REQUIRE(cache.insert("m", key, Metered{key.size()}, Tier::assistant).outcome ==
                Outcome::stored);
    }
    return prompt;
}

std::size_t common_prefix(const Tokens& a, const Tokens& b) {
    const auto end = std::mismatch(a.begin(), a.end(), b.begin(), b.end()).first;
    return static_cast<std::size_t>(end - a.begin());
}

} // namespace

TEST_CASE("1. a stored prefix of one token serves a longer prompt", "[scenario]") {
    RecurrentCache cache;
    const Tokens prompt{7, 8, 9};
    REQUIRE(store(cache, Recurrent{"m", {7}}, Tier::assistant).outcome == Outcome::stored);

    require_served(cache.fetch_nearest("m", prompt), "m", prompt, 1, Match::shorter);

    const Tokens other{8, 8, 9};
    require_miss(cache.fetch_nearest("m", other), other);
}

TEST_CASE("2. empty keys, empty tries and a root without its value are ordinary", "[scenario]") {
    const Tokens nothing;
    const Tokens something{1, 2};

    SECTION("in the trie") {
        Trie trie;
        CHECK(trie.find(nothing) == nullptr);
        CHECK(trie.search(something).shorter == nullptr);
        CHECK(trie.search(something).longer == nullptr);
        CHECK(trie.search(something).common_prefix == 0);

        REQUIRE(trie.insert_or_assign(nothing, 5).second);
        REQUIRE(trie.search(nothing).exact != nullptr);
        REQUIRE(trie.search(something).shorter != nullptr);
        CHECK(*trie.search(something).shorter == 5);
        CHECK(trie.key(trie.find(nothing)).empty());

        trie.erase(trie.find(nothing));
        CHECK(trie.search(something).shorter == nullptr);
        CHECK(trie.search(nothing).exact == nullptr);
        CHECK(trie.empty());
        CHECK(trie.node_count() == 1);
        CHECK(trie.check_invariants());
    }

    SECTION("in the cache") {
        RecurrentCache cache;
        require_miss(cache.fetch_nearest("m", nothing), nothing);
        require_miss(cache.fetch_nearest("m", something), something);
        REQUIRE(store(cache, Recurrent{"m", nothing}, Tier::user).outcome == Outcome::stored);
        CHECK(cache.nbytes() == 10);

        // No token of anybody's prompt is saved by it, so it is no hit.
        require_miss(cache.fetch_nearest("m", nothing, {.min_remaining = 0}), nothing);
        require_miss(cache.fetch_nearest("m", something), something);

        SECTION("erased") {
            CHECK(cache.erase("m", nothing));
        }
        SECTION("evicted") {
            CHECK(evict_all(cache) == 1);
        }
        require_miss(cache.fetch_nearest("m", something), something);
        require_balanced(cache, std::vector<std::string>{"m"});
        CHECK(cache.empty());
    }
}

TEST_CASE("3. an exact hit leaves one token to compute unless the whole is asked for",
          "[scenario]") {
    const Tokens prompt = run(1, 8);

    SECTION("state that can be cut gives all but the last token") {
        Cache cache;
        store(cache, State{"m", prompt}, Tier::user);
        require_served(cache.fetch_nearest("m", prompt), "m", prompt, 7, Match::exact);
        require_served(cache.fetch_nearest("m", prompt, {.min_remaining = 0}), "m", prompt, 8,
                       Match::exact);
        CHECK(cache.probe("m", prompt).reused() == 7);
        CHECK(cache.lease_nearest("m", prompt).reused() == 7);
        CHECK(cache.lease_nearest("m", prompt, {.min_remaining = 0}).reused() == 8);
        require_miss(cache.fetch_nearest("m", prompt, {.min_remaining = 8}), prompt);
        require_miss(cache.fetch_nearest("m", prompt, {.min_remaining = 9}), prompt);
        require_served(cache.take_nearest("m", prompt), "m", prompt, 7, Match::exact);
        CHECK(cache.empty());
    }

    SECTION("state that cannot be cut gives the checkpoint before it") {
        RecurrentCache cache;
        store(cache, Recurrent{"m", prompt}, Tier::user);
        require_miss(cache.fetch_nearest("m", prompt), prompt);
        require_served(cache.fetch_nearest("m", prompt, {.min_remaining = 0}), "m", prompt, 8,
                       Match::exact);

        store(cache, Recurrent{"m", first_of(prompt, 5)}, Tier::user);
        require_served(cache.fetch_nearest("m", prompt), "m", prompt, 5, Match::shorter);
        require_served(cache.fetch_nearest("m", prompt, {.min_remaining = 0}), "m", prompt, 8,
                       Match::exact);
    }
}

TEST_CASE("4. a prompt that is a strict prefix of a stored key", "[scenario]") {
    const Tokens key = run(1, 9);
    const Tokens prompt = first_of(key, 5);

    SECTION("is served by state that can be cut, and leaves the entry whole") {
        Cache cache;
        store(cache, State{"m", key}, Tier::assistant);
        require_served(cache.fetch_nearest("m", prompt), "m", prompt, 4, Match::longer);
        require_served(cache.fetch_nearest("m", prompt, {.min_remaining = 0}), "m", prompt, 5,
                       Match::longer);
        require_miss(cache.take_nearest("m", prompt), prompt);
        CHECK(cache.nbytes() == 9);
        require_served(cache.fetch_nearest("m", key, {.min_remaining = 0}), "m", key, 9,
                       Match::exact);
    }

    SECTION("is a miss where the state cannot be cut") {
        RecurrentCache cache;
        store(cache, Recurrent{"m", key}, Tier::assistant);
        require_miss(cache.fetch_nearest("m", prompt), prompt);
        require_miss(cache.fetch_nearest("m", prompt, {.min_remaining = 0}), prompt);
        CHECK(cache.probe("m", prompt).match() == Match::none);
        CHECK(cache.size() == 1);
    }
}

TEST_CASE("5. a divergence inside an edge shares what comes before it, not more", "[scenario]") {
    const Tokens three{1, 2, 3};
    const Tokens four{1, 2, 3, 4};
    const Tokens prompt{1, 2, 4};

    SECTION("in the trie") {
        Trie trie;
        trie.insert_or_assign(three, 3);
        trie.insert_or_assign(four, 4);
        const auto found = trie.search(prompt);
        CHECK(found.common_prefix == 2);
        CHECK(found.exact == nullptr);
        CHECK(found.shorter == nullptr);
        REQUIRE(found.longer != nullptr);
        CHECK(*found.longer == 3); // the fewest extra tokens
    }

    SECTION("in the cache") {
        Cache cache;
        store(cache, State{"m", three}, Tier::user);
        store(cache, State{"m", four}, Tier::assistant);
        require_served(cache.fetch_nearest("m", prompt), "m", prompt, 2, Match::longer);
    }
}

TEST_CASE("6. storing a key takes away every prefix of it, one token shorter or the root",
          "[scenario]") {
    const Tokens key = run(1, 6);
    const Tokens sibling{1, 2, 9};
    const std::vector<std::size_t> shorter_lengths{0, 1, 4, 5};

    SECTION("asked of the trie") {
        Trie trie;
        for (const auto length : shorter_lengths)
            trie.insert_or_assign(first_of(key, length), static_cast<int>(length));
        trie.insert_or_assign(key, 6);
        trie.insert_or_assign(sibling, 9);

        const auto popped = trie.pop_prefixes(key);
        REQUIRE(popped.size() == shorter_lengths.size());
        for (std::size_t i = 0; i < popped.size(); ++i) {
            CHECK(popped[i].length == shorter_lengths[i]);
            CHECK(popped[i].value == static_cast<int>(shorter_lengths[i]));
        }
        CHECK(trie.size() == 2);
        REQUIRE(trie.find(key) != nullptr);
        CHECK(*trie.find(key) == 6);
        CHECK(trie.find(sibling) != nullptr);
    }

    SECTION("asked of the cache") {
        RecurrentCache cache;
        for (const std::size_t length : {1U, 4U, 5U})
            store(cache, Recurrent{"m", first_of(key, length)}, Tier::user);
        store(cache, Recurrent{"m", key}, Tier::user);
        store(cache, Recurrent{"m", sibling}, Tier::user);
        CHECK(cache.pop_prefixes("m", key) == 3);
        CHECK(cache.pop_prefixes("m", key) == 0);
        CHECK(cache.size() == 2);
        CHECK(cache.nbytes() == 20);
        CHECK(holds(cache, "m", key));
        CHECK(holds(cache, "m", sibling));
    }

    SECTION("by an insert, as far as it is persistent enough") {
        Cache cache;
        store(cache, State{"m", first_of(key, 1)}, Tier::system);
        store(cache, State{"m", first_of(key, 4)}, Tier::user);
        store(cache, State{"m", first_of(key, 5)}, Tier::assistant);
        REQUIRE(cache.size() == 3);
        CHECK(store(cache, State{"m", key}, Tier::assistant).absorbed == 1);
        CHECK(cache.size() == 3);
        CHECK(store(cache, State{"m", join(key, Tokens{7})}, Tier::system).absorbed == 3);
        CHECK(cache.size() == 1);
        CHECK(cache.nbytes() == 7);
        CHECK(holds(cache, "m", key));
    }
}

TEST_CASE("7. the entry that gives most is chosen, not the one found first", "[scenario]") {
    const Tokens shared = run(1, 4);
    const Tokens branch = join(shared, Tokens{90, 91});

    SECTION("the longer entry reaches further") {
        CheckpointedCache cache;
        store(cache, Checkpointed{"m", branch, {3, 4}}, Tier::assistant);
        store(cache, Checkpointed{"m", first_of(shared, 3), {}}, Tier::system);
        const Tokens prompt = join(shared, Tokens{5, 6});
        require_served(cache.fetch_nearest("m", prompt), "m", prompt, 4, Match::longer);
    }
    SECTION("the longer entry matches further but can only go back below the shorter one") {
        CheckpointedCache cache;
        store(cache, Checkpointed{"m", branch, {2}}, Tier::system);
        store(cache, Checkpointed{"m", first_of(shared, 3), {}}, Tier::assistant);
        const Tokens prompt = join(shared, Tokens{5, 6});
        require_served(cache.fetch_nearest("m", prompt), "m", prompt, 3, Match::shorter);
    }
    SECTION("at equal reuse the one that needs no cut, whatever the tier and the ages") {
        const auto tier = GENERATE(Tier::user, Tier::system);
        Cache cache;
        store(cache, State{"m", branch}, Tier::assistant);
        REQUIRE(store(cache, State{"m", shared}, tier).outcome == Outcome::stored);
        if (tier == Tier::user)
            (void)cache.fetch_nearest("m", branch); // the branch is the more recent one
        const Tokens prompt = join(shared, Tokens{50});
        require_served(cache.fetch_nearest("m", prompt), "m", prompt, 4, Match::shorter);
    }
}

TEST_CASE("8. a candidate that cannot be cut gives way to the next best", "[scenario]") {
    const Tokens shared = run(1, 8);
    const Tokens prompt = join(shared, Tokens{70, 71});
    const Tokens farther = join(shared, Tokens{90});
    const Tokens nearer = join(first_of(shared, 6), Tokens{80, 81});
    CheckpointedCache cache;

    SECTION("one that cannot be cut at all") {
        store(cache, Checkpointed{"m", farther, {}}, Tier::assistant);
        require_miss(cache.fetch_nearest("m", prompt), prompt);
        store(cache, Checkpointed{"m", nearer, {1, 2, 3, 4, 5, 6, 7}}, Tier::assistant);
        require_served(cache.fetch_nearest("m", prompt), "m", prompt, 6, Match::longer);
    }
    SECTION("one that can be cut, but not there") {
        store(cache, Checkpointed{"m", farther, {2}}, Tier::assistant);
        require_served(cache.fetch_nearest("m", prompt), "m", prompt, 2, Match::longer);
        store(cache, Checkpointed{"m", nearer, {6}}, Tier::assistant);
        require_served(cache.fetch_nearest("m", prompt), "m", prompt, 6, Match::longer);
    }
    SECTION("one beside another at the same branch") {
        store(cache, Checkpointed{"m", farther, {}}, Tier::assistant);
        store(cache, Checkpointed{"m", join(shared, run(60, 5)), {8}}, Tier::assistant);
        require_served(cache.fetch_nearest("m", prompt), "m", prompt, 8, Match::longer);
    }
    SECTION("only a shorter entry is left") {
        store(cache, Checkpointed{"m", farther, {}}, Tier::assistant);
        store(cache, Checkpointed{"m", first_of(shared, 2), {}}, Tier::assistant);
        require_served(cache.fetch_nearest("m", prompt), "m", prompt, 2, Match::shorter);
    }
}

TEST_CASE("9. the longest reuse wins however little of its entry is kept", "[scenario]") {
    Cache cache;
    const Tokens shared = run(1, 10);
    const Tokens vast = join(shared, run(1000, 2000));
    const Tokens snug = join(first_of(shared, 8), Tokens{80});
    store(cache, State{"m", vast}, Tier::assistant);
    store(cache, State{"m", snug}, Tier::assistant);

    const Tokens prompt = join(shared, Tokens{70, 71, 72});
    const auto hit = cache.fetch_nearest("m", prompt);
    require_served(hit, "m", prompt, 10, Match::longer);
    CHECK(hit.kv->nbytes() == 10);
    CHECK(cache.nbytes() == vast.size() + snug.size()); // nothing of the entry was lost
    CHECK(holds(cache, "m", vast));
}

TEST_CASE("10. the work for a long prompt beside many branches follows what is reused",
          "[scenario]") {
    const std::size_t branches = GENERATE(std::size_t{4}, std::size_t{64});
    CAPTURE(branches);

    SECTION("few questions, and no more tokens copied than reused") {
        MeteredCache cache;
        const Tokens prompt = fill_with_branches(cache, 32'768, branches);
        Metered::reset();
        const auto hit = cache.fetch_nearest("m", prompt);
        CHECK(hit.reused() == prompt.size() * branches / (branches + 1));
        CHECK(Metered::tokens_cloned == hit.reused());
        CHECK(Metered::questions <= 2 * 16);

        Metered::reset();
        cache.insert("m", prompt, Metered{prompt.size()}, Tier::assistant);
        CHECK(Metered::tokens_cloned == 0);
        CHECK(Metered::questions <= 4 * (branches + 1));
    }

    SECTION("sixteen times the prompt takes nowhere near its square") {
        const auto fastest_probe = [&](std::size_t length) {
            MeteredCache cache;
            const Tokens prompt = fill_with_branches(cache, length, branches);
            auto fastest = std::chrono::steady_clock::duration::max();
            for (int repetition = 0; repetition < 9; ++repetition) {
                const auto start = std::chrono::steady_clock::now();
                const auto reused = cache.probe("m", prompt).reused();
                fastest = std::min(fastest, std::chrono::steady_clock::now() - start);
                REQUIRE(reused == length * branches / (branches + 1));
            }
            return std::chrono::duration<double>(fastest).count();
        };
        CHECK(fastest_probe(16 * 32'768) < 128 * fastest_probe(32'768)); // linear: 16, square: 256
    }
}

TEST_CASE("11. a prompt that shares the first token alone steals no entry", "[scenario]") {
    const Tokens stored = join(Tokens{1}, run(10, 10));
    const Tokens prompt = join(Tokens{1}, run(30, 10));
    Cache cache({.max_entries = 2});
    store(cache, State{"m", stored}, Tier::assistant);
    store(cache, State{"m", run(500, 11)}, Tier::assistant);

    require_miss(cache.fetch_nearest("m", prompt, {.min_reuse = 2}), prompt);
    CHECK(cache.probe("m", prompt, {.min_reuse = 2}).miss() ==
          promptkv::MissReason::below_min_reuse);
    CHECK_FALSE(static_cast<bool>(cache.lease_nearest("m", prompt, {.min_reuse = 2})));
    require_miss(cache.take_nearest("m", prompt), prompt);
    CHECK(holds(cache, "m", stored));

    SECTION("nor does any of it make the entry look recently used") {
        store(cache, State{"m", run(700, 11)}, Tier::assistant);
        CHECK_FALSE(holds(cache, "m", stored));
        CHECK(holds(cache, "m", run(500, 11)));
    }
    SECTION("without a threshold the token is handed back, and the entry stays whole") {
        require_served(cache.fetch_nearest("m", prompt), "m", prompt, 1, Match::longer);
        CHECK(holds(cache, "m", stored));
        CHECK(cache.stats().hits_tiny == 1);
    }
}

TEST_CASE("12. nothing divides by the length of an empty prompt or the size of an empty payload",
          "[scenario]") {
    SECTION("an empty prompt against a full cache") {
        Cache cache;
        const Tokens nothing;
        store(cache, State{"m", run(1, 8)}, Tier::user);
        require_miss(cache.fetch_nearest("m", nothing), nothing);
        require_miss(cache.fetch_nearest("m", nothing, {.min_remaining = 0, .min_reuse = 0}),
                     nothing);
        CHECK(cache.stats().lookups == 2);
        CHECK(cache.stats().tokens_requested == 0);
        CHECK(cache.stats().tokens_reused == 0);
    }
    SECTION("victims that hold no bytes") {
        Cache cache({.max_bytes = 100});
        store(cache, State{"m", run(1, 40), 0}, Tier::assistant);
        store(cache, State{"m", run(101, 40), 0}, Tier::assistant);
        store(cache, State{"m", run(201, 100)}, Tier::assistant);
        REQUIRE(cache.size() == 3);
        CHECK(store(cache, State{"m", run(301, 60)}, Tier::assistant).outcome == Outcome::stored);
        CHECK(holds(cache, "m", run(301, 60)));
        require_balanced(cache, std::vector<std::string>{"m"});
    }
}

namespace {

/// The plainest cache of all: a map, and every question answered by looking at every key.
class BruteForce {
public:
    explicit BruteForce(bool can_be_cut) : can_be_cut_(can_be_cut) {}

    /// Whether a longer key serves `key`, which then needs no entry.
    bool present(const Tokens& key) const {
        return can_be_cut_ && std::any_of(entries_.begin(), entries_.end(), [&](const auto& entry) {
                   return entry.first.size() > key.size() && is_prefix(key, entry.first);
               });
    }
    void insert(const Tokens& key, const std::string& version) {
        if (can_be_cut_)
            pop_prefixes(key);
        entries_[key] = version;
    }
    bool erase(const Tokens& key) { return entries_.erase(key) == 1; }
    std::size_t pop_prefixes(const Tokens& key) {
        return std::erase_if(entries_, [&](const auto& entry) {
            return entry.first.size() < key.size() && is_prefix(entry.first, key);
        });
    }
    std::size_t best_reuse(const Tokens& prompt, std::size_t min_remaining) const {
        if (prompt.size() < min_remaining)
            return 0;
        std::size_t best = 0;
        for (const auto& [key, version] : entries_) {
            const auto reuse = std::min(common_prefix(key, prompt), prompt.size() - min_remaining);
            if (can_be_cut_ || reuse == key.size())
                best = std::max(best, reuse);
        }
        return best;
    }
    std::optional<Tokens> longest_prefix(const Tokens& prompt) const {
        std::optional<Tokens> best;
        for (const auto& [key, version] : entries_) {
            if (is_prefix(key, prompt) && (!best.has_value() || best->size() < key.size()))
                best = key;
        }
        return best;
    }
    std::map<Tokens, std::string>& entries() { return entries_; }

private:
    static bool is_prefix(const Tokens& head, const Tokens& whole) {
        return common_prefix(head, whole) == head.size();
    }

    bool can_be_cut_;
    std::map<Tokens, std::string> entries_;
};

/// Mixed operations on short keys of two symbols, checked against BruteForce after each.
template <class KV>
void fuzz_against_brute_force(unsigned seed, bool can_be_cut) {
    CAPTURE(seed, can_be_cut);
    promptkv::LRUPromptCache<KV> cache;
    BruteForce model(can_be_cut);
    std::mt19937 random(seed);
    const auto below = [&](unsigned bound) { return random() % bound; };
    const auto draw_key = [&](unsigned shortest) {
        Tokens key(shortest + below(8));
        std::generate(key.begin(), key.end(), [&] { return static_cast<std::int32_t>(below(2)); });
        return key;
    };

    for (unsigned step = 0; step < 400; ++step) {
        CAPTURE(step);
        const Tokens key = draw_key(1);
        switch (below(8)) {
        case 0:
        case 1:
        case 2: {
            // The model's name doubles as a version: a stale payload would give itself away.
            const auto version = std::to_string(step);
            const bool known = model.entries().contains(key);
            const auto inserted = cache.insert("m", key, KV{version, key}, Tier::user);
            if (model.present(key)) {
                REQUIRE(inserted.outcome == Outcome::present);
                break;
            }
            REQUIRE(inserted.outcome == (known ? Outcome::replaced : Outcome::stored));
            const auto before = model.entries().size() + (known ? 0U : 1U);
            model.insert(key, version);
            REQUIRE(inserted.absorbed == before - model.entries().size());
            break;
        }
        case 3:
            REQUIRE(cache.erase("m", key) == model.erase(key));
            break;
        case 4:
            if (below(4) == 0)
                REQUIRE(cache.pop_prefixes("m", key) == model.pop_prefixes(key));
            break;
        case 5:
            if (below(4) == 0) {
                cache.trim_to(
                    {.max_entries = cache.size() - std::min<std::size_t>(cache.size(), below(3))});
                std::map<Tokens, std::string> survivors;
                cache.for_each([&](const auto& entry) {
                    survivors.emplace(Tokens(entry.tokens.begin(), entry.tokens.end()),
                                      entry.kv.model);
                });
                REQUIRE(std::includes(model.entries().begin(), model.entries().end(),
                                      survivors.begin(), survivors.end()));
                model.entries() = survivors;
            }
            break;
        case 6: {
            const auto expected = model.longest_prefix(key);
            const auto taken = cache.take_nearest("m", key, {.min_remaining = 0});
            REQUIRE(static_cast<bool>(taken) == expected.has_value());
            if (expected.has_value()) {
                REQUIRE(taken.kv->tokens == *expected);
                REQUIRE(taken.kv->model == model.entries().at(*expected));
                REQUIRE(model.erase(*expected));
            }
            break;
        }
        default:
            break;
        }

        const Tokens prompt = draw_key(0);
        const std::size_t min_remaining = below(3);
        const auto expected = model.best_reuse(prompt, min_remaining);
        const auto hit = cache.fetch_nearest("m", prompt, {.min_remaining = min_remaining});
        require_split(hit, prompt);
        REQUIRE(hit.reused() == expected);
        REQUIRE(hit.kv.has_value() == (expected > 0));
        if (hit.kv.has_value()) {
            REQUIRE(hit.kv->tokens == first_of(prompt, expected));
            const auto& source = hit.kv->model; // which version of which entry it came from
            REQUIRE(
                std::any_of(model.entries().begin(), model.entries().end(), [&](const auto& entry) {
                    return entry.second == source && common_prefix(entry.first, prompt) >= expected;
                }));
        }
        REQUIRE(cache.size() == model.entries().size());
        REQUIRE(cache.check_invariants());
    }
}

} // namespace

TEST_CASE("13. random operations on two symbols agree with brute force, contents included",
          "[scenario]") {
    for (unsigned seed = 1; seed <= 6; ++seed) {
        fuzz_against_brute_force<State>(seed, true);
        fuzz_against_brute_force<Recurrent>(seed, false);
    }
}

TEST_CASE("14. tokens of any value are told apart", "[scenario]") {
    SECTION("negative and extreme 32-bit tokens") {
        Cache cache;
        constexpr auto lowest = std::numeric_limits<std::int32_t>::min();
        constexpr auto highest = std::numeric_limits<std::int32_t>::max();
        for (const std::int32_t token : {lowest, -1, 0, 1, highest - 1, highest})
            store(cache, State{"m", {token, 5, token}}, Tier::user);
        REQUIRE(cache.size() == 6);
        for (const std::int32_t token : {lowest, -1, 0, 1, highest - 1, highest}) {
            const Tokens prompt{token, 5, token, 9};
            require_served(cache.fetch_nearest("m", prompt), "m", prompt, 3, Match::shorter);
        }
        const Tokens stranger{highest - 2, 5};
        require_miss(cache.fetch_nearest("m", stranger), stranger);
    }

    SECTION("64-bit tokens that agree in their lower half, or in any power of two") {
        using Wide = BasicState<std::int64_t>;
        promptkv::LRUPromptCache<Wide, std::string, std::int64_t> cache;
        const int shift = GENERATE(0, 8, 16, 20, 32, 48);
        constexpr std::int64_t children = 2'048; // below one node, so any hash of theirs is tried
        CAPTURE(shift);
        const auto token = [&](std::int64_t i) { return 5 + i * (std::int64_t{1} << shift); };
        for (std::int64_t i = 0; i < children; ++i)
            store(cache, Wide{"m", {1, token(i), i}}, Tier::user);
        REQUIRE(cache.size() == static_cast<std::size_t>(children));
        for (std::int64_t i = 0; i < children; ++i) {
            const BasicTokens<std::int64_t> prompt{1, token(i), i, 7};
            require_served(cache.fetch_nearest("m", prompt), "m", prompt, 3, Match::shorter);
        }
        const BasicTokens<std::int64_t> stranger{1, token(children), 0};
        require_served(cache.fetch_nearest("m", stranger), "m", stranger, 1, Match::longer);
        const BasicTokens<std::int64_t> truncated{1 + (std::int64_t{1} << 32), token(0), 0};
        require_miss(cache.fetch_nearest("m", truncated), truncated);
        CHECK(cache.check_invariants());
    }
}
