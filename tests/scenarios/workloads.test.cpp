// SPDX-License-Identifier: MIT
// Scenarios 71 to 75, 80 to 82 and 84 to 87: traffic as it was reported, and how many of its tokens
// are reused. One token is one byte; "room" is the budget.
#include "state.hpp"

#include <promptkv/reuse_order.hpp>

#include <cstdint>
#include <memory>
#include <optional>
#include <string>

using namespace scenario;
using promptkv::Match;
using promptkv::Outcome;
using promptkv::Tier;

namespace {

using BlockCache = promptkv::LRUPromptCache<Blocks>;
using PlainCache = promptkv::LRUPromptCache<Plain>;
using WholeCache = promptkv::LRUPromptCache<Whole>;

/// Hands out tokens that nobody else has.
class Source {
public:
    Tokens operator()(std::size_t count) {
        Tokens tokens = run(next_, count);
        next_ += static_cast<std::int32_t>(count);
        return tokens;
    }

private:
    std::int32_t next_ = 1;
};

/// Tokens asked for and tokens reused.
struct Tally {
    std::size_t requested = 0;
    std::size_t reused = 0;

    double ratio() const { return static_cast<double>(reused) / static_cast<double>(requested); }
};

/// Looks a prompt up as an engine does, counts it, and returns the number of the lookup.
template <class Cache>
std::uint64_t look_up(Cache& cache, const Tokens& prompt, Tally& tally) {
    const auto lease = cache.lease_nearest("m", prompt);
    tally.requested += prompt.size();
    tally.reused += lease.reused();
    if constexpr (std::is_same_v<Cache, BlockCache>) {
        if (lease)
            REQUIRE(begins_as(lease.kv(), prompt, lease.reused()));
    }
    return lease.request();
}

/// Stores blocks that were computed anew, as an engine without shared blocks of its own would.
promptkv::Inserted put(BlockCache& cache, const Tokens& key, Tier tier, std::size_t block_tokens,
                       promptkv::InsertOptions options = {}) {
    return cache.insert("m", key, blocks_of(key, block_tokens), tier, options);
}

template <class KV, class Policy>
promptkv::Inserted
put(promptkv::BasicPromptCache<KV, std::string, std::int32_t, Tier, Policy>& cache,
    const Tokens& key, Tier tier, promptkv::InsertOptions options = {}) {
    return cache.insert("m", key, KV{key.size()}, tier, options);
}

} // namespace

TEST_CASE("71. side requests do not push the history out", "[scenario]") {
    WholeCache cache({.max_bytes = 6}); // room for 6 states
    Source fresh;
    std::vector<Tokens> histories{fresh(500), fresh(500)};
    int found = 0;
    for (int turn = 0; turn < 20; ++turn) {
        for (Tokens& history : histories) {
            const std::size_t stored = history.size();
            const Tokens prompt = join(history, fresh(30));
            found += cache.lease_nearest("m", prompt).reused() == stored ? 1 : 0;
            history = join(prompt, fresh(50));
            put(cache, history, Tier::assistant);
            for (int side = 0; side < 2; ++side) { // a title, and tags
                const Tokens request = join(history, fresh(20));
                CHECK(cache.lease_nearest("m", request).reused() == history.size());
                put(cache, request, Tier::assistant, {.side_request = true});
            }
        }
    }
    CHECK(found == 38); // all but the first turn of each chat
    CHECK(cache.check_invariants());
}

TEST_CASE("72. whole states survive a template that strips thinking", "[scenario]") {
    const auto traffic = [](auto cache, bool with_sessions) {
        cache.set_limits({.max_bytes = 14}); // room for 14 states
        Source fresh;
        std::vector<Tokens> prompts(6);
        for (Tokens& prompt : prompts)
            prompt = fresh(2'000);
        Tally tally;
        for (int turn = 0; turn < 20; ++turn) {
            for (std::size_t chat = 0; chat < prompts.size(); ++chat) {
                Tokens& prompt = prompts[chat];
                prompt = join(prompt, fresh(100)); // the question
                const auto request = look_up(cache, prompt, tally);
                const std::uint64_t session = with_sessions ? chat + 1 : 0;
                const promptkv::InsertOptions options{.session = session, .request = request};
                put(cache, prompt, Tier::assistant, options);
                const Tokens answer = fresh(200);
                const Tokens thinking = fresh(500);
                put(cache, join(join(prompt, thinking), answer), Tier::assistant, options);
                prompt = join(prompt, answer);
            }
        }
        CHECK(cache.check_invariants());
        return tally.ratio();
    };
    CHECK(traffic(WholeCache(), true) >= 0.9);
    CHECK(traffic(WholeCache(), false) < 0.9); // or the sessions would not be what does it
    CHECK(traffic(promptkv::PromptCache<Whole>(), true) >= 0.9);
}

TEST_CASE("73. the states of a long conversation are thinned evenly", "[scenario]") {
    WholeCache cache({.max_bytes = 30}); // room for 30 states
    const Tokens conversation = run(1, 120'000);
    for (std::size_t n = 2'000; n <= conversation.size(); n += 2'000)
        put(cache, first_of(conversation, n), Tier::user);
    CHECK(cache.size() == 30);
    for (std::int32_t other = 0; other < 30; ++other)
        put(cache, Tokens{-1, other, 1}, Tier::assistant);
    CHECK(cache.stats(Tier::user).entries == 15); // the tiers are as long as each other

    const auto edited_at = [&](std::size_t n) {
        return cache.probe("m", join(first_of(conversation, n), Tokens{-2})).reused();
    };
    CHECK(edited_at(48'000) == 48'000);
    for (std::size_t n = 8'000; n <= conversation.size(); n += 4'000) {
        CAPTURE(n);
        CHECK(edited_at(n) == n / 8'000 * 8'000);
    }
    CHECK(cache.check_invariants());
}

TEST_CASE("74. system prompts with a date leave the room to the sessions that live", "[scenario]") {
    BlockCache cache({.max_bytes = 40'000}); // the user tier stays empty
    Source fresh;
    struct Session {
        Tokens history;
        int turns_left = 0;
    };
    std::vector<Session> live(6);
    Tally tally;
    for (int round = 0; round < 200; ++round) {
        for (std::size_t i = 0; i < live.size(); ++i) {
            Session& session = live[i];
            if (session.turns_left == 0) {
                session.history = fresh(2'000); // begins with today's date and the time
                session.turns_left = round == 0 ? 3 * static_cast<int>(i) + 5 : 20;
            }
            const Tokens system = first_of(session.history, 2'000);
            const Tokens prompt = join(session.history, fresh(80));
            look_up(cache, prompt, tally);
            session.history = join(prompt, fresh(80));
            put(cache, system, Tier::system, 64);
            put(cache, session.history, Tier::assistant, 64);
            --session.turns_left;
        }
    }
    CHECK(tally.ratio() >= 0.9);
    CHECK(cache.stats(Tier::system).evicted > 40); // those of sessions that are over
    CHECK(cache.nbytes() <= 40'000);
    CHECK(cache.check_invariants());
}

TEST_CASE("75. one giant newcomer of the lowest tier takes system prompts last", "[scenario]") {
    // The rule compares tiers by their entries, so it takes from the user and the system tier in turn.
    struct Case {
        std::size_t newcomer;
        std::size_t system_tokens_left;
    };
    const auto c =
        GENERATE(Case{20'000, 8'000}, Case{25'000, 6'000}, Case{30'000, 4'000}, Case{39'900, 0});
    CAPTURE(c.newcomer);
    BlockCache cache({.max_bytes = 40'000});
    std::vector<Tokens> systems;
    for (std::int32_t chat = 0; chat < 5; ++chat) {
        systems.push_back(run(10'000 * (chat + 1), 2'000));
        put(cache, systems.back(), Tier::system, 50);
        put(cache, run(10'000 * (chat + 1), 5'000), Tier::user, 50);
    }
    REQUIRE(cache.nbytes() == 25'000);
    CHECK(put(cache, run(1'000'000, c.newcomer), Tier::assistant, 50).outcome == Outcome::stored);

    std::size_t left = 0;
    for (const Tokens& system : systems)
        left += cache.probe("m", join(system, Tokens{-1})).reused();
    CHECK(left >= c.system_tokens_left);
    CHECK(cache.nbytes() <= 40'000);
    CHECK(cache.check_invariants());
}

TEST_CASE("80. eight samples of one prompt cost the other chats nothing", "[scenario]") {
    const auto chats_reuse = [](int samples) {
        BlockCache cache({.max_bytes = 60'000});
        Source fresh;
        std::vector<Tokens> chats;
        for (int chat = 0; chat < 4; ++chat) {
            chats.push_back(fresh(5'000));
            put(cache, chats.back(), Tier::assistant, 64);
        }
        Tally sampled;
        const Tokens prompt = fresh(8'000);
        const auto request = look_up(cache, prompt, sampled);
        put(cache, prompt, Tier::user, 64, {.session = 1, .request = request});
        for (int sample = 0; sample < samples; ++sample) { // each with all of the prompt's blocks
            put(cache, join(prompt, fresh(500)), Tier::assistant, 64,
                {.session = 1, .request = request});
        }
        Tally tally;
        for (Tokens& chat : chats) {
            chat = join(chat, fresh(1'000)); // 6,000
            look_up(cache, chat, tally);
            put(cache, chat, Tier::assistant, 64);
        }
        CHECK(cache.check_invariants());
        CHECK(cache.stats().bytes_referenced > cache.nbytes());
        return tally.reused;
    };
    CHECK(chats_reuse(1) == 4 * 5'000); // of 4 x 6,000: 0.83
    CHECK(chats_reuse(8) == 4 * 5'000);
}

TEST_CASE("81. full attention survives a template that strips thinking", "[scenario]") {
    // Per turn: a question of 100 tokens, thinking of 1,720, an answer of 120. A block has 20 tokens,
    // so that each part ends with a block.
    const auto traffic = [](BlockCache& cache) {
        Source fresh;
        const Tokens system = fresh(2'000);
        std::vector<Tokens> prompts(8, system);
        Tally tally;
        put(cache, system, Tier::system, 20);
        for (int turn = 0; turn < 12; ++turn) {
            for (Tokens& prompt : prompts) {
                prompt = join(prompt, fresh(100));
                look_up(cache, prompt, tally);
                put(cache, prompt, Tier::assistant, 20);
                const Tokens thinking = fresh(1'720);
                put(cache, join(join(prompt, thinking), fresh(120)), Tier::assistant, 20);
                prompt = join(prompt, fresh(120)); // the answer at its new place
            }
        }
        CHECK(cache.check_invariants());
        return tally.ratio();
    };
    SECTION("with room for 40,000 tokens") {
        BlockCache cache({.max_bytes = 40'000});
        CHECK(traffic(cache) >= 0.88);
        CHECK(cache.nbytes() <= 40'000);
    }
    SECTION("without a limit each token is held once") {
        // 2,000 + 8 x (12 x (100 + 1,720 + 120) + 11 x 120): the last answer has no new place.
        BlockCache cache;
        CHECK(traffic(cache) >= 0.88);
        CHECK(cache.nbytes() == 198'800);
        CHECK(cache.stats().bytes_referenced > 2 * 198'800);
    }
}

TEST_CASE("82. a parent finds its context when its sub-agents are done", "[scenario]") {
    BlockCache cache({.max_bytes = 52'000});
    Source fresh;
    Tokens parent = fresh(4'000);
    const Tokens child_system = fresh(4'000);
    put(cache, first_of(parent, 4'000), Tier::system, 64);
    put(cache, child_system, Tier::system, 64);

    const auto turn = [&](Tokens& history, std::size_t question, std::size_t answer, Tally& tally) {
        const Tokens prompt = join(history, fresh(question));
        look_up(cache, prompt, tally);
        history = join(prompt, fresh(answer));
        CHECK(store_new_blocks(cache, history, Tier::assistant, 64).tokens == history.size());
    };
    Tally returns;
    Tally others;
    for (int wave = 0; wave < 4; ++wave) {
        for (int i = 0; i < 3; ++i)
            turn(parent, 400, 600, others);
        std::vector<Tokens> children(4, child_system);
        for (int i = 0; i < 6; ++i) {
            for (Tokens& child : children)
                turn(child, 500, 500, others);
        }
        turn(parent, 800, 200, returns); // with the four results
    }
    CHECK(returns.ratio() >= 0.91);
    CHECK(cache.check_invariants());
    CHECK(cache.nbytes() <= 52'000);
}

namespace {

/// Full attention that cannot be cut in place.
struct Uncut {
    std::size_t n_tokens = 0;

    std::size_t nbytes() const noexcept { return n_tokens; }
    std::size_t reusable_prefix(std::size_t n) const noexcept { return std::min(n, n_tokens); }
    Uncut clone_prefix(std::size_t n) const noexcept { return Uncut{n}; }
};

} // namespace

TEST_CASE("84. a document that readers branch off from stays while they come", "[scenario]") {
    const auto traffic = [](auto& cache) {
        Source fresh;
        const Tokens document = fresh(5'000);
        const Tokens shared = first_of(document, 4'900);
        put(cache, document, Tier::assistant);
        Tally tally;
        for (int round = 0; round < 50; ++round) {
            look_up(cache, join(shared, fresh(100)), tally); // stores nothing
            for (int other = 0; other < 3; ++other) {
                Tally ignored;
                const Tokens prompt = fresh(700);
                look_up(cache, prompt, ignored);
                put(cache, prompt, Tier::assistant);
            }
        }
        CHECK(cache.stats().evicted > 100);
        CHECK(cache.check_invariants());
        return tally.ratio();
    };
    SECTION("state that can be cut") {
        PlainCache cache({.max_bytes = 10'000});
        CHECK(traffic(cache) >= 0.95);
    }
    SECTION("state that cannot be cut") {
        promptkv::LRUPromptCache<Uncut> cache({.max_bytes = 10'000});
        CHECK(traffic(cache) >= 0.95);
    }
    SECTION("where entries are counted, not bytes") {
        PlainCache cache({.max_entries = 8});
        CHECK(traffic(cache) >= 0.95);
    }
    SECTION("by the policy that learns, too") {
        const bool counts_entries = GENERATE(false, true);
        const promptkv::CacheLimits limits = counts_entries
                                                 ? promptkv::CacheLimits{.max_entries = 8}
                                                 : promptkv::CacheLimits{.max_bytes = 10'000};
        promptkv::PromptCache<Plain> cache;
        cache.set_limits(limits);
        CHECK(traffic(cache) >= 0.95);
        promptkv::PromptCache<Uncut> uncut;
        uncut.set_limits(limits);
        CHECK(traffic(uncut) >= 0.95);
    }
    SECTION("and it goes when they have gone") {
        PlainCache cache({.max_bytes = 10'000});
        const Tokens document = run(1, 5'000);
        put(cache, document, Tier::assistant);
        Tally tally;
        look_up(cache, join(first_of(document, 4'900), Tokens{-1}), tally);
        for (std::int32_t other = 1; other <= 60; ++other)
            put(cache, run(10'000 * other, 700), Tier::assistant);
        CHECK(cache.probe("m", document).reused() == 0);
    }
}

TEST_CASE("85. the branch that a compaction leaves behind is the first to go", "[scenario]") {
    const auto traffic = [](bool with_sessions) {
        PlainCache cache({.max_bytes = 56'000});
        Source fresh;
        Tally ignored;
        const auto serve = [&](const Tokens& prompt, std::uint64_t session, Tally& tally) {
            const auto request = look_up(cache, prompt, tally);
            put(cache, prompt, Tier::assistant,
                {.session = with_sessions ? session : 0, .request = request});
        };
        std::vector<Tokens> chats;
        for (std::uint64_t chat = 1; chat <= 4; ++chat) {
            chats.push_back(fresh(4'000));
            serve(chats.back(), chat, ignored);
        }
        serve(fresh(36'000), 9, ignored);
        serve(fresh(5'000), 9, ignored); // compacted
        for (std::uint64_t newcomer = 20; newcomer < 22; ++newcomer)
            serve(fresh(5'000), newcomer, ignored);
        Tally tally;
        for (std::uint64_t chat = 1; chat <= 4; ++chat)
            serve(join(chats[chat - 1], fresh(1'000)), chat, tally);
        CHECK(cache.stats().demoted == (with_sessions ? 1 : 0));
        CHECK(cache.check_invariants());
        return tally.ratio();
    };
    CHECK(traffic(true) >= 0.8);
    CHECK(traffic(false) < 0.5);
}

TEST_CASE("86. a session that starts above the budget keeps the part that fits in half of it",
          "[scenario]") {
    const auto traffic = [](auto& cache, auto store_prompt) {
        const Tokens conversation = run(1, 26'000);
        Tally tally;
        for (std::size_t turn = 1; turn <= 10; ++turn) {
            const Tokens prompt = first_of(conversation, 21'000 + 500 * turn);
            look_up(cache, prompt, tally);
            const auto inserted = store_prompt(prompt);
            CHECK(inserted.tokens > 9'900);
            CHECK(inserted.tokens <= 10'000);
        }
        CHECK(tally.requested == 237'500);
        CHECK(cache.stats().stored_in_part == 10);
        CHECK(cache.stats().too_large == 0);
        CHECK(cache.nbytes() <= 20'000);
        CHECK(cache.check_invariants());
        return tally.reused;
    };
    SECTION("cut to the token") {
        PlainCache cache({.max_bytes = 20'000});
        CHECK(traffic(cache, [&](const Tokens& prompt) {
                  return put(cache, prompt, Tier::assistant);
              }) == 9 * 10'000);
    }
    SECTION("cut to the block") {
        BlockCache cache({.max_bytes = 20'000});
        CHECK(traffic(cache, [&](const Tokens& prompt) {
                  return put(cache, prompt, Tier::assistant, 64);
              }) == 9 * 9'984);
    }
    SECTION("refused where it cannot be cut") {
        promptkv::LRUPromptCache<Recurrent> cache({.max_bytes = 20'000});
        CHECK(store(cache, Recurrent{"m", run(1, 30), 21'000}, Tier::assistant).outcome ==
              Outcome::too_large);
    }
}

namespace {

struct Answers {
    int requests = 0;
    int no_room = 0;
    int in_part = 0;
};

/// Eight workers, each with a conversation that grows to some 10,000 tokens. A restore lasts for two
/// steps of all workers, computing for one, and a store for six.
template <class KV>
Answers serve_with_slow_copies(promptkv::LRUPromptCache<KV>& cache) {
    using Served = promptkv::LRUPromptCache<KV>;
    struct Worker {
        Tokens history;
        std::optional<typename Served::Lease> restoring;
        typename Served::Reservation storing;
        int step = 0;
    };
    std::vector<Worker> workers(8);
    Source fresh;
    Answers answers;
    for (std::size_t i = 0; i < workers.size(); ++i)
        workers[i].step = -static_cast<int>(i); // they do not march in step
    while (answers.requests < 320) {
        for (Worker& worker : workers) {
            const std::size_t n = worker.history.size();
            switch (worker.step++) {
            case 0:
                if (n >= 9'600)
                    worker.history.clear();
                worker.history = join(worker.history, fresh(worker.history.empty() ? 2'000 : 400));
                worker.restoring.emplace(cache.lease_nearest("m", worker.history));
                break;
            case 2:
                worker.restoring.reset();
                break;
            case 3:
                ++answers.requests;
                worker.storing = cache.reserve("m", worker.history, n, Tier::assistant);
                if (!worker.storing) {
                    answers.no_room += worker.storing.outcome() == Outcome::no_room ? 1 : 0;
                    worker.step = 0;
                } else {
                    answers.in_part += worker.storing.tokens() < n ? 1 : 0;
                }
                break;
            case 9: {
                const Tokens key = first_of(worker.history, worker.storing.tokens());
                auto kv = worker.storing.prefix().value_or(payload_of<KV>(Tokens{}));
                if constexpr (std::is_same_v<KV, Blocks>) {
                    REQUIRE(begins_as(kv, key, kv.length()));
                    fill(kv, key);
                } else {
                    kv = payload_of<KV>(key);
                }
                CHECK(worker.storing.commit(std::move(kv)).outcome != Outcome::no_room);
                worker.step = 0;
                break;
            }
            default:
                break;
            }
            REQUIRE(cache.nbytes() <= 40'000);
        }
    }
    CHECK(cache.stats().peak_nbytes <= 40'000);
    CHECK(cache.check_invariants());
    return answers;
}

} // namespace

TEST_CASE("87. workers with slow copies get room for what fits", "[scenario]") {
    SECTION("shared blocks") { // what is stored of a conversation needs no new room
        BlockCache cache({.max_bytes = 40'000}); // room for four conversations
        const Answers answers = serve_with_slow_copies(cache);
        CHECK(answers.no_room <= 16); // of 320
    }
    SECTION("payloads that share nothing") {
        PlainCache cache({.max_bytes = 40'000});
        const Answers answers = serve_with_slow_copies(cache);
        CHECK(answers.no_room <= 16);
        CHECK(answers.in_part > answers.no_room);
    }
}
