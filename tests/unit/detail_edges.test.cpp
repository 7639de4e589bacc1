// SPDX-License-Identifier: MIT
// Edges: which nodes a request used, and which it made.

#include <promptkv/detail/edges.hpp>
#include <promptkv/reuse_order.hpp>

#include "catch.hpp"
#include "detail_parts.hpp"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace of_edges {

using namespace promptkv_test;
using promptkv::InsertOptions;
using promptkv::ReuseOrder;
using promptkv::Tier;

using R = promptkv::detail::Record<Tape, std::string, std::int32_t, Tier, ReuseOrder>;
using Edges = promptkv::detail::Edges<R>;
using Hook = ReuseOrder::NodeHook;

/// Lookups and inserts as a cache tells of them, without a cache.
class Requests {
public:
    Requests() = default;
    Requests(const Requests&) = delete;
    Requests& operator=(const Requests&) = delete;
    ~Requests() {
        for (R* record : entries_)
            remove(*record);
        parts_.index.remember_at_most(0);
        for (R* forgotten = parts_.index.take_forgotten(); forgotten != nullptr;) {
            forgotten->home->release();
            delete std::exchange(forgotten, forgotten->next);
        }
    }

    /// Returns the number of the request.
    std::uint64_t look_up(std::string_view prompt) {
        const Key tokens = key(prompt);
        const auto choice = promptkv::detail::choose<R>(
            parts_.index.locate("m", tokens), tokens.size(), {}, promptkv::detail::can_lease<Tape>);
        ++parts_.requests;
        Edges(parts_).looked_up(choice, tokens);
        return parts_.requests;
    }
    /// `absorbed`: an entry that leaves for it; empty: none.
    void store(std::string_view text, const InsertOptions& options = {}, Shape shape = {},
               std::string_view absorbed = {}, Tier tier = Tier::user) {
        const Key tokens = key(text);
        parts_.order.reserve(entries_.size() + 1);
        R& record =
            parts_.index.link(parts_.index.locate("m", tokens), "m", tokens, std::make_unique<R>());
        record.payload = shared_payload<Tape>(parts_.ledger.account(), Tape(text, shape)).release();
        record.payload->record = &record;
        record.tier = tier;
        record.is_entry = true;
        parts_.serves_parts = record.serves_parts();
        parts_.index.show(record, parts_.serves_parts);
        if (!absorbed.empty()) {
            R* prefix = parts_.index.locate("m", key(absorbed)).place.node->value;
            entries_.erase(std::find(entries_.begin(), entries_.end(), prefix));
            remove(*prefix);
        }
        Edges(parts_).stored(record, options);
        parts_.order.enter(record);
        entries_.push_back(&record);
    }

    /// A key that the policy did not want is remembered.
    void decline(std::string_view text, Tier tier) {
        const Key tokens = key(text);
        parts_.index.remember_at_most(1'000);
        auto* node = parts_.index.remember(parts_.index.locate("m", tokens), tokens, tier, 0, true);
        REQUIRE(node != nullptr);
        Edges(parts_).declined(*node, {});
    }

    /// What is known of the edge that ends, or would be split, behind these tokens.
    [[nodiscard]] const Hook& edge(std::string_view text) const {
        return parts_.index.locate("m", key(text)).place.below()->hook;
    }
    [[nodiscard]] std::uint32_t uses(std::string_view text) const { return edge(text).uses; }
    [[nodiscard]] std::uint32_t hint(std::string_view text) const {
        return edge(text).features >> 16U & 15U;
    }

    /// What the edge would be at whose end a key stood.
    [[nodiscard]] Hook expected(std::string_view text, Tier tier = Tier::user) {
        const Key tokens = key(text);
        Hook hook;
        Edges(parts_).expect(hook, parts_.index.locate("m", tokens), tokens.size(), tier, {});
        return hook;
    }

private:
    void remove(R& record) {
        parts_.order.leave(record);
        record.is_entry = false;
        parts_.index.unlink(record);
        record.payload->drop(R::Payload::in_cache);
        delete &record;
    }

    promptkv::detail::Parts<R> parts_{{}};
    std::vector<R*> entries_;
};

TEST_CASE("A request uses an edge once, however many keys it stores", "[edges]") {
    Requests requests;
    requests.look_up("abcdef");
    requests.store("ab");
    CHECK(requests.uses("ab") == 1);
    requests.store("abcd");
    requests.store("abcdef");
    CHECK(requests.uses("ab") == 1);
    CHECK(requests.uses("abcd") == 1);
    requests.look_up("abcdefg");
    CHECK(requests.uses("ab") == 2);
    CHECK(requests.uses("abcdef") == 2);
    requests.store("abcdefg");
    CHECK(requests.uses("abcdef") == 2);
    CHECK(requests.uses("abcdefg") == 1);
}

TEST_CASE("An insert uses the edges as of the lookup that it names", "[edges]") {
    Requests requests;
    const std::uint64_t first = requests.look_up("abcd");
    const std::uint64_t second = requests.look_up("abxy");
    requests.store("abxy", {.request = second});
    CHECK(requests.edge("abxy").last == second);
    requests.store("abcd", {.request = first}); // it comes late: "ab" was used by the second
    CHECK(requests.edge("abcd").last == first);
    CHECK(requests.edge("ab").last == second);

    SECTION("and without a name to the last one") {
        requests.look_up("pq");
        requests.store("abcdef");
        CHECK(requests.edge("abcd").last == 3);
        CHECK(requests.uses("abcd") == 2);
    }
}

TEST_CASE("Of an edge that a request leaves midway the first part is used", "[edges]") {
    Requests requests;
    requests.look_up("abcd");
    requests.store("abcd");
    requests.look_up("abxy");
    CHECK(requests.uses("abcd") == 1); // not run over whole
    requests.store("abxy");
    CHECK(requests.uses("ab") == 2);
    CHECK(requests.edge("ab").last == 2);
    CHECK(requests.uses("abcd") == 1);
    CHECK(requests.edge("abcd").last == 1);
}

TEST_CASE("Where entries serve their whole keys only, a request uses the one that served it",
          "[edges]") {
    Requests requests;
    requests.look_up("abcd");
    requests.store("ab", {}, whole_only);
    requests.store("abcd", {}, whole_only);
    requests.look_up("abcdef");
    CHECK(requests.uses("abcd") == 2);
    CHECK(requests.uses("ab") == 1);
}

TEST_CASE("What a request adds to its prompt is a hint for all that it used", "[edges]") {
    Requests requests;
    const std::string prompt(64, 'a');
    requests.look_up(prompt);
    requests.store(prompt);
    CHECK(requests.hint(prompt) == 0);
    const std::string longer = prompt + std::string(40, 'b'); // 40 / 16 = 2
    CHECK((requests.expected(longer).features >> 16U & 15U) == 2);
    requests.store(longer);
    CHECK(requests.hint(prompt) == 2);
    CHECK(requests.hint(longer) == 2);
    SECTION("unless the caller gives one") {
        requests.look_up(prompt);
        requests.store(prompt + "c", {.hint = 7});
        CHECK(requests.hint(prompt) == 7);
    }
}

TEST_CASE("What a request itself splits it has not used twice", "[edges]") {
    Requests requests;
    requests.look_up("abcdef");
    requests.store("abcdef");
    requests.store("abcd"); // a prefix of what it stored before
    CHECK(requests.uses("abcd") == 1);
    CHECK(requests.edge("abcd").last == 1);
    CHECK_FALSE(requests.edge("abcd").is_new_part);
    CHECK(requests.edge("abcd").interval != 0); // it waits for the next use
    CHECK(requests.uses("abcdef") == 1);
}

TEST_CASE("A key that is to come is expected to be what it becomes", "[edges]") {
    Requests requests;
    requests.look_up("abcdefgh");
    requests.store("abcdefgh");
    const auto compare = [&](std::string_view next, std::string_view absorbed) {
        const std::uint64_t request = requests.look_up(next);
        const Hook expected = requests.expected(next);
        requests.store(next, {}, {}, absorbed);
        const Hook& made = requests.edge(next);
        CHECK(expected.last == request);
        CHECK(made.last == request);
        CHECK(made.uses == expected.uses);
        CHECK(made.features == expected.features);
    };
    SECTION("where it goes on from an entry") {
        compare("abcdefghij", "abcdefgh");
    }
    SECTION("where it branches off from one") {
        compare("abcxy", "");
    }
    SECTION("where it ends within one") {
        compare("abcd", "");
    }
    SECTION("where it is one more branch") {
        requests.look_up("abcxy");
        requests.store("abcxy");
        compare("abcpq", "");
    }
    SECTION("where it shares nothing") {
        compare("xy", "");
    }
}

TEST_CASE("A key is expected to be an edge of its own below an entry that stays", "[edges]") {
    Requests requests;
    requests.look_up("abcdef");
    requests.store("abcd");
    const std::uint64_t request = requests.look_up("abcdef");
    CHECK(requests.expected("abcdef").uses == 2); // the entry gives way
    const Hook expected = requests.expected("abcdef", Tier::assistant);
    requests.store("abcdef", {}, {}, {}, Tier::assistant);
    CHECK(expected.last == request);
    CHECK(expected.uses == 1);
    CHECK(requests.edge("abcdef").features == expected.features);
}

TEST_CASE("What was declined belongs to the edge above, unless the entry there stays", "[edges]") {
    const Tier tier = GENERATE(Tier::user, Tier::assistant); // of the key that was declined
    const bool gives_way = tier == Tier::user;               // the entry above
    Requests requests;
    requests.look_up("abcdef");
    requests.store("abcd");
    requests.decline("abcdef", tier);
    CHECK(requests.edge("abcdef").is_tail == gives_way);
    requests.look_up("abcdef");
    CHECK(requests.uses("abcd") == 2);
    CHECK(requests.uses("abcdef") == (gives_way ? 0 : 2));
}

} // namespace of_edges
