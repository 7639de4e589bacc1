// SPDX-License-Identifier: MIT
// kv_traits: what the cache asks of a payload, each optional question given and left out.

#include <promptkv/kv_traits.hpp>

#include "catch.hpp"

#include <cstddef>
#include <memory>
#include <string>
#include <vector>

namespace {

/// Answers everything by members.
struct Everything {
    std::string tokens;

    std::size_t nbytes() const noexcept { return tokens.size() * 2; }
    std::size_t reusable_prefix(std::size_t n) const noexcept { return n / 2; }
    Everything clone_prefix(std::size_t n) const { return {tokens.substr(0, n)}; }
    void truncate(std::size_t n) { tokens.resize(n); }
    std::size_t length() const noexcept { return tokens.size(); }
};

/// Answers nothing but what is asked of all.
struct BytesAlone {
    std::size_t nbytes() const noexcept { return 3; }
};

struct NoBytes {};

struct ThrowsWhenMoved {
    ThrowsWhenMoved() = default;
    ThrowsWhenMoved(ThrowsWhenMoved&&) noexcept(false) {}
    ThrowsWhenMoved& operator=(ThrowsWhenMoved&&) noexcept(false) { return *this; }
    std::size_t nbytes() const noexcept { return 0; }
};

struct ThrowsWhenDestroyed {
    ThrowsWhenDestroyed() = default;
    ThrowsWhenDestroyed(ThrowsWhenDestroyed&&) noexcept = default;
    ThrowsWhenDestroyed& operator=(ThrowsWhenDestroyed&&) noexcept = default;
    ~ThrowsWhenDestroyed() noexcept(false) {}
    std::size_t nbytes() const noexcept { return 0; }
};

/// A foreign type, which has no such members.
struct Foreign {
    std::vector<int> cells;
};

/// A foreign type whose members of these names mean something else.
struct Misleading {
    int reusable_prefix(int) { return 0; }
    void clone_prefix(std::size_t) {}
    const char* length() { return ""; }
};

} // namespace

template <>
struct promptkv::kv_traits<Misleading> {
    static std::size_t nbytes(const Misleading&) noexcept { return 1; }
};

template <>
struct promptkv::kv_traits<Foreign> {
    static std::size_t nbytes(const Foreign& kv) noexcept { return kv.cells.size() * sizeof(int); }
    static std::size_t reusable_prefix(const Foreign&, std::size_t n) noexcept { return n; }
    static Foreign clone_prefix(const Foreign& kv, std::size_t n) {
        return {std::vector<int>(kv.cells.begin(), kv.cells.begin() + static_cast<int>(n))};
    }
    static void truncate(Foreign& kv, std::size_t n) { kv.cells.resize(n); }
    static std::size_t length(const Foreign& kv) noexcept { return kv.cells.size(); }
};

namespace {

using promptkv::kv_traits;
using promptkv::KVPayload;

template <class KV>
concept AsksReusablePrefix = requires(const KV& kv) {
    kv_traits<KV>::reusable_prefix(kv, 1U);
};
template <class KV>
concept AsksClonePrefix = requires(const KV& kv) {
    kv_traits<KV>::clone_prefix(kv, 1U);
};
template <class KV>
concept AsksTruncate = requires(KV& kv) {
    kv_traits<KV>::truncate(kv, 1U);
};
template <class KV>
concept AsksLength = requires(const KV& kv) {
    kv_traits<KV>::length(kv);
};

TEST_CASE("kv_traits forwards each question to the member of its name") {
    Everything kv{"abcdef"};
    using Traits = kv_traits<Everything>;
    REQUIRE(Traits::nbytes(kv) == 12);
    REQUIRE(Traits::reusable_prefix(kv, 5) == 2);
    REQUIRE(Traits::clone_prefix(kv, 4).tokens == "abcd");
    REQUIRE(Traits::length(kv) == 6);
    Traits::truncate(kv, 3);
    REQUIRE(kv.tokens == "abc");
}

TEST_CASE("kv_traits does not offer what the payload leaves out") {
    STATIC_REQUIRE_FALSE(AsksReusablePrefix<BytesAlone>);
    STATIC_REQUIRE_FALSE(AsksClonePrefix<BytesAlone>);
    STATIC_REQUIRE_FALSE(AsksTruncate<BytesAlone>);
    STATIC_REQUIRE_FALSE(AsksLength<BytesAlone>);

    STATIC_REQUIRE(AsksReusablePrefix<Everything>);
    STATIC_REQUIRE(AsksClonePrefix<Everything>);
    STATIC_REQUIRE(AsksTruncate<Everything>);
    STATIC_REQUIRE(AsksLength<Everything>);
}

TEST_CASE("kv_traits may be specialised for a foreign type") {
    STATIC_REQUIRE(KVPayload<Foreign>);
    const Foreign kv{{1, 2, 3}};
    REQUIRE(kv_traits<Foreign>::nbytes(kv) == 3 * sizeof(int));
    REQUIRE(kv_traits<Foreign>::clone_prefix(kv, 2).cells == std::vector<int>{1, 2});
}

TEST_CASE("A specialisation counts, whatever members the type has") {
    STATIC_REQUIRE(KVPayload<Misleading>);
    STATIC_REQUIRE_FALSE(AsksReusablePrefix<Misleading>);
    STATIC_REQUIRE_FALSE(AsksClonePrefix<Misleading>);
    STATIC_REQUIRE_FALSE(AsksLength<Misleading>);
}

TEST_CASE("KVPayload asks for the bytes and for moves and destructors that do not throw") {
    STATIC_REQUIRE(KVPayload<Everything>);
    STATIC_REQUIRE(KVPayload<BytesAlone>);
    STATIC_REQUIRE_FALSE(KVPayload<NoBytes>);
    STATIC_REQUIRE_FALSE(KVPayload<ThrowsWhenMoved>);
    STATIC_REQUIRE_FALSE(KVPayload<ThrowsWhenDestroyed>);
    STATIC_REQUIRE_FALSE(KVPayload<std::unique_ptr<BytesAlone>>);
}

} // namespace
