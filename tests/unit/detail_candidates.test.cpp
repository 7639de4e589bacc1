// SPDX-License-Identifier: MIT
// Candidates: the table and its sweep.

#include <promptkv/detail/candidates.hpp>
#include <promptkv/detail/observed_edge.hpp>

#include "catch.hpp"

#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace {

/// What Candidates asks of a record and its node.
struct Item {
    struct Node {
        promptkv::detail::ObservedEdge hook;
    };
    promptkv::detail::CandidateHook<Item> hook;
    Node own;
    Node* node = &own;
    bool is_entry = true;
    bool aside = false;
    [[nodiscard]] bool is_aside() const noexcept { return aside; }
};

using Candidates = promptkv::detail::Candidates<Item>;

/// Four candidates; number i was used by request 10 + i and has level i.
struct Four {
    std::array<Item, 4> items;
    Candidates candidates;
    Four() {
        candidates.reserve(items.size());
        for (std::size_t i = 0; i < items.size(); ++i) {
            items[i].own.hook.last = 10 + static_cast<std::uint32_t>(i);
            candidates.set(items[i], static_cast<float>(i), 0);
        }
    }
    /// The number of the least of the next `n`, and -1 if there is none.
    template <class Worth>
    int least(std::size_t n, Worth worth) {
        const auto* found = candidates.least(n, 20, worth);
        return found != nullptr ? static_cast<int>(found->record - items.data()) : -1;
    }
};

constexpr auto by_level = [](const Candidates::Candidate& each) { return each.level; };
constexpr auto equal = [](const Candidates::Candidate&) { return 1.0F; };

} // namespace

TEST_CASE("A sweep of the candidates looks at the next ones, and goes on from the first after the "
          "last",
          "[candidates]") {
    Four four;
    CHECK(four.least(2, by_level) == 0);
    CHECK(four.least(2, by_level) == 2);
    CHECK(four.least(3, by_level) == 0);
    CHECK(four.least(100, by_level) == 0);
    CHECK(four.least(1, by_level) == 3);
    CHECK(Candidates().least(32, 20, by_level) == nullptr);
}

TEST_CASE("Of candidates of equal worth the one goes that was used longest ago", "[candidates]") {
    Four four;
    four.items[2].own.hook.last = 5;
    four.candidates.refresh(four.items[2], 2);
    CHECK(four.least(4, equal) == 2);
    SECTION("also where the number of requests started anew from 0") {
        four.items[1].own.hook.last = 0xfffffff0U;
        four.candidates.refresh(four.items[1], 1);
        CHECK(four.least(4, equal) == 1);
    }
}

TEST_CASE("A candidate's level and wish are what was set last", "[candidates]") {
    Four four;
    four.candidates.refresh(four.items[0], 9);
    CHECK(four.least(4, by_level) == 1);
    four.candidates.set(four.items[3], 3, -1000);
    CHECK(four.candidates.size() == 4);
    CHECK(four.least(4, [](const auto& each) { return each.level + each.wish; }) == 3);
}

TEST_CASE("Where a candidate leaves, the last one takes its slot", "[candidates]") {
    Four four;
    four.candidates.remove(four.items[1]);
    CHECK_FALSE(four.items[1].hook.is_candidate());
    CHECK(four.items[3].hook.slot == 1);
    CHECK(four.candidates.size() == 3);
    CHECK(four.candidates.check_invariants());
    four.candidates.remove(four.items[1]); // without effect
    CHECK(four.candidates.size() == 3);
    for (const std::size_t i : {3U, 0U, 2U})
        four.candidates.remove(four.items[i]);
    CHECK(four.candidates.size() == 0);
    CHECK(four.least(4, by_level) == -1);
}

TEST_CASE("A check of the candidates finds what is wrong with one", "[candidates]") {
    Four four;
    CHECK(four.candidates.check_invariants());
    Item& item = four.items[2];
    const int wrong = GENERATE(range(0, 4));
    CAPTURE(wrong);
    if (wrong == 0)
        item.hook.slot = 3;
    if (wrong == 1)
        item.own.hook.last = 3;
    if (wrong == 2)
        item.is_entry = false;
    if (wrong == 3)
        item.aside = true;
    CHECK_FALSE(four.candidates.check_invariants());
}
