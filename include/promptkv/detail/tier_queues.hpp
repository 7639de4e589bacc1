// SPDX-License-Identifier: MIT
// TierQueues: intrusive recency queues, one per tier, and the rule that picks the next victim.
#ifndef PROMPTKV_DETAIL_TIER_QUEUES_HPP
#define PROMPTKV_DETAIL_TIER_QUEUES_HPP

#include <promptkv/detail/hook_list.hpp>
#include <promptkv/tier.hpp>
#include <promptkv/version.hpp>

#include <array>
#include <cstddef>
#include <type_traits>

namespace promptkv::inline PROMPTKV_ABI::detail {

/// Elements in the order of their last use, one queue per tier, with a second list per tier for those
/// that are set aside: they are no victims, but count in the rule.
///
///     hot <-> ... <-> cold        each tier
///     set aside first <-> ... <-> last
///
/// The rule: from the least persistent tier up, take from a tier that is not empty and not shorter
/// than the next tier that is not empty; else from the last one. Where everything in that tier is set
/// aside, or it may not give, take from the least persistent tier that has something.
///
/// Requires of `T`: members `hook` (a ListHook<T>) and `tier`. The caller says whether an element is
/// set aside. Complexity: O(tiers), no allocation.
/// Source: the rule is that of `CacheOrder` in mlx-lm, which compares with an empty tier as well;
/// `with_empty_tiers` does so.
template <class T, class TierEnum>
class TierQueues {
public:
    static constexpr std::size_t tier_count = tier_traits<TierEnum>::count;

    explicit TierQueues(bool with_empty_tiers = false) noexcept
        : with_empty_tiers_(with_empty_tiers) {}

    void push_hot(T& element) noexcept {
        Tier& tier = tier_of(element);
        tier.queue.push_hot(element);
        ++tier.size;
    }
    void push_cold(T& element) noexcept {
        Tier& tier = tier_of(element);
        tier.queue.push_cold(element);
        ++tier.size;
    }
    void remove(T& element, bool is_aside) noexcept {
        Tier& tier = tier_of(element);
        (is_aside ? tier.aside : tier.queue).remove(element);
        --tier.size;
    }
    /// Requires: the element is in its queue.
    void set_aside(T& element) noexcept {
        Tier& tier = tier_of(element);
        tier.queue.remove(element);
        tier.aside.push_hot(element);
    }

    /// The next victim of the first `tiers` tiers. Null: there is none, or all are set aside.
    [[nodiscard]] T* victim(std::size_t tiers = tier_count) const noexcept {
        std::size_t giver = 0;
        while (giver < tier_count && (tiers_[giver].size == 0 || !gives(giver)))
            ++giver;
        if (giver < tiers && tiers_[giver].queue.coldest != nullptr)
            return tiers_[giver].queue.coldest;
        for (std::size_t i = 0; i < tiers; ++i) {
            if (tiers_[i].queue.coldest != nullptr)
                return tiers_[i].queue.coldest;
        }
        return nullptr;
    }

    [[nodiscard]] std::size_t size() const noexcept {
        std::size_t all = 0;
        for (const Tier& tier : tiers_)
            all += tier.size;
        return all;
    }
    [[nodiscard]] std::size_t size(TierEnum tier) const noexcept {
        return tiers_[detail::tier_index(tier)].size;
    }

    /// Calls `f(element)` tier by tier, within a tier from the coldest to the hottest. Elements that are
    /// set aside are the coldest. `f` may remove the element that it is called with, and may return false to end.
    template <class F>
    void for_each(F f) const {
        const auto goes_on = [&](T& element) {
            if constexpr (std::is_same_v<decltype(f(element)), bool>)
                return f(element);
            else
                return f(element), true;
        };
        for (const Tier& tier : tiers_) {
            for (const List* list : {&tier.aside, &tier.queue}) {
                for (T* element = list->coldest; element != nullptr;) {
                    T* next = element->hook.hotter;
                    if (!goes_on(*element))
                        return;
                    element = next;
                }
            }
        }
    }

    [[nodiscard]] bool check_invariants() const noexcept {
        for (const Tier& tier : tiers_) {
            std::size_t size = 0;
            for (const List* list : {&tier.aside, &tier.queue}) {
                const T* before = nullptr;
                for (const T* element = list->coldest; element != nullptr;
                     before = element, element = element->hook.hotter) {
                    if (element->hook.colder != before ||
                        &tiers_[detail::tier_index(element->tier)] != &tier)
                        return false;
                    ++size;
                }
                if (list->hottest != before)
                    return false;
            }
            if (size != tier.size)
                return false;
        }
        return true;
    }

private:
    using List = HookList<T>;
    struct Tier {
        List queue;
        List aside;
        std::size_t size = 0; // of both
    };

    [[nodiscard]] Tier& tier_of(const T& element) noexcept {
        return tiers_[detail::tier_index(element.tier)];
    }

    /// Whether the rule takes from tier `i`, which is not empty.
    [[nodiscard]] bool gives(std::size_t i) const noexcept {
        for (std::size_t next = i + 1; next < tier_count; ++next) {
            if (tiers_[next].size > 0 || with_empty_tiers_)
                return tiers_[i].size >= tiers_[next].size;
        }
        return true;
    }

    std::array<Tier, tier_count> tiers_{};
    bool with_empty_tiers_;
};

} // namespace promptkv::inline PROMPTKV_ABI::detail

#endif
