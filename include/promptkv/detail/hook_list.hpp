// SPDX-License-Identifier: MIT
// HookList: an intrusive list, from hot to cold.
#ifndef PROMPTKV_DETAIL_HOOK_LIST_HPP
#define PROMPTKV_DETAIL_HOOK_LIST_HPP

#include <promptkv/version.hpp>

namespace promptkv::inline PROMPTKV_ABI::detail {

/// The place of an element in its list.
template <class T>
struct ListHook {
    T* hotter = nullptr;
    T* colder = nullptr;
};

/// A list of elements that have a member `hook`, a ListHook<T> or derived from it. It owns none.
/// Complexity: O(1), no allocation.
template <class T>
struct HookList {
    T* hottest = nullptr;
    T* coldest = nullptr;

    void push_hot(T& element) noexcept {
        hook(element) = ListHook<T>{nullptr, hottest};
        (hottest != nullptr ? hook(*hottest).hotter : coldest) = &element;
        hottest = &element;
    }
    void push_cold(T& element) noexcept {
        hook(element) = ListHook<T>{coldest, nullptr};
        (coldest != nullptr ? hook(*coldest).colder : hottest) = &element;
        coldest = &element;
    }
    void remove(T& element) noexcept {
        const ListHook<T> at = hook(element);
        (at.hotter != nullptr ? hook(*at.hotter).colder : hottest) = at.colder;
        (at.colder != nullptr ? hook(*at.colder).hotter : coldest) = at.hotter;
    }
    [[nodiscard]] static ListHook<T>& hook(T& element) noexcept { return element.hook; }
};

} // namespace promptkv::inline PROMPTKV_ABI::detail

#endif
