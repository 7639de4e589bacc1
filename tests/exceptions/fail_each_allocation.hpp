// SPDX-License-Identifier: MIT
// Lets the allocations of an operation, or what else can fail in it, fail one after the other, and
// looks at what is left.
#ifndef PROMPTKV_TESTS_FAIL_EACH_ALLOCATION_HPP
#define PROMPTKV_TESTS_FAIL_EACH_ALLOCATION_HPP

#include "catch.hpp"
#include "counting_new.hpp"

#include <cstddef>
#include <new>
#include <string>

namespace promptkv_test {

/// What is demanded of an operation that goes on although an allocation has failed.
enum class Makeshift {
    none, ///< the same result as with memory
    other ///< a sound result, which may be another one
};

/// Allocations that fail.
struct FailingAllocations : FailingNew {
    using FailingNew::FailingNew;
    using Thrown = std::bad_alloc;
};

/// Runs `act` on what `setup` returns once for each of its allocations (or what else `Failing` lets
/// fail, by throwing a Thrown), letting that one fail, and once more for each, letting all later ones
/// fail too.
///
/// Whenever it throws, the subject must be as before; whenever it does not, as without failures
/// (but for a Makeshift::other). `state` describes a subject, `drain` uses it up and tells in what
/// order. The subject must hold its invariants, and no memory may be lost.
/// Returns: the number of runs in which one failed.
template <class Failing = FailingAllocations, class Setup, class Act, class State, class Drain>
std::size_t fail_each_allocation(Setup setup, Act act, State state, Drain drain,
                                 Makeshift makeshift = Makeshift::none) {
    struct Description {
        std::string state;
        std::string order;
    };
    const auto describe = [&](auto& subject) {
        const std::string described = state(subject);
        return Description{described, drain(subject)};
    };
    const Description before = [&] {
        auto subject = setup();
        return describe(subject);
    }();
    const Description expected = [&] {
        auto subject = setup();
        act(subject);
        return describe(subject);
    }();

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
                auto subject = setup();
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
                const Description after = describe(subject);
                const Description& wanted = threw ? before : expected;
                right = after.state == wanted.state && after.order == wanted.order;
                right = right || (struck && !threw && makeshift == Makeshift::other);
                sound = sound && subject.check_invariants();
                if (!right) {
                    found = after.state + " | " + after.order + "\nwanted: " + wanted.state +
                            " | " + wanted.order;
                }
            }
            const bool kept = right && live_blocks != blocks;
            INFO("failure " << skip << (lasting ? " and all after it" : "")
                            << (threw ? ", thrown" : ", not thrown"));
            INFO("found:  " << found);
            CHECK(sound);
            CHECK(right);
            CHECK_FALSE(kept);
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
