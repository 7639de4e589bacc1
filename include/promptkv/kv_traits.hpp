// SPDX-License-Identifier: MIT
// kv_traits: what the cache asks of a payload.
#ifndef PROMPTKV_KV_TRAITS_HPP
#define PROMPTKV_KV_TRAITS_HPP

#include <promptkv/version.hpp>

#include <concepts>
#include <cstddef>
#include <memory>
#include <optional>
#include <span>
#include <type_traits>
#include <utility>

namespace promptkv::inline PROMPTKV_ABI {

class BlockUse; // block_kv.hpp

namespace detail {

/// A function for `for_each_block`, to ask whether a payload has one.
struct AnyBlockFunction {
    void operator()(const BlockUse&, std::size_t, bool) const noexcept {}
};

/// What a payload gave up: itself, an optional of it, or nothing.
template <class T, class KV>
concept GivenUp = std::is_void_v<T> || std::convertible_to<T, std::optional<KV>>;

// The forms that members must have.
template <class KV>
concept HasLength = requires(const KV& kv) {
    { kv.length() } -> std::convertible_to<std::size_t>;
};
template <class KV>
concept HasBlockTokens = requires(const KV& kv) {
    { kv.block_tokens() } -> std::convertible_to<std::size_t>;
};
template <class KV>
concept HasReusablePrefix = requires(const KV& kv, std::size_t n) {
    { kv.reusable_prefix(n) } -> std::convertible_to<std::size_t>;
};
template <class KV>
concept HasClonePrefix = requires(const KV& kv, std::size_t n) {
    { kv.clone_prefix(n) } -> std::convertible_to<KV>;
};
template <class KV>
concept HasSharedPrefix = requires(const KV& kv, std::size_t n) {
    { kv.shared_prefix(n) } -> std::convertible_to<KV>;
};
template <class KV>
concept HasTruncate = requires(KV& kv, std::size_t n) {
    { kv.truncate(n) } -> GivenUp<KV>;
};

} // namespace detail

/// What the cache asks of a payload: the KV state of the first tokens of a sequence.
///
/// Answered by members of the same names or, for a type that is not yours, by a specialisation with
/// static functions. Only `nbytes` is needed. `n` and `from` count tokens from the start of the key.
///
/// | function                        | answer                                                      |
/// |---------------------------------|-------------------------------------------------------------|
/// | `nbytes(const KV&)`             | all bytes that it refers to, shared blocks included          |
/// | `reusable_prefix(const KV&, n)` | the longest prefix of at most `n` tokens that it can be used for; 0: none. Full attention: `n`. Recurrent: 0. Checkpoints: the nearest at or below `n`. It is asked for the whole key too: answer its length there, or even an exact match misses. Without it: the whole key only |
/// | `clone_prefix(const KV&, n)`    | a payload of the first `n` tokens; blocks are shared, not copied. Without it: the copy constructor, for the whole key |
/// | `truncate(KV&, n)`              | cuts it in place to `n` tokens. Only where that frees memory without copying what stays. It may return what it cut off, as `std::optional<KV>` |
/// | `length(const KV&)`             | tokens that it holds; asserted against the key               |
/// | `block_tokens(const KV&)`       | cuts and reservations end at its multiples; 1 without it     |
/// | `for_each_block(const KV&, from, f)` | calls `f(const BlockUse&, nbytes, in_use)` once for each shared block whose first token is at or beyond `from`, in order. `truncate(n)` drops exactly the blocks that `from = n` visits. `in_use`: somebody outside of the cache holds the block as well, so that dropping it frees nothing now |
/// | `adopt_blocks(KV&, n, const KV& other)` | both hold the same first `n` tokens: takes `other`'s whole blocks of them in the place of its own. It may return what it gave up, as `std::optional<KV>` |
/// | `shared_prefix(const KV&, n)`   | for payloads that serve their whole key only: the blocks of the first `n` tokens alone, to build a new payload on. Lookups never use it |
///
/// A second level also asks a block, and a State:
///
/// | function                        | answer                                                      |
/// |---------------------------------|-------------------------------------------------------------|
/// | `write_block(const Block&, sink)` | calls `sink(bytes)` with each piece of its bytes, on the writer's thread |
/// | `make_block(bytes)`             | the block of these bytes, as std::optional. Empty: the bytes are bad, and a store of this machine's loses the record. Where only memory is short, throw. A member is static |
///
/// Do not round `reusable_prefix` down to blocks: `FetchOptions::align` does that for a lookup.
///
/// `clone_prefix`, `shared_prefix`, the copy constructor, `write_block` and `make_block` may throw; a throw of
/// any other function ends the program. But do not declare `for_each_block` noexcept: `f` may throw where
/// it runs out of memory.
///
/// The cache's own bounds hold if `nbytes`, `length`, `reusable_prefix` and `block_tokens` are O(1), and the
/// others O(blocks) that they concern. `KV&` is valid during the call; `BlockUse&` as long as a stored or
/// leased payload holds the block.
template <class KV>
struct kv_traits {
    static std::size_t nbytes(const KV& kv) noexcept
        requires requires {
            { kv.nbytes() } -> std::convertible_to<std::size_t>;
        }
    {
        return static_cast<std::size_t>(kv.nbytes());
    }

    static std::size_t reusable_prefix(const KV& kv, std::size_t n) noexcept
        requires detail::HasReusablePrefix<KV>
    {
        return static_cast<std::size_t>(kv.reusable_prefix(n));
    }

    static KV clone_prefix(const KV& kv, std::size_t n)
        requires detail::HasClonePrefix<KV>
    {
        return kv.clone_prefix(n);
    }

    static decltype(auto) truncate(KV& kv, std::size_t n) noexcept
        requires detail::HasTruncate<KV>
    {
        return kv.truncate(n);
    }

    static std::size_t length(const KV& kv) noexcept
        requires detail::HasLength<KV>
    {
        return static_cast<std::size_t>(kv.length());
    }

    static std::size_t block_tokens(const KV& kv) noexcept
        requires detail::HasBlockTokens<KV>
    {
        return static_cast<std::size_t>(kv.block_tokens());
    }

    template <class F>
    static void for_each_block(const KV& kv, std::size_t from, F&& f)
        requires requires { kv.for_each_block(from, f); }
    {
        kv.for_each_block(from, f);
    }

    static decltype(auto) adopt_blocks(KV& kv, std::size_t n, const KV& other) noexcept
        requires requires {
            { kv.adopt_blocks(n, other) } -> detail::GivenUp<KV>;
        }
    {
        return kv.adopt_blocks(n, other);
    }

    static KV shared_prefix(const KV& kv, std::size_t n)
        requires detail::HasSharedPrefix<KV>
    {
        return kv.shared_prefix(n);
    }

    template <class Sink>
    static void write_block(const KV& block, Sink& sink)
        requires requires { block.write_block(sink); }
    {
        block.write_block(sink);
    }

    static std::optional<KV> make_block(std::span<const std::byte> bytes)
        requires requires {
            { KV::make_block(bytes) } -> std::convertible_to<std::optional<KV>>;
        }
    {
        return KV::make_block(bytes);
    }

    // A member with the wrong signature would silently be ignored.
    static_assert(
        detail::HasLength<KV> || !requires(KV& kv) { kv.length(); },
        "length() must be const and return a number of tokens");
    static_assert(
        detail::HasBlockTokens<KV> || !requires(KV& kv) { kv.block_tokens(); },
        "block_tokens() must be const and return a number of tokens");
    static_assert(
        !requires(KV& kv, detail::AnyBlockFunction& f) { kv.for_each_block(std::size_t{}, f); } ||
            requires(const KV& kv, detail::AnyBlockFunction& f) {
                kv.for_each_block(std::size_t{}, f);
            },
        "for_each_block(from, f) must be const");
    static_assert(
        detail::HasSharedPrefix<KV> || !requires(KV& kv, std::size_t n) { kv.shared_prefix(n); },
        "shared_prefix(n) must return a payload");
    static_assert(
        detail::HasReusablePrefix<KV> || !requires(KV& kv, std::size_t n) {
            kv.reusable_prefix(n);
        }, "reusable_prefix(n) must be const and return a number of tokens");
    static_assert(
        detail::HasClonePrefix<KV> || !requires(KV& kv, std::size_t n) { kv.clone_prefix(n); },
        "clone_prefix(n) must be const and return a payload");
    static_assert(
        detail::HasTruncate<KV> || !requires(KV& kv, std::size_t n) { kv.truncate(n); },
        "truncate(n) must return nothing, or what it cut off as std::optional of the payload");
};

/// A type whose size in bytes is known to `kv_traits`.
template <class KV>
concept SizedPayload = requires(const KV& kv) {
    { kv_traits<KV>::nbytes(kv) } -> std::convertible_to<std::size_t>;
};

/// What a payload must be: sized, and moved and destroyed without throwing, since the cache does
/// both where it cannot go back.
template <class KV>
concept KVPayload = std::is_object_v<KV> && !std::is_const_v<KV> && SizedPayload<KV> &&
                    std::is_nothrow_move_constructible_v<KV> && std::is_nothrow_destructible_v<KV>;

/// A payload that may serve a part of its key.
template <class KV>
concept PrefixReusable = requires(const KV& kv, std::size_t n) {
    { kv_traits<KV>::reusable_prefix(kv, n) } -> std::convertible_to<std::size_t>;
};

/// A payload that can copy a part of itself.
template <class KV>
concept PrefixClonable = requires(const KV& kv, std::size_t n) {
    { kv_traits<KV>::clone_prefix(kv, n) } -> std::convertible_to<KV>;
};

/// A payload that can be handed out as a copy, in part or whole.
template <class KV>
concept ClonablePayload = PrefixClonable<KV> || std::copy_constructible<KV>;

/// A payload that can be cut in place.
template <class KV>
concept TruncatablePayload = requires(KV& kv, std::size_t n) { kv_traits<KV>::truncate(kv, n); };

/// A payload that knows how many tokens it holds.
template <class KV>
concept MeasuredPayload = requires(const KV& kv) {
    { kv_traits<KV>::length(kv) } -> std::convertible_to<std::size_t>;
};

/// A payload of blocks that other payloads may share.
template <class KV>
concept BlockPayload = requires(const KV& kv, std::size_t n, detail::AnyBlockFunction& f) {
    kv_traits<KV>::for_each_block(kv, n, f);
};

/// A payload that can take over the blocks of another one.
template <class KV>
concept AdoptingPayload =
    requires(KV& kv, std::size_t n, const KV& other) { kv_traits<KV>::adopt_blocks(kv, n, other); };

/// A payload whose blocks can be the start of a new payload, although it serves its whole key only.
template <class KV>
concept SharedPrefixPayload = requires(const KV& kv, std::size_t n) {
    { kv_traits<KV>::shared_prefix(kv, n) } -> std::convertible_to<KV>;
};

namespace detail {

// The answers may be of any type that converts to std::size_t. A throw ends the program.

template <class KV>
[[nodiscard]] std::size_t bytes_of(const KV& kv) noexcept {
    return static_cast<std::size_t>(kv_traits<KV>::nbytes(kv));
}

template <class KV>
[[nodiscard]] std::size_t length_of(const KV& kv) noexcept {
    return static_cast<std::size_t>(kv_traits<KV>::length(kv));
}

/// The longest prefix of at most `n` tokens that the payload of a key of `length` tokens serves.
template <class KV>
[[nodiscard]] std::size_t served_prefix(const KV& kv, std::size_t length, std::size_t n) noexcept {
    const std::size_t most = n < length ? n : length;
    if constexpr (PrefixReusable<KV>) {
        if (most == 0)
            return 0;
        const auto served = static_cast<std::size_t>(kv_traits<KV>::reusable_prefix(kv, most));
        return served < most ? served : most;
    } else {
        return most == length ? length : 0;
    }
}

/// The longest prefix of at most `n` tokens that it serves and that is a multiple of `step`; 0: there is none.
template <class KV>
[[nodiscard]] std::size_t served_multiple(const KV& kv, std::size_t length, std::size_t n,
                                          std::size_t step) noexcept {
    std::size_t served = detail::served_prefix(kv, length, n);
    while (served % step != 0)
        served = detail::served_prefix(kv, length, served - served % step);
    return served;
}

template <class KV>
[[nodiscard]] std::size_t block_tokens(const KV& kv) noexcept {
    std::size_t n = 1;
    if constexpr (requires { kv_traits<KV>::block_tokens(kv); })
        n = static_cast<std::size_t>(kv_traits<KV>::block_tokens(kv));
    return n > 0 ? n : 1;
}

/// Calls one of the two functions that may return what the payload gave up. Empty: nothing came back.
template <class KV, class F>
[[nodiscard]] std::optional<KV> given_up(F f) noexcept {
    if constexpr (std::convertible_to<decltype(f()), std::optional<KV>>) {
        return f();
    } else {
        static_cast<void>(f());
        return std::nullopt;
    }
}

template <class KV>
[[nodiscard]] std::optional<KV> truncate([[maybe_unused]] KV& kv,
                                         [[maybe_unused]] std::size_t n) noexcept {
    if constexpr (TruncatablePayload<KV>)
        return given_up<KV>([&]() -> decltype(auto) { return kv_traits<KV>::truncate(kv, n); });
    else
        return std::nullopt;
}

template <class KV>
[[nodiscard]] std::optional<KV> adopt_blocks([[maybe_unused]] KV& kv,
                                             [[maybe_unused]] std::size_t n,
                                             [[maybe_unused]] const KV& other) noexcept {
    if constexpr (AdoptingPayload<KV>)
        return given_up<KV>(
            [&]() -> decltype(auto) { return kv_traits<KV>::adopt_blocks(kv, n, other); });
    else
        return std::nullopt;
}

/// Nothing where the payload has no shared blocks.
template <class KV, class F>
void for_each_block([[maybe_unused]] const KV& kv, [[maybe_unused]] std::size_t from,
                    [[maybe_unused]] F&& f) {
    if constexpr (BlockPayload<KV>)
        kv_traits<KV>::for_each_block(kv, from, f);
}

/// A refused payload is the caller's again; it need not be assignable.
template <class KV>
void hand_back(KV& kv, KV& held) noexcept {
    std::destroy_at(std::addressof(kv));
    std::construct_at(std::addressof(kv), std::move(held));
}

/// A copy of the first `n` tokens, which are the whole where there is no `clone_prefix`.
template <class KV>
[[nodiscard]] KV clone(const KV& kv, [[maybe_unused]] std::size_t n) {
    if constexpr (PrefixClonable<KV>)
        return kv_traits<KV>::clone_prefix(kv, n);
    else
        return KV(kv);
}

/// What a reservation shares of the first `n` tokens.
template <class KV>
[[nodiscard]] KV share(const KV& kv, std::size_t n) {
    if constexpr (SharedPrefixPayload<KV>)
        return kv_traits<KV>::shared_prefix(kv, n);
    else
        return detail::clone(kv, n);
}

} // namespace detail

} // namespace promptkv::inline PROMPTKV_ABI

#endif
