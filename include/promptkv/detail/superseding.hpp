// SPDX-License-Identifier: MIT
// Superseding: of entries that cannot be cut, what a longer one makes the next victims, and which of them leaves.
#ifndef PROMPTKV_DETAIL_SUPERSEDING_HPP
#define PROMPTKV_DETAIL_SUPERSEDING_HPP

#include <promptkv/cache_types.hpp>
#include <promptkv/detail/neighbours.hpp>
#include <promptkv/detail/parts.hpp>
#include <promptkv/kv_traits.hpp>
#include <promptkv/version.hpp>

#include <cstddef>

namespace promptkv::inline PROMPTKV_ABI::detail {

/// Demotes the entries on strict prefixes, of the same or a less persistent tier, up to the first
/// prefix that an entry off the record's path continues. Only entries that cannot be cut. Returns how many.
template <class R>
std::size_t supersede(Parts<R>& parts, R& record) noexcept {
    std::size_t superseded = 0;
    auto* node = record.node->parent;
    for (int i = 0; i < max_path && node != nullptr && node->children.one_has_entries(); ++i) {
        R* prefix = node->value;
        node = node->parent;
        if (prefix == nullptr || !prefix->is_entry || prefix->tier > record.tier ||
            prefix->superseded || (TruncatablePayload<typename R::KV> && prefix->shown))
            continue;
        prefix->superseded = true;
        parts.demote(*prefix);
        ++superseded;
    }
    parts.stats.superseded += superseded;
    return superseded;
}

/// In the place of a superseded entry: the one on the same path without branches whose removal leaves
/// the smallest gap between its neighbours, so that what stays is spread evenly. An incoming entry is
/// no neighbour: the next turn may branch off right before it. `may_leave(record)`: whether a victim can be another
/// one than the policy's.
template <class R, class MayLeave>
[[nodiscard]] R& thinnest(R& record, const R* incoming, MayLeave may_leave) noexcept {
    if (!record.superseded)
        return record;
    auto* node = record.node;
    for (int i = 0; i < max_path && node->children.one_has_entries(); ++i)
        node = node->children[0];
    R* best = &record;
    std::size_t best_gap = unlimited;
    R* pending = nullptr; // an entry, while the next one above is looked for
    std::size_t above_pending = unlimited;
    std::size_t below = unlimited;
    const auto judge = [&](std::size_t above) {
        if (pending != nullptr && above_pending != unlimited && above_pending - above <= best_gap) {
            best_gap = above_pending - above;
            best = pending;
        }
    };
    for (int i = 0; i < 2 * max_path; ++i) {
        R* here = node->value;
        if (here != nullptr && here->is_entry && here != incoming) {
            judge(node->depth);
            pending = here->superseded && may_leave(*here) ? here : nullptr;
            above_pending = below;
            below = node->depth;
        }
        if (node->parent == nullptr || !node->parent->children.one_has_entries())
            break;
        node = node->parent;
    }
    const R* beyond = detail::entry_at_or_above(node->parent);
    if (beyond != nullptr && beyond == incoming)
        beyond = detail::prefix_of(*beyond);
    judge(beyond != nullptr ? beyond->length() : 0);
    return *best;
}

} // namespace promptkv::inline PROMPTKV_ABI::detail

#endif
