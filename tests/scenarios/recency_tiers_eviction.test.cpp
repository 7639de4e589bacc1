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

/// The first token of the victim, when one entry has to go. Token 0 if there was none.
template <class Cache>
std::int32_t evict_one(Cache& cache) {
    std::int32_t first_token = 0;
    cache.set_removal_listener([&](const auto& removal) { first_token = removal.tokens.front(); });
    cache.trim_to({.max_entries = cache.size() - 1});
    cache.set_removal_listener(nullptr);
    return first_token;
}

} // namespace

TEST_CASE("21. a fetch makes its entry the most recently used", "[scenario]") {
    RecurrentCache cache({.max_entries = 2});
    store(cache, Recurrent{"m", run(1, 5)}, Tier::assistant);
    store(cache, Recurrent{"m", run(101, 5)}, Tier::assistant);

    SECTION("by an exact match") {
        const Tokens prompt = run(1, 5);
        REQUIRE(cache.fetch_nearest("m", prompt, {.min_remaining = 0}).match() == Match::exact);
    }
    SECTION("by a shorter match") {
        const Tokens prompt = run(1, 9);
        REQUIRE(cache.fetch_nearest("m", prompt).match() == Match::shorter);
    }
    SECTION("by a lease") {
        const Tokens prompt = run(1, 9);
        REQUIRE(cache.lease_nearest("m", prompt).match() == Match::shorter);
    }
    store(cache, Recurrent{"m", run(201, 5)}, Tier::assistant);
    CHECK(holds(cache, "m", run(1, 5)));
    CHECK_FALSE(holds(cache, "m", run(101, 5)));
}

TEST_CASE("22. looking without fetching leaves recency alone", "[scenario]") {
    Cache cache;
    const Tokens oldest = run(1, 5);
    store(cache, State{"m", oldest}, Tier::assistant);
    store(cache, State{"m", run(101, 5)}, Tier::assistant);
    const Tokens beyond = run(1, 9);
    const Tokens branch{1, 2, 900};

    SECTION("by a probe") {
        REQUIRE(cache.probe("m", oldest, {.min_remaining = 0}).match() == Match::exact);
        REQUIRE(cache.probe("m", beyond).match() == Match::shorter);
        REQUIRE(cache.probe("m", branch).match() == Match::longer);
        CHECK(cache.stats().lookups == 0);
    }
    SECTION("by going through the entries") {
        std::size_t entries = 0;
        cache.for_each([&](const auto&) { ++entries; });
        REQUIRE(entries == 2);
    }
    SECTION("by a miss, however close") {
        REQUIRE_FALSE(static_cast<bool>(cache.fetch_nearest("m", beyond, {.min_reuse = 6})));
    }
    SECTION("by a refused take") {
        REQUIRE_FALSE(static_cast<bool>(cache.take_nearest("m", branch)));
    }
    SECTION("by a match of an entry that goes on elsewhere, which earns it a second chance") {
        REQUIRE(cache.fetch_nearest("m", branch).match() == Match::longer);
        std::string order;
        cache.for_each([&](const auto& entry) { order += std::to_string(entry.tokens[0]) + " "; });
        CHECK(order == "1 101 "); // still the coldest
        CHECK(evict_one(cache) == 101);
    }
    CHECK(evict_one(cache) == 1);
}

TEST_CASE("23. a system entry survives longer assistant entries and the pressure after them",
          "[scenario]") {
    const Tokens system = run(1, 20);
    const Tokens conversation = run(1, 60);
    const Tokens next_user = join(system, Tokens{900});

    // The system prompt is an entry of its own beside the conversation, whatever its payload can do.
    const auto require_survival = [&](auto& cache, auto make_state, std::size_t bytes_together) {
        const auto put = [&](const Tokens& key, Tier tier) {
            return cache.insert("m", key, make_state(key), tier);
        };
        put(system, Tier::system);
        const auto longer = put(conversation, Tier::assistant);
        CHECK(longer.outcome == Outcome::stored);
        CHECK(longer.absorbed == 0);
        CHECK(cache.size() == 2);
        CHECK(cache.nbytes() == bytes_together);
        for (std::int32_t user = 1; user <= 30; ++user) {
            CAPTURE(user);
            put(run(1000 * user, 80), Tier::assistant);
            const auto hit = cache.lease_nearest("m", next_user);
            REQUIRE(hit.reused() == 20);
            REQUIRE(hit.match() == Match::shorter);
            REQUIRE(hit.tier() == Tier::system);
        }
        CHECK(cache.stats(Tier::system).entries == 1);
        CHECK(cache.stats(Tier::system).hits == 30);
        CHECK(cache.check_invariants());
    };
    SECTION("shared blocks: it costs its last block and nothing else") {
        promptkv::LRUPromptCache<Blocks> cache({.max_bytes = 100});
        require_survival(
            cache, [](const Tokens& key) { return blocks_of(key, 16); }, 60 + 4);
    }
    SECTION("state that can be cut and shares nothing") {
        Cache cache({.max_bytes = 100});
        require_survival(
            cache,
            [](const Tokens& key) {
                return State{"m", key};
            },
            60 + 20);
    }
    SECTION("state that cannot be cut") {
        RecurrentCache cache({.max_bytes = 20});
        require_survival(
            cache,
            [](const Tokens& key) {
                return Recurrent{"m", key};
            },
            20);
    }
    SECTION("state that can be reused in part but not cut in place") {
        struct Uncut {
            std::string model;
            Tokens tokens;
            std::size_t nbytes() const noexcept { return tokens.size(); }
            std::size_t reusable_prefix(std::size_t n) const noexcept { return n; }
            Uncut clone_prefix(std::size_t n) const { return Uncut{model, first_of(tokens, n)}; }
        };
        promptkv::LRUPromptCache<Uncut> cache({.max_bytes = 100});
        require_survival(
            cache,
            [](const Tokens& key) {
                return Uncut{"m", key};
            },
            80);
    }
}

TEST_CASE("24. storing a key again never demotes it, and promotes it where asked", "[scenario]") {
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
        CHECK(cache.fetch_nearest("m", key, {.min_remaining = 0}).tier() == Tier::system);
        require_balanced(cache, models);
    }

    SECTION("an entry below a longer one") {
        Cache cache;
        store(cache, State{"m", key}, Tier::user);
        store(cache, State{"m", run(1, 30)}, Tier::assistant);
        REQUIRE(cache.stats(Tier::user).entries == 1);
        store(cache, State{"m", key}, Tier::assistant);
        CHECK(cache.stats(Tier::user).entries == 1);
        CHECK(cache.stats(Tier::assistant).entries == 1);
        CHECK(cache.mark("m", key, Tier::assistant));
        CHECK(cache.stats(Tier::user).entries == 1);
        CHECK_FALSE(static_cast<bool>(cache.reserve("m", key, 10, Tier::system)));
        CHECK(cache.stats(Tier::system).entries == 1); // present by reserve: raised
        CHECK(cache.stats(Tier::user).entries == 0);
        CHECK(cache.mark("m", key, Tier::assistant));
        CHECK(cache.stats(Tier::system).entries == 1);
        CHECK(cache.size() == 2);
        require_balanced(cache, models);
    }

    SECTION("an entry whose longer one was erased") {
        Cache cache;
        store(cache, State{"m", key}, Tier::system);
        store(cache, State{"m", run(1, 30)}, Tier::assistant);
        REQUIRE(erase(cache, "m", run(1, 30)));
        CHECK(holds(cache, "m", key));
        CHECK(store(cache, State{"m", key}, Tier::assistant).outcome == Outcome::replaced);
        CHECK(cache.stats(Tier::system).entries == 1);
        CHECK(cache.stats(Tier::assistant).entries == 0);
    }
}

TEST_CASE("25. the tier of the victim follows from the lengths of the queues, not from bytes",
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

TEST_CASE("26. where nothing may be taken, eviction says so and ends", "[scenario]") {
    RecurrentCache cache;

    SECTION("an empty cache") {
        CHECK(evict_all(cache) == 0);
        CHECK(cache.trim_to({.max_bytes = 0, .max_entries = 0}) == 0);
    }
    SECTION("every tier but one is empty") {
        const auto tier = GENERATE(Tier::assistant, Tier::user, Tier::system);
        store(cache, Recurrent{"m", run(1, 5)}, tier);
        store(cache, Recurrent{"m", run(101, 5)}, tier);
        CHECK(evict_one(cache) == 1);
        CHECK(evict_all(cache) == 1);
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
        CHECK(evict_all(cache) == 0);
        CHECK(store(cache, Recurrent{"m", run(201, 5)}, Tier::user).outcome == Outcome::no_room);
        CHECK(cache.size() == 2);
        CHECK(first.kv().tokens == run(1, 5));
        CHECK(second.kv().tokens == run(101, 5));
    }
    SECTION("the queues themselves") {
        promptkv::CacheOrder<int> order;
        CHECK(order.pop() == std::nullopt);
        const auto position = order.push(1, Tier::user);
        CHECK(order.size() == 1);
        order.remove(position);
        CHECK(order.pop() == std::nullopt);
    }
}

TEST_CASE("27. a shared prefix outlives the conversations that grew from it", "[scenario]") {
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
        Cache cache;
        store(cache, State{"m", prefix}, Tier::user);
        store(cache, State{"m", one}, Tier::assistant);
        store(cache, State{"m", two}, Tier::assistant);
        REQUIRE(cache.nbytes() == 100);

        cache.trim_to({.max_bytes = 50}); // the first leaf, and half of what the second one adds
        CHECK(cache.size() == 2);
        CHECK_FALSE(holds(cache, "m", first_of(one, 21)));
        CHECK(holds(cache, "m", first_of(two, 30)));
        cache.trim_to({.max_bytes = 30});
        CHECK(cache.size() == 1); // the rest of it would only hold what the prefix holds
        CHECK(cache.nbytes() == 20);
        const Tokens prompt = join(prefix, Tokens{900});
        require_served(cache.fetch_nearest("m", prompt), "m", prompt, 20, Match::shorter);
        CHECK(cache.stats(Tier::user).entries == 1);
        require_balanced(cache, models);
    }

    SECTION("shared blocks, which the prefix holds without an extra byte") {
        promptkv::LRUPromptCache<Blocks> cache;
        cache.insert("m", prefix, blocks_of(prefix, 10), Tier::user);
        cache.insert("m", one, blocks_of(one, 10), Tier::assistant);
        cache.insert("m", two, blocks_of(two, 10), Tier::assistant);
        REQUIRE(cache.nbytes() == 60);
        cache.trim_to({.max_bytes = 20});
        CHECK(cache.size() == 1);
        CHECK(cache.probe("m", two).reused() == 20);
        CHECK(cache.probe("m", two).tier() == Tier::user);
        CHECK(cache.check_invariants());
    }
}

TEST_CASE("28. an entry being restored that leaves no room is reported, not waited for",
          "[scenario]") {
    const Tokens prefix = run(1, 30);
    const Tokens grown = run(1, 50);

    SECTION("state that cannot be cut: refused") {
        RecurrentCache cache({.max_bytes = 60});
        store(cache, Recurrent{"m", prefix, 30}, Tier::user);
        {
            const auto restoring = cache.lease_nearest("m", grown);
            REQUIRE(restoring.reused() == 30);
            const auto refused = store(cache, Recurrent{"m", grown, 50}, Tier::user);
            CHECK(refused.outcome == Outcome::no_room);
            CHECK(refused.evicted + refused.absorbed + refused.cut == 0);
            CHECK(restoring.kv().tokens == prefix);
            CHECK(holds(cache, "m", prefix));
        }
        CHECK(cache.stats().no_room == 1);
        CHECK(store(cache, Recurrent{"m", grown, 50}, Tier::user).outcome == Outcome::stored);
        CHECK(cache.nbytes() == 50);
        CHECK(holds(cache, "m", grown));
        require_balanced(cache, models);
    }
    SECTION("state that can be cut: stored as far as the lease leaves room") {
        Cache cache({.max_bytes = 65});
        store(cache, State{"m", prefix}, Tier::user);
        {
            const auto restoring = cache.lease_nearest("m", grown);
            REQUIRE(restoring.reused() == 30);
            const auto inserted = store(cache, State{"m", grown}, Tier::user);
            CHECK(inserted.outcome == Outcome::stored);
            CHECK(inserted.tokens == 35);
            CHECK(cache.nbytes() <= 65);
            CHECK(restoring.kv().tokens == prefix);
        }
        CHECK(holds(cache, "m", run(1, 35)));
        CHECK(store(cache, State{"m", grown}, Tier::user).tokens == 50);
        CHECK(holds(cache, "m", grown));
        CHECK(cache.nbytes() == 50);
        require_balanced(cache, models);
    }
}

TEST_CASE("29. no use is counted twice, and no stale place in a queue is ever taken",
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
                // From the least persistent tier up: not empty, and not shorter than the next one
                // that is not empty.
                std::size_t from = 3;
                for (std::size_t i = 0; i < 3 && from == 3; ++i) {
                    std::size_t next = i + 1;
                    while (next < 3 && queues[next].empty())
                        ++next;
                    if (!queues[i].empty() &&
                        (next == 3 || queues[i].size() >= queues[next].size())) {
                        from = i;
                    }
                }
                const auto popped = order.pop();
                REQUIRE(popped.has_value() == (from < 3));
                if (popped.has_value()) {
                    REQUIRE(*popped == queues[from].front());
                    queues[from].pop_front();
                    tiers[static_cast<std::size_t>(*popped)] = 3;
                }
            } else {
                const std::size_t key = random() % positions.size();
                if (tiers[key] == 3)
                    continue;
                auto& queue = queues[tiers[key]];
                queue.remove(static_cast<int>(key));
                if (operation == 3) {
                    order.remove(positions[key]);
                    tiers[key] = 3;
                } else if (operation < 6) {
                    order.touch(positions[key]);
                    queue.push_back(static_cast<int>(key));
                } else {
                    order.demote(positions[key]);
                    queue.push_front(static_cast<int>(key));
                }
            }
            REQUIRE(order.size() == queues[0].size() + queues[1].size() + queues[2].size());
        }
    }
}

TEST_CASE("30. the same calls choose the same victims, with no clock to tie", "[scenario]") {
    const auto removals = [] {
        Cache cache({.max_bytes = 200});
        std::vector<std::pair<Tokens, RemovalReason>> log;
        cache.set_removal_listener([&](const auto& removal) {
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

TEST_CASE("31. nodes do not linger after many random inserts and erases", "[scenario]") {
    Trie trie;
    std::mt19937 random(31);
    Tokens key;
    std::size_t worst_excess = 0;
    for (int step = 0; step < 300'000; ++step) {
        key.resize(random() % 12);
        std::generate(key.begin(), key.end(),
                      [&] { return static_cast<std::int32_t>(random() % 3); });
        if (random() % 2 == 0)
            trie.insert_or_assign(key, step);
        else if (const auto found = trie.find(key); found != nullptr)
            trie.erase(found);
        const auto allowed = 2 * trie.size() + 1; // the root included
        worst_excess =
            std::max(worst_excess, trie.node_count() - std::min(trie.node_count(), allowed));
        if (step % 50'000 == 0)
            REQUIRE(trie.check_invariants());
    }
    CHECK(worst_excess == 0);
    while (!trie.empty()) { // the last of a chain of erasures leaves the root alone
        key.clear();
        auto found = trie.search(key);
        trie.erase(found.exact != nullptr ? found.exact : found.longer);
    }
    CHECK(trie.node_count() == 1);
}

TEST_CASE("32. popping the prefixes of a key leaves no empty nodes behind", "[scenario]") {
    const Tokens key = run(1, 12);
    Trie alone;
    alone.insert_or_assign(key, 12);

    Trie trie;
    for (std::size_t length = 0; length <= key.size(); ++length)
        trie.insert_or_assign(first_of(key, length), static_cast<int>(length));
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
        if (farewell != nullptr)
            (*farewell)();
    }
    std::size_t nbytes() const noexcept { return tokens.size(); }
};

} // namespace

TEST_CASE("33. listeners and payload destructors may call the cache that evicts", "[scenario]") {
    SECTION("a listener that looks, fetches, erases and stores") {
        Cache cache({.max_bytes = 50});
        const Tokens bystander = run(901, 10);
        store(cache, State{"m", bystander}, Tier::system);
        std::vector<RemovalReason> reasons;
        bool whole = true;
        bool bystander_seen = false;
        cache.set_removal_listener([&](auto& removal) {
            whole = whole && cache.check_invariants() && cache.nbytes() <= 50;
            reasons.push_back(removal.reason);
            if (removal.reason == RemovalReason::evicted) {
                bystander_seen = cache.fetch_nearest("m", bystander).reused() == 9;
                cache.erase("m", bystander);
                const auto first = static_cast<std::int32_t>(2000 + reasons.size());
                store(cache, State{"m", run(first, 1)}, Tier::assistant);
            }
        });
        store(cache, State{"m", run(1, 40)}, Tier::assistant);
        store(cache, State{"m", run(101, 40)}, Tier::assistant); // the other forty have to go

        CHECK(reasons == std::vector<RemovalReason>{RemovalReason::evicted, RemovalReason::erased});
        CHECK(whole);
        CHECK(bystander_seen);
        CHECK(holds(cache, "m", run(101, 40)));
        CHECK_FALSE(holds(cache, "m", bystander));
        CHECK(cache.nbytes() == 41);
        cache.set_removal_listener(nullptr);
        require_balanced(cache, models);
    }

    SECTION("a listener that puts back what it is told about comes to an end") {
        RecurrentCache cache({.max_bytes = 50});
        int rounds = 0;
        cache.set_removal_listener([&](auto& removal) {
            if (removal.reason == RemovalReason::evicted && ++rounds <= 20) {
                const Tokens tokens(removal.tokens.begin(), removal.tokens.end());
                cache.insert("m", tokens, std::move(*removal.payload), Tier::assistant);
            }
        });
        store(cache, Recurrent{"m", run(1, 40), 40}, Tier::assistant);
        store(cache, Recurrent{"m", run(101, 40), 40}, Tier::assistant);
        CHECK(rounds == 21);
        CHECK(cache.size() == 1);
        cache.set_removal_listener(nullptr);
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
            whole =
                whole && cache.probe("m", other).reused() == 0; // it is there, but not to be cut
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

TEST_CASE("34. one conversation that grows turn by turn does not flush the others", "[scenario]") {
    const Tokens other_system = run(5000, 20);
    const Tokens other_conversation = run(5000, 40);
    const Tokens other_prompt = join(other_conversation, Tokens{900});
    const Tokens long_conversation = run(1, 400);

    SECTION("state that can be cut: it takes the place of its own former self") {
        Cache cache({.max_bytes = 150});
        store(cache, State{"m", other_system}, Tier::system);
        store(cache, State{"m", other_conversation}, Tier::assistant);
        for (std::size_t length = 20; length <= 130; length += 5) {
            CAPTURE(length);
            const Tokens turn = first_of(long_conversation, length);
            (void)cache.fetch_nearest("m", turn);
            store(cache, State{"m", turn}, Tier::assistant);
            const auto reused = cache.probe("m", other_prompt).reused();
            // The other one's tail goes, if it must, until its system prompt is all that is left.
            REQUIRE(reused == (length <= 90 ? 40 : length <= 105 ? 130 - length : 20));
            REQUIRE(cache.size() == (length <= 105 ? 3 : 2));
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
            REQUIRE(hit.reused() == (length == 20 ? 0 : length - 5));
            store(cache, Recurrent{"m", turn}, Tier::assistant);
            REQUIRE(cache.probe("m", other_prompt).reused() == 40);
            REQUIRE(holds(cache, "m", other_system));
        }
    }
}
