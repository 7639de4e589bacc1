// expect: no matching (member )?function
// SPDX-License-Identifier: MIT
// A `make` that returns something else than a payload.
#include <promptkv/promptkv.hpp>

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

struct KV {
    std::size_t nbytes() const noexcept { return 1; }
};

void insert(promptkv::LRUPromptCache<KV>& cache, const std::vector<std::int32_t>& key) {
#if REJECT
    const auto make = [] { return std::string(); };
#else
    const auto make = [] { return KV(); };
#endif
    cache.insert("model", key, 1, promptkv::Tier::user, make);
}
