// SPDX-License-Identifier: MIT
// TierQueues: intrusive queues, one per tier, elements set aside, and the rule.

#include <promptkv/detail/tier_queues.hpp>

#include "catch.hpp"

#include <cstddef>
#include <deque>
#include <string>

namespace {

using promptkv::Tier;

struct Element {
    char name;
    Tier tier;
    promptkv::detail::ListHook<Element> hook{};
    bool aside = false;
};

/// Queues and the elements in them.
class Queues {
public:
    explicit Queues(bool with_empty_tiers = false) : queues(with_empty_tiers) {}

    Element& add(char name, Tier tier) {
        Element& element = elements_.emplace_back(Element{name, tier});
        queues.push_hot(element);
        return element;
    }
    void remove(Element& element) { queues.remove(element, element.aside); }
    void set_aside(Element& element) {
        queues.set_aside(element);
        element.aside = true;
    }
    void put_back(Element& element) {
        remove(element);
        element.aside = false;
        queues.push_cold(element);
    }
    [[nodiscard]] char victim() const {
        const Element* element = queues.victim();
        return element != nullptr ? element->name : '-';
    }
    /// Removes victim after victim.
    std::string drain() {
        std::string names;
        while (Element* element = queues.victim()) {
            names += element->name;
            remove(*element);
        }
        return names;
    }
    [[nodiscard]] std::string all() const {
        std::string names;
        queues.for_each([&names](const Element& element) { names += element.name; });
        return names;
    }

    promptkv::detail::TierQueues<Element, Tier> queues;

private:
    std::deque<Element> elements_;
};

TEST_CASE("TierQueues that are empty have no victim") {
    const Queues queues;
    CHECK(queues.victim() == '-');
    CHECK(queues.all().empty());
    CHECK(queues.queues.size(Tier::user) == 0);
    CHECK(queues.queues.check_invariants());
}

TEST_CASE("TierQueues take from the cold end, and from a tier that is not shorter than the next") {
    Queues queues;
    for (const char name : {'a', 'b', 'c'})
        queues.add(name, Tier::assistant);
    for (const char name : {'u', 'v'})
        queues.add(name, Tier::user);
    queues.add('s', Tier::system);
    CHECK(queues.all() == "abcuvs");
    CHECK(queues.queues.size(Tier::assistant) == 3);
    CHECK(queues.queues.check_invariants());
    CHECK(queues.drain() == "abucvs");
}

TEST_CASE("TierQueues skip an empty tier in the rule unless they are told not to") {
    const bool with_empty_tiers = GENERATE(false, true);
    Queues queues(with_empty_tiers);
    queues.add('a', Tier::assistant);
    queues.add('s', Tier::system);
    queues.add('t', Tier::system);
    CHECK(queues.victim() == (with_empty_tiers ? 'a' : 's'));
}

TEST_CASE("An element that is set aside is no victim, and counts in the rule") {
    Queues queues;
    Element& a = queues.add('a', Tier::assistant);
    queues.add('b', Tier::assistant);
    queues.add('u', Tier::user);
    queues.add('v', Tier::user);
    queues.set_aside(a);
    CHECK(queues.victim() == 'b'); // two assistants are not fewer than two users
    CHECK(queues.queues.size(Tier::assistant) == 2);
    CHECK(queues.all() == "abuv"); // it is the coldest
    CHECK(queues.queues.check_invariants());

    SECTION("until it is put back at the cold end") {
        queues.put_back(a);
        CHECK(queues.victim() == 'a');
    }
    SECTION("it may be removed") {
        queues.remove(a);
        CHECK(queues.queues.size(Tier::assistant) == 1);
        CHECK(queues.victim() == 'u');
    }
    CHECK(queues.queues.check_invariants());
}

TEST_CASE("Where all of the tier that the rule names is set aside another tier gives") {
    Queues queues;
    queues.add('a', Tier::assistant);
    Element& u = queues.add('u', Tier::user);
    Element& v = queues.add('v', Tier::user);
    queues.set_aside(u);
    queues.set_aside(v);
    CHECK(queues.victim() == 'a');
    CHECK(queues.all() == "auv"); // those set aside first come first

    SECTION("and no other has anything") {
        CHECK(queues.drain() == "a");
    }
    SECTION("the least persistent one, though the rule would take from the last tier next") {
        queues.add('s', Tier::system);
        CHECK(queues.victim() == 'a');
        CHECK(queues.drain() == "as");
    }
}

TEST_CASE("A victim may be asked for of the first tiers only") {
    Queues queues;
    CHECK(queues.queues.victim(2) == nullptr);
    queues.add('s', Tier::system);
    queues.add('t', Tier::system);
    CHECK(queues.queues.victim(2) == nullptr);
    queues.add('u', Tier::user);
    CHECK(queues.victim() == 's');
    CHECK(queues.queues.victim(2)->name == 'u');
    CHECK(queues.queues.victim(1) == nullptr);
}

TEST_CASE("TierQueues visit each element also where the visitor removes it") {
    Queues queues;
    for (const char name : {'a', 'b', 'c'})
        queues.add(name, Tier::user);
    std::string names;
    queues.queues.for_each([&](Element& element) {
        names += element.name;
        queues.remove(element);
    });
    CHECK(names == "abc");
    CHECK(queues.victim() == '-');
    CHECK(queues.queues.check_invariants());
}

} // namespace
