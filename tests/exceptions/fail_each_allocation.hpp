// SPDX-License-Identifier: MIT
// Lets the allocations of an operation, or its other calls that can fail, fail one after the other, and
// looks at what is left.
#ifndef PROMPTKV_TESTS_FAIL_EACH_ALLOCATION_HPP
#define PROMPTKV_TESTS_FAIL_EACH_ALLOCATION_HPP

#include "catch.hpp"
#include "counting_new.hpp"

#include <cstddef>
#include <cstdint>
#include <new>
#include <string>

namespace promptkv_test {

/// The state that an operation must leave when it throws.
enum class Thrown : std::uint8_t {
    undone,  ///< as before the operation
    counted, ///< as before; or as after success, if a lookup had chosen and its copy failed
    sound    ///< the invariants hold; the operation itself checks the rest
};

/// The state that an operation must leave when something failed and it does not throw.
enum class Survived : std::uint8_t {
    same, ///< as without failures
    other ///< the invariants hold; the result may be another one
};

struct Demand {
    Thrown thrown = Thrown::undone;
    Survived survived = Survived::same;
};

/// Allocations that fail.
struct FailingAllocations : FailingNew {
    using FailingNew::FailingNew;
    using Thrown = std::bad_alloc;
};

/// A subject that is made by `make()`, filled by `fill(subject)`, described by `state(subject)` and used
/// up by `drain(subject)`, which tells in what order.
template <class Make, class Fill, class State, class Drain>
struct Fixture {
    Make make;
    Fill fill;
    State state;
    Drain drain;
};

template <class Make, class Fill, class State, class Drain>
Fixture(Make, Fill, State, Drain) -> Fixture<Make, Fill, State, Drain>;

/// Runs `act` once for each of its allocations (or other calls that `Failing` lets fail by throwing
/// Failing::Thrown), letting that one fail, and once more for each, letting all later ones fail too.
///
/// The subject must be left as `demand` says and hold its invariants, and no memory may be lost.
/// Returns: the number of runs in which a call failed.
template <class Failing = FailingAllocations, class Fixed, class Act>
std::size_t fail_each_allocation(const Fixed& fixture, Act act, Demand demand = {}) {
    const auto describe = [&fixture](auto& subject) {
        const std::string state = fixture.state(subject);
        return state + " | " + fixture.drain(subject);
    };
    const auto description_after = [&](bool acted) {
        auto subject = fixture.make();
        fixture.fill(subject);
        if (acted)
            act(subject);
        return describe(subject);
    };
    const std::string before = description_after(false);
    const std::string success = description_after(true);

    std::size_t failures = 0;
    for (const bool lasting : {false, true}) {
        for (std::size_t skip = 0;; ++skip) {
            bool threw = false;
            bool struck = false;
            bool sound = false;
            bool right = false;
            std::string found;
            const std::size_t blocks = live_blocks;
            {
                auto subject = fixture.make();
                fixture.fill(subject);
                {
                    Failing failing(skip, lasting);
                    try {
                        act(subject);
                    } catch (const typename Failing::Thrown&) {
                        threw = true;
                    }
                    struck = failing.stop();
                }
                sound = subject.check_invariants();
                found = describe(subject);
                sound = sound && subject.check_invariants();
                if (threw)
                    right = demand.thrown == Thrown::sound || found == before ||
                            (demand.thrown == Thrown::counted && found == success);
                else
                    right = found == success || (struck && demand.survived == Survived::other);
                if (right)
                    std::string().swap(found); // blocks are compared below
            }
            const bool lost = right && live_blocks != blocks;
            INFO("failure " << skip << (lasting ? " and all after it" : "")
                            << (threw ? ", thrown" : ", not thrown"));
            INFO("found:  " << found << "\nwanted: " << (threw ? before : success));
            CHECK(sound);
            CHECK(right);
            CHECK_FALSE(lost);
            if (!struck) {
                CHECK_FALSE(threw);
                break;
            }
            ++failures;
        }
    }
    return failures;
}

} // namespace promptkv_test

#endif
