// SPDX-License-Identifier: MIT
// LRUPromptCache: entries that are taken away, and who is told of it.

#include <promptkv/lru_prompt_cache.hpp>

#include "catch.hpp"
#include "letters.hpp"

#include <algorithm>
#include <cstddef>
#include <memory>
#include <span>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

namespace {

using namespace promptkv_test;
using promptkv::Outcome;
using promptkv::RemovalReason;
using promptkv::Tier;

using Cache = LRUPromptCache<Tape>;

constexpr Shape whole_only = {.step = 0};

/// The first letters of the reasons: Evicted, Cut, Absorbed, Replaced, eraSed, Taken, cLeared.
char letter(RemovalReason reason) {
    switch (reason) {
    case RemovalReason::evicted:
        return 'e';
    case RemovalReason::cut:
        return 'c';
    case RemovalReason::absorbed:
        return 'a';
    case RemovalReason::replaced:
        return 'r';
    case RemovalReason::erased:
        return 's';
    case RemovalReason::taken:
        return 't';
    case RemovalReason::cleared:
        return 'l';
    }
    return '?';
}

/// Writes down what `cache` tells of: "abc:e3" for three bytes of abc that were evicted.
template <class C>
void record(C& cache, std::string& log) {
    cache.on_removal([&log](const auto& removal) {
        log += (log.empty() ? "" : " ") + text(removal.tokens) + ":" + letter(removal.reason) +
               std::to_string(removal.bytes);
    });
}

/// The words of a line in alphabetical order.
std::string sorted(const std::string& line) {
    std::istringstream in(line);
    std::vector<std::string> words;
    for (std::string word; in >> word;) {
        words.push_back(word);
    }
    std::sort(words.begin(), words.end());
    std::string joined;
    for (const std::string& word : words) {
        joined += (joined.empty() ? "" : " ") + word;
    }
    return joined;
}

TEST_CASE("erase removes one entry") {
    Cache cache;
    store(cache, "abc"_key, Tier::user);
    store(cache, "abx"_key, Tier::user);
    std::string log;
    record(cache, log);
    REQUIRE(cache.erase("m", "abc"_key));
    REQUIRE(log == "abc:s3");
    REQUIRE(contents(cache) == "abx1");
    REQUIRE(cache.nbytes() == 3);
    REQUIRE_FALSE(cache.erase("m", "abc"_key));
    REQUIRE_FALSE(cache.erase("m", "ab"_key));
    REQUIRE_FALSE(cache.erase("other", "abx"_key));
    REQUIRE(contents(cache) == "abx1");
    REQUIRE(cache.check_invariants());
}

TEST_CASE("erase_model removes everything of one model") {
    Cache cache;
    cache.insert("a", "abc"_key, tape("abc"_key), Tier::user);
    cache.insert("a", "xyz"_key, tape("xyz"_key), Tier::system);
    cache.insert("b", "abcd"_key, tape("abcd"_key), Tier::user);
    cache.mark("a", "ab"_key, Tier::system);
    std::string log;
    record(cache, log);
    REQUIRE(cache.erase_model("a") == 2);
    REQUIRE(sorted(log) == "abc:s3 xyz:s3");
    REQUIRE(contents(cache) == "abcd1");
    REQUIRE(cache.nbytes("a") == 0);
    REQUIRE(cache.nbytes("b") == 4);
    REQUIRE(cache.stats(Tier::system).anchors == 0);
    REQUIRE(cache.erase_model("a") == 0);
    REQUIRE(cache.erase_model("none") == 0);
    REQUIRE(cache.check_invariants());
}

TEST_CASE("clear removes everything of every model and tier") {
    Cache cache;
    cache.insert("a", "abc"_key, tape("abc"_key), Tier::user);
    cache.insert("b", "xyz"_key, tape("xyz"_key), Tier::system);
    cache.mark("a", "ab"_key, Tier::system);
    std::string log;
    record(cache, log);
    REQUIRE(cache.clear() == 2);
    REQUIRE(sorted(log) == "abc:l3 xyz:l3");
    REQUIRE(cache.empty());
    REQUIRE(cache.nbytes() == 0);
    REQUIRE(cache.stats(Tier::system).anchors == 0);
    REQUIRE(cache.clear() == 0);
    REQUIRE(cache.check_invariants());
    REQUIRE(store(cache, "abc"_key, Tier::user).outcome == Outcome::stored);
}

TEST_CASE("pop_prefixes removes the entries on strict prefixes") {
    Cache cache;
    store(cache, "a"_key, Tier::user, whole_only);
    store(cache, "abc"_key, Tier::user, whole_only);
    store(cache, "abcd"_key, Tier::user, whole_only);
    store(cache, "abx"_key, Tier::user, whole_only);
    cache.insert("other", "a"_key, tape("a"_key), Tier::user);
    std::string log;
    record(cache, log);
    REQUIRE(cache.pop_prefixes("m", "abcd"_key) == 2);
    REQUIRE(sorted(log) == "a:s1 abc:s3");
    REQUIRE(contents(cache) == "a1 abcd1 abx1");
    REQUIRE(cache.pop_prefixes("m", "abcd"_key) == 0);
    REQUIRE(cache.pop_prefixes("m", ""_key) == 0);
    REQUIRE(cache.check_invariants());
}

TEST_CASE("for_each visits every entry with what is known of it") {
    Cache cache;
    cache.insert("a", "abc"_key, tape("abc"_key), Tier::user);
    cache.insert("b", "xy"_key, tape("xy"_key), Tier::system);
    cache.mark("a", "ab"_key, Tier::system); // an anchor is no entry
    std::vector<std::string> seen;
    std::as_const(cache).for_each([&seen](const auto& entry) {
        seen.push_back(entry.model + "/" + text(entry.tokens) + "@" +
                       std::to_string(static_cast<int>(entry.tier)) + "=" +
                       std::to_string(entry.nbytes) + ":" + text(entry.kv.recording().tokens));
    });
    std::sort(seen.begin(), seen.end());
    REQUIRE(seen == std::vector<std::string>{"a/abc@1=3:abc", "b/xy@2=2:xy"});
}

// The listener ///////////////////////////////////////////////////////////////

TEST_CASE("Each removal is told with its reason") {
    Cache cache({.cut_granularity = 1});
    store(cache, "abcd"_key, Tier::user);
    std::string log;
    record(cache, log);

    SECTION("evicted") {
        cache.trim_to({.max_entries = 0});
        REQUIRE(log == "abcd:e4");
    }
    SECTION("evicted to make room") {
        cache.set_limits({.max_entries = 1});
        store(cache, "xyz"_key, Tier::user);
        REQUIRE(log == "abcd:e4");
    }
    SECTION("cut") {
        cache.trim_to({.max_bytes = 3});
        REQUIRE(log == "abcd:c1");
    }
    SECTION("absorbed") {
        store(cache, "abcdef"_key, Tier::user);
        REQUIRE(log == "abcd:a4");
    }
    SECTION("replaced") {
        store(cache, "abcd"_key, Tier::user, {.overhead = 1});
        REQUIRE(log == "abcd:r4");
    }
    SECTION("erased") {
        cache.erase("m", "abcd"_key);
        REQUIRE(log == "abcd:s4");
    }
    SECTION("taken") {
        REQUIRE(cache.take_nearest("m", "abcde"_key));
        REQUIRE(log == "abcd:t4");
    }
    SECTION("cleared") {
        cache.clear();
        REQUIRE(log == "abcd:l4");
    }
    SECTION("and none for what removes nothing") {
        cache.fetch_nearest("m", "abcde"_key);
        cache.mark("m", "ab"_key, Tier::user);
        store(cache, "abc"_key, Tier::user);
        store(cache, "xyz"_key, Tier::user);
        REQUIRE(log.empty());
    }
}

TEST_CASE("The destructor of the cache tells of nothing") {
    std::size_t told = 0;
    {
        Cache cache;
        cache.on_removal([&told](const auto&) { ++told; });
        store(cache, "abc"_key, Tier::user);
    }
    REQUIRE(told == 0);
}

TEST_CASE("The listener sees the cache whole, without what was removed and with what was stored") {
    Cache cache({.max_entries = 1});
    store(cache, "abc"_key, Tier::user);
    std::string seen;
    cache.on_removal([&](const auto& removal) {
        seen = contents(cache);
        CHECK(removal.model == "m");
        CHECK(removal.tier == Tier::user);
        CHECK(cache.check_invariants());
        CHECK(cache.size() == 1);
    });
    store(cache, "xyz"_key, Tier::system);
    REQUIRE(seen == "xyz2");
}

TEST_CASE("The listener may move the payload out: a second cache below the first") {
    Cache below;
    Cache above({.max_entries = 1});
    above.on_removal([&below](auto& removal) {
        REQUIRE(removal.payload != nullptr);
        below.insert(removal.model, removal.tokens, std::move(*removal.payload), removal.tier);
    });
    store(above, "abc"_key, Tier::user);
    store(above, "xyz"_key, Tier::system);
    REQUIRE(contents(above) == "xyz2");
    REQUIRE(contents(below) == "abc1");
    REQUIRE(text_of(below.fetch_nearest("m", "abcd"_key).kv) == "abc");
    REQUIRE(above.check_invariants());
}

TEST_CASE("The listener may call the cache, and what that raises is told by the outermost call") {
    Cache cache({.max_entries = 2, .cut_granularity = 0});
    store(cache, "abc"_key, Tier::user);
    store(cache, "mno"_key, Tier::user);
    std::string log;
    int depth = 0;
    cache.on_removal([&](const auto& removal) {
        REQUIRE(++depth == 1); // never within itself
        log += text(removal.tokens) + letter(removal.reason) + " ";
        if (text(removal.tokens) == "abc") {
            REQUIRE(cache.erase("m", "mno"_key));
            REQUIRE(store(cache, "pqr"_key, Tier::user).outcome == Outcome::stored);
            REQUIRE(store(cache, "stu"_key, Tier::user).evicted == 1);
        }
        --depth;
    });
    store(cache, "xyz"_key, Tier::user);
    REQUIRE(log == "abce mnos xyze ");
    REQUIRE(contents(cache) == "pqr1 stu1");
    REQUIRE(cache.check_invariants());
}

TEST_CASE("The listener may be replaced and taken away") {
    Cache cache;
    std::size_t first = 0;
    std::size_t second = 0;
    store(cache, "abc"_key, Tier::user);
    store(cache, "mno"_key, Tier::user);
    store(cache, "xyz"_key, Tier::user);
    cache.on_removal([&first](const auto&) { ++first; });
    cache.erase("m", "abc"_key);
    cache.on_removal([&second](const auto&) { ++second; });
    cache.erase("m", "mno"_key);
    cache.on_removal(nullptr);
    cache.erase("m", "xyz"_key);
    REQUIRE(first == 1);
    REQUIRE(second == 1);
}

TEST_CASE("The listener goes along when the cache is moved") {
    Cache cache;
    std::string log;
    record(cache, log);
    store(cache, "abc"_key, Tier::user);
    Cache moved = std::move(cache);
    moved.erase("m", "abc"_key);
    REQUIRE(log == "abc:s3");
}

// Payload destructors ////////////////////////////////////////////////////////

/// Calls back when it is destroyed.
struct Calling {
    struct Call {
        LRUPromptCache<Calling>* cache;
        std::string* log;

        void operator()(char* name) const;
    };
    std::unique_ptr<char, Call> name;

    std::size_t nbytes() const noexcept { return 1; }
};

void Calling::Call::operator()(char* letter) const {
    log->push_back(*letter);
    log->append(std::to_string(cache->size()));
    log->append(cache->check_invariants() ? " " : "! ");
    delete letter;
}

TEST_CASE("Payloads are destroyed when the cache is whole again") {
    std::string log;
    LRUPromptCache<Calling> cache({.max_entries = 2});
    const auto keep = [&](std::span<const std::int32_t> key, char name) {
        cache.insert("m", key,
                     Calling{std::unique_ptr<char, Calling::Call>(new char(name), {&cache, &log})},
                     Tier::user);
    };
    keep("abc"_key, 'A');
    keep("mno"_key, 'M');
    keep("xyz"_key, 'X'); // evicts A
    REQUIRE(log == "A2 ");
    keep("xyz"_key, 'Y'); // replaces X
    REQUIRE(log == "A2 X2 ");
    cache.erase("m", "mno"_key);
    REQUIRE(log == "A2 X2 M1 ");
    cache.clear();
    REQUIRE(log == "A2 X2 M1 Y0 ");
}

} // namespace
