// SPDX-License-Identifier: MIT
// Scenarios 59 to 63: what must never share does not.
#include "state.hpp"

#include <functional>
#include <optional>
#include <random>

namespace {

/// All that two requests must have in common before they may share state.
struct Identity {
    std::string weights;
    std::string adapter;
    std::string salt;
    std::string chat_template;
    std::uint64_t images = 0; // digest of all images of the prompt, in their order
    unsigned generation = 0;

    friend bool operator==(const Identity&, const Identity&) = default;
};

} // namespace

/// The worst hash there is: every identity collides with every other.
template <>
struct std::hash<Identity> {
    std::size_t operator()(const Identity&) const noexcept { return 7; }
};

using namespace scenario;
using promptkv::Match;
using promptkv::Outcome;
using promptkv::Tier;

namespace {

using Cache = promptkv::LRUPromptCache<State>;
using IdentityCache = promptkv::LRUPromptCache<State, Identity>;

} // namespace

TEST_CASE("59. the same tokens under another model, adapter, salt or template never match",
          "[scenario]") {
    const Tokens key = run(1, 20);
    const Tokens prompt = run(1, 21);

    SECTION("names") {
        Cache cache;
        store(cache, State{"llama", key}, Tier::system);
        for (const std::string_view name : {"llama+lora", "llam", "Llama", "llama ", ""}) {
            CAPTURE(name);
            require_miss(cache.fetch_nearest(name, prompt), prompt);
            require_miss(cache.take_nearest(name, prompt), prompt);
            CHECK_FALSE(static_cast<bool>(cache.lease_nearest(name, prompt)));
            CHECK(cache.probe(name, prompt).match() == Match::none);
            CHECK_FALSE(cache.mark(name, key, Tier::system));
            CHECK_FALSE(cache.erase(name, key));
            CHECK(cache.pop_prefixes(name, prompt) == 0);
            CHECK(cache.erase_model(name) == 0);
            CHECK(cache.nbytes(name) == 0);
        }
        require_served(cache.fetch_nearest("llama", prompt), "llama", prompt, 20, Match::shorter);
    }

    SECTION("identities of many parts whose hashes all collide") {
        IdentityCache cache;
        std::vector<Identity> identities(6, Identity{"w", "a", "s", "t", 1, 1});
        identities[1].weights = "v";
        identities[2].adapter = "";
        identities[3].salt = "another tenant";
        identities[4].chat_template = "u";
        identities[5].images = 2;
        for (std::size_t i = 0; i < identities.size(); ++i) {
            require_miss(cache.fetch_nearest(identities[i], prompt), prompt);
            // The payload's name says which of them it was computed for.
            cache.insert(identities[i], key, State{std::to_string(i), key}, Tier::user);
        }
        CHECK(cache.size() == identities.size());
        for (std::size_t i = 0; i < identities.size(); ++i) {
            require_served(cache.fetch_nearest(identities[i], prompt), std::to_string(i), prompt,
                           20, Match::shorter);
        }
        require_balanced(cache, identities);
    }
}

TEST_CASE("60. an adapter loaded again under its old name starts from nothing", "[scenario]") {
    IdentityCache cache;
    const Tokens key = run(1, 20);
    const Tokens prompt = run(1, 21);
    Identity adapter{"w", "a", "", "", 0, 1};
    cache.insert(adapter, key, State{"old weights", key}, Tier::system);

    SECTION("told apart by a generation") {
        const Identity old = adapter;
        ++adapter.generation;
        require_miss(cache.fetch_nearest(adapter, prompt), prompt);
        cache.insert(adapter, key, State{"new weights", key}, Tier::system);
        require_served(cache.fetch_nearest(adapter, prompt), "new weights", prompt, 20,
                       Match::shorter);
        CHECK(cache.erase_model(old) == 1);
        CHECK(cache.nbytes(old) == 0);
        require_served(cache.fetch_nearest(adapter, prompt), "new weights", prompt, 20,
                       Match::shorter);
    }
    SECTION("erased, even while its state is being read") {
        const auto lease = cache.lease_nearest(adapter, prompt);
        CHECK(cache.erase_model(adapter) == 1);
        require_miss(cache.fetch_nearest(adapter, prompt), prompt);
        CHECK(lease.kv().model == "old weights");
        CHECK(cache.insert(adapter, key, State{"new weights", key}, Tier::user).outcome ==
              Outcome::stored);
        CHECK(cache.fetch_nearest(adapter, prompt).tier() == Tier::user);
        require_served(cache.fetch_nearest(adapter, prompt), "new weights", prompt, 20,
                       Match::shorter);
    }
}

TEST_CASE("61. prompts with equal image placeholders and unequal images do not match",
          "[scenario]") {
    constexpr std::int32_t placeholder = 151'655;
    IdentityCache cache;
    const Tokens key = join(join(run(1, 5), Tokens(256, placeholder)), run(6, 5));
    const Tokens prompt = join(key, run(900, 3));
    const Identity cat{"w", "", "", "", 0xCA7, 0};
    const Identity dog{"w", "", "", "", 0xD06, 0};
    cache.insert(cat, key, State{"cat", key}, Tier::user);

    require_miss(cache.fetch_nearest(dog, prompt), prompt);
    cache.insert(dog, key, State{"dog", key}, Tier::user);
    require_served(cache.fetch_nearest(cat, prompt), "cat", prompt, key.size(), Match::shorter);
    require_served(cache.fetch_nearest(dog, prompt), "dog", prompt, key.size(), Match::shorter);
}

TEST_CASE("62. clear forgets entries, tiers and remembered keys, and nothing comes back later",
          "[scenario]") {
    Cache cache({.remembered_tokens = 1'000});
    const Tokens system = run(1, 20);
    const Tokens conversation = run(1, 40);
    const Tokens prompt = run(1, 41);
    store(cache, State{"m", run(500, 30)}, Tier::assistant);
    CHECK(cache.trim_to({.max_entries = 0}) == 1); // a remembered key
    store(cache, State{"m", system}, Tier::system);
    store(cache, State{"m", conversation}, Tier::user);
    store(cache, State{"other", system}, Tier::assistant);
    auto lease = std::make_optional(cache.lease_nearest("m", prompt));
    auto room = cache.reserve("m", run(700, 10), 10, Tier::user);
    REQUIRE(static_cast<bool>(room));

    CHECK(cache.clear() == 3);
    for (const auto tier : {Tier::assistant, Tier::user, Tier::system}) {
        CHECK(cache.stats(tier).entries == 0);
        CHECK(cache.stats(tier).nbytes == 0);
    }
    require_miss(cache.fetch_nearest("m", prompt), prompt);
    require_miss(cache.fetch_nearest("other", prompt), prompt);
    CHECK(cache.explain("m", run(500, 31)).nearest_tokens == 0);
    CHECK(room.commit(State{"m", run(700, 10)}).outcome == Outcome::cancelled);
    CHECK(lease->kv().tokens == conversation);
    lease.reset();
    require_miss(cache.fetch_nearest("m", prompt), prompt);
    CHECK(cache.nbytes() == 0);

    // The system prompt is not remembered as one.
    store(cache, State{"m", system}, Tier::assistant);
    CHECK(cache.stats(Tier::assistant).entries == 1);
    CHECK(cache.stats(Tier::system).entries == 0);
    require_balanced(cache, std::vector<std::string>{"m", "other"});
}

TEST_CASE("63. only equal tokens match, whatever their hashes or sums", "[scenario]") {
    SECTION("one bit of one token") {
        Cache cache;
        const Tokens key = run(1, 64);
        store(cache, State{"m", key}, Tier::user);
        for (std::size_t place = 0; place < key.size(); ++place) {
            for (int bit = 0; bit < 31; ++bit) {
                CAPTURE(place, bit);
                Tokens prompt = join(key, Tokens{900});
                prompt[place] ^= std::int32_t{1} << bit;
                REQUIRE(cache.probe("m", prompt).reused() == place);
            }
        }
    }
    SECTION("permutations, and the same tokens cut elsewhere") {
        promptkv::LRUPromptCache<Recurrent> cache;
        std::mt19937 random(63);
        const Tokens key = run(1, 64);
        store(cache, Recurrent{"m", key}, Tier::user);
        Tokens prompt = key;
        for (int i = 0; i < 200; ++i) {
            std::shuffle(prompt.begin(), prompt.end(), random);
            REQUIRE(prompt != key);
            require_miss(cache.fetch_nearest("m", prompt, {.min_remaining = 0}), prompt);
        }
        const Tokens shifted = run(2, 64);
        require_miss(cache.fetch_nearest("m", shifted, {.min_remaining = 0}), shifted);
    }
}
