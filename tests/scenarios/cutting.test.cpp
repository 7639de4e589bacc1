// SPDX-License-Identifier: MIT
// Scenarios 15 to 20: state that can be cut in some places only, and cuts that fail.
#include "state.hpp"

#include <algorithm>
#include <set>
#include <stdexcept>

using namespace scenario;
using promptkv::Match;
using promptkv::Outcome;
using promptkv::Tier;

namespace {

/// State of a hybrid model: attention layers that go back anywhere, recurrent ones that go back
/// to a snapshot every `every` tokens, and a sliding window that goes back at most `slack`.
struct Hybrid {
    std::string model;
    Tokens tokens;
    std::size_t every = 4;
    std::size_t slack = 6;
    std::vector<std::size_t> layers = {}; // tokens that each layer holds; all of them if empty

    std::size_t nbytes() const noexcept { return 3 * tokens.size(); }
    std::size_t reusable_prefix(std::size_t n) const noexcept {
        const auto whole = tokens.size();
        if (n >= whole)
            return whole;
        const auto attention = n;
        const auto recurrent = n / every * every;
        const auto reachable = std::min(attention, recurrent);
        return reachable + slack >= whole ? reachable : 0;
    }
    Hybrid clone_prefix(std::size_t n) const {
        return Hybrid{model, first_of(tokens, n), every, slack, {n, n, n}};
    }
    std::size_t length() const noexcept { return tokens.size(); }
};

/// A rotating cache: of all its tokens it holds the last `window`, and a position is of use if
/// the `reach` tokens before it are still held.
struct Window {
    std::string model;
    Tokens tokens;
    std::size_t window = 16;
    std::size_t reach = 8;

    std::size_t nbytes() const noexcept { return std::min(tokens.size(), window); }
    std::size_t reusable_prefix(std::size_t n) const noexcept {
        if (n >= tokens.size())
            return tokens.size();
        const auto first_held = tokens.size() - std::min(tokens.size(), window);
        return n - std::min(n, reach) >= first_held ? n : 0;
    }
    Window clone_prefix(std::size_t n) const {
        REQUIRE(reusable_prefix(n) == n); // anything else would be garbage
        return Window{model, first_of(tokens, n), window, reach};
    }
    std::size_t length() const noexcept { return tokens.size(); }
};

/// Counts positions in a way of its own, and answers with them whatever it is asked.
struct Drifting {
    std::string model;
    Tokens tokens;
    std::size_t position = 0;

    static inline std::set<std::size_t> asked;

    std::size_t nbytes() const noexcept { return tokens.size(); }
    std::size_t reusable_prefix(std::size_t) const noexcept { return position; }
    Drifting clone_prefix(std::size_t n) const {
        asked.insert(n);
        return Drifting{model, first_of(tokens, n), position};
    }
};

/// State of full attention whose copies fail when told to.
struct Brittle {
    std::string model;
    Tokens tokens;

    static inline bool fails = false;

    std::size_t nbytes() const noexcept { return tokens.size(); }
    std::size_t reusable_prefix(std::size_t n) const noexcept { return std::min(n, tokens.size()); }
    Brittle clone_prefix(std::size_t n) const {
        if (fails)
            throw std::runtime_error("no memory on the device");
        return Brittle{model, first_of(tokens, n)};
    }
    std::size_t length() const noexcept { return tokens.size(); }
};

/// Makes Brittle state fail for as long as it lives.
class Failing {
public:
    Failing() { Brittle::fails = true; }
    ~Failing() { Brittle::fails = false; }
    Failing(const Failing&) = delete;
    Failing& operator=(const Failing&) = delete;
};

/// Asks for prompts that end, leave or go on at every point of the stored keys.
template <class KV>
void sweep(const std::vector<KV>& stored, bool can_be_cut) {
    promptkv::LRUPromptCache<KV> cache;
    for (const auto& payload : stored)
        store(cache, payload, Tier::user);
    const Tokens& key = stored.back().tokens;
    for (std::size_t shared = 0; shared <= key.size(); ++shared) {
        for (std::size_t extra = 0; extra < 4; ++extra) {
            const Tokens prompt = join(first_of(key, shared), run(900, extra));
            for (std::size_t min_remaining = 0; min_remaining < 4; ++min_remaining) {
                for (const std::size_t align : {1U, 2U, 4U}) {
                    CAPTURE(shared, extra, min_remaining, align);
                    const auto hit = cache.fetch_nearest(
                        "m", prompt, {.min_remaining = min_remaining, .align = align});
                    require_split(hit, prompt);
                    REQUIRE(hit.kv.has_value() == (hit.reused() > 0));
                    if (hit.kv.has_value()) {
                        REQUIRE(hit.remaining(prompt).size() >= min_remaining);
                        REQUIRE(hit.kv->tokens == first_of(prompt, hit.reused()));
                    }
                    if (can_be_cut) {
                        const auto most = std::min(
                            shared, prompt.size() - std::min(prompt.size(), min_remaining));
                        REQUIRE(hit.reused() == most / align * align);
                    }
                }
            }
        }
    }
}

} // namespace

TEST_CASE("15. a payload of many layers goes back to where all of its layers can", "[scenario]") {
    promptkv::LRUPromptCache<Hybrid> cache;
    store(cache, Hybrid{"m", run(1, 20)}, Tier::assistant);

    const auto diverging_at = [](std::size_t shared) {
        return join(first_of(run(1, 20), shared), run(900, 3));
    };
    const Tokens late = diverging_at(19); // attention 19, recurrent 16, window 14
    const auto hit = cache.fetch_nearest("m", late);
    require_served(hit, "m", late, 16, Match::longer);
    CHECK(hit.kv->layers == std::vector<std::size_t>{16, 16, 16});

    const Tokens early = diverging_at(15); // attention 15, recurrent 12, window 14
    require_miss(cache.fetch_nearest("m", early), early);

    // A snapshot of its own at 12 takes over where the long one refuses.
    store(cache, Hybrid{"m", run(1, 12)}, Tier::user);
    require_served(cache.fetch_nearest("m", early), "m", early, 12, Match::shorter);
    require_served(cache.fetch_nearest("m", late), "m", late, 16, Match::longer);
}

TEST_CASE("16. a window that has slid past the target is refused", "[scenario]") {
    promptkv::LRUPromptCache<Window> cache;
    const Tokens key = run(1, 40); // holds tokens 24 to 40, so positions from 32 on are of use
    store(cache, Window{"m", key}, Tier::assistant);

    for (std::size_t shared = 1; shared <= key.size(); ++shared) {
        CAPTURE(shared);
        const Tokens prompt = join(first_of(key, shared), Tokens{900});
        const auto hit = cache.fetch_nearest("m", prompt);
        if (shared == key.size()) {
            require_served(hit, "m", prompt, shared, Match::shorter);
        } else if (shared >= 32) {
            require_served(hit, "m", prompt, shared, Match::longer);
        } else {
            require_miss(hit, prompt);
            CHECK(cache.probe("m", prompt).reused() == 0);
            CHECK_FALSE(static_cast<bool>(cache.lease_nearest("m", prompt)));
        }
    }

    // Before it was full it had lost nothing.
    store(cache, Window{"m", run(500, 16)}, Tier::assistant);
    const Tokens prompt{500, 501, 900};
    require_served(cache.fetch_nearest("m", prompt), "m", prompt, 2, Match::longer);
}

TEST_CASE("17. what is handed back and what remains make up the prompt, to the token",
          "[scenario]") {
    const Tokens key = run(1, 13);
    sweep<State>({State{"m", first_of(key, 5)}, State{"m", key}}, true);
    sweep<Checkpointed>(
        {Checkpointed{"m", first_of(key, 3), {}}, Checkpointed{"m", key, {4, 8, 12}}}, false);
    sweep<Recurrent>(
        {Recurrent{"m", first_of(key, 1)}, Recurrent{"m", first_of(key, 12)}, Recurrent{"m", key}},
        false);
}

TEST_CASE("18. cuts count from the start of the key, whatever the payload believes", "[scenario]") {
    promptkv::LRUPromptCache<Drifting> cache;
    Drifting::asked.clear();
    const Tokens key = run(1, 10);
    store(cache, Drifting{"m", key, 110}, Tier::assistant); // 100 tokens before it were dropped

    const Tokens branch = join(first_of(key, 6), run(900, 20));
    require_served(cache.fetch_nearest("m", branch), "m", branch, 6, Match::longer);
    require_served(cache.fetch_nearest("m", key), "m", key, 9, Match::exact);
    const Tokens beyond = join(key, run(900, 20));
    require_served(cache.fetch_nearest("m", beyond), "m", beyond, 10, Match::shorter);
    CHECK(Drifting::asked == std::set<std::size_t>{6, 9, 10});
    CHECK(cache.lease_nearest("m", branch).reused() == 6);
    CHECK(cache.probe("m", branch).reused() == 6);
}

TEST_CASE("19. of several checkpoints the nearest before the divergence is used, and old ones go",
          "[scenario]") {
    const Tokens conversation = run(1, 40);
    const auto diverging_at = [&](std::size_t shared) {
        return join(first_of(conversation, shared), run(900, 3));
    };

    SECTION("checkpoints inside one payload") {
        promptkv::LRUPromptCache<Checkpointed> cache;
        store(cache, Checkpointed{"m", conversation, {8, 16, 24, 32}}, Tier::assistant);
        for (std::size_t shared = 1; shared < conversation.size(); ++shared) {
            CAPTURE(shared);
            const Tokens prompt = diverging_at(shared);
            const auto hit = cache.fetch_nearest("m", prompt);
            if (shared < 8)
                require_miss(hit, prompt);
            else
                require_served(hit, "m", prompt, shared / 8 * 8, Match::longer);
        }
    }

    SECTION("an entry a checkpoint") {
        promptkv::LRUPromptCache<Recurrent> cache({.max_entries = 3});
        store(cache, Recurrent{"m", first_of(conversation, 10)}, Tier::system);
        store(cache, Recurrent{"m", first_of(conversation, 20)}, Tier::assistant);
        store(cache, Recurrent{"m", first_of(conversation, 30)}, Tier::assistant);
        store(cache, Recurrent{"m", conversation}, Tier::assistant);

        // A superseded one made room, and the system prompt stayed.
        CHECK(cache.stats().superseded >= 2);
        CHECK_FALSE(holds(cache, "m", first_of(conversation, 20)));
        for (const std::size_t shared : {10U, 15U, 29U}) {
            CAPTURE(shared);
            const Tokens prompt = diverging_at(shared);
            require_served(cache.fetch_nearest("m", prompt), "m", prompt, 10, Match::shorter);
        }
        const Tokens late = diverging_at(35);
        require_served(cache.fetch_nearest("m", late), "m", late, 30, Match::shorter);
    }
}

TEST_CASE("20. a copy that throws costs nothing but itself, and a victim without a cut goes alone",
          "[scenario]") {
    promptkv::LRUPromptCache<Brittle> cache({.max_bytes = 40});
    const Tokens older = run(1, 20);
    const Tokens newer = run(101, 20);
    store(cache, Brittle{"m", older}, Tier::assistant);
    store(cache, Brittle{"m", newer}, Tier::assistant);

    SECTION("a fetch that cannot copy leaves entries and bytes alone, and counts as a use") {
        {
            const Failing failing;
            CHECK_THROWS_AS(cache.fetch_nearest("m", older), std::runtime_error);
            CHECK_THROWS_AS(cache.fetch_nearest("m", older, {.min_remaining = 0}),
                            std::runtime_error);
        }
        CHECK(cache.size() == 2);
        CHECK(cache.nbytes() == 40);
        CHECK(cache.stats().hits_exact == 2);
        CHECK(cache.stats().tokens_reused == 39);
        CHECK(cache.check_invariants());
        CHECK(holds(cache, "m", older));
        CHECK(holds(cache, "m", newer));

        store(cache, Brittle{"m", run(201, 20)}, Tier::assistant);
        CHECK(holds(cache, "m", older)); // as after a fetch that succeeds
        CHECK_FALSE(holds(cache, "m", newer));
    }

    SECTION("a mark that cannot copy marks nothing") {
        cache.set_limits({});
        {
            const Failing failing;
            CHECK_THROWS_AS(cache.mark("m", first_of(older, 10), Tier::system), std::runtime_error);
        }
        CHECK(cache.stats(Tier::system).entries == 0);
        CHECK(cache.nbytes() == 40);
        require_balanced(cache, std::vector<std::string>{"m"});
    }

    SECTION("a victim that cannot be cut is lost alone") {
        const auto inserted = store(cache, Brittle{"m", run(201, 5)}, Tier::assistant);
        CHECK(inserted.outcome == Outcome::stored);
        CHECK_FALSE(holds(cache, "m", first_of(older, 1)));
        CHECK(holds(cache, "m", newer));
        CHECK(holds(cache, "m", run(201, 5)));
        CHECK(cache.nbytes() == 25);
        require_balanced(cache, std::vector<std::string>{"m"});
    }
}
