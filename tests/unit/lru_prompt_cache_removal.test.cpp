// SPDX-License-Identifier: MIT
// LRUPromptCache: entries that are erased, and the listener that is told what left.

#include <promptkv/lru_prompt_cache.hpp>

#include "catch.hpp"
#include "unit_payloads.hpp"

#include <algorithm>
#include <cstddef>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <sstream>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace {

using namespace promptkv_test;
using promptkv::LRUPromptCache;
using promptkv::Outcome;
using promptkv::RemovalReason;
using promptkv::Tier;

using Cache = LRUPromptCache<Tape>;
using BlockCache = LRUPromptCache<Blocks>;

/// Writes down what `cache` tells of: "abc:evicted3" for three bytes of abc that were evicted.
template <class C>
void record(C& cache, std::string& log) {
    cache.set_removal_listener([&log](const auto& removal) {
        log += (log.empty() ? "" : " ") + word(removal.tokens) + ":" +
               std::string(name(removal.reason)) + std::to_string(removal.bytes);
    });
}

/// The words of a line in alphabetical order.
std::string sorted(const std::string& line) {
    std::istringstream in(line);
    std::vector<std::string> words;
    for (std::string each; in >> each;)
        words.push_back(each);
    std::sort(words.begin(), words.end());
    std::string joined;
    for (const std::string& each : words)
        joined += (joined.empty() ? "" : " ") + each;
    return joined;
}

// functions that erase ///////////////////////////////////////////////////////

TEST_CASE("erase removes one entry") {
    Cache cache;
    store(cache, "abc", Tier::user);
    store(cache, "abx", Tier::user);
    std::string log;
    record(cache, log);
    CHECK(cache.erase("m", key("abc")));
    CHECK(log == "abc:erased3");
    CHECK(contents(cache) == "abx1");
    CHECK(cache.nbytes() == 3);
    CHECK(cache.stats().erased == 1);
    CHECK_FALSE(cache.erase("m", key("abc")));
    CHECK_FALSE(cache.erase("m", key("ab")));
    CHECK_FALSE(cache.erase("other", key("abx")));
    CHECK(contents(cache) == "abx1");
    CHECK(cache.check_invariants());
}

TEST_CASE("erase does not forbid longer entries to serve the key") {
    Cache cache;
    store(cache, "abc", Tier::system);
    store(cache, "abcdef", Tier::user);
    CHECK(cache.erase("m", key("abc")));
    CHECK(cache.probe("m", key("abcx")).reused() == 3);
    CHECK(contents(cache) == "abcdef1");
}

TEST_CASE("erase_below removes a prefix and everything that continues it") {
    Cache cache;
    for (const std::string_view each : {"a", "abc", "abcdef", "abcxy", "abx", "b"})
        store(cache, each, Tier::user, whole_only);
    cache.insert("other", key("abcd"), Tape("abcd"), Tier::user);
    std::string log;
    record(cache, log);

    SECTION("of a key") {
        CHECK(cache.erase_below("m", key("abc")) == 3);
        CHECK(sorted(log) == "abc:erased3 abcdef:erased6 abcxy:erased5");
        CHECK(contents(cache) == "a1 abcd1 abx1 b1");
        CHECK(cache.stats().erased == 3);
        CHECK(cache.erase_below("m", key("abc")) == 0);
    }
    SECTION("of a prefix within an edge") {
        CHECK(cache.erase_below("m", key("abcde")) == 1);
        CHECK(contents(cache) == "a1 abc1 abcd1 abcxy1 abx1 b1");
    }
    SECTION("of a key that nothing continues") {
        CHECK(cache.erase_below("m", key("abcdefg")) == 0);
        CHECK(cache.erase_below("m", key("q")) == 0);
        CHECK(cache.erase_below("none", key("a")) == 0);
        CHECK(cache.size() == 7);
    }
    SECTION("of the empty key: everything of the model") {
        CHECK(cache.erase_below("m", {}) == 6);
        CHECK(contents(cache) == "abcd1");
    }
    CHECK(cache.check_invariants());
}

TEST_CASE("What was cut before is erased by the prefix that is left") {
    Cache cache;
    store(cache, "abcdefgh", Tier::user);
    CHECK(cache.trim_to({.max_bytes = 5}) == 0);
    CHECK(cache.erase_below("m", key("ab")) == 1);
    CHECK_FALSE(cache.probe("m", key("abcdefgh")));
    CHECK(cache.empty());
}

TEST_CASE("erase_session removes what that session alone stored") {
    Cache cache;
    store(cache, "abc", Tier::user, {}, {.session = 7});
    store(cache, "abx", Tier::user, {}, {.session = 7});
    store(cache, "pqr", Tier::user, {}, {.session = 8});
    store(cache, "xyz", Tier::user);
    store(cache, "both", Tier::user, {}, {.session = 7});
    store(cache, "both", Tier::user, {}, {.session = 8});
    cache.insert("n", key("abc"), Tape("abc"), Tier::user, {.session = 7});
    CHECK(cache.erase_session("m", 9) == 0);
    CHECK(cache.erase_session("none", 7) == 0);
    CHECK(cache.erase_session("m", 7) == 2);
    CHECK(contents(cache) == "abc1 both1 pqr1 xyz1");
    CHECK(cache.nbytes("n") == 3);
    CHECK(cache.erase_session("m", 7) == 0);
    CHECK(cache.stats().erased == 2);
    CHECK(cache.check_invariants());
}

TEST_CASE("erase_model removes everything of one model") {
    Cache cache;
    cache.insert("a", key("abc"), Tape("abc"), Tier::user);
    cache.insert("a", key("xyz"), Tape("xyz"), Tier::system);
    cache.insert("b", key("abcd"), Tape("abcd"), Tier::user);
    std::string log;
    record(cache, log);
    CHECK(cache.erase_model("a") == 2);
    CHECK(sorted(log) == "abc:erased3 xyz:erased3");
    CHECK(contents(cache) == "abcd1");
    CHECK(cache.nbytes("a") == 0);
    CHECK(cache.nbytes("b") == 4);
    CHECK(cache.erase_model("a") == 0);
    CHECK(cache.erase_model("none") == 0);
    CHECK(cache.check_invariants());
}

TEST_CASE("clear removes everything of every model and tier") {
    Cache cache;
    cache.insert("a", key("abc"), Tape("abc"), Tier::user);
    cache.insert("b", key("xyz"), Tape("xyz"), Tier::system);
    std::string log;
    record(cache, log);
    CHECK(cache.clear() == 2);
    CHECK(sorted(log) == "abc:cleared3 xyz:cleared3");
    CHECK(cache.empty());
    CHECK(cache.nbytes() == 0);
    CHECK(cache.stats().cleared == 2);
    CHECK(cache.clear() == 0);
    CHECK(cache.check_invariants());
    CHECK(store(cache, "abc", Tier::user).outcome == Outcome::stored);
}

TEST_CASE("pop_prefixes removes the entries on strict prefixes") {
    Cache cache;
    store(cache, "a", Tier::user, whole_only);
    store(cache, "abc", Tier::user, whole_only);
    store(cache, "abcd", Tier::user, whole_only);
    store(cache, "abx", Tier::user, whole_only);
    cache.insert("other", key("a"), Tape("a"), Tier::user);
    std::string log;
    record(cache, log);
    CHECK(cache.pop_prefixes("m", key("abcd")) == 2);
    CHECK(sorted(log) == "a:erased1 abc:erased3");
    CHECK(contents(cache) == "a1 abcd1 abx1");
    CHECK(cache.pop_prefixes("m", key("abcd")) == 0);
    CHECK(cache.pop_prefixes("m", {}) == 0);
    CHECK(cache.check_invariants());
}

// the listener ///////////////////////////////////////////////////////////////

TEST_CASE("Each removal is told with its reason") {
    Cache cache;
    store(cache, "abcd", Tier::user);
    std::string log;
    record(cache, log);

    SECTION("evicted") {
        cache.trim_to({.max_entries = 0});
        CHECK(log == "abcd:evicted4");
    }
    SECTION("evicted to make room") {
        cache.set_limits({.max_entries = 1});
        store(cache, "xyz", Tier::user);
        CHECK(log == "abcd:evicted4");
    }
    SECTION("cut") {
        cache.trim_to({.max_bytes = 3});
        CHECK(log == "abcd:cut1");
    }
    SECTION("absorbed") {
        store(cache, "abcdef", Tier::user);
        CHECK(log == "abcd:absorbed4");
    }
    SECTION("replaced") {
        store(cache, "abcd", Tier::user, {.overhead = 1});
        CHECK(log == "abcd:replaced4");
    }
    SECTION("erased") {
        cache.erase("m", key("abcd"));
        CHECK(log == "abcd:erased4");
    }
    SECTION("taken") {
        CHECK(cache.take_nearest("m", key("abcde")));
        CHECK(log == "abcd:taken4");
    }
    SECTION("cleared") {
        cache.clear();
        CHECK(log == "abcd:cleared4");
    }
    SECTION("and nothing is told where nothing left") {
        cache.fetch_nearest("m", key("abcde"));
        cache.mark("m", key("ab"), Tier::user);
        store(cache, "abc", Tier::user);
        store(cache, "xyz", Tier::user);
        CHECK(log.empty());
    }
}

TEST_CASE("A cut hands out the tail, and says how much is kept") {
    BlockCache cache;
    store(cache, "abcdefg", Tier::user);
    std::size_t told = 0;
    Blocks tail(tokens_a_block);
    cache.set_removal_listener([&](BlockCache::Removal& removal) {
        ++told;
        CHECK(removal.reason == RemovalReason::cut);
        CHECK(removal.model == "m");
        CHECK(removal.tier == Tier::user);
        CHECK(word(removal.tokens) == "abcdefg"); // the key before the cut
        CHECK(removal.kept_tokens == 4);
        CHECK(removal.bytes == 3);
        REQUIRE(removal.payload != nullptr);
        tail = std::move(*removal.payload);
    });
    CHECK(cache.trim_to({.max_bytes = 5}) == 0);
    CHECK(told == 1);
    CHECK(text_of(tail) == "efg");
    CHECK(contents(cache) == "abcd1");
    CHECK(cache.stats().cut == 1);
    CHECK(cache.stats(Tier::user).cut == 1);
    CHECK(cache.stats().tokens_evicted == 3);
    CHECK(cache.stats().bytes_evicted == 3);
}

TEST_CASE("A cut of a payload whose truncate returns nothing hands out nothing") {
    Cache cache;
    store(cache, "abcdefgh", Tier::user);
    std::size_t told = 0;
    cache.set_removal_listener([&](const Cache::Removal& removal) {
        ++told;
        CHECK(removal.payload == nullptr);
        CHECK(removal.kept_tokens == 5);
        CHECK(removal.bytes == 3);
    });
    cache.trim_to({.max_bytes = 5});
    CHECK(told == 1);
}

TEST_CASE("What left whole kept nothing") {
    Cache cache;
    store(cache, "abc", Tier::user);
    std::size_t kept = 99;
    cache.set_removal_listener([&](const Cache::Removal& removal) { kept = removal.kept_tokens; });
    cache.trim_to({.max_entries = 0});
    CHECK(kept == 0);
}

TEST_CASE("A payload that was taken is not handed out a second time") {
    Cache cache;
    store(cache, "abc", Tier::user);
    bool had_payload = true;
    cache.set_removal_listener(
        [&](const Cache::Removal& removal) { had_payload = removal.payload != nullptr; });
    CHECK(text_of(cache.take_nearest("m", key("abcd")).kv) == "abc");
    CHECK_FALSE(had_payload);
}

TEST_CASE("The destructor of the cache tells of nothing") {
    std::size_t told = 0;
    {
        Cache cache;
        cache.set_removal_listener([&told](const auto&) { ++told; });
        store(cache, "abc", Tier::user);
    }
    CHECK(told == 0);
}

TEST_CASE("The listener sees the cache whole, without what left and with what was stored") {
    Cache cache({.max_entries = 1});
    store(cache, "abc", Tier::user);
    std::string seen;
    cache.set_removal_listener([&](const auto& removal) {
        seen = contents(cache);
        CHECK(removal.model == "m");
        CHECK(removal.tier == Tier::user);
        CHECK(cache.check_invariants());
        CHECK(cache.size() == 1);
    });
    store(cache, "xyz", Tier::system);
    CHECK(seen == "xyz2");
}

TEST_CASE("What waits to be reported hides neither what is shared nor what is superseded") {
    int told = 0;
    SECTION("another entry shares as many tokens") {
        LRUPromptCache<promptkv_test::Hybrid> cache;
        for (const std::string_view text : {"abcdij", "abcdkl", "abcdmn", "abcdop", "abcdqr"})
            store(cache, text, Tier::user, {}, {.session = text == "abcdop" ? 2U : 1U});
        cache.set_removal_listener([&](const auto&) {
            ++told;
            CHECK(cache.held_tokens("m", key("abcdxy")) == 4);
        });
        CHECK(cache.erase_session("m", 1) == 4);
        CHECK(told == 4);
    }
    SECTION("turns on a path without branches are thinned") {
        LRUPromptCache<WholeTape> cache;
        const std::string_view conversation =
            "abcdefghijk"; // without 5: a gap of 10; without 10: 6
        for (const std::size_t tokens : {5U, 10U, 11U})
            store(cache, conversation.substr(0, tokens), Tier::user);
        for (const std::string_view branch : {"abcdefghij1", "abcdefghij2"})
            store(cache, branch, Tier::assistant, {}, {.session = 1});
        cache.set_removal_listener([&](const auto&) {
            if (++told == 1)
                cache.trim_to({.max_entries = cache.size() - 1});
        });
        CHECK(cache.erase_session("m", 1) == 2);
        CHECK(told == 3);
        CHECK(contents(cache) == "abcde1 abcdefghijk1");
    }
}

TEST_CASE("The listener may move the payload out: a second cache below the first") {
    Cache below;
    Cache above({.max_entries = 1});
    above.set_removal_listener([&below](Cache::Removal& removal) {
        REQUIRE(removal.payload != nullptr);
        below.insert(removal.model, removal.tokens, std::move(*removal.payload), removal.tier);
    });
    store(above, "abc", Tier::user);
    store(above, "xyz", Tier::system);
    CHECK(contents(above) == "xyz2");
    CHECK(contents(below) == "abc1");
    CHECK(text_of(below.fetch_nearest("m", key("abcd")).kv) == "abc");
    CHECK(above.check_invariants());
}

TEST_CASE("The listener may call the cache, and is told what that removes") {
    Cache cache({.max_entries = 2});
    store(cache, "abc", Tier::user);
    store(cache, "mno", Tier::user);
    std::string log;
    cache.set_removal_listener([&](const auto& removal) {
        log += word(removal.tokens) + ":" + std::string(name(removal.reason)) + " ";
        if (word(removal.tokens) == "abc") {
            CHECK(cache.erase("m", key("mno")));
            CHECK(store(cache, "pqr", Tier::user).outcome == Outcome::stored);
            CHECK(store(cache, "stu", Tier::user).evicted == 1);
        }
    });
    store(cache, "xyz", Tier::user);
    CHECK(log == "abc:evicted mno:erased xyz:evicted ");
    CHECK(contents(cache) == "pqr1 stu1");
    CHECK(cache.check_invariants());
}

TEST_CASE("The listener may be replaced and taken away") {
    Cache cache;
    std::size_t first = 0;
    std::size_t second = 0;
    for (const std::string_view each : {"abc", "mno", "xyz", "pqr"})
        store(cache, each, Tier::user);
    cache.set_removal_listener([&first](const auto&) { ++first; });
    cache.erase("m", key("abc"));
    cache.set_removal_listener([&second](Cache::Removal&) { ++second; });
    cache.erase("m", key("mno"));
    cache.set_removal_listener(nullptr);
    cache.erase("m", key("xyz"));
    cache.set_removal_listener({});
    cache.erase("m", key("pqr"));
    CHECK(first == 1);
    CHECK(second == 1);
}

TEST_CASE("The listener is moved with its cache") {
    Cache cache;
    std::string log;
    record(cache, log);
    store(cache, "abc", Tier::user);
    Cache moved = std::move(cache);
    moved.erase("m", key("abc"));
    CHECK(log == "abc:erased3");
}

// destructors ////////////////////////////////////////////////////////////////

TEST_CASE("Payloads are destroyed when the cache is whole again") {
    std::string log;
    LRUPromptCache<Farewell> cache({.max_entries = 2});
    const auto keep = [&](std::string_view each, char name) {
        const auto farewell = [&, name] {
            log += name + std::to_string(cache.size()) + (cache.check_invariants() ? " " : "! ");
        };
        cache.insert("m", key(each), Farewell(farewell), Tier::user);
    };
    keep("abc", 'A');
    keep("mno", 'M');
    keep("xyz", 'X'); // evicts A
    CHECK(log == "A2 ");
    keep("xyz", 'Y'); // replaces X
    CHECK(log == "A2 X2 ");
    cache.erase("m", key("mno"));
    CHECK(log == "A2 X2 M1 ");
    cache.clear();
    CHECK(log == "A2 X2 M1 Y0 ");
}

TEST_CASE("A cache that is being destroyed stores nothing") {
    std::string log;
    {
        auto cache = std::make_unique<LRUPromptCache<Farewell>>();
        const auto farewell = [&log, target = cache.get()] {
            target->set_limits({});
            const auto inserted =
                target->insert("m", key("xyz"), Farewell([&log] { log += "X"; }), Tier::user);
            const auto room = target->reserve("m", key("xyz"), 1, Tier::user);
            log += std::string(name(inserted.outcome)) + std::to_string(target->size());
            log += name(room.outcome());
            log += ' ';
        };
        cache->insert("m", key("abc"), Farewell(farewell), Tier::user);
        cache->insert("m", key("mno"), Farewell(farewell), Tier::user);
    }
    CHECK(log == "Xno_room0no_room Xno_room0no_room ");
}

TEST_CASE("What a listener evicts is destroyed before that call returns") {
    std::string log;
    LRUPromptCache<Farewell> cache;
    const auto keep = [&](std::string_view each, char name) {
        cache.insert("m", key(each), Farewell([&log, name] { log += name; }), Tier::user);
    };
    for (const char name : {'a', 'b', 'c', 'd'})
        keep(std::string(1, name), name);
    bool first = true;
    cache.set_removal_listener([&](const auto&) {
        if (!std::exchange(first, false))
            return;
        log += "(";
        CHECK(cache.evict(1) == 1);
        log += ")";
        CHECK(cache.erase("m", key("d")));
        log += ")";
    });
    CHECK(cache.erase("m", key("a")));
    CHECK(log.substr(0, 5) == "(b)d)");
    CHECK(log.size() == 6); // and "a"
    CHECK(contents(cache) == "c1");
}

TEST_CASE("What an insert of a listener evicts is destroyed before make runs") {
    std::string log;
    LRUPromptCache<Farewell> cache({.max_bytes = 2});
    const auto keep = [&](std::string_view each, char name) {
        cache.insert("m", key(each), Farewell([&log, name] { log += name; }), Tier::user);
    };
    keep("a", 'a');
    keep("b", 'b');
    bool first = true;
    cache.set_removal_listener([&](const auto&) {
        if (!std::exchange(first, false))
            return;
        cache.set_limits({.max_bytes = 1});
        cache.insert("m", key("c"), 1, Tier::user, [&] {
            log += "make ";
            return Farewell([&log] { log += 'c'; });
        });
    });
    CHECK(cache.erase("m", key("a")));
    CHECK(log.find('b') < log.find("make"));
    CHECK(contents(cache) == "c1");
    cache.set_removal_listener(nullptr);
}

TEST_CASE("A listener sees no tail twice, and a tail that it leaves is destroyed") {
    BlockCache cache;
    store(cache, "abcd", Tier::user);
    std::optional<promptkv::SharedBlock<TextBlock>> block;
    cache.set_removal_listener([&](BlockCache::Removal& removal) {
        CHECK_FALSE(block.has_value());
        block = removal.payload->blocks()[0];
    });
    cache.trim_to({.max_bytes = 2});
    REQUIRE(block);
    CHECK(block->use().count() == 0);
    CHECK(block->in_use()); // by this test alone
    CHECK((*block)->text == "cd");
}

} // namespace
