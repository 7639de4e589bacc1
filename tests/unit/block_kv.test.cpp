// SPDX-License-Identifier: MIT
// SharedBlock and BlockKV: state in blocks that several payloads share.

#include <promptkv/block_kv.hpp>

#include "catch.hpp"
#include "unit_payloads.hpp"

#include <cstddef>
#include <optional>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

namespace of_block_kv {

using namespace promptkv_test;
using promptkv::BlockKV;
using promptkv::BlockUse;
using promptkv::SharedBlock;
using promptkv::unlimited;

/// What for_each_block shows, as "size" and "!" where the block is in use, one after the other.
template <class KV>
std::string shown(const KV& kv, std::size_t from) {
    std::string all;
    kv.for_each_block(from, [&](const BlockUse&, std::size_t nbytes, bool in_use) {
        all += std::to_string(nbytes) + (in_use ? "!" : "") + " ";
    });
    return all;
}

/// The uses of the blocks from `from` on, in order.
template <class KV>
std::vector<const BlockUse*> uses(const KV& kv, std::size_t from) {
    std::vector<const BlockUse*> all;
    kv.for_each_block(from, [&](const BlockUse& use, std::size_t, bool) { all.push_back(&use); });
    return all;
}

/// Puts the blocks of a payload into the account of a cache, as a cache does, and takes them out again.
class Account {
public:
    explicit Account(const Blocks& kv) : uses_(uses(kv, 0)) {
        for (const BlockUse* use : uses_)
            use->store(&the_cache);
    }
    Account(const Account&) = delete;
    Account& operator=(const Account&) = delete;
    ~Account() {
        for (const BlockUse* use : uses_)
            use->unstore();
    }

private:
    static constexpr int the_cache = 0;
    std::vector<const BlockUse*> uses_;
};

// BlockUse and SharedBlock ///////////////////////////////////////////////////

TEST_CASE("BlockUse says who is the first and who is the last") {
    STATIC_REQUIRE_FALSE(std::is_copy_constructible_v<BlockUse>);
    STATIC_REQUIRE_FALSE(std::is_copy_assignable_v<BlockUse>);
    const BlockUse use;
    const int cache = 0;
    CHECK(use.count() == 0);
    CHECK(use.store(&cache));
    CHECK_FALSE(use.store(&cache));
    CHECK_FALSE(use.pin(&cache));
    CHECK(use.count() == 3);
    CHECK_FALSE(use.unstore());
    CHECK_FALSE(use.unstore());
    CHECK(use.count() == 1);
    CHECK(use.unpin());
    CHECK(use.count() == 0);
    CHECK(use.pin(&cache));
    CHECK_FALSE(use.store(&cache));
    CHECK_FALSE(use.unpin());
    CHECK(use.unstore());
    CHECK(use.count() == 0);
}

TEST_CASE("BlockUse counts pins beside entries and beside each other") {
    const BlockUse use;
    const int cache = 0;
    CHECK(use.store(&cache));
    CHECK_FALSE(use.pin(&cache));
    CHECK_FALSE(use.pin(&cache));
    CHECK(use.count() == 3);
    CHECK_FALSE(use.unpin_locked());
    CHECK(use.count() == 2);
    CHECK_FALSE(use.unpin_locked());
    CHECK(use.count() == 1);
    CHECK(use.unstore());
    CHECK(use.pin(&cache));
    CHECK_FALSE(use.pin(&cache));
    CHECK_FALSE(use.unpin_locked());
    CHECK(use.unpin_locked());
    CHECK(use.count() == 0);
}

TEST_CASE("BlockUse that nobody holds may go to another cache") {
    const BlockUse use;
    const int first = 0;
    const int second = 0;
    use.store(&first);
    use.unstore();
    CHECK(use.pin(&second));
    use.unpin();
}

TEST_CASE("SharedBlock shares its block among copies") {
    const SharedBlock<TextBlock> block(TextBlock{"ab"});
    const SharedBlock<TextBlock> copy = block;
    const SharedBlock<TextBlock> twin(TextBlock{"ab"});
    CHECK(block == copy);
    CHECK_FALSE(block == twin);
    CHECK(&*block == &*copy);
    CHECK(copy->text == "ab");
    CHECK(block.nbytes() == 2);
    CHECK(&block.use() == &copy.use());
    STATIC_REQUIRE(std::is_const_v<std::remove_reference_t<decltype(*block)>>);
}

TEST_CASE("SharedBlock asks its block for the bytes once") {
    std::size_t asked = 0;
    const SharedBlock<PaddedBlock> block(PaddedBlock{&asked});
    const SharedBlock<PaddedBlock> copy = block;
    CHECK(block.nbytes() == 4);
    CHECK(copy.nbytes() == 4);
    CHECK(asked == 1);
}

TEST_CASE("SharedBlock is in use where somebody holds it outside of a cache's account") {
    const Blocks stored = blocks("ab");
    CHECK(stored.blocks()[0].in_use());
    {
        const Account account(stored);
        CHECK_FALSE(stored.blocks()[0].in_use());
        {
            const Blocks clone = stored.clone_prefix(2);
            CHECK(stored.blocks()[0].in_use());
            const Account of_clone(clone); // a second entry holds it now
            CHECK_FALSE(stored.blocks()[0].in_use());
            CHECK_FALSE(clone.blocks()[0].in_use());
        }
        CHECK_FALSE(stored.blocks()[0].in_use());
    }
    CHECK(stored.blocks()[0].in_use());
}

// BlockKV: building //////////////////////////////////////////////////////////

TEST_CASE("BlockKV is empty at first") {
    const Blocks kv(2);
    CHECK(kv.length() == 0);
    CHECK(kv.nbytes() == 0);
    CHECK(kv.blocks().empty());
    CHECK(kv.block_tokens() == 2);
    CHECK(kv.reusable_prefix(5) == 0);
    CHECK(shown(kv, 0).empty());
}

TEST_CASE("BlockKV grows by blocks, and its last block may be partly filled") {
    Blocks kv(2);
    kv.append(TextBlock{"ab"}, 2);
    CHECK(kv.length() == 2);
    kv.append(TextBlock{"c"}, 1);
    CHECK(kv.length() == 3);
    CHECK(kv.nbytes() == 3);
    CHECK(kv.blocks().size() == 2);
    CHECK(text_of(kv) == "abc");
}

TEST_CASE("BlockKV takes a block that is shared already") {
    const Blocks first = blocks("abcd");
    Blocks second(2);
    second.append(first.blocks()[0], 2);
    second.append(TextBlock{"xy"}, 2);
    CHECK(second.blocks()[0] == first.blocks()[0]);
    CHECK(text_of(second) == "abxy");
}

TEST_CASE("BlockKV counts what its blocks say, and not their tokens") {
    std::size_t asked = 0;
    BlockKV<PaddedBlock> kv(2);
    kv.append(PaddedBlock{&asked}, 2);
    kv.append(PaddedBlock{&asked}, 1);
    CHECK(kv.nbytes() == 8);
    CHECK(kv.length() == 3);
}

TEST_CASE("BlockKV that was moved from is empty") {
    Blocks kv = blocks("abcd");
    Blocks moved = std::move(kv);
    CHECK(text_of(moved) == "abcd");
    // NOLINTBEGIN(bugprone-use-after-move)
    CHECK(kv.length() == 0);
    CHECK(kv.nbytes() == 0);
    kv = std::move(moved);
    // NOLINTEND(bugprone-use-after-move)
    CHECK(text_of(kv) == "abcd");
    STATIC_REQUIRE(std::is_nothrow_move_constructible_v<Blocks>);
    STATIC_REQUIRE(std::is_nothrow_move_assignable_v<Blocks>);
}

// BlockKV without a state ////////////////////////////////////////////////////

TEST_CASE("BlockKV serves every prefix of its key") {
    const Blocks kv = blocks("abcde");
    CHECK(kv.reusable_prefix(3) == 3);
    CHECK(kv.reusable_prefix(5) == 5);
    CHECK(kv.reusable_prefix(9) == 5);
    CHECK(kv.reusable_prefix(0) == 0);
}

TEST_CASE("clone_prefix shares the blocks of the prefix") {
    struct Row {
        std::size_t n, n_blocks, nbytes;
    };
    const Row row = GENERATE(values<Row>({{0, 0, 0}, {1, 1, 2}, {2, 1, 2}, {3, 2, 4}, {5, 3, 5}}));
    CAPTURE(row.n);
    const Blocks kv = blocks("abcde");
    const Blocks clone = kv.clone_prefix(row.n);
    CHECK(clone.length() == row.n);
    CHECK(clone.nbytes() == row.nbytes);
    REQUIRE(clone.blocks().size() == row.n_blocks);
    for (std::size_t i = 0; i < row.n_blocks; ++i)
        CHECK(clone.blocks()[i] == kv.blocks()[i]);
    CHECK(text_of(clone) == std::string("abcde").substr(0, row.n));
    CHECK(text_of(kv) == "abcde");
}

TEST_CASE("truncate drops the blocks that begin at or beyond n, and returns them") {
    struct Row {
        std::size_t n, n_blocks;
        std::string tail;
    };
    const Row row = GENERATE(values<Row>({
        {6, 3, "-"}, // nothing to cut
        {9, 3, "-"},
        {5, 3, ""}, // the block of the fifth token stays
        {4, 2, "ef"},
        {3, 2, "ef"},
        {2, 1, "cdef"},
        {0, 0, "abcdef"},
    }));
    CAPTURE(row.n);
    Blocks kv = blocks("abcdef");
    const std::vector<const BlockUse*> dropped = uses(kv, row.n);
    const std::optional<Blocks> tail = kv.truncate(row.n);
    CHECK(text_of(tail) == row.tail);
    CHECK(kv.length() == std::min<std::size_t>(row.n, 6));
    CHECK(kv.blocks().size() == row.n_blocks);
    CHECK(text_of(kv) == std::string("abcdef").substr(0, row.n));
    CHECK(kv.nbytes() == 2 * row.n_blocks);
    if (tail) { // exactly those that for_each_block showed
        CHECK(uses(*tail, 0) == dropped);
        CHECK(tail->nbytes() == 6 - kv.nbytes());
    }
}

TEST_CASE("The tail of a truncate does not count the tokens beyond the key") {
    Blocks kv = blocks("abcde");
    const std::optional<Blocks> tail = kv.truncate(2);
    REQUIRE(tail);
    CHECK(tail->length() == 3);
    CHECK(text_of(tail) == "cde");

    SECTION("also where the payload was cut before within a block") {
        Blocks cut = blocks("abcdef");
        cut.truncate(5);
        const std::optional<Blocks> rest = cut.truncate(2);
        REQUIRE(rest);
        CHECK(rest->length() == 3);
    }
}

TEST_CASE("for_each_block shows each block from a token on, in order") {
    Blocks kv(2);
    kv.append(TextBlock{"ab"}, 2);
    kv.append(TextBlock{"c.."}, 2);
    kv.append(TextBlock{"e"}, 1);
    const Account account(kv);
    CHECK(shown(kv, 0) == "2 3 1 ");
    CHECK(shown(kv, 1) == "3 1 ");
    CHECK(shown(kv, 2) == "3 1 ");
    CHECK(shown(kv, 3) == "1 ");
    CHECK(shown(kv, 5).empty());
    CHECK(shown(kv, 99).empty());
    const Blocks first = kv.clone_prefix(1);
    CHECK(shown(kv, 0) == "2! 3 1 ");
}

TEST_CASE("BlockKV may have one block, however many tokens come") {
    const std::size_t size = GENERATE(unlimited, unlimited - 1);
    Blocks kv = blocks("abc", size);
    const Blocks prefix = kv.clone_prefix(2);
    CHECK(text_of(prefix) == "ab");
    CHECK(prefix.nbytes() == 3);
    int visited = 0;
    kv.for_each_block(2, [&visited](auto&&...) { ++visited; });
    CHECK(visited == 0);
    CHECK(kv.truncate(2)->blocks().empty());
    CHECK(text_of(kv) == "ab");
    CHECK(kv.nbytes() == 3);
}

TEST_CASE("adopt_blocks takes the other's whole blocks, and returns its own") {
    const Blocks other = blocks("abcdxy");
    Blocks kv = blocks("abcdefg");
    const std::vector<const BlockUse*> before = uses(kv, 0);
    const std::optional<Blocks> given_up = kv.adopt_blocks(4, other);
    CHECK(kv.blocks()[0] == other.blocks()[0]);
    CHECK(kv.blocks()[1] == other.blocks()[1]);
    CHECK(uses(kv, 4) == std::vector<const BlockUse*>(before.begin() + 2, before.end()));
    CHECK(text_of(kv) == "abcdefg");
    CHECK(kv.length() == 7);
    REQUIRE(given_up);
    CHECK(uses(*given_up, 0) == std::vector<const BlockUse*>(before.begin(), before.begin() + 2));

    SECTION("a second time there is nothing to give up") {
        CHECK_FALSE(kv.adopt_blocks(4, other));
        CHECK(text_of(kv) == "abcdefg");
    }
}

TEST_CASE("adopt_blocks leaves a block alone that both share in part only") {
    const Blocks other = blocks("abcx");
    Blocks kv = blocks("abcd");
    kv.adopt_blocks(3, other);
    CHECK(kv.blocks()[0] == other.blocks()[0]);
    CHECK_FALSE(kv.blocks()[1] == other.blocks()[1]);
    CHECK(text_of(kv) == "abcd");

    SECTION("and does nothing where blocks have other sizes") {
        const Blocks fours = blocks("abcd", 4);
        CHECK_FALSE(kv.adopt_blocks(4, fours));
        CHECK(text_of(kv) == "abcd");
    }
}

TEST_CASE("adopt_blocks counts the bytes of the blocks that it holds then") {
    Blocks other(2);
    other.append(TextBlock{"ab + 3"}, 2); // the engine padded it
    Blocks kv = blocks("abcd");
    kv.adopt_blocks(2, other);
    CHECK(kv.nbytes() == 6 + 2);
    kv.truncate(2);
    CHECK(kv.nbytes() == 6);
}

// BlockKV with a state ///////////////////////////////////////////////////////

TEST_CASE("BlockKV with a state serves its whole key only, and only with the state") {
    Hybrid kv(2);
    append_rest(kv, "abc");
    CHECK_FALSE(kv.has_state());
    CHECK(kv.reusable_prefix(3) == 0);
    CHECK(kv.nbytes() == 3);
    kv.set_state(TextBlock{"state"});
    CHECK(kv.has_state());
    CHECK(kv.state().text == "state");
    CHECK(kv.nbytes() == 3 + 5);
    CHECK(kv.reusable_prefix(3) == 3);
    CHECK(kv.reusable_prefix(9) == 3);
    CHECK(kv.reusable_prefix(2) == 0);
}

TEST_CASE("A copy of a BlockKV shares blocks and state") {
    const Hybrid kv = blocks<Hybrid>("abc");
    const Hybrid copy = kv;
    CHECK(copy.blocks()[0] == kv.blocks()[0]);
    CHECK(&copy.state() == &kv.state());
}

TEST_CASE("shared_prefix hands out whole blocks without the state") {
    struct Row {
        std::size_t n;
        std::string text;
    };
    const Row row = GENERATE(values<Row>(
        {{0, ""}, {1, ""}, {2, "ab"}, {3, "ab"}, {4, "abcd"}, {5, "abcd"}, {9, "abcd"}}));
    CAPTURE(row.n);
    const Hybrid kv = blocks<Hybrid>("abcde");
    const Hybrid prefix = kv.shared_prefix(row.n);
    CHECK(text_of(prefix) == row.text);
    CHECK(prefix.length() == row.text.size());
    CHECK_FALSE(prefix.has_state());
    if (!row.text.empty())
        CHECK(prefix.blocks()[0] == kv.blocks()[0]);
}

TEST_CASE("A new payload can be built on a shared prefix") {
    const Hybrid kv = blocks<Hybrid>("abcde");
    Hybrid next = kv.shared_prefix(4);
    append_rest(next, "abcdxyz");
    next.set_state(TextBlock{"S"});
    CHECK(text_of(next) == "abcdxyz");
    CHECK(next.blocks()[1] == kv.blocks()[1]);
    CHECK(next.reusable_prefix(7) == 7);
}

} // namespace of_block_kv
