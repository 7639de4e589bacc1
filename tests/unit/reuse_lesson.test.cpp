// SPDX-License-Identifier: MIT
// ReuseLesson: what is learned from intervals between uses, and that no sequence of calls upsets it.

#include <promptkv/detail/reuse_lesson.hpp>

#include "../model/random.hpp"
#include "catch.hpp"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <utility>
#include <vector>

namespace {

using promptkv::detail::ReuseLesson;
using promptkv_test::Random;

// access to the counters, which would need hours to get where a test wants them ////////////////////

std::uint32_t& seen_of(ReuseLesson& lesson);
std::uint32_t& learned_of(ReuseLesson& lesson);

template <auto seen, auto learned>
struct Counters {
    friend std::uint32_t& seen_of(ReuseLesson& lesson) { return lesson.*seen; }
    friend std::uint32_t& learned_of(ReuseLesson& lesson) { return lesson.*learned; }
};
template struct Counters<&ReuseLesson::seen_, &ReuseLesson::learned_>;

/// Makes a lesson learn from what it has seen, however little that is.
void learn_now(ReuseLesson& lesson, std::uint32_t now) {
    learned_of(lesson) = seen_of(lesson) - ReuseLesson::ring_size;
    lesson.learn(now);
}

// what a lesson says ///////////////////////////////////////////////////////////////////////////////

constexpr float top_level = ReuseLesson::n_levels - 1.001F;

/// Ages from each bucket.
const std::vector<std::uint32_t>& ages() {
    static const std::vector<std::uint32_t> all = [] {
        std::vector<std::uint32_t> made{0, 1, 2};
        for (unsigned octave = 2; octave < 32; ++octave) {
            const std::uint32_t power = std::uint32_t{1} << octave;
            made.insert(made.end(), {power - 1, power + power / 2 - 1});
        }
        made.push_back((std::numeric_limits<std::uint32_t>::max)());
        return made;
    }();
    return all;
}

/// The worth of every level and age, and the levels of a few kinds.
std::vector<float> table_of(const ReuseLesson& lesson) {
    std::vector<float> table;
    for (std::size_t level = 0; level < ReuseLesson::n_levels; ++level) {
        for (const std::uint32_t age : ages())
            table.push_back(lesson.worth((std::min)(static_cast<float>(level), top_level), age));
    }
    for (const std::uint32_t features : {0U, 1U, 0x123456U, 0xffffffU, 0xffffffffU})
        table.push_back(lesson.level(features));
    return table;
}

bool is_finite(const ReuseLesson& lesson) {
    const std::vector<float> table = table_of(lesson);
    return std::all_of(table.begin(), table.end(), [](float x) { return std::isfinite(x); });
}

float worth_of(const ReuseLesson& lesson, std::uint32_t features, std::uint32_t age) {
    return lesson.worth(lesson.level(features), age);
}

/// Whether older state is worth less, whatever the kind.
bool falls_with_age(const ReuseLesson& lesson) {
    bool falls = true;
    for (std::size_t level = 0; level < ReuseLesson::n_levels; ++level) {
        const float at = (std::min)(static_cast<float>(level), top_level);
        for (std::size_t i = 1; i < ages().size() && ages()[i] < 700'000; ++i)
            falls = falls && lesson.worth(at, ages()[i]) < lesson.worth(at, ages()[i - 1]);
    }
    return falls;
}

/// What a stream of requests shows: each request begins an interval of each kind. Those that end do so
/// `after` so many requests; 0: they do not.
struct Kind {
    std::uint32_t features;
    std::uint32_t after;
};
/// Returns the last request.
std::uint32_t show(ReuseLesson& lesson, const std::vector<Kind>& kinds, std::uint32_t requests,
                   std::uint32_t first = 1) {
    std::vector<std::vector<std::uint32_t>> begun(kinds.size());
    for (std::uint32_t i = 0; i < requests; ++i) {
        const std::uint32_t now = first + i;
        for (std::size_t k = 0; k < kinds.size(); ++k) {
            begun[k].push_back(lesson.begin(now, kinds[k].features));
            if (kinds[k].after > 0 && i >= kinds[k].after)
                lesson.end(begun[k][i - kinds[k].after], now);
        }
        lesson.learn(now);
    }
    return first + requests - 1;
}

TEST_CASE("Without data the order is that of LRU: worth falls with age") {
    const ReuseLesson lesson;
    CHECK(is_finite(lesson));
    CHECK(falls_with_age(lesson));
    // All kinds are equal.
    CHECK(lesson.level(0) == lesson.level(0xabcdefU));
    CHECK(lesson.span(1000) == 0);
}

TEST_CASE("Nothing is learned of too few intervals") {
    ReuseLesson lesson;
    const std::vector<float> before = table_of(lesson);
    for (std::uint32_t i = 0; i < 63; ++i)
        lesson.end(lesson.begin(i, 1), i + 2);
    lesson.learn(100);
    CHECK(table_of(lesson) == before);
    lesson.end(lesson.begin(100, 1), 102);
    lesson.learn(102);
    CHECK(table_of(lesson) != before);
}

TEST_CASE("A lesson of nothing, and of one interval, changes little") {
    ReuseLesson lesson;
    const bool has_one = GENERATE(false, true);
    const bool is_open = GENERATE(false, true);
    CAPTURE(has_one, is_open);
    if (has_one) {
        const std::uint32_t number = lesson.begin(5, 0x21);
        CHECK(number != 0);
        if (!is_open)
            lesson.end(number, 9);
    }
    for (std::uint32_t now = 10; now < 20; ++now)
        learn_now(lesson, now);
    CHECK(is_finite(lesson));
    CHECK(std::abs(lesson.level(0x21) - lesson.level(0x34)) < 1);
    const ReuseLesson untaught;
    for (const std::uint32_t age : {0U, 3U, 4U, 100U, 100'000U})
        CHECK(std::abs(worth_of(lesson, 0x21, age) - worth_of(untaught, 0x21, age)) < 2);
    if (!has_one || is_open)
        CHECK(falls_with_age(lesson));
}

TEST_CASE("Constant data: what always comes back after 10 requests is worth little afterwards") {
    ReuseLesson lesson;
    constexpr std::uint32_t features = 0x110321;
    show(lesson, {{features, 10}}, 6'000);
    CHECK(is_finite(lesson));
    // Nearer to its time it is worth more.
    CHECK(worth_of(lesson, features, 9) > worth_of(lesson, features, 1));
    CHECK(worth_of(lesson, features, 9) > worth_of(lesson, features, 100) + 2);
}

TEST_CASE("Constant data: what never comes back loses worth at each lesson") {
    ReuseLesson lesson;
    const ReuseLesson untaught;
    constexpr std::uint32_t features = 0x110321;
    show(lesson, {{features, 0}}, 6'000);
    CHECK(is_finite(lesson));
    CHECK(lesson.level(features) < untaught.level(features));
    CHECK(worth_of(lesson, features, 4) < worth_of(untaught, features, 4) - 1);
}

TEST_CASE("The kind that comes back soon gets more worth") {
    // The kinds differ in one feature.
    const unsigned feature = GENERATE(range(0U, unsigned{ReuseLesson::n_features}));
    CAPTURE(feature);
    const std::uint32_t soon = 0x333333U ^ (1U << 4 * feature);
    const std::uint32_t late = 0x333333U ^ (2U << 4 * feature);
    const std::uint32_t never = 0x333333U ^ (4U << 4 * feature);
    ReuseLesson lesson;
    show(lesson, {{soon, 4}, {late, 400}, {never, 0}}, 4'000);
    CHECK(lesson.level(soon) > lesson.level(late));
    CHECK(lesson.level(late) > lesson.level(never));
    CHECK(worth_of(lesson, soon, 1) > worth_of(lesson, late, 1));
    CHECK(worth_of(lesson, late, 1) > worth_of(lesson, never, 1));
}

TEST_CASE("A lesson forgets what no longer holds") {
    ReuseLesson lesson;
    const std::uint32_t last = show(lesson, {{1, 4}, {2, 0}}, 6'000);
    REQUIRE(lesson.level(1) > lesson.level(2));
    show(lesson, {{1, 0}, {2, 4}}, 12'000, last + 1);
    CHECK(lesson.level(2) > lesson.level(1));
}

TEST_CASE("learn without anything new changes nothing") {
    ReuseLesson lesson;
    const std::uint32_t last = show(lesson, {{1, 4}, {2, 40}}, 500);
    lesson.learn(last);
    const std::vector<float> before = table_of(lesson);
    for (std::uint32_t later = 0; later < 5'000; later += 100)
        lesson.learn(last + later);
    CHECK(table_of(lesson) == before);
}

TEST_CASE("The end of an interval counts once, and not after its place was given to another") {
    ReuseLesson one;
    ReuseLesson other;
    const std::uint32_t others =
        GENERATE(ReuseLesson::ring_size - 1, ReuseLesson::ring_size, 2 * ReuseLesson::ring_size);
    CAPTURE(others);
    std::vector<std::uint32_t> first;
    for (std::uint32_t i = 0; i < 1'000; ++i) {
        first.push_back(one.begin(i, 1));
        other.begin(i, 1);
    }
    for (std::uint32_t i = 0; i < others; ++i) {
        one.begin(1'000 + i, 2);
        other.begin(1'000 + i, 2);
    }
    const std::uint32_t now = 1'000 + others;
    const bool is_kept = others < ReuseLesson::ring_size;
    one.end(first.back(), now); // it is the oldest one that is kept, or was overwritten just now
    one.end(first.front(), now);
    one.end(0, now);
    learn_now(one, now);
    learn_now(other, now);
    CHECK((table_of(one) == table_of(other)) == !is_kept);
    CHECK(one.span(now) == (is_kept ? 1'000 + others - 999 : ReuseLesson::ring_size));

    // A second end changes nothing.
    const std::uint32_t number = one.begin(now, 3);
    CHECK(other.begin(now, 3) == number);
    one.end(number, now + 2);
    other.end(number, now + 2);
    one.end(number, now + 5'000);
    other.end(first.back(), now); // as above
    learn_now(one, now + 6'000);
    learn_now(other, now + 6'000);
    if (!is_kept)
        CHECK(table_of(one) == table_of(other));
}

TEST_CASE("Requests may be numbered from anywhere: numbers wrap at 2^32") {
    ReuseLesson low;
    ReuseLesson high;
    const std::uint32_t offset = (std::numeric_limits<std::uint32_t>::max)() - 700;
    const std::uint32_t last = show(low, {{1, 4}, {2, 40}, {3, 0}}, 6'000, 1);
    const std::uint32_t wrapped = show(high, {{1, 4}, {2, 40}, {3, 0}}, 6'000, 1 + offset);
    CHECK(wrapped == last + offset);
    CHECK(wrapped < offset);
    CHECK(table_of(low) == table_of(high));
    CHECK(low.span(last) == high.span(wrapped));
    CHECK(low.span(last) > 0);
}

TEST_CASE("The number of intervals wraps at 2^32, and lessons go on") {
    ReuseLesson lesson;
    show(lesson, {{1, 0}, {2, 4}}, 9'000);
    seen_of(lesson) -= seen_of(lesson) % ReuseLesson::ring_size; // the same places from here on
    seen_of(lesson) = 0U - 2 * ReuseLesson::ring_size;
    learned_of(lesson) = seen_of(lesson);
    // From here on the two kinds have changed places.
    std::uint32_t before_wrap = 0;
    bool all_numbered = true;
    std::vector<std::uint32_t> begun;
    for (std::uint32_t i = 0; i < 30'000; ++i) {
        const std::uint32_t now = 10'000 + i;
        begun.push_back(lesson.begin(now, 1));
        all_numbered = all_numbered && begun.back() != 0 && lesson.begin(now, 2) != 0;
        before_wrap += begun.back() > 0U - 2 * ReuseLesson::ring_size - 1 ? 1U : 0U;
        if (i >= 4)
            lesson.end(begun[i - 4], now);
        lesson.learn(now);
    }
    CHECK(all_numbered);
    CHECK(before_wrap == ReuseLesson::ring_size);
    CHECK(is_finite(lesson));
    CHECK(lesson.level(1) > lesson.level(2));
    CHECK(lesson.span(39'999) < 9'000);
    CHECK(lesson.span(39'999) > 8'000);
}

TEST_CASE("No sequence of calls makes a worth infinite, or no number") {
    const std::uint64_t seed = GENERATE(1U, 2U, 3U, 4U);
    CAPTURE(seed);
    Random random(seed);
    ReuseLesson lesson;
    std::vector<std::uint32_t> begun;
    bool finite = true;
    std::uint32_t now = static_cast<std::uint32_t>(random.below(3)) * 0x7fffffffU;
    for (int i = 0; i < 4'000; ++i) {
        const std::size_t action = random.below(100);
        if (action < 1)
            now = static_cast<std::uint32_t>(random.below(std::size_t{1} << 32U)); // also back
        else if (action < 40)
            now += static_cast<std::uint32_t>(random.below(20));
        const auto mask = random.pick<std::uint32_t>({0x1U, 0xfU, 0xff0000U, 0xffffffffU});
        if (action < 80)
            begun.push_back(lesson.begin(
                now, static_cast<std::uint32_t>(random.below(std::size_t{1} << 32U)) & mask));
        if (action % 2 == 0 && !begun.empty())
            lesson.end(
                begun[begun.size() - 1 - random.below((std::min)(begun.size(), std::size_t{50}))],
                now);
        if (action == 99)
            lesson.end(static_cast<std::uint32_t>(random.below(std::size_t{1} << 32U)), now);
        if (action == 98)
            learn_now(lesson, now);
        lesson.learn(now);
        if (i % 200 == 0)
            finite = finite && is_finite(lesson);
        const float level = lesson.level(static_cast<std::uint32_t>(random.below(1U << 24U)));
        finite = finite && level >= 0 && level < ReuseLesson::n_levels - 1;
    }
    CHECK(finite);
}

} // namespace
