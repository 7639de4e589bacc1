// SPDX-License-Identifier: MIT
// kv_traits: the questions that the cache asks of a payload.
#ifndef PROMPTKV_KV_TRAITS_HPP
#define PROMPTKV_KV_TRAITS_HPP

#include <promptkv/version.hpp>

#include <concepts>
#include <cstddef>
#include <type_traits>

namespace promptkv::inline PROMPTKV_ABI {

/// What the cache asks of a payload: the KV state of the first tokens of a sequence.
///
/// Answered by members of the same names, or, for a type that is not yours, by a specialisation
/// with static functions. Only `nbytes` has to be there. `n` counts tokens from the start of the key.
///
/// | function                    | answer                                                          |
/// |-----------------------------|-----------------------------------------------------------------|
/// | `nbytes(const KV&)`         | bytes that it holds; asked when stored and after a cut          |
/// | `reusable_prefix(const KV&, n)` | longest prefix of at most `n` tokens that it can be used for, 0 if none. Full attention: `n`; recurrent state: 0; checkpoints: the nearest one. Without it: the whole key only |
/// | `clone_prefix(const KV&, n)`| a new payload of the first `n` tokens, which costs what it returns. Without it the copy constructor serves for the whole |
/// | `truncate(KV&, n)`          | cuts it in place to `n` tokens. Only where that frees memory without copying what stays. Without it a victim is dropped whole |
/// | `length(const KV&)`         | tokens that it holds; asserted to be the key's length on insert |
///
/// Do not round `reusable_prefix` down for convenience, to blocks say: `FetchOptions::align` is for that.
/// A key that a longer entry does not serve to its last token keeps a payload of its own, so that every
/// turn of a conversation would.
///
/// `nbytes`, `reusable_prefix` and `length` must not throw: called through the cache, a throw ends
/// the program. `clone_prefix` and `truncate` may throw.
template <class KV>
struct kv_traits {
    static std::size_t nbytes(const KV& kv) noexcept requires requires {
        { kv.nbytes() } -> std::convertible_to<std::size_t>;
    }
    { return static_cast<std::size_t>(kv.nbytes()); }

    static std::size_t reusable_prefix(const KV& kv, std::size_t n) noexcept requires requires {
        { kv.reusable_prefix(n) } -> std::convertible_to<std::size_t>;
    }
    { return static_cast<std::size_t>(kv.reusable_prefix(n)); }

    static KV clone_prefix(const KV& kv, std::size_t n) requires requires {
        { kv.clone_prefix(n) } -> std::convertible_to<KV>;
    }
    { return kv.clone_prefix(n); }

    static void truncate(KV& kv, std::size_t n) requires requires { kv.truncate(n); }
    { kv.truncate(n); }

    static std::size_t length(const KV& kv) noexcept requires requires {
        { kv.length() } -> std::convertible_to<std::size_t>;
    }
    { return static_cast<std::size_t>(kv.length()); }

    // A member of the wrong form would count as left out.
    static_assert(
        !requires(KV & kv) { kv.reusable_prefix(std::size_t{}); } ||
            requires(const KV& kv) {
                { kv.reusable_prefix(std::size_t{}) } -> std::convertible_to<std::size_t>;
            },
        "reusable_prefix(n) must be const and return a number of tokens");
    static_assert(
        !requires(KV & kv) { kv.clone_prefix(std::size_t{}); } ||
            requires(const KV& kv) {
                { kv.clone_prefix(std::size_t{}) } -> std::convertible_to<KV>;
            },
        "clone_prefix(n) must be const and return a payload");
};

/// A type whose size in bytes is known to `kv_traits`.
template <class KV>
concept SizedPayload = requires(const KV& kv) {
    { kv_traits<KV>::nbytes(kv) } -> std::convertible_to<std::size_t>;
};

/// What a payload must be: sized, and moved and destroyed without throwing, since the cache does
/// both while it cannot go back.
template <class KV>
concept KVPayload = std::is_object_v<KV> && !std::is_const_v<KV> && SizedPayload<KV> &&
                    std::is_nothrow_move_constructible_v<KV> && std::is_nothrow_destructible_v<KV>;

/// A payload that may serve a part of its key.
template <class KV>
concept PrefixReusable = requires(const KV& kv, std::size_t n) {
    { kv_traits<KV>::reusable_prefix(kv, n) } -> std::convertible_to<std::size_t>;
};

/// A payload of which a part can be copied.
template <class KV>
concept PrefixClonable = requires(const KV& kv, std::size_t n) {
    { kv_traits<KV>::clone_prefix(kv, n) } -> std::convertible_to<KV>;
};

/// A payload that can be handed out as a copy, in part or whole.
template <class KV>
concept ClonablePayload = PrefixClonable<KV> || std::copy_constructible<KV>;

/// A payload that can be cut in place.
template <class KV>
concept TruncatablePayload = requires(KV& kv, std::size_t n) {
    kv_traits<KV>::truncate(kv, n);
};

/// A payload that knows how many tokens it holds.
template <class KV>
concept MeasuredPayload = requires(const KV& kv) {
    { kv_traits<KV>::length(kv) } -> std::convertible_to<std::size_t>;
};

namespace detail {

/// The longest prefix of at most `n` tokens that the payload of a key of `length` tokens serves.
/// Never throws; an answer above `n` counts as `n`.
template <class KV>
[[nodiscard]] std::size_t served_prefix(const KV& kv, std::size_t length, std::size_t n) noexcept {
    if (n >= length)
        return length;
    if constexpr (PrefixReusable<KV>) {
        const std::size_t served = n == 0 ? 0 : kv_traits<KV>::reusable_prefix(kv, n);
        return served < n ? served : n;
    } else {
        return 0;
    }
}

} // namespace detail

} // namespace promptkv::inline PROMPTKV_ABI

#endif
