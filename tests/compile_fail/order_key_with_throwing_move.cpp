// expect: moved without throwing
// SPDX-License-Identifier: MIT
// A key of a CacheOrder whose move constructor may throw.
#include <promptkv/cache_order.hpp>

struct Key {
    Key() = default;
    Key(Key&&) noexcept(REJECT == 0) {}
};

void add(promptkv::CacheOrder<Key>& order) {
    order.push(Key(), promptkv::Tier::user);
}
