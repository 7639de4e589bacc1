// SPDX-License-Identifier: MIT
// ConcurrentPromptCache on one thread: the answers of LRUPromptCache, and what it adds to them.
// What it does among threads is in tests/threads.

#include <promptkv/concurrent_prompt_cache.hpp>

#include "catch.hpp"
#include "unit_payloads.hpp"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <random>
#include <sstream>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

namespace of_concurrent_cache {

using namespace promptkv_test;
using promptkv::ConcurrentPromptCache;
using promptkv::LRUPromptCache;
using promptkv::Outcome;
using promptkv::RemovalReason;
using promptkv::Tier;

using Cache = ConcurrentPromptCache<Tape>;

static_assert(!std::is_copy_constructible_v<Cache>);
static_assert(std::is_same_v<Cache::Lookup, LRUPromptCache<Tape>::Lookup>);
static_assert(std::is_same_v<Cache::Removal, LRUPromptCache<Tape>::Removal>);

// the same answers ///////////////////////////////////////////////////////////

/// A cache that is called at random, and a line for each call. Two caches that behave alike give the
/// same lines.
template <class SomeCache>
class Diary {
    using KV = PayloadOf<SomeCache>;

public:
    explicit Diary(unsigned seed)
        : random_(seed),
          cache_({.max_bytes = 200, .max_entries = 20, .remembered_tokens = below(2) * 100}) {
        cache_.set_removal_listener([this](auto& removal) { this->removed(removal); });
    }

    std::vector<std::string> write(int calls) {
        std::vector<std::string> lines;
        for (int i = 0; i < calls; ++i) {
            call();
            page_ << " | " << cache_.size() << ' ' << cache_.nbytes() << ' ' << cache_.empty()
                  << ' ' << cache_.nbytes(model_) << ' ' << cache_.index_nbytes() << ' '
                  << cache_.limits().max_bytes << ' ' << cache_.evictable_nbytes() << ' '
                  << cache_.check_invariants();
            const auto note_counter = [this](auto, std::uint64_t value) { page_ << ' ' << value; };
            for_each_counter(cache_.stats(), note_counter);
            for_each_counter(cache_.stats(Tier::user), note_counter);
            lines.push_back(page_.str());
            page_.str("");
        }
        leases_.clear();
        rooms_.clear();
        page_ << contents(cache_) << cache_.nbytes() << ' ' << cache_.stats().bytes_leased;
        lines.push_back(page_.str());
        cache_.set_removal_listener(nullptr);
        return lines;
    }

private:
    struct Room {
        typename SomeCache::Reservation reservation;
        std::string text;
    };

    unsigned below(unsigned n) { return static_cast<unsigned>(random_() % n); }

    std::string some_text() {
        std::string text(below(24), 'a');
        for (char& letter : text)
            letter = static_cast<char>('a' + below(8) / 7); // seldom a 'b'
        return text;
    }

    template <class Removal>
    void removed(Removal& removal) {
        page_ << " -" << removal.model << word(removal.tokens) << name(removal.reason)
              << removal.kept_tokens << name(removal.tier) << removal.bytes
              << (removal.payload != nullptr ? text_of(*removal.payload) : "");
        if (removal.reason != RemovalReason::evicted || removal.tokens.empty())
            return;
        const std::string half = word(removal.tokens.first(removal.tokens.size() / 2));
        page_ << " +"
              << name(cache_.insert("m", key(half), payload<KV>(half), Tier::assistant).outcome)
              << cache_.erase("n", key(half));
    }

    void note(const typename SomeCache::Lookup& answer) {
        page_ << answer.reused() << name(answer.match()) << name(answer.tier()) << answer.matched()
              << name(answer.miss()) << answer.entry_tokens() << ' ' << answer.request() << ' ';
    }
    void note(const promptkv::Inserted& inserted) {
        page_ << name(inserted.outcome) << ' ' << inserted.tokens << ' ' << inserted.absorbed << ' '
              << inserted.evicted << ' ' << inserted.cut;
    }

    void call() {
        const std::string text = some_text();
        const Key tokens = key(text);
        const promptkv::FetchOptions options{.min_remaining = below(2), .align = 1 + below(3)};
        const promptkv::InsertOptions insert{.session = below(3), .side_request = below(8) == 0};
        const auto tier = static_cast<Tier>(below(3));
        const Shape shape{.step = below(3), .bytes_per_token = 1 + below(4)};
        model_ = below(4) == 0 ? "n" : "m";
        const unsigned which = below(32);
        page_ << which << ' ' << model_ << text << ": ";
        if (which < 9) {
            note(cache_.insert(model_, tokens, payload<KV>(text, shape), tier, insert));
        } else if (which < 11) {
            const std::size_t nbytes = payload<KV>(text, shape).nbytes();
            const unsigned luck = below(4);
            try {
                note(cache_.insert(
                    model_, tokens, nbytes, tier,
                    [&]() -> std::optional<KV> {
                        page_ << "make ";
                        if (luck == 0)
                            throw std::runtime_error("no state");
                        return luck == 1 ? std::nullopt : std::optional(payload<KV>(text, shape));
                    },
                    insert));
            } catch (const std::runtime_error& error) {
                page_ << error.what();
            }
        } else if (which < 13) {
            rooms_.push_back(
                {cache_.reserve(model_, tokens, payload<KV>(text).nbytes(), tier, insert), text});
            page_ << name(rooms_.back().reservation.outcome())
                  << rooms_.back().reservation.tokens();
        } else if (which < 15 && !rooms_.empty()) {
            Room room = std::move(rooms_.back());
            rooms_.pop_back();
            page_ << text_of(room.reservation.prefix());
            note(room.reservation.commit(
                payload<KV>(room.text.substr(0, room.reservation.tokens()))));
        } else if (which < 17) {
            const auto fetched = cache_.fetch_nearest(model_, tokens, options);
            note(fetched);
            page_ << text_of(fetched.kv);
        } else if (which < 18) {
            const auto taken = cache_.take_nearest(model_, tokens, options);
            note(taken);
            page_ << text_of(taken.kv);
        } else if (which < 21) {
            leases_.push_back(cache_.lease_nearest(model_, tokens, options));
            note(leases_.back());
        } else if (which < 23) {
            leases_.clear();
        } else if (which < 25) {
            note(cache_.probe(model_, tokens, options));
            note(cache_.touch(model_, tokens));
            page_ << to_string(cache_.explain(model_, tokens, options));
        } else if (which < 26) {
            page_ << cache_.mark(model_, tokens, tier);
        } else if (which < 27) {
            page_ << cache_.pop_prefixes(model_, tokens) << cache_.erase(model_, tokens);
        } else if (which < 28) {
            page_ << cache_.erase_below(model_, tokens) << cache_.erase_session(model_, below(3));
        } else if (which < 29) {
            page_ << cache_.evict(below(40)) << cache_.trim_to({.max_entries = 10});
        } else if (which < 30) {
            cache_.set_limits({.max_bytes = 50 + below(150), .max_entries = 5 + below(15)});
        } else if (which < 31) {
            for (const auto& entry : cache_.snapshot())
                page_ << word(entry.tokens) << text_of(entry.lease.kv()) << ' ';
        } else {
            page_ << cache_.erase_model(model_) << (below(2) == 0 ? cache_.clear() : 0);
        }
    }

    std::mt19937 random_;
    std::ostringstream page_;
    std::string model_;
    SomeCache cache_;
    std::vector<typename SomeCache::Lease> leases_;
    std::vector<Room> rooms_;
};

template <class KV>
void compare_diaries() {
    for (unsigned seed = 0; seed < 8; ++seed) {
        CAPTURE(seed);
        const std::vector<std::string> expected = Diary<LRUPromptCache<KV>>(seed).write(400);
        const std::vector<std::string> written = Diary<ConcurrentPromptCache<KV>>(seed).write(400);
        REQUIRE(written.size() == expected.size());
        const auto [first, second] =
            std::mismatch(written.begin(), written.end(), expected.begin());
        if (first != written.end())
            REQUIRE(*first == *second);
    }
}

TEST_CASE("ConcurrentPromptCache answers as LRUPromptCache does") {
    SECTION("for payloads without blocks") {
        compare_diaries<Tape>();
    }
    SECTION("for payloads of shared blocks") {
        compare_diaries<Blocks>();
    }
}

// what it adds ///////////////////////////////////////////////////////////////

TEST_CASE("A reservation holds its room while the payload is made") {
    Cache cache({.max_bytes = 10});
    store(cache, "old", Tier::user, {.step = 0});
    store(cache, "elder", Tier::user, {.step = 0});

    SECTION("so that nobody else gets it") {
        const auto inserted = cache.insert("m", key("abcdef"), 6, Tier::user, [&cache] {
            CHECK(cache.size() == 0);
            CHECK(cache.nbytes() == 6);
            CHECK(cache.stats().bytes_reserved == 6);
            CHECK(cache.check_invariants());
            CHECK(store(cache, "12345", Tier::user, {.step = 0}).outcome == Outcome::no_room);
            CHECK(store(cache, "1234", Tier::user).outcome == Outcome::stored);
            CHECK(cache.nbytes() == 10);
            return Tape("abcdef");
        });
        CHECK(inserted.outcome == Outcome::stored);
        CHECK(contents(cache) == "12341 abcdef1");
        CHECK(cache.nbytes() == 10);
    }
    SECTION("and gives it back where make throws") {
        const auto make = []() -> Tape { throw std::runtime_error("no state"); };
        CHECK_THROWS_AS(cache.insert("m", key("abcdef"), 6, Tier::user, make), std::runtime_error);
        CHECK(cache.nbytes() == 0);
    }
    CHECK(cache.stats().bytes_reserved == 0);
    CHECK(cache.check_invariants());
}

TEST_CASE("The end of a lease shows at once") {
    Cache cache;
    store(cache, "abc", Tier::user);
    Cache::Lease lease = cache.lease_nearest("m", key("abcd"));
    cache.erase("m", key("abc"));
    CHECK(cache.size() == 0);
    CHECK(cache.nbytes() == 3);
    CHECK(cache.stats().bytes_leased == 3);
    lease.end();
    CHECK(cache.nbytes() == 0);
    CHECK(cache.stats().bytes_leased == 0);
}

TEST_CASE("Two caches may call each other from their listeners") {
    Cache below;
    Cache above({.max_entries = 1});
    std::string order;
    above.set_removal_listener([&](Cache::Removal& removal) {
        order += "above " + word(removal.tokens) + "; ";
        below.insert(removal.model, removal.tokens, std::move(*removal.payload), removal.tier);
        order += "stored; ";
    });
    below.set_removal_listener([&](const Cache::Removal& removal) {
        order += "below " + word(removal.tokens) + "; ";
        above.clear();
        order += "cleared; ";
    });
    store(below, "ab", Tier::user);
    store(above, "ab", Tier::user);
    store(above, "c", Tier::user);
    CHECK(order == "above ab; below ab; above c; stored; cleared; stored; ");
    CHECK(contents(below) == "ab1 c1");
    CHECK(above.empty());
}

TEST_CASE("A removal names its model after the last entry of the model left") {
    Cache cache;
    store(cache, "ab", Tier::user);
    std::string models;
    cache.set_removal_listener([&](const Cache::Removal& removal) {
        const auto inserted = cache.insert(removal.model, key("c"), Tape("c"), Tier::user);
        models += removal.model + std::string(name(inserted.outcome)) + " ";
        CHECK(cache.check_invariants());
    });
    CHECK(cache.erase_model("m") == 1);
    CHECK(models == "mstored ");
    CHECK(contents(cache) == "c1");
    CHECK(cache.nbytes("m") == 1);
    cache.set_removal_listener(nullptr);
    CHECK(cache.clear() == 1);
    CHECK(cache.check_invariants());
}

TEST_CASE("A listener and a destructor may call the cache, which they do without its lock") {
    ConcurrentPromptCache<Farewell> cache({.max_entries = 1});
    std::string log;
    cache.set_removal_listener(
        [&](const auto& removal) { log += word(removal.tokens) + std::to_string(cache.size()); });
    const auto farewell = [&] { log += "-" + std::to_string(cache.nbytes("m")) + " "; };
    cache.insert("m", key("a"), Farewell(farewell), Tier::user);
    cache.insert("m", key("b"), Farewell(farewell), Tier::user);
    CHECK(log == "a1-1 ");
    cache.set_removal_listener(nullptr);
    CHECK(cache.clear() == 1);
    CHECK(log == "a1-1 -0 ");
}

} // namespace of_concurrent_cache
