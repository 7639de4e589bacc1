// SPDX-License-Identifier: MIT
// Cutting: where to cut a payload so that bytes are freed. Pure functions over a record.
#ifndef PROMPTKV_DETAIL_CUTTING_HPP
#define PROMPTKV_DETAIL_CUTTING_HPP

#include <promptkv/cache_types.hpp>
#include <promptkv/detail/index.hpp>
#include <promptkv/detail/ledger.hpp>
#include <promptkv/detail/parts.hpp>
#include <promptkv/detail/saturating.hpp>
#include <promptkv/kv_traits.hpp>
#include <promptkv/version.hpp>

#include <algorithm>
#include <cstddef>

namespace promptkv::inline PROMPTKV_ABI::detail {

/// The largest multiple of `step` for which `fits(n)` holds. It is found between two others: `enough`, which is not
/// asked, and `too_many`, which does not fit.
template <class Fits>
[[nodiscard]] std::size_t most_that_fits(std::size_t enough, std::size_t too_many, std::size_t step,
                                         Fits fits) {
    while (too_many - enough > step) {
        const std::size_t middle = enough + (too_many - enough) / step / 2 * step;
        (fits(middle) ? enough : too_many) = middle;
    }
    return enough;
}

/// The length that frees `wanted` bytes if the bytes are proportional to the tokens.
template <class R>
[[nodiscard]] std::size_t proportional_cut(const R& record, std::size_t wanted) noexcept {
    const std::size_t length = record.length();
    const std::size_t nbytes = record.payload->nbytes;
    if (wanted >= nbytes)
        return 0;
    return length - share_of(length, wanted, nbytes);
}

/// Of a payload with blocks: the largest multiple of `step` that frees `wanted` bytes. Where none does:
/// `low`, if that frees something; else 0. Doubles the distance from the end, then halves the interval.
template <class R>
[[nodiscard]] std::size_t cut_between_blocks(const R& record, std::size_t wanted, std::size_t low,
                                             std::size_t guess, std::size_t step,
                                             bool in_use) noexcept {
    const std::size_t length = record.length();
    const std::size_t top = (length - 1) / step * step;
    std::size_t kept = std::clamp(guess, low, (std::max)(top, low));
    std::size_t too_far = top + step; // does not free enough
    std::size_t first_block = 0;      // of what was summed last
    std::size_t freed = Ledger<R>::held_alone(record, kept, in_use, &first_block);
    if (freed >= wanted && kept > 0 && freed - first_block < wanted)
        return kept; // the guess is mostly right
    while (freed < wanted) {
        if (kept == low)
            return freed > 0 ? low : 0;
        too_far = kept;
        const std::size_t stride = (length - kept + step - 1) / step * step;
        kept = kept > low + stride ? kept - stride : low;
        freed = Ledger<R>::held_alone(record, kept, in_use);
    }
    return detail::most_that_fits(kept, too_far, step, [&](std::size_t middle) {
        return Ledger<R>::held_alone(record, middle, in_use) >= wanted;
    });
}

/// Where to cut so that `wanted` bytes are freed, from `least` on: a multiple of the payload's
/// block_tokens. 0: nowhere.
template <class R>
[[nodiscard]] std::size_t cut_point(const R& record, std::size_t wanted, std::size_t least,
                                    bool in_use) noexcept {
    const std::size_t step = detail::block_tokens(record.kv());
    const std::size_t low = (least + step - 1) / step * step;
    if (low >= record.length())
        return 0;
    std::size_t enough = detail::proportional_cut(record, wanted) / step * step;
    if constexpr (BlockPayload<typename R::KV>)
        enough = detail::cut_between_blocks(record, wanted, low, enough, step, in_use);
    else
        enough = (std::max)(enough, low);
    const std::size_t kept = detail::served_multiple(record.kv(), record.length(), enough, step);
    return kept >= low ? kept : 0;
}

/// The depth at which the edge of a record's node begins.
template <class R>
[[nodiscard]] std::size_t edge_start(const R& record) noexcept {
    return record.node->parent != nullptr ? record.node->parent->depth : 0;
}

/// How far an entry may be cut in one go. For a policy that observes edges, what lies above the entry's
/// edge is of another kind.
template <class R>
[[nodiscard]] std::size_t least_cut([[maybe_unused]] const R& record) noexcept {
    if constexpr (observes_edges<typename R::Policy> && TruncatablePayload<typename R::KV>) {
        const std::size_t start = detail::edge_start(record);
        return start - start % detail::block_tokens(record.kv());
    } else {
        return 0;
    }
}

/// Where to cut an incoming entry so that it gives up `wanted` bytes; 0: nothing new would be left.
template <class R>
[[nodiscard]] std::size_t cut_point_of_incoming([[maybe_unused]] const R& record,
                                                [[maybe_unused]] std::size_t wanted) noexcept {
    if constexpr (TruncatablePayload<typename R::KV>) {
        const std::size_t start = detail::edge_start(record);
        const std::size_t kept = detail::cut_point(record, wanted, start + 1, false);
        if (kept > start && kept < record.length() && !detail::others_serve(record, kept))
            return kept;
    }
    return 0;
}

} // namespace promptkv::inline PROMPTKV_ABI::detail

#endif
