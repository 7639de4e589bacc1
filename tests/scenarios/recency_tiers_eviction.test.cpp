// SPDX-License-Identifier: MIT
// Scenarios 21 to 34: what is recent, what is persistent, and what leaves under pressure.
#include "state.hpp"

#include <array>
#include <functional>
#include <list>
#include <memory>
#include <random>

using namespace scenario;
using promptkv::Match;
using promptkv::Outcome;
using promptkv::RemovalReason;
using promptkv::Tier;

namespace {

using Cache = promptkv::LRUPromptCache<State>;
using RecurrentCache = promptkv::LRUPromptCache<Recurrent>;
using Trie = promptkv::PromptTrie<int>;

const std::vector<std::string> models{"m"};

constexpr auto always = [] { return true; };

/// The first token of the victim, when one entry has to go. Token 0 if there was none.
template <class Cache>
std::int32_t evict_one(Cache& cache) {
    std::int32_t first_token = 0;
    cache.on_removal([&](const auto& removal) { first_token = *removal.tokens.begin(); });
    bool wanted = true;
    cache.evict_while([&] { return std::exchange(wanted, false); });
    cache.on_removal(nullptr);
    return first_token;
}

} // namespace

TEST_CASE("S21: a fetch makes its entry the most recently used", "[scenario]") {
    RecurrentCache cache({.max_entries = 2});
    store(cache, Recurrent{"m", run(1, 5)}, Tier::assistant);
    store(cache, Recurrent{"m", run(101, 5)}, Tier::assistant);

    SECTION("by an exact match") {
        const Tokens prompt = run(1, 5);
        REQUIRE(cache.fetch_nearest("m", prompt, {.min_remaining = 0}).match == Match::exact);
    }
    SECTION("by a shorter match") {
        const Tokens prompt = run(1, 9);
        REQUIRE(cache.fetch_nearest("m", prompt).match == Match::shorter);
    }
    SECTION("by a lease") {
        const Tokens prompt = run(1, 9);
        REQUIRE(cache.lease_nearest("m", prompt).match == Match::shorter);
    }
    store(cache, Recurrent{"m", run(201, 5)}, Tier::assistant);
    CHECK(holds(cache, "m", run(1, 5)));
    CHECK_FALSE(holds(cache, "m", run(101, 5)));
}

TEST_CASE("S22: looking without fetching leaves recency alone", "[scenario]") {
    Cache cache;
    const Tokens oldest = run(1, 5);
    store(cache, State{"m", oldest}, Tier::assistant);
    store(cache, State{"m", run(101, 5)}, Tier::assistant);
    const Tokens beyond = run(1, 9);
    const Tokens branch{1, 2, 900};

    SECTION("by a probe") {
        REQUIRE(cache.probe("m", oldest, {.min_remaining = 0}).match == Match::exact);
        REQUIRE(cache.probe("m", beyond).match == Match::shorter);
        REQUIRE(cache.probe("m", branch).match == Match::longer);
        CHECK(cache.stats().lookups == 0);
    }
    SECTION("by going through the entries") {
        std::size_t entries = 0;
        cache.for_each([&](const auto&) { ++entries; });
        REQUIRE(entries == 2);
    }
    SECTION("by a match of an entry that goes on elsewhere") {
        REQUIRE(cache.fetch_nearest("m", branch).match == Match::longer);
    }
    SECTION("by a miss, however close") {
        REQUIRE_FALSE(static_cast<bool>(cache.fetch_nearest("m", beyond, {.min_reuse = 6})));
    }
    SECTION("by a refused take") {
        REQUIRE_FALSE(static_cast<bool>(cache.take_nearest("m", branch)));
    }
    CHECK(evict_one(cache) == 1);
}

TEST_CASE("S23: a system entry survives longer assistant entries and the pressure after them",
          "[scenario]") {
    const Tokens system = run(1, 20);
    const Tokens conversation = run(1, 60);
    const Tokens next_user = join(system, Tokens{900});

    SECTION("state that can be cut: the conversation is cut back to it") {
        Cache cache({.max_bytes = 100, .cut_granularity = 1});
        store(cache, State{"m", system}, Tier::system);
        const auto longer = store(cache, State{"m", conversation}, Tier::assistant);
        CHECK(longer.outcome == Outcome::stored);
        CHECK(longer.absorbed == 1);
        CHECK(cache.nbytes() == 60); // the shared tokens are paid for once
        CHECK(cache.stats(Tier::system).anchors == 1);

        for (std::int32_t user = 1; user <= 30; ++user) {
            CAPTURE(user);
            store(cache, State{"m", run(1000 * user, 80)}, Tier::assistant);
            require_served(cache.fetch_nearest("m", next_user), "m", next_user, 20, Match::shorter);
            require_balanced(cache, models);
        }
        CHECK(cache.fetch_nearest("m", next_user).tier == Tier::system);
        CHECK(cache.stats(Tier::system).entries == 1);
        CHECK(cache.stats().cut >= 1);
    }

    SECTION("state that cannot be cut: it stays an entry of its own") {
        RecurrentCache cache({.max_bytes = 30});
        store(cache, Recurrent{"m", system}, Tier::system);
        CHECK(store(cache, Recurrent{"m", conversation}, Tier::assistant).absorbed == 0);
        for (std::int32_t user = 1; user <= 30; ++user) {
            CAPTURE(user);
            store(cache, Recurrent{"m", run(1000 * user, 80)}, Tier::assistant);
            require_served(cache.fetch_nearest("m", next_user), "m", next_user, 20, Match::shorter);
        }
        CHECK(cache.fetch_nearest("m", next_user).tier == Tier::system);
        require_balanced(cache, models);
    }

    SECTION("state that can be reused in part but not cut in place: it stays an entry too") {
        struct Uncut {
            std::string model;
            Tokens tokens;
            std::size_t nbytes() const noexcept { return tokens.size(); }
            std::size_t reusable_prefix(std::size_t n) const noexcept { return n; }
            Uncut clone_prefix(std::size_t n) const { return Uncut{model, first_of(tokens, n)}; }
        };
        promptkv::LRUPromptCache<Uncut> cache({.max_bytes = 100});
        store(cache, Uncut{"m", system}, Tier::system);
        CHECK(store(cache, Uncut{"m", conversation}, Tier::assistant).absorbed == 0);
        CHECK(cache.nbytes() == 80);
        for (std::int32_t user = 1; user <= 30; ++user) {
            CAPTURE(user);
            store(cache, Uncut{"m", run(1000 * user, 80)}, Tier::assistant);
            require_served(cache.fetch_nearest("m", next_user), "m", next_user, 20, Match::shorter);
        }
    }
}

TEST_CASE("S24: storing a key again never demotes it, and promotes it where asked", "[scenario]") {
    const Tokens key = run(1, 10);

    SECTION("state that cannot be cut") {
        RecurrentCache cache;
        store(cache, Recurrent{"m", key}, Tier::user);
        CHECK(store(cache, Recurrent{"m", key}, Tier::assistant).outcome == Outcome::replaced);
        CHECK(cache.stats(Tier::user).entries == 1);
        CHECK(cache.stats(Tier::assistant).entries == 0);
        CHECK(store(cache, Recurrent{"m", key}, Tier::system).outcome == Outcome::replaced);
        CHECK(cache.stats(Tier::system).entries == 1);
        CHECK(cache.stats(Tier::user).entries == 0);
        CHECK(cache.fetch_nearest("m", key, {.min_remaining = 0}).tier == Tier::system);
        require_balanced(cache, models);
    }

    SECTION("an anchor below a longer entry") {
        Cache cache;
        store(cache, State{"m", key}, Tier::user);
        store(cache, State{"m", run(1, 30)}, Tier::assistant);
        REQUIRE(cache.stats(Tier::user).anchors == 1);
        CHECK(store(cache, State{"m", key}, Tier::assistant).outcome == Outcome::anchored);
        CHECK(cache.stats(Tier::user).anchors == 1);
        CHECK(store(cache, State{"m", key}, Tier::system).outcome == Outcome::anchored);
        CHECK(cache.stats(Tier::system).anchors == 1);
        CHECK(cache.stats(Tier::user).anchors == 0);
        CHECK(cache.mark("m", key, Tier::assistant));
        CHECK(cache.stats(Tier::system).anchors == 1);
    }

    SECTION("an anchor that nothing serves any more") {
        Cache cache;
        store(cache, State{"m", key}, Tier::system);
        store(cache, State{"m", run(1, 30)}, Tier::assistant);
        REQUIRE(erase(cache, "m", run(1, 30)));
        REQUIRE(cache.empty());
        CHECK(store(cache, State{"m", key}, Tier::assistant).outcome == Outcome::stored);
        CHECK(cache.stats(Tier::system).entries == 1);
        CHECK(cache.stats(Tier::assistant).entries == 0);
    }
}

TEST_CASE("S25: the tier of the victim follows from the lengths of the queues, not from bytes",
          "[scenario]") {
    // One huge assistant entry, but the tiny user entries outnumber it.
    RecurrentCache cache;
    store(cache, Recurrent{"m", run(100, 9), 5'000}, Tier::assistant);
    store(cache, Recurrent{"m", run(200, 9), 1}, Tier::user);
    store(cache, Recurrent{"m", run(300, 9), 1}, Tier::user);
    store(cache, Recurrent{"m", run(400, 9), 900}, Tier::system);
    store(cache, Recurrent{"m", run(500, 9), 900}, Tier::system);

    CHECK(evict_one(cache) == 200); // assistants 1 < users 2; users 2 >= systems 2
    CHECK(evict_one(cache) == 100); // assistants 1 >= users 1
    CHECK(evict_one(cache) == 400); // users 1 < systems 2
    CHECK(evict_one(cache) == 300); // users 1 >= systems 1
    CHECK(evict_one(cache) == 500);
    CHECK(cache.empty());
}

TEST_CASE("S26: where nothing may be taken, eviction says so and ends", "[scenario]") {
    RecurrentCache cache;

    SECTION("an empty cache") {
        CHECK(cache.evict_while(always) == 0);
        CHECK(cache.trim_to({.max_bytes = 0, .max_entries = 0}) == 0);
    }
    SECTION("every tier but one is empty") {
        const auto tier = GENERATE(Tier::assistant, Tier::user, Tier::system);
        store(cache, Recurrent{"m", run(1, 5)}, tier);
        store(cache, Recurrent{"m", run(101, 5)}, tier);
        CHECK(evict_one(cache) == 1);
        CHECK(cache.evict_while(always) == 1);
        CHECK(cache.empty());
    }
    SECTION("everything is leased") {
        store(cache, Recurrent{"m", run(1, 5)}, Tier::assistant);
        store(cache, Recurrent{"m", run(101, 5)}, Tier::system);
        cache.set_limits({.max_bytes = 25});
        const Tokens one = run(1, 6);
        const Tokens two = run(101, 6);
        auto first = cache.lease_nearest("m", one);
        auto second = cache.lease_nearest("m", two);
        CHECK(cache.evict_while(always) == 0);
        CHECK(store(cache, Recurrent{"m", run(201, 5)}, Tier::user).outcome == Outcome::no_room);
        CHECK(cache.size() == 2);
        CHECK(first.kv().tokens == run(1, 5));
        CHECK(second.kv().tokens == run(101, 5));
    }
    SECTION("the queues themselves") {
        promptkv::CacheOrder<int> order;
        CHECK(order.pop() == std::nullopt);
        const auto position = order.push(1, Tier::user);
        CHECK(order.victim([](const auto&) { return false; }) == nullptr);
        CHECK(order.size() == 1);
        order.remove(position);
        CHECK(order.pop() == std::nullopt);
    }
}

TEST_CASE("S27: a shared prefix outlives the conversations that grew from it", "[scenario]") {
    const Tokens prefix = run(1, 20);
    const Tokens one = join(prefix, run(100, 20));
    const Tokens two = join(prefix, run(200, 20));

    SECTION("state that cannot be cut") {
        RecurrentCache cache;
        store(cache, Recurrent{"m", prefix}, Tier::assistant);
        store(cache, Recurrent{"m", one}, Tier::assistant);
        require_served(cache.fetch_nearest("m", two), "m", two, 20, Match::shorter);
        store(cache, Recurrent{"m", two}, Tier::assistant);

        cache.trim_to({.max_entries = 2}); // the first leaf goes, not what both came from
        CHECK(holds(cache, "m", prefix));
        CHECK_FALSE(holds(cache, "m", one));
        CHECK(holds(cache, "m", two));
    }

    SECTION("state that can be cut") {
        Cache cache({.cut_granularity = 1});
        store(cache, State{"m", prefix}, Tier::user);
        store(cache, State{"m", one}, Tier::assistant);
        store(cache, State{"m", two}, Tier::assistant);
        REQUIRE(cache.nbytes() == 80);

        cache.trim_to({.max_bytes = 40});
        CHECK(cache.size() == 1);
        CHECK(holds(cache, "m", two)); // the other one kept nothing but what this one serves
        cache.trim_to({.max_bytes = 20});
        CHECK(cache.size() == 1);
        CHECK(cache.nbytes() == 20);
        const Tokens prompt = join(prefix, Tokens{900});
        require_served(cache.fetch_nearest("m", prompt), "m", prompt, 20, Match::shorter);
        CHECK(cache.stats(Tier::user).entries == 1); // in its own tier again
        require_balanced(cache, models);
    }
}

TEST_CASE("S28: an entry being restored that leaves no room is reported, not waited for",
          "[scenario]") {
    const Tokens prefix = run(1, 30);
    const Tokens grown = run(1, 50);

    const auto restore_and_grow = [&](auto& cache, auto prefix_state, auto grown_state) {
        const auto grown_bytes = grown_state.nbytes();
        REQUIRE(store(cache, std::move(prefix_state), Tier::user).outcome == Outcome::stored);
        {
            const auto restoring = cache.lease_nearest("m", grown);
            REQUIRE(restoring.reused == 30);
            const auto refused = store(cache, grown_state, Tier::user);
            CHECK(refused.outcome == Outcome::no_room);
            CHECK(refused.evicted + refused.absorbed + refused.cut == 0);
            CHECK(restoring.kv().tokens == prefix);
            CHECK(holds(cache, "m", prefix));
        }
        CHECK(cache.stats().no_room == 1);
        CHECK(store(cache, grown_state, Tier::user).outcome == Outcome::stored);
        CHECK(cache.nbytes() == grown_bytes);
        CHECK(holds(cache, "m", grown));
        require_balanced(cache, models);
    };
    SECTION("state that can be cut") {
        Cache cache({.max_bytes = 60});
        restore_and_grow(cache, State{"m", prefix}, State{"m", grown});
    }
    SECTION("state that cannot be cut") {
        RecurrentCache cache({.max_bytes = 60});
        restore_and_grow(cache, Recurrent{"m", prefix, 30}, Recurrent{"m", grown, 50});
    }
}

TEST_CASE("S29: no use is counted twice, and no stale place in a queue is ever taken",
          "[scenario]") {
    SECTION("a partial match is one hit of one entry") {
        Cache cache;
        store(cache, State{"m", run(1, 10)}, Tier::user);
        const Tokens prompt = join(run(1, 4), run(900, 6));
        (void)cache.fetch_nearest("m", prompt);
        const auto stats = cache.stats();
        CHECK(stats.lookups == 1);
        CHECK(stats.hits_longer == 1);
        CHECK(stats.hits_shorter == 0);
        CHECK(stats.hits_exact == 0);
        CHECK(stats.tokens_requested == 10);
        CHECK(stats.tokens_reused == 4);
    }

    SECTION("queues against plain lists, with every place moved over and over") {
        promptkv::CacheOrder<int> order;
        std::vector<decltype(order.push(0, Tier::user))> positions;
        std::array<std::list<int>, 3> queues; // the victim first
        std::vector<std::size_t> tiers;       // of each key; 3 once it left
        std::mt19937 random(29);
        for (int step = 0; step < 5'000; ++step) {
            const auto operation = random() % 8;
            if (operation < 2 || positions.empty()) {
                const std::size_t tier = random() % 3;
                const auto key = static_cast<int>(positions.size());
                positions.push_back(order.push(key, static_cast<Tier>(tier)));
                queues[tier].push_back(key);
                tiers.push_back(tier);
            } else if (operation == 2) {
                std::size_t from = 0;
                while (from < 2 &&
                       (queues[from].empty() || queues[from].size() < queues[from + 1].size())) {
                    ++from;
                }
                if (queues[from].empty()) { // the rule found none
                    from = 0;
                    while (from < 2 && queues[from].empty()) {
                        ++from;
                    }
                }
                const auto popped = order.pop();
                REQUIRE(popped.has_value() == !queues[from].empty());
                if (popped.has_value()) {
                    REQUIRE(*popped == queues[from].front());
                    queues[from].pop_front();
                    tiers[static_cast<std::size_t>(*popped)] = 3;
                }
            } else {
                const std::size_t key = random() % positions.size();
                if (tiers[key] == 3) {
                    continue;
                }
                auto& queue = queues[tiers[key]];
                queue.remove(static_cast<int>(key));
                if (operation == 3) {
                    order.remove(positions[key]);
                    tiers[key] = 3;
                } else if (operation < 6) {
                    order.touch(positions[key]);
                    queue.push_back(static_cast<int>(key));
                } else {
                    order.chill(positions[key]);
                    queue.push_front(static_cast<int>(key));
                }
            }
            REQUIRE(order.size() == queues[0].size() + queues[1].size() + queues[2].size());
        }
    }
}

TEST_CASE("S30: the same calls choose the same victims, with no clock to tie", "[scenario]") {
    const auto removals = [] {
        Cache cache({.max_bytes = 200, .cut_granularity = 4});
        std::vector<std::pair<Tokens, RemovalReason>> log;
        cache.on_removal([&](const auto& removal) {
            log.emplace_back(Tokens(removal.tokens.begin(), removal.tokens.end()), removal.reason);
        });
        std::mt19937 random(30);
        for (int step = 0; step < 500; ++step) {
            const auto first = static_cast<std::int32_t>(10 * (random() % 20));
            const Tokens key = join(run(first, 5 + random() % 20), run(900, random() % 20));
            (void)cache.fetch_nearest("m", key);
            store(cache, State{"m", key}, static_cast<Tier>(random() % 3));
        }
        return log;
    };
    const auto log = removals();
    CHECK(log.size() > 100);
    CHECK(log == removals());
}

TEST_CASE("S31: nodes do not linger after a million random inserts and erases", "[scenario]") {
    Trie trie;
    std::mt19937 random(31);
    Tokens key;
    std::size_t worst_excess = 0;
    for (int step = 0; step < 1'000'000; ++step) {
        key.resize(random() % 12);
        std::generate(key.begin(), key.end(),
                      [&] { return static_cast<std::int32_t>(random() % 3); });
        if (random() % 2 == 0) {
            trie.insert_or_assign(key, step);
        } else if (const auto found = trie.find(key); found != nullptr) {
            trie.erase(found);
        }
        const auto allowed = 2 * trie.size() + 1; // the root included
        worst_excess =
            std::max(worst_excess, trie.node_count() - std::min(trie.node_count(), allowed));
        if (step % 50'000 == 0) {
            REQUIRE(trie.check_invariants());
        }
    }
    CHECK(worst_excess == 0);
    while (!trie.empty()) { // the last of a chain of erasures leaves the root alone
        key.clear();
        auto found = trie.search(key);
        trie.erase(found.exact != nullptr ? found.exact : found.longer);
    }
    CHECK(trie.node_count() == 1);
}

TEST_CASE("S32: popping the prefixes of a key leaves no empty nodes behind", "[scenario]") {
    const Tokens key = run(1, 12);
    Trie alone;
    alone.insert_or_assign(key, 12);

    Trie trie;
    for (std::size_t length = 0; length <= key.size(); ++length) {
        trie.insert_or_assign(first_of(key, length), static_cast<int>(length));
    }
    CHECK(trie.pop_prefixes(key).size() == key.size());
    CHECK(trie.size() == 1);
    CHECK(trie.node_count() == alone.node_count());
    CHECK(trie.check_invariants());

    // A branch keeps its node, which goes with the branch.
    const Tokens branch = join(first_of(key, 6), Tokens{90});
    trie.insert_or_assign(branch, 90);
    trie.insert_or_assign(first_of(key, 6), 6);
    CHECK(trie.pop_prefixes(branch).size() == 1);
    CHECK(trie.node_count() == alone.node_count() + 2);
    trie.erase(trie.find(branch));
    CHECK(trie.node_count() == alone.node_count());
}

namespace {

/// Runs what `farewell` holds when it dies; a moved-from one holds nothing.
struct Noisy {
    Tokens tokens;
    std::unique_ptr<std::function<void()>> farewell;

    Noisy(Tokens key, std::function<void()> on_death)
        : tokens(std::move(key)),
          farewell(std::make_unique<std::function<void()>>(std::move(on_death))) {}
    Noisy(Noisy&&) noexcept = default;
    Noisy& operator=(Noisy&&) noexcept = default;
    ~Noisy() {
        if (farewell != nullptr) {
            (*farewell)();
        }
    }
    std::size_t nbytes() const noexcept { return tokens.size(); }
};

} // namespace

TEST_CASE("S33: listeners and payload destructors may call the cache that evicts", "[scenario]") {
    SECTION("a listener that looks, fetches, erases and stores") {
        Cache cache({.max_bytes = 50});
        const Tokens bystander = run(901, 10);
        store(cache, State{"m", bystander}, Tier::system);
        std::vector<RemovalReason> reasons;
        bool whole = true;
        bool bystander_seen = false;
        cache.on_removal([&](auto& removal) {
            whole = whole && cache.check_invariants() && cache.nbytes() <= 50;
            reasons.push_back(removal.reason);
            if (removal.reason == RemovalReason::evicted) {
                bystander_seen = cache.fetch_nearest("m", bystander).reused == 9;
                cache.erase("m", bystander);
                const auto first = static_cast<std::int32_t>(2000 + reasons.size());
                store(cache, State{"m", run(first, 1)}, Tier::assistant);
            }
        });
        store(cache, State{"m", run(1, 40)}, Tier::assistant);
        store(cache, State{"m", run(101, 30)}, Tier::assistant); // the forty have to go

        CHECK(reasons == std::vector<RemovalReason>{RemovalReason::evicted, RemovalReason::erased});
        CHECK(whole);
        CHECK(bystander_seen);
        CHECK(holds(cache, "m", run(101, 30)));
        CHECK_FALSE(holds(cache, "m", bystander));
        CHECK(cache.nbytes() == 31);
        cache.on_removal(nullptr);
        require_balanced(cache, models);
    }

    SECTION("a listener that puts back what it is told about comes to an end") {
        Cache cache({.max_bytes = 50});
        int rounds = 0;
        cache.on_removal([&](auto& removal) {
            if (removal.reason == RemovalReason::evicted && ++rounds <= 20) {
                const Tokens tokens(removal.tokens.begin(), removal.tokens.end());
                cache.insert("m", tokens, std::move(*removal.payload), Tier::assistant);
            }
        });
        store(cache, State{"m", run(1, 40)}, Tier::assistant);
        store(cache, State{"m", run(101, 40)}, Tier::assistant);
        CHECK(rounds == 21);
        CHECK(cache.size() == 1);
        cache.on_removal(nullptr);
        require_balanced(cache, models);
    }

    SECTION("a destructor that looks and erases") {
        promptkv::LRUPromptCache<Noisy> cache({.max_bytes = 50});
        int farewells = 0;
        bool whole = true;
        const Tokens other = run(901, 10);
        const auto say_farewell = [&] {
            ++farewells;
            whole = whole && cache.check_invariants() && cache.nbytes() <= 50;
            whole = whole && cache.probe("m", other).reused == 0; // it is there, but not to be cut
            whole = whole && cache.erase("m", other);
        };
        cache.insert("m", other, Noisy{other, [&] { ++farewells; }}, Tier::system);
        const Tokens first = run(1, 40);
        cache.insert("m", first, Noisy{first, say_farewell}, Tier::assistant);
        const Tokens second = run(101, 30);
        const auto inserted =
            cache.insert("m", second, Noisy{second, [&] { ++farewells; }}, Tier::assistant);
        CHECK(inserted.outcome == Outcome::stored);
        CHECK(whole);
        CHECK(farewells == 2);
        CHECK(cache.size() == 1);
        CHECK(cache.nbytes() == 30);
        CHECK(cache.check_invariants());
        cache.clear();
        CHECK(farewells == 3);
    }
}

TEST_CASE("S34: one conversation that grows turn by turn does not flush the others", "[scenario]") {
    const Tokens other_system = run(5000, 20);
    const Tokens other_conversation = run(5000, 40);
    const Tokens other_prompt = join(other_conversation, Tokens{900});
    const Tokens long_conversation = run(1, 400);

    SECTION("state that can be cut: it takes the place of its own former self") {
        Cache cache({.max_bytes = 150, .cut_granularity = 1});
        store(cache, State{"m", other_system}, Tier::system);
        store(cache, State{"m", other_conversation}, Tier::assistant);
        for (std::size_t length = 20; length <= 130; length += 5) {
            CAPTURE(length);
            const Tokens turn = first_of(long_conversation, length);
            (void)cache.fetch_nearest("m", turn);
            store(cache, State{"m", turn}, Tier::assistant);
            REQUIRE(cache.size() == 2);
            const auto reused = cache.probe("m", other_prompt).reused;
            REQUIRE(reused == (length <= 110 ? 40 : 150 - length)); // its tail goes, if it must
            REQUIRE(reused >= other_system.size());
            require_balanced(cache, models);
        }
    }

    SECTION("state that cannot be cut: its own superseded turns go first") {
        RecurrentCache cache({.max_entries = 5});
        store(cache, Recurrent{"m", other_system}, Tier::system);
        store(cache, Recurrent{"m", other_conversation}, Tier::assistant);
        for (std::size_t length = 20; length <= 400; length += 5) {
            CAPTURE(length);
            const Tokens turn = first_of(long_conversation, length);
            const auto hit = cache.fetch_nearest("m", turn);
            REQUIRE(hit.reused == (length == 20 ? 0 : length - 5));
            store(cache, Recurrent{"m", turn}, Tier::assistant);
            REQUIRE(cache.probe("m", other_prompt).reused == 40);
            REQUIRE(holds(cache, "m", other_system));
        }
    }
}
