// SPDX-License-Identifier: MIT
// ObservedEdge: what is known of an edge, and its features.

#include <promptkv/detail/observed_edge.hpp>

#include "catch.hpp"

#include <cstddef>
#include <cstdint>
#include <utility>

namespace {

using promptkv::detail::ObservedEdge;

enum Feature : unsigned { uses, gap, siblings, length, hint, tier };

std::uint32_t feature(const ObservedEdge& edge, Feature which) {
    return edge.features >> (4U * which) & 15U;
}

ObservedEdge made(std::size_t children, ObservedEdge::Use use) {
    ObservedEdge edge;
    edge.begin(children, use);
    return edge;
}

TEST_CASE("An edge knows how much of its beginning was used later than the rest",
          "[observed_edge]") {
    ObservedEdge edge = made(1, {10, 100, 1});
    CHECK(edge.later_part() == 0);
    edge.part_last = 20;
    edge.part = 50;
    CHECK(edge.later_part() == 50);
    SECTION("until all of it is used") {
        edge.use_again({30, 100, 1});
        CHECK(edge.later_part() == 0);
    }
    SECTION("when it is split") {
        const std::uint32_t at = GENERATE(20U, 50U, 80U);
        const ObservedEdge first = edge.first_part(at);
        CHECK(first.later_part() == (at < 50 ? at : 50));
        CHECK(edge.later_part() == (at < 50 ? 50 - at : 0));
        SECTION("and joined again") {
            edge.join(first, at);
            CHECK(edge.later_part() == 50);
        }
    }
    SECTION("when it is cut off from what is above") {
        ObservedEdge above = edge.first_part(20);
        edge.hand_over(above);
        CHECK(above.later_part() == 20);
    }
    SECTION("when one above that others use is joined with it") {
        const ObservedEdge above = made(1, {40, 100, 1});
        edge.join(above, 100);
        CHECK(edge.last == 10);
        CHECK(edge.part_last == 40);
        CHECK(edge.later_part() == 100);
    }
}

} // namespace

TEST_CASE("An edge that was made has one use, no gap, and the length and tier of its maker",
          "[observed_edge]") {
    const ObservedEdge edge = made(1, {7, 100, 2});
    CHECK(edge.is_observed());
    CHECK(edge.last == 7);
    CHECK(feature(edge, uses) == 1);
    CHECK(feature(edge, gap) == 0);
    CHECK(feature(edge, siblings) == 0);
    CHECK(feature(edge, length) == 7); // 64 to 127
    CHECK(feature(edge, hint) == 0);
    CHECK(feature(edge, tier) == 2);
}

TEST_CASE("The siblings of an edge count up to an order of magnitude", "[observed_edge]") {
    for (const auto& [children, expected] : {std::pair{0U, 9U},
                                             {1U, 0U},
                                             {2U, 1U},
                                             {3U, 2U},
                                             {4U, 3U},
                                             {5U, 3U},
                                             {6U, 4U},
                                             {10U, 4U},
                                             {11U, 5U},
                                             {30U, 5U},
                                             {31U, 6U},
                                             {100000U, 6U}}) {
        CAPTURE(children);
        CHECK(feature(made(children, {1, 1, 0}), siblings) == expected);
    }
}

TEST_CASE("Each use of an edge counts, and the requests since the last one", "[observed_edge]") {
    ObservedEdge edge = made(2, {100, 16, 1});
    edge.use_again({105, 16, 1});
    CHECK(edge.last == 105);
    CHECK(feature(edge, uses) == 2);
    CHECK(feature(edge, gap) == 3); // 4 to 7
    for (std::uint32_t i = 0; i < 100'000; ++i)
        edge.use_again({106 + i, 16, 1});
    CHECK(edge.uses == 65'535);
    CHECK(feature(edge, uses) == 8);
    CHECK(feature(edge, gap) == 1);
    SECTION("also where the number of requests starts anew from 0") {
        edge.last = 0xfffffffeU;
        edge.use_again({1, 16, 1});
        CHECK(feature(edge, gap) == 2);
    }
}

TEST_CASE("A request that goes on from an edge uses it once", "[observed_edge]") {
    ObservedEdge edge = made(1, {1, 16, 1});
    edge.use_again({9, 16, 1});
    edge.set_hint(5);
    SECTION("more than before") {
        const ObservedEdge longer = edge.continued({11, 1000, 3});
        CHECK(longer.last == 11);
        CHECK(feature(longer, uses) == 3);
        CHECK(feature(longer, gap) == 2);
        CHECK(feature(longer, length) == 10);
        CHECK(feature(longer, hint) == 5);
        CHECK(feature(longer, tier) == 3);
    }
    SECTION("not twice, if it was the last one that used it") {
        const ObservedEdge same = edge.continued({9, 1000, 3});
        CHECK(same.last == 9);
        CHECK(same.features == edge.features);
    }
    SECTION("nor where a later one has used it") {
        const ObservedEdge same = edge.continued({4, 1000, 3});
        CHECK(same.last == 9);
        CHECK(same.features == edge.features);
    }
}

TEST_CASE("What is too large for a feature is the largest", "[observed_edge]") {
    ObservedEdge edge = made(1, {1, ~std::size_t{0}, 1000});
    edge.set_hint(1000);
    CHECK(feature(edge, length) == 15);
    CHECK(feature(edge, tier) == 15);
    CHECK(feature(edge, hint) == 15);
    CHECK(feature(edge, siblings) == 0);
}

TEST_CASE("The first part of an edge has its uses, but no interval", "[observed_edge]") {
    ObservedEdge edge = made(1, {1, 16, 1});
    edge.interval = 5;
    edge.is_obsolete = true;
    const ObservedEdge part = edge.first_part(4);
    CHECK(part.uses == 1);
    CHECK(part.last == 1);
    CHECK(part.features == edge.features);
    CHECK(part.interval == 0);
    CHECK(part.is_new_part);
    CHECK_FALSE(part.is_obsolete);
}

TEST_CASE("Where the rest of an edge was cut off, the part above goes on", "[observed_edge]") {
    ObservedEdge rest = made(1, {1, 16, 1});
    rest.interval = 5;
    ObservedEdge above;
    rest.hand_over(above);
    CHECK(above.interval == 5);
    CHECK(above.is_observed());
    CHECK_FALSE(rest.is_observed());
    CHECK(rest.interval == 0);
    SECTION("and is the whole edge again when both become one") {
        rest.join(above, 4);
        CHECK(rest.is_observed());
        CHECK(rest.interval == 5);
    }
}

TEST_CASE("An edge that is observed keeps its own uses when the one above becomes a part of it",
          "[observed_edge]") {
    ObservedEdge edge = made(1, {9, 16, 1});
    const ObservedEdge above = made(1, {4, 16, 1});
    edge.join(above, 16);
    CHECK(edge.last == 9);
    CHECK(edge.uses == 1);
}
