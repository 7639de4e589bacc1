// SPDX-License-Identifier: MIT
// ConcurrentPromptCache on one thread: the answers of LRUPromptCache, and what it adds to them.
// What it does among threads is in tests/threads.

#include <promptkv/concurrent_prompt_cache.hpp>

#include "catch.hpp"
#include "letters.hpp"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <random>
#include <sstream>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

namespace {

using namespace promptkv_test;
using promptkv::ConcurrentPromptCache;
using promptkv::Outcome;
using promptkv::RemovalReason;
using promptkv::Tier;

using Cache = ConcurrentPromptCache<Tape>;

static_assert(!std::is_move_constructible_v<Cache> && !std::is_copy_constructible_v<Cache>);
static_assert(std::is_same_v<Cache::Lease, LRUPromptCache<Tape>::Lease>);
static_assert(std::is_same_v<Cache::Removal, LRUPromptCache<Tape>::Removal>);

// the same answers ///////////////////////////////////////////////////////////

/// All that can be seen of a cache that is called at random: two that behave alike give the same text.
template <class SomeCache>
class Diary {
public:
    explicit Diary(unsigned seed)
        : random_(seed), cache_({.max_bytes = 400, .max_entries = 20, .cut_granularity = 4}) {
        cache_.on_removal([this](auto& removal) { this->removed(removal); });
    }

    /// Returns: a line a call.
    std::vector<std::string> write(int calls) {
        std::vector<std::string> lines;
        for (int i = 0; i < calls; ++i) {
            call();
            page_ << " | " << cache_.size() << ' ' << cache_.nbytes() << ' ' << cache_.empty()
                  << ' ' << cache_.nbytes(model_) << ' ' << cache_.stats().tokens_reused << ' '
                  << cache_.stats().tokens_evicted << ' ' << cache_.stats().bytes_leased << ' '
                  << cache_.stats().peak_nbytes << ' ' << cache_.stats(Tier::user).nbytes << ' '
                  << cache_.index_nbytes() << ' ' << cache_.limits().max_bytes << ' '
                  << cache_.check_invariants();
            lines.push_back(page_.str());
            page_.str("");
        }
        leases_.clear();
        page_ << contents(cache_) << cache_.nbytes() << ' ' << cache_.stats().bytes_leased;
        lines.push_back(page_.str());
        cache_.on_removal(nullptr);
        return lines;
    }

private:
    unsigned below(unsigned n) { return static_cast<unsigned>(random_() % n); }

    Tokens some_tokens() {
        Tokens tokens(below(24));
        for (std::int32_t& token : tokens) {
            token = 'a' + static_cast<std::int32_t>(below(8) / 7); // seldom a 'b'
        }
        return tokens;
    }

    template <class Removal>
    void removed(Removal& removal) {
        page_ << " -" << removal.model << text(removal.tokens) << static_cast<int>(removal.reason)
              << static_cast<int>(removal.tier) << removal.bytes
              << (removal.payload != nullptr ? text(removal.payload->recording().tokens) : "");
        if (removal.reason != RemovalReason::evicted || removal.tokens.empty() || making_) {
            return;
        }
        const Tokens half(removal.tokens.begin(),
                          removal.tokens.begin() +
                              static_cast<std::ptrdiff_t>(removal.tokens.size() / 2));
        page_ << " +"
              << static_cast<int>(cache_.insert("m", half, tape(half), Tier::assistant).outcome)
              << cache_.erase("n", half);
    }

    template <class Answer>
    void note(const Answer& answer) {
        page_ << answer.reused << static_cast<int>(answer.match) << static_cast<int>(answer.tier);
    }
    void note(const promptkv::Inserted& inserted) {
        page_ << static_cast<int>(inserted.outcome) << ' ' << inserted.absorbed << ' '
              << inserted.evicted << ' ' << inserted.cut;
    }

    void call() {
        const Tokens tokens = some_tokens();
        const promptkv::FetchOptions options{.min_remaining = below(2), .align = 1 + below(3)};
        const auto tier = static_cast<Tier>(below(3));
        const Shape shape{.step = below(3), .bytes_per_token = 1 + below(4)};
        model_ = below(4) == 0 ? "n" : "m";
        const unsigned which = below(30);
        page_ << which << ' ' << model_ << text(tokens) << ": ";
        if (which < 10) {
            note(cache_.insert(model_, tokens, Tape(recording(tokens, shape)), tier));
        } else if (which < 12) {
            const std::size_t nbytes = recording(tokens, shape).nbytes();
            making_ = true; // what then is stored by others is where the two differ
            try {
                note(cache_.insert(model_, tokens, nbytes, tier, [&] {
                    page_ << "make ";
                    if (below(4) == 0) {
                        throw std::runtime_error("no state");
                    }
                    return Tape(recording(tokens, shape));
                }));
            } catch (const std::runtime_error& error) {
                page_ << error.what();
            }
            making_ = false;
        } else if (which < 15) {
            const auto fetched = cache_.fetch_nearest(model_, tokens, options);
            note(fetched);
            page_ << text_of(fetched.kv) << fetched.remaining.size();
        } else if (which < 17) {
            const auto taken = cache_.take_nearest(model_, tokens, options);
            note(taken);
            page_ << text_of(taken.kv) << taken.remaining.size();
        } else if (which < 20) {
            leases_.push_back(cache_.lease_nearest(model_, tokens, options));
            note(leases_.back());
        } else if (which < 22) {
            leases_.clear();
        } else if (which < 24) {
            note(cache_.probe(model_, tokens, options));
            page_ << ' ' << static_cast<int>(cache_.explain(model_, tokens, options).reason);
        } else if (which < 26) {
            page_ << cache_.mark(model_, tokens, tier);
        } else if (which == 26) {
            page_ << cache_.pop_prefixes(model_, tokens) << cache_.erase(model_, tokens);
        } else if (which == 27) {
            unsigned questions = below(4);
            page_ << cache_.evict_while([&questions] { return questions-- > 0; })
                  << cache_.trim_to({.max_entries = 10});
        } else if (which == 28) {
            cache_.set_limits({.max_bytes = 100 + below(300), .max_entries = 5 + below(15)});
        } else {
            page_ << cache_.erase_model(model_) << (below(2) == 0 ? cache_.clear() : 0);
        }
    }

    Recording recording(const Tokens& tokens, Shape shape) const {
        return {0, model_, tokens, shape};
    }

    std::mt19937 random_;
    std::ostringstream page_;
    std::string model_;
    bool making_ = false;
    SomeCache cache_;
    std::vector<typename SomeCache::Lease> leases_;
};

TEST_CASE("ConcurrentPromptCache answers as LRUPromptCache does") {
    for (unsigned seed = 0; seed < 20; ++seed) {
        CAPTURE(seed);
        const std::vector<std::string> expected = Diary<LRUPromptCache<Tape>>(seed).write(600);
        const std::vector<std::string> written = Diary<Cache>(seed).write(600);
        REQUIRE(written.size() == expected.size());
        const auto [first, second] =
            std::mismatch(written.begin(), written.end(), expected.begin());
        if (first != written.end()) {
            REQUIRE(*first == *second);
        }
    }
}

// what it adds ///////////////////////////////////////////////////////////////

TEST_CASE("Room is kept for what is being made") {
    Cache cache({.max_bytes = 10});
    cache.insert("m", "old"_key, tape("old"_key), Tier::user);
    cache.insert("m", "elder"_key, tape("elder"_key), Tier::user);

    SECTION("its bytes count as leased, so that nothing else gets them") {
        const auto inserted = cache.insert("m", "abcdef"_key, 6, Tier::user, [&cache] {
            REQUIRE(cache.size() == 0);
            REQUIRE(cache.nbytes() == 6);
            REQUIRE(cache.stats().bytes_leased == 6);
            REQUIRE(cache.check_invariants());
            REQUIRE(cache.insert("m", "12345"_key, tape("12345"_key), Tier::user).outcome ==
                    Outcome::no_room);
            REQUIRE(cache.insert("m", "1234"_key, tape("1234"_key), Tier::user).outcome ==
                    Outcome::stored);
            REQUIRE(cache.nbytes() == 10);
            return tape("abcdef"_key);
        });
        REQUIRE(inserted.outcome == Outcome::stored);
        REQUIRE(inserted.evicted == 2);
        REQUIRE(contents(cache) == "12341 abcdef1");
        REQUIRE(cache.nbytes() == 10);
    }
    SECTION("what it will replace is counted once") {
        const auto inserted = cache.insert("m", "elder"_key, 7, Tier::user, [&cache] {
            REQUIRE(contents(cache) == "elder1 old1");
            REQUIRE(cache.nbytes() == 10);
            return tape("elder"_key, {.overhead = 2});
        });
        REQUIRE(inserted.outcome == Outcome::replaced);
        REQUIRE(cache.nbytes() == 10);
    }
    SECTION("it is given back where make throws") {
        const auto make = []() -> Tape { throw std::runtime_error("no state"); };
        REQUIRE_THROWS_AS(cache.insert("m", "abcdef"_key, 6, Tier::user, make), std::runtime_error);
        REQUIRE(cache.nbytes() == 0);
    }
    SECTION("what was made is refused where the limits fell meanwhile") {
        const auto inserted = cache.insert("m", "abcdef"_key, 6, Tier::user, [&cache] {
            cache.set_limits({.max_bytes = 5});
            return tape("abcdef"_key);
        });
        REQUIRE(inserted.outcome == Outcome::too_large);
        REQUIRE(cache.nbytes() == 0);
    }
    REQUIRE(cache.stats().bytes_leased == 0);
    REQUIRE(cache.check_invariants());
}

TEST_CASE("A lookup whose copy throws stays counted") {
    struct Uncopied {
        Uncopied() = default;
        Uncopied(Uncopied&&) noexcept = default;
        Uncopied(const Uncopied&) { throw std::runtime_error("no memory"); }
        static std::size_t nbytes() noexcept { return 1; }
    };
    ConcurrentPromptCache<Uncopied> cache({.max_entries = 1});
    cache.insert("m", "a"_key, Uncopied(), Tier::user);
    REQUIRE_THROWS_AS(cache.fetch_nearest("m", "ab"_key), std::runtime_error);
    REQUIRE(cache.stats().lookups == 1);
    REQUIRE(cache.stats().hits_shorter == 1);
    REQUIRE(cache.stats().bytes_leased == 0);
    REQUIRE(cache.insert("m", "b"_key, Uncopied(), Tier::user).outcome == Outcome::stored);
    REQUIRE(cache.check_invariants());
}

TEST_CASE("The end of a lease shows at once") {
    Cache cache;
    cache.insert("m", "abc"_key, tape("abc"_key), Tier::user);
    Cache::Lease lease = cache.lease_nearest("m", "abcd"_key);
    cache.erase("m", "abc"_key);
    REQUIRE(cache.size() == 0);
    REQUIRE(cache.nbytes() == 3);
    REQUIRE(cache.stats().bytes_leased == 3);
    lease = {};
    REQUIRE(cache.nbytes() == 0);
    REQUIRE(cache.stats().bytes_leased == 0);
}

TEST_CASE("Memory pressure is asked about outside of the lock") {
    Cache cache({.cut_granularity = 0});
    cache.insert("m", "abc"_key, tape("abc"_key), Tier::user);
    cache.insert("m", "def"_key, tape("def"_key), Tier::user);
    cache.insert("m", "ghi"_key, tape("ghi"_key), Tier::user);
    REQUIRE(cache.evict_while([&cache] { return cache.nbytes("m") > 4; }) == 2);
    REQUIRE(contents(cache) == "ghi1");
    REQUIRE(cache.evict_while([] { return true; }) == 1);
    REQUIRE(cache.evict_while([] { return true; }) == 0);
}

TEST_CASE("Two caches may call each other from their listeners") {
    Cache below;
    Cache above({.max_entries = 1});
    std::string order;
    above.on_removal([&](Cache::Removal& removal) {
        order += "above " + text(removal.tokens) + "; ";
        below.insert(removal.model, removal.tokens, std::move(*removal.payload), removal.tier);
        order += "stored; ";
    });
    below.on_removal([&](const Cache::Removal& removal) {
        order += "below " + text(removal.tokens) + "; ";
        above.clear(); // delivered by the outermost call of this thread to that cache
        order += "cleared; ";
    });
    below.insert("m", "ab"_key, tape("ab"_key), Tier::user);
    above.insert("m", "ab"_key, tape("ab"_key), Tier::user);
    above.insert("m", "c"_key, tape("c"_key), Tier::user);
    REQUIRE(order == "above ab; below ab; cleared; stored; above c; stored; ");
    REQUIRE(contents(below) == "ab1 c1");
    REQUIRE(above.empty());
}

TEST_CASE("A removal names its model though nothing of that is left") {
    Cache cache;
    cache.insert("m", "ab"_key, tape("ab"_key), Tier::user);
    std::string models;
    cache.on_removal([&](const Cache::Removal& removal) {
        const auto inserted = cache.insert(removal.model, "c"_key, tape("c"_key), Tier::user);
        models += removal.model + std::to_string(static_cast<int>(inserted.outcome)) + " ";
        REQUIRE(cache.check_invariants());
    });
    REQUIRE(cache.erase_model("m") == 1);
    REQUIRE(models == "m0 ");
    REQUIRE(contents(cache) == "c1");
    REQUIRE(cache.nbytes("m") == 1);
    cache.on_removal(nullptr);
    REQUIRE(cache.clear() == 1);
    REQUIRE(cache.check_invariants());
}

} // namespace
