// SPDX-License-Identifier: MIT
// Index: where a key is, asked without a cache.

#include <promptkv/detail/index.hpp>

#include "catch.hpp"
#include "detail_parts.hpp"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace {

using namespace promptkv_test;
using promptkv::Tier;

using R = TestIndex::R;

template <class Visit>
std::string words(Visit visit) {
    std::string line;
    visit([&line](const R& record) { line += (line.empty() ? "" : " ") + word_of(&record); });
    return line;
}

TEST_CASE("An index finds the record at a key, and only there") {
    TestIndex test;
    R& abc = test.add("abc");
    R& abx = test.add("abx");
    CHECK(test.locate("abc").record(3) == &abc);
    CHECK(test.locate("abx").record(3) == &abx);
    CHECK(test.locate("ab").record(2) == nullptr);
    CHECK(test.locate("abcd").record(4) == nullptr);
    CHECK(test.locate("abcd").common() == 3);
    CHECK(test.locate("abc", "other").home == nullptr);
    CHECK(abc.length() == 3);
    CHECK(abc.home == abx.home);
    CHECK(abc.home->model == "m");
    CHECK(test.index.check_invariants());
}

TEST_CASE("An index has a partition for each model with keys") {
    TestIndex test;
    const std::size_t empty = test.index.nbytes();
    R& first = test.add("abc", Tier::user, {}, "a");
    R& second = test.add("abc", Tier::user, {}, "b");
    CHECK(first.home != second.home);
    CHECK(test.index.find("a") == first.home);
    CHECK(test.index.find("c") == nullptr);
    CHECK(test.index.nbytes() > empty);
    test.remove(first);
    CHECK(test.index.find("a") == nullptr);
    test.remove(second);
    CHECK(test.index.find("b") == nullptr);
    CHECK(test.index.nbytes() == empty);
}

TEST_CASE("unlink takes a record out and leaves the others") {
    TestIndex test;
    R& ab = test.add("ab");
    R& abcd = test.add("abcd");
    R& abx = test.add("abx");
    test.remove(ab);
    CHECK(test.locate("ab").record(2) == nullptr);
    CHECK(test.locate("abcd").record(4) == &abcd);
    test.remove(abx);
    CHECK(test.locate("abcd").record(4) == &abcd);
    CHECK(word_of(&abcd) == "abcd");
    CHECK(test.index.check_invariants());
}

TEST_CASE("shorten cuts a key, also where another key needs the node") {
    TestIndex test;
    R& record = test.add("abcdef");
    R* const longer = GENERATE(false, true) ? &test.add("abcdefgh") : nullptr;
    CAPTURE(longer != nullptr);
    CHECK(test.index.shorten(record, 3));
    CHECK(record.length() == 3);
    CHECK(test.locate("abc").record(3) == &record);
    CHECK(test.locate("abcdef").record(6) == nullptr);
    if (longer != nullptr)
        CHECK(test.locate("abcdefgh").record(8) == longer);
    CHECK(test.index.shorten(record, 1));
    CHECK(word_of(&record) == "a");
    // The payload was not cut with the key.
    test.remove(record);
}

TEST_CASE("for_each_on_path visits the nodes on the prefixes, the shortest first") {
    TestIndex test;
    for (const std::string_view each : {"", "a", "abc", "abcd", "abx", "b"})
        test.add(each);
    const auto on_path = [&](std::string_view text) {
        const Key tokens = key(text);
        const auto spot = test.locate(text);
        return words([&](auto f) {
            spot.home->tree.for_each_on_path(spot.place, tokens, [&](const R::Node& node) {
                if (node.value != nullptr)
                    f(*node.value);
            });
        });
    };
    CHECK(on_path("abcde") == "a abc abcd");
    CHECK(on_path("abcd") == "a abc abcd");
    CHECK(on_path("abq") == "a");
    CHECK(on_path("q") == "");
}

TEST_CASE("for_each_longer visits shown entries beyond a spot, nearest first") {
    TestIndex test;
    for (const std::string_view each : {"ab", "abcdefgh", "abcd", "abxyz", "abq", "b"})
        test.add(each);
    test.add("abz", Tier::user, whole_only); // not shown: it serves no part
    const auto longer = [&](std::string_view text, std::size_t most) {
        std::string line;
        std::uint32_t steps = 64;
        promptkv::detail::for_each_longer(test.locate(text), steps, [&](const R& record) {
            line += (line.empty() ? "" : " ") + word_of(&record);
            return --most > 0;
        });
        return line;
    };
    CHECK(longer("ab", 9) == "abq abcd abxyz abcdefgh");
    CHECK(longer("ab", 2) == "abq abcd");
    CHECK(longer("abcde", 9) == "abcdefgh");
    CHECK(longer("abx", 9) == "abxyz");
    CHECK(longer("abcdefgh", 9) == "");
}

TEST_CASE("prefix_of is the entry on the longest strict prefix") {
    TestIndex test;
    R& a = test.add("a");
    R& abc = test.add("abc", Tier::system);
    R& abcde = test.add("abcde");
    CHECK(promptkv::detail::prefix_of(abcde) == &abc);
    CHECK(promptkv::detail::prefix_of(abc) == &a);
    CHECK(promptkv::detail::prefix_of(a) == nullptr);
}

TEST_CASE("any_sharing is an entry that shares all the tokens that match") {
    TestIndex test;
    test.add("ab");
    test.add("abcdef", Tier::user, whole_only);
    test.add("xyz");
    const auto sharing = [&](std::string_view text) {
        return word_of(promptkv::detail::any_sharing(test.locate(text)).entry);
    };
    CHECK(sharing("abcx") == "abcdef");
    CHECK(sharing("abcdefgh") == "abcdef");
    CHECK(sharing("xq") == "xyz");
    const std::string shared = sharing("ab");
    CHECK((shared == "ab" || shared == "abcdef"));
}

TEST_CASE("others_serve asks the entries around a record") {
    TestIndex test;
    R& record = test.add("abcdef");
    CHECK_FALSE(promptkv::detail::others_serve(record, 3));

    SECTION("one on the path") {
        test.add("abc");
        CHECK(promptkv::detail::others_serve(record, 3));
        CHECK_FALSE(promptkv::detail::others_serve(record, 4));
    }
    SECTION("one that branches off") {
        test.add("abcdxyz");
        CHECK(promptkv::detail::others_serve(record, 4));
        CHECK(promptkv::detail::others_serve(record, 3));
        CHECK_FALSE(promptkv::detail::others_serve(record, 5));
    }
    SECTION("one that continues it") {
        test.add("abcdefgh");
        CHECK(promptkv::detail::others_serve(record, 5));
    }
    SECTION("not one that cannot be used in part") {
        test.add("abcdxyz", Tier::user, whole_only);
        CHECK_FALSE(promptkv::detail::others_serve(record, 4));
    }
}

TEST_CASE("for_each_record visits a key and all that continue it") {
    TestIndex test;
    for (const std::string_view each : {"a", "abc", "abcdef", "abcxy", "abx", "b"})
        test.add(each);
    const auto below = [&](std::string_view text) {
        std::vector<std::string> found;
        const auto note = [&](const R& record) { found.push_back(word_of(&record)); };
        const auto spot = test.locate(text);
        if (spot.common() == text.size())
            promptkv::detail::for_each_record(spot.place.below(), note);
        std::sort(found.begin(), found.end());
        std::string line;
        for (const std::string& each : found)
            line += each + " ";
        return line;
    };
    CHECK(below("abc") == "abc abcdef abcxy ");
    CHECK(below("abcd") == "abcdef ");
    CHECK(below("ab") == "abc abcdef abcxy abx ");
    CHECK(below("abcdefg") == "");
    CHECK(below("q") == "");
    CHECK(below("b") == "b ");
}

} // namespace
