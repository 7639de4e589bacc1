// SPDX-License-Identifier: MIT
// Scenarios 35 to 46: limits, and the account of what is held.
#include "state.hpp"

#include <limits>
#include <memory>
#include <optional>
#include <random>

using namespace scenario;
using promptkv::Match;
using promptkv::Outcome;
using promptkv::RemovalReason;
using promptkv::Tier;

namespace {

using Cache = promptkv::LRUPromptCache<State>;
using RecurrentCache = promptkv::LRUPromptCache<Recurrent>;

/// Device memory that knows how much of it there is in all.
class Buffer {
public:
    explicit Buffer(std::size_t bytes) : bytes_(bytes) {
        held += bytes_;
        peak = std::max(peak, held);
    }
    Buffer(Buffer&& other) noexcept : bytes_(std::exchange(other.bytes_, 0)) {}
    Buffer& operator=(Buffer&& other) noexcept {
        held -= bytes_;
        bytes_ = std::exchange(other.bytes_, 0);
        return *this;
    }
    ~Buffer() { held -= bytes_; }

    std::size_t nbytes() const noexcept { return bytes_; }

    static inline std::size_t held = 0;
    static inline std::size_t peak = 0;

private:
    std::size_t bytes_;
};

/// State whose size can be changed behind the cache's back.
struct Elastic {
    std::string model;
    Tokens tokens;
    std::shared_ptr<std::size_t> bytes;

    std::size_t nbytes() const noexcept { return *bytes; }
};

} // namespace

TEST_CASE("35. an entry larger than the whole budget is refused, and nothing else pays for it",
          "[scenario]") {
    const Tokens key = run(1, 60); // absorbing the first entry would not help
    const auto require_refused = [&](auto& cache, auto make_state) {
        store(cache, make_state(run(1, 20)), Tier::assistant);
        store(cache, make_state(run(101, 20)), Tier::system);
        int removals = 0;
        cache.set_removal_listener([&](auto&) { ++removals; });
        const bool from_a_payload = GENERATE(true, false);
        if (from_a_payload) { // which stays the caller's
            auto state = make_state(key);
            const auto inserted = cache.insert("m", key, std::move(state), Tier::system);
            CHECK(inserted.outcome == Outcome::too_large);
            CHECK(inserted.tokens == 0);
            CHECK(inserted.evicted + inserted.absorbed + inserted.cut == 0);
            CHECK(state.tokens == key);
        } else { // from a function, which is not called
            bool made = false;
            const auto make = [&] {
                made = true;
                return make_state(key);
            };
            CHECK(cache.insert("m", key, key.size(), Tier::system, make).outcome ==
                  Outcome::too_large);
            CHECK_FALSE(made);
            CHECK_FALSE(static_cast<bool>(cache.reserve("m", key, key.size(), Tier::system)));
        }
        CHECK(removals == 0);
        CHECK(cache.stats().too_large == (from_a_payload ? 1 : 2));
        CHECK(cache.stats().stored == 2);
        CHECK(cache.nbytes() == 40);
        CHECK(holds(cache, "m", run(1, 20)));
        CHECK(holds(cache, "m", run(101, 20)));
        require_balanced(cache, models);
    };
    SECTION("state that cannot be cut") {
        RecurrentCache cache({.max_bytes = 50});
        require_refused(cache, [](const Tokens& tokens) {
            return Recurrent{"m", tokens, tokens.size()};
        });
    }
    SECTION("state that can be cut, with partial storing switched off") {
        Cache cache({.max_bytes = 50, .max_partial = 0});
        require_refused(cache, [](const Tokens& tokens) { return State{"m", tokens}; });
    }
    SECTION("state that can be cut: half of the budget is filled with its beginning") {
        Cache cache({.max_bytes = 50});
        store(cache, State{"m", run(101, 20)}, Tier::system);
        const auto inserted = store(cache, State{"m", key}, Tier::assistant);
        CHECK(inserted.outcome == Outcome::stored);
        CHECK(inserted.tokens == 25);
        CHECK(inserted.evicted + inserted.cut == 0);
        CHECK(cache.stats().stored_in_part == 1);
        CHECK(cache.nbytes() == 45);
        CHECK(holds(cache, "m", run(101, 20)));
        require_served(cache.fetch_nearest("m", key), "m", key, 25, Match::shorter);
        require_balanced(cache, models);
    }
}

TEST_CASE("36. a budget below one typical entry shows in every answer and in the counters",
          "[scenario]") {
    const Tokens prompt = run(1, 500);

    SECTION("state that cannot be cut is refused each time") {
        RecurrentCache cache({.max_bytes = 1'000});
        for (int request = 0; request < 20; ++request) {
            require_miss(cache.fetch_nearest("m", prompt), prompt);
            CHECK(store(cache, Recurrent{"m", prompt, 32'000}, Tier::user).outcome ==
                  Outcome::too_large);
        }
        CHECK(cache.stats().too_large == 20);
        CHECK(cache.stats().stored == 0);
        CHECK(cache.stats().evicted == 0);
        CHECK(cache.stats().lookups == 20);
        CHECK(cache.empty());
    }
    SECTION("state that can be cut is stored as far as half of the budget goes") {
        Cache cache({.max_bytes = 1'000});
        for (int request = 0; request < 20; ++request) {
            CHECK(cache.fetch_nearest("m", prompt).reused() == (request == 0 ? 0 : 7));
            CHECK(store(cache, State{"m", prompt, 64}, Tier::user).tokens == 7); // 7 x 64 <= 500
        }
        CHECK(cache.stats().stored_in_part == 20);
        CHECK(cache.size() == 1);
    }
}

TEST_CASE("37. limits of nothing and of no end; lowering them acts at once, raising does not",
          "[scenario]") {
    const auto fill = [](Cache& cache) {
        for (std::int32_t i = 1; i <= 8; ++i)
            store(cache, State{"m", run(100 * i, 10)}, Tier::assistant);
    };

    SECTION("no bytes") {
        Cache cache({.max_bytes = 0});
        CHECK(store(cache, State{"m", run(1, 10)}, Tier::user).outcome == Outcome::too_large);
        CHECK(store(cache, State{"m", run(1, 10), 0}, Tier::user).outcome == Outcome::too_large);
        CHECK(cache.empty());
    }
    SECTION("no entries") {
        Cache cache({.max_entries = 0});
        CHECK(store(cache, State{"m", run(1, 10)}, Tier::user).outcome == Outcome::no_room);
        CHECK(cache.stats().no_room == 1);
        CHECK(cache.empty());
    }
    SECTION("unlimited") {
        Cache cache;
        fill(cache);
        CHECK(cache.limits().max_bytes == std::numeric_limits<std::size_t>::max());
        CHECK(cache.limits().max_entries == std::numeric_limits<std::size_t>::max());
        CHECK(cache.size() == 8);
        CHECK(cache.stats().evicted == 0);
    }
    SECTION("lowered and raised while in use") {
        Cache cache;
        fill(cache);
        cache.set_limits({.max_bytes = 35});
        CHECK(cache.nbytes() == 35);
        CHECK(cache.stats().evicted == 4);
        CHECK(cache.stats().cut == 1);          // of the fifth, half of it
        CHECK(holds(cache, "m", run(800, 10))); // the most recent stayed

        cache.set_limits({.max_bytes = 1'000, .max_entries = 5});
        CHECK(cache.size() == 4);
        fill(cache);
        CHECK(cache.size() == 5);
        cache.set_limits({.max_entries = 1});
        CHECK(cache.size() == 1);
        CHECK(holds(cache, "m", run(800, 10)));
        cache.set_limits({.max_bytes = 0});
        CHECK(cache.empty());
        cache.set_limits({});
        fill(cache);
        CHECK(cache.size() == 8);
        require_balanced(cache, models);
    }
    SECTION("trimmed once, without a lasting limit") {
        Cache cache;
        fill(cache);
        CHECK(cache.trim_to({.max_bytes = 40}) == 4);
        CHECK(cache.nbytes() == 40);
        fill(cache);
        CHECK(cache.nbytes() == 80);
    }
}

TEST_CASE("38. room is made before the new payload is allocated", "[scenario]") {
    using BufferCache = promptkv::LRUPromptCache<Buffer>;
    REQUIRE(Buffer::held == 0);
    {
        BufferCache cache({.max_bytes = 100});
        Buffer::peak = 0;
        for (std::int32_t i = 1; i <= 40; ++i) {
            CAPTURE(i);
            const Tokens key = run(100 * i, 5);
            const auto bytes = static_cast<std::size_t>(10 + i % 5 * 20);
            bool room_was_there = false;
            const auto make = [&] {
                room_was_there = Buffer::held + bytes <= 100 && cache.nbytes() <= 100 &&
                                 cache.nbytes() == Buffer::held + bytes; // its room is held
                return Buffer(bytes);
            };
            REQUIRE(cache.insert("m", key, bytes, Tier::assistant, make).outcome ==
                    Outcome::stored);
            REQUIRE(room_was_there);
            REQUIRE(cache.nbytes() == Buffer::held);
        }
        CHECK(Buffer::peak <= 100);
        CHECK(cache.stats().peak_nbytes <= 100);
        CHECK(cache.stats().peak_nbytes == Buffer::peak);
        CHECK(cache.stats().evicted > 0);
    }
    CHECK(Buffer::held == 0);
}

TEST_CASE("39. nothing is kept that the limits do not allow, not even the last entry",
          "[scenario]") {
    RecurrentCache cache({.max_bytes = 100});
    const auto tier = GENERATE(Tier::assistant, Tier::user, Tier::system);
    store(cache, Recurrent{"m", run(1, 60), 60}, tier);

    SECTION("for an entry that needs all of the budget") {
        CHECK(store(cache, Recurrent{"m", run(101, 9), 100}, Tier::assistant).outcome ==
              Outcome::stored);
        CHECK(cache.nbytes() == 100);
        CHECK(cache.size() == 1);
    }
    SECTION("under pressure from outside") {
        CHECK(evict_all(cache) == 1);
        CHECK(cache.empty());
    }
    SECTION("asked for bytes") {
        CHECK(cache.evict(1) == 60);
        CHECK(cache.empty());
    }
    SECTION("when trimmed to nothing") {
        CHECK(cache.trim_to({.max_entries = 0}) == 1);
        CHECK(cache.empty());
    }
    SECTION("when the limit falls below it") {
        cache.set_limits({.max_bytes = 59});
        CHECK(cache.empty());
    }
    CHECK_FALSE(holds(cache, "m", run(1, 60)));
}

TEST_CASE("40. what was recorded is what is given back, even if the payload changed its size",
          "[scenario]") {
    promptkv::LRUPromptCache<Elastic> cache({.max_bytes = 100});
    const auto bytes = std::make_shared<std::size_t>(20);
    store(cache, Elastic{"m", run(1, 10), bytes}, Tier::user);
    store(cache, Elastic{"m", run(101, 10), std::make_shared<std::size_t>(30)}, Tier::user);
    *bytes = GENERATE(0U, 5U, 1'000'000U);
    CHECK(cache.nbytes() == 50);

    std::size_t raised = 0;
    cache.set_removal_listener([&](const auto& removal) { raised += removal.bytes; });
    SECTION("on erase") {
        CHECK(erase(cache, "m", run(1, 10)));
        CHECK(raised == 20);
    }
    SECTION("on eviction") {
        cache.trim_to({.max_bytes = 30});
        CHECK(raised == 20);
    }
    SECTION("on replacement") {
        store(cache, Elastic{"m", run(1, 10), std::make_shared<std::size_t>(1)}, Tier::user);
        CHECK(raised == 20);
        CHECK(cache.nbytes() == 31);
        erase(cache, "m", run(1, 10));
    }
    CHECK(cache.nbytes() == 30);
    cache.clear();
    CHECK(cache.nbytes() == 0);
    CHECK(cache.check_invariants());
}

TEST_CASE("41. the total is the sum of entries, tiers and models after every step", "[scenario]") {
    const std::vector<std::string> names{"a", "b", "c"};

    SECTION("trimming what is empty") {
        Cache cache;
        CHECK(cache.trim_to({.max_bytes = 0}) == 0);
        CHECK(cache.trim_to({.max_bytes = 1'000'000}) == 0);
        store(cache, State{"a", run(1, 10)}, Tier::user);
        cache.clear();
        CHECK(cache.trim_to({.max_bytes = 0}) == 0);
        require_balanced(cache, names);
    }

    const auto fuzz = [&](auto& cache, auto make_state, unsigned seed) {
        CAPTURE(seed);
        std::mt19937 random(seed);
        const auto draw_key = [&] {
            const auto first = static_cast<std::int32_t>(10 * (random() % 4));
            return join(run(first, random() % 12),
                        run(static_cast<std::int32_t>(900 + random() % 2), random() % 12));
        };
        for (int step = 0; step < 1'500; ++step) {
            CAPTURE(step);
            const auto& name = names[random() % names.size()];
            const Tokens key = draw_key();
            switch (random() % 16) {
            case 0:
                cache.erase(name, key);
                break;
            case 1:
                cache.pop_prefixes(name, key);
                break;
            case 2:
                REQUIRE_NOTHROW(cache.take_nearest(name, key));
                break;
            case 3:
                cache.trim_to({.max_bytes = random() % 150});
                break;
            case 4:
                cache.set_limits(
                    {.max_bytes = 60 + random() % 100, .max_entries = 3 + random() % 10});
                break;
            case 5:
                if (random() % 10 == 0)
                    cache.erase_model(name);
                break;
            case 6:
                if (random() % 20 == 0)
                    cache.clear();
                break;
            case 7:
            case 8: {
                const auto hit = cache.fetch_nearest(name, key);
                require_split(hit, key);
                break;
            }
            default:
                store(cache, make_state(name, key, random() % 3), static_cast<Tier>(random() % 3));
                break;
            }
            require_balanced(cache, names);
        }
    };
    SECTION("state that can be cut") {
        Cache cache({.max_bytes = 120});
        fuzz(
            cache,
            [](const auto& name, const auto& key, std::size_t bytes) {
                return State{name, key, bytes};
            },
            41);
    }
    SECTION("state that cannot be cut") {
        RecurrentCache cache({.max_bytes = 120});
        fuzz(
            cache,
            [](const auto& name, const auto& key, std::size_t bytes) {
                return Recurrent{name, key, 7 * bytes};
            },
            42);
    }
}

TEST_CASE("42. leased bytes and the rest make up the total through splits, erasures and releases",
          "[scenario]") {
    Cache cache;
    const Tokens key = run(1, 20);
    const Tokens prompt = join(first_of(key, 10), Tokens{900});
    store(cache, State{"m", key}, Tier::user);
    store(cache, State{"m", run(101, 7)}, Tier::user);
    CHECK(cache.stats().bytes_leased == 0);

    auto lease = std::make_optional(cache.lease_nearest("m", prompt));
    REQUIRE(lease->reused() == 10);
    CHECK(cache.stats().bytes_leased == 20);
    {
        const auto another = cache.lease_nearest("m", key);
        CHECK(cache.stats().bytes_leased == 20); // once, however many read it
    }
    CHECK(cache.stats().bytes_leased == 20);

    store(cache, State{"m", join(prompt, run(901, 4))}, Tier::user); // splits the edge
    CHECK(cache.stats().bytes_leased == 20);
    CHECK(cache.nbytes() == 20 + 7 + 15);
    CHECK(cache.check_invariants());

    CHECK(erase(cache, "m", run(101, 7)));
    CHECK(cache.nbytes() == 20 + 15);
    CHECK(cache.erase("m", key));
    CHECK(cache.size() == 1);
    CHECK(cache.nbytes() == 20 + 15); // still read, so still held
    CHECK(cache.stats().bytes_leased == 20);
    CHECK(cache.check_invariants());

    lease.reset();
    CHECK(cache.nbytes() == 15);
    CHECK(cache.stats().bytes_leased == 0);
    require_balanced(cache, models);
}

TEST_CASE("43. hitting one prefix again and again inflates nothing", "[scenario]") {
    Cache cache;
    const Tokens prefix = run(1, 20);
    const Tokens prompt = join(prefix, Tokens{900});
    store(cache, State{"m", join(prefix, run(100, 10))}, Tier::user);
    const auto before = cache.stats();
    const auto index_before = cache.index_nbytes();

    constexpr std::size_t hits = 1'000;
    for (std::size_t i = 0; i < hits; ++i) {
        require_served(cache.fetch_nearest("m", prompt), "m", prompt, 20, Match::longer);
        REQUIRE(cache.lease_nearest("m", prompt).reused() == 20);
        REQUIRE(store(cache, State{"m", prefix}, Tier::user).outcome == Outcome::present);
    }
    CHECK(cache.size() == 1);
    CHECK(cache.nbytes() == 30);
    CHECK(cache.index_nbytes() == index_before);
    CHECK(cache.stats(Tier::user).entries == 1);
    CHECK(cache.stats(Tier::user).hits == 2 * hits);
    const auto after = cache.stats();
    CHECK(after.bytes_leased == 0);
    CHECK(after.peak_nbytes == before.peak_nbytes);
    CHECK(after.stored == before.stored);
    CHECK(after.lookups == before.lookups + 2 * hits);
    CHECK(after.hits_longer == before.hits_longer + 2 * hits);
    CHECK(after.present == before.present + hits);
    require_balanced(cache, models);
}

TEST_CASE("44. replacing a key gives its old bytes back once, and a reader keeps the old payload",
          "[scenario]") {
    RecurrentCache cache({.max_bytes = 100});
    const Tokens key = run(1, 10);
    const Tokens prompt = run(1, 11);
    REQUIRE(cache.insert("m", key, Recurrent{"old", key, 40}, Tier::user).outcome ==
            Outcome::stored);

    SECTION("nobody reads it") {
        CHECK(cache.insert("m", key, Recurrent{"new", key, 90}, Tier::user).outcome ==
              Outcome::replaced);
        CHECK(cache.nbytes() == 90); // the old one counted as room
        CHECK(cache.fetch_nearest("m", prompt).kv->model == "new");
        CHECK(cache.size() == 1);
    }
    SECTION("somebody reads it") {
        {
            const auto lease = cache.lease_nearest("m", prompt);
            CHECK(cache.insert("m", key, Recurrent{"new", key, 90}, Tier::user).outcome ==
                  Outcome::no_room); // both would have to be held
            CHECK(cache.insert("m", key, Recurrent{"new", key, 30}, Tier::user).outcome ==
                  Outcome::replaced);
            CHECK(lease.kv().model == "old");
            CHECK(lease.kv().tokens == key);
            CHECK(cache.nbytes() == 70);
            CHECK(cache.size() == 1);
            CHECK(cache.fetch_nearest("m", prompt).kv->model == "new");
            CHECK(cache.check_invariants());
        }
        CHECK(cache.nbytes() == 30);
    }
    CHECK(cache.stats().replaced == 1);
    require_balanced(cache, models);
}

TEST_CASE("45. many tenants share one budget, and one that leaves takes all of its own along",
          "[scenario]") {
    Cache cache({.max_bytes = 300});
    std::vector<std::string> tenants;
    for (int i = 0; i < 10; ++i)
        tenants.push_back("tenant " + std::to_string(i));
    const Tokens prefix = run(1, 20);
    for (std::int32_t round = 0; round < 5; ++round) {
        for (const auto& tenant : tenants) {
            store(cache, State{tenant, prefix}, Tier::system);
            store(cache, State{tenant, join(prefix, run(1000 + 100 * round, 20))}, Tier::user);
            require_balanced(cache, tenants);
        }
    }
    CHECK(cache.nbytes() <= 300);

    const auto& leaving = tenants.back();
    const auto bytes = cache.nbytes(leaving);
    const auto total = cache.nbytes();
    const auto index = cache.index_nbytes();
    REQUIRE(bytes > 0);
    CHECK(cache.erase_model(leaving) > 0);
    CHECK(cache.nbytes(leaving) == 0);
    CHECK(cache.nbytes() == total - bytes);
    CHECK(cache.index_nbytes() < index);
    CHECK(cache.erase_model(leaving) == 0);
    for (const auto& tenant : tenants)
        cache.erase_model(tenant);
    CHECK(cache.empty());
    require_balanced(cache, tenants);
}

TEST_CASE("46. checkpoints count against the same budget as everything else", "[scenario]") {
    promptkv::LRUPromptCache<Checkpointed> cache({.max_bytes = 200});
    const Tokens conversation = run(1, 40);
    CHECK(store(cache, Checkpointed{"m", conversation, {8, 16, 24, 32}, 30}, Tier::user).outcome ==
          Outcome::stored);
    CHECK(cache.nbytes() == 40 + 4 * 30);
    CHECK(store(cache, Checkpointed{"m", run(101, 100), {50}, 150}, Tier::user).outcome ==
          Outcome::too_large);

    // The victim goes back to its last checkpoint that frees enough, and takes its share along.
    CHECK(store(cache, Checkpointed{"m", run(301, 60), {}}, Tier::assistant).outcome ==
          Outcome::stored);
    CHECK_FALSE(holds(cache, "m", conversation));
    CHECK(holds(cache, "m", first_of(conversation, 32)));
    CHECK(cache.nbytes() == 60 + 32 + 3 * 30);
    require_balanced(cache, models);
}
