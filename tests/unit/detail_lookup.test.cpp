// SPDX-License-Identifier: MIT
// Lookup: the choice of an entry, as a pure function over an index.

#include <promptkv/detail/lookup.hpp>

#include "catch.hpp"
#include "detail_parts.hpp"

#include <cstddef>
#include <string>
#include <string_view>

namespace {

using namespace promptkv_test;
using promptkv::FetchOptions;
using promptkv::Match;
using promptkv::MissReason;
using promptkv::Tier;

using R = TestIndex::R;

/// A choice as text: the entry's word, how it matches, and how much is reused; or why not.
std::string chosen(const TestIndex& test, std::string_view prompt, FetchOptions options = {},
                   promptkv::detail::Eligibility can = promptkv::detail::can_lease<Tape>) {
    const auto choice =
        promptkv::detail::choose<R>(test.locate(prompt), prompt.size(), options, can);
    if (choice.record == nullptr) {
        CHECK(choice.match == Match::none);
        CHECK(choice.reused == 0);
        return std::string(name(choice.miss));
    }
    CHECK(choice.miss == MissReason::none);
    return word_of(choice.record) + " " + std::string(name(choice.match)) + " " +
           std::to_string(choice.reused);
}

TEST_CASE("choose takes the longest reuse, then the entry that needs no cut") {
    TestIndex test;
    test.add("ab", Tier::system);
    test.add("abcdef");
    CHECK(chosen(test, "abcdefg") == "abcdef shorter 6");
    CHECK(chosen(test, "abcdef", {.min_remaining = 0}) == "abcdef exact 6");
    CHECK(chosen(test, "abcx") == "abcdef longer 3");
    CHECK(chosen(test, "abx") == "ab shorter 2");
    CHECK(chosen(test, "xyz") == "nothing_shared");
    CHECK(chosen(test, "xyz", {}) == "nothing_shared");
}

TEST_CASE("choose changes nothing") {
    TestIndex test;
    R& record = test.add("abcdef");
    record.chance = 1;
    CHECK(chosen(test, "abcx") == "abcdef longer 3");
    CHECK(record.chance == 1);
    CHECK_FALSE(record.used);
    CHECK_FALSE(record.payload->leased());
}

TEST_CASE("choose says why nothing can be reused") {
    TestIndex test;
    test.add("abcd", Tier::user, whole_only);
    test.add("pqrs");
    CHECK(chosen(test, "abcx") == "not_cuttable");
    CHECK(chosen(test, "abcd") == "needs_last_token");
    CHECK(chosen(test, "pqxy", {.min_reuse = 3}) == "below_min_reuse");
    CHECK(chosen(test, "p") == "needs_last_token");
}

TEST_CASE("choose asks only entries that are eligible") {
    TestIndex test;
    R& record = test.add("abcdef");
    using promptkv::detail::Eligibility;
    CHECK(chosen(test, "abcx", {}, Eligibility{true, false, true}) == "not_cuttable");
    CHECK(chosen(test, "abcdef", {}, Eligibility{false, true, true}) == "needs_last_token");
    CHECK(chosen(test, "abcdefg", {}, Eligibility{false, false, false}) == "abcdef shorter 6");
    record.payload->owners.fetch_add(1); // a lease
    CHECK(chosen(test, "abcdefg", {}, Eligibility{true, true, true}) == "abcdef shorter 6");
    CHECK(chosen(test, "abcdefg", {}, Eligibility{true, true, false}) == "leased");
    record.payload->end_lease();
}

TEST_CASE("reusable rounds down where the payload allows") {
    TestIndex test;
    const R& any = test.add("abcdefghij");
    const R& checkpoints = test.add("ABCDEFGHIJ", Tier::user, {.step = 4});
    const R& whole = test.add("1234567890", Tier::user, whole_only);
    using promptkv::detail::reusable;
    CHECK(reusable(any, 9, 4, true) == 8);
    CHECK(reusable(any, 10, 4, true) == 8);
    CHECK(reusable(any, 3, 4, true) == 0);
    CHECK(reusable(checkpoints, 10, 1, true) == 10);
    CHECK(reusable(checkpoints, 10, 4, true) == 8);
    CHECK(reusable(checkpoints, 7, 1, true) == 4);
    CHECK(reusable(whole, 10, 4, true) == 10);
    CHECK(reusable(whole, 9, 4, true) == 0);
    CHECK(reusable(any, 9, 1, false) == 0); // the whole or nothing
    CHECK(reusable(any, 10, 1, false) == 10);
}

TEST_CASE("longer_serving finds an entry that makes a key present") {
    TestIndex test;
    test.add("abcdef", Tier::user);
    test.add("abcxyz", Tier::user, whole_only);
    test.add("abcd12345", Tier::system, {.step = 4});
    const auto serving = [&](std::string_view text, Tier tier) {
        return word_of(promptkv::detail::longer_serving<R>(test.locate(text), text.size(), tier));
    };
    CHECK(serving("abc", Tier::user) == "abcdef");
    CHECK(serving("abc", Tier::system) == "-");
    CHECK(serving("abcd", Tier::system) == "abcd12345");
    CHECK(serving("abcx", Tier::assistant) == "-");
    CHECK(serving("abcdef", Tier::assistant) == "-"); // longer ones only
    CHECK(serving("q", Tier::assistant) == "-");
}

TEST_CASE("explain names the nearest key, and other models where this one shares nothing") {
    TestIndex test;
    test.add("abcdef", Tier::user, whole_only);
    test.add("xyz", Tier::user, {}, "other");
    const auto why = [&](std::string_view prompt) {
        return to_string(promptkv::detail::explain<R>(test.index, "m", key(prompt), {}));
    };
    CHECK(why("abcx") == "miss (not_cuttable): 3 of 4 tokens match, then 120 where 100 is stored; "
                         "nearest key: 6 tokens, user");
    CHECK(why("xyz1") == "miss (other_model): 0 of 4 tokens match");
    CHECK(why("qqq") == "miss (nothing_shared): 0 of 3 tokens match");
}

} // namespace
