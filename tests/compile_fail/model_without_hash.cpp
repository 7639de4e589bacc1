// expect: Model must have == and a std::hash
// SPDX-License-Identifier: MIT
// A model of several parts that has no hash.
#include <promptkv/promptkv.hpp>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <vector>

struct Name {
    int number = 0;

    friend bool operator==(const Name&, const Name&) = default;
};

#if REJECT == 0
template <>
struct std::hash<Name> {
    std::size_t operator()(const Name& name) const noexcept {
        return static_cast<std::size_t>(name.number);
    }
};
#endif

struct KV {
    std::size_t nbytes() const noexcept { return 1; }
};

std::size_t reused(promptkv::LRUPromptCache<KV, Name>& cache,
                   const std::vector<std::int32_t>& prompt) {
    return cache.lease_nearest(Name{1}, prompt).reused();
}
