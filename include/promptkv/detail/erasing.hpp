// SPDX-License-Identifier: MIT
// Erasing: what a caller removes by key, by session, by model.
#ifndef PROMPTKV_DETAIL_ERASING_HPP
#define PROMPTKV_DETAIL_ERASING_HPP

#include <promptkv/cache_types.hpp>
#include <promptkv/detail/eviction.hpp>
#include <promptkv/detail/index.hpp>
#include <promptkv/detail/parts.hpp>
#include <promptkv/detail/record.hpp>
#include <promptkv/detail/removals.hpp>
#include <promptkv/detail/reservations.hpp>
#include <promptkv/version.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <utility>

namespace promptkv::inline PROMPTKV_ABI::detail {

/// Removes entries, forgets evicted keys, and voids the reservations of keys, for one call. Each function
/// that counts returns a number of entries.
template <class R>
class Erasing {
public:
    using Claim = typename Reservations<R>::Claim;
    using ModelView = typename R::ModelView;
    using Tokens = typename R::Tokens;

    Erasing(Parts<R>& parts, Reservations<R>& reservations, Removals<R>& gone) noexcept
        : parts_(parts), reservations_(reservations), gone_(gone) {}

    std::size_t pop_prefixes(ModelView model, Tokens tokens) {
        const auto spot = parts_.index.locate(model, tokens);
        reservations_.void_covered([&](const Claim& claim) {
            return claim.model == model && claim.size < tokens.size() &&
                   std::ranges::equal(claim.key(), tokens.first(claim.size));
        });
        Chain chain;
        for (auto* node = spot.place.node; node != nullptr; node = node->parent) {
            if (node->value != nullptr && node->depth < tokens.size())
                chain.push(*node->value);
        }
        return remove(chain, RemovalReason::erased);
    }

    bool erase(ModelView model, Tokens tokens) {
        R* entry = parts_.index.locate(model, tokens).record(tokens.size());
        reservations_.void_covered([&](const Claim& claim) {
            return claim.model == model && (std::ranges::equal(claim.key(), tokens) ||
                                            std::ranges::equal(claim.tokens, tokens));
        });
        Chain chain;
        if (entry != nullptr)
            chain.push(*entry);
        return remove(chain, RemovalReason::erased) > 0;
    }

    std::size_t erase_below(ModelView model, Tokens tokens) {
        const auto spot = parts_.index.locate(model, tokens);
        reservations_.void_covered([&](const Claim& claim) {
            return claim.model == model && claim.tokens.size() >= tokens.size() &&
                   std::equal(tokens.begin(), tokens.end(), claim.tokens.begin());
        });
        Chain chain;
        if (spot.common() == tokens.size())
            detail::for_each_record(spot.place.below(), [&](R& record) { chain.push(record); });
        return remove(chain, RemovalReason::erased);
    }

    std::size_t erase_session(ModelView model, std::uint64_t session) {
        Partition<R>* home = parts_.index.find(model);
        if (session == 0)
            return 0;
        reservations_.void_covered(
            [&](const Claim& claim) { return claim.session == session && claim.model == model; });
        Chain chain;
        if (home != nullptr) {
            detail::for_each_record(home->tree.root(), [&](R& record) {
                if (record.session == session && !record.many_sessions)
                    chain.push(record);
            });
        }
        return remove(chain, RemovalReason::erased);
    }

    std::size_t erase_model(ModelView model) {
        Partition<R>* home = parts_.index.find(model);
        reservations_.void_covered([&](const Claim& claim) { return claim.model == model; });
        Chain chain;
        if (home != nullptr)
            detail::for_each_record(home->tree.root(), [&](R& record) { chain.push(record); });
        return remove(chain, RemovalReason::erased);
    }

    std::size_t clear() noexcept {
        reservations_.void_all();
        parts_.index.forget_down_to(0);
        Chain chain;
        parts_.index.for_each_home([&](Partition<R>& home) {
            detail::for_each_record(home.tree.root(), [&](R& record) { chain.push(record); });
        });
        return remove(chain, RemovalReason::cleared);
    }

private:
    /// Entries that are to be removed, and remembered keys that are to be forgotten.
    struct Chain {
        R* first = nullptr;
        void push(R& record) noexcept {
            if (record.is_entry || record.remembered)
                record.next = std::exchange(first, &record);
            else
                record.remember = false; // it left, and waits to be reported
        }
    };

    std::size_t remove(Chain chain, RemovalReason reason) noexcept {
        Eviction<R> eviction(parts_, gone_);
        std::size_t entries = 0;
        while (R* record = chain.first) {
            chain.first = record->next;
            if (record->remembered) {
                parts_.index.forget(*record);
            } else {
                eviction.remove(*record, reason);
                ++entries;
            }
        }
        (reason == RemovalReason::cleared ? parts_.stats.cleared : parts_.stats.erased) += entries;
        return entries;
    }

    Parts<R>& parts_;
    Reservations<R>& reservations_;
    Removals<R>& gone_;
};

} // namespace promptkv::inline PROMPTKV_ABI::detail

#endif
