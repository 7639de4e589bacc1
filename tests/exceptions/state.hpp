// SPDX-License-Identifier: MIT
// A cache as one line: what it holds and what it has counted, to compare before and after.
#ifndef PROMPTKV_TESTS_EXCEPTIONS_STATE_HPP
#define PROMPTKV_TESTS_EXCEPTIONS_STATE_HPP

#include "letters.hpp"

#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <string>

namespace promptkv_test {

/// Everything that can be asked of a cache without changing it; `models` are all that it may know.
template <class Cache, class Model>
std::string state_of(const Cache& cache, std::initializer_list<const Model*> models) {
    using promptkv::Tier;
    std::string state = contents(cache);
    const auto add = [&state](const char* what, std::uint64_t n) {
        state += std::string(" ") + what + std::to_string(n);
    };
    add("size", cache.size());
    add("nbytes", cache.nbytes());
    for (const Model* model : models) {
        add("model", cache.nbytes(*model));
    }
    for (const Tier tier : {Tier::assistant, Tier::user, Tier::system}) {
        add("entries", cache.stats(tier).entries);
        add("anchors", cache.stats(tier).anchors);
        add("nbytes", cache.stats(tier).nbytes);
    }
    const auto stats = cache.stats();
    add("lookups", stats.lookups);
    add("inserted", stats.inserted);
    add("replaced", stats.replaced);
    add("anchored", stats.anchored);
    add("absorbed", stats.absorbed);
    add("evicted", stats.evicted);
    add("cut", stats.cut);
    add("superseded", stats.superseded);
    add("too_large", stats.too_large);
    add("no_room", stats.no_room);
    add("bytes_evicted", stats.bytes_evicted);
    add("tokens_reused", stats.tokens_reused);
    add("leased", stats.bytes_leased);
    add("peak", stats.peak_nbytes);
    add("max_bytes", cache.limits().max_bytes);
    add("max_entries", cache.limits().max_entries);
    return state;
}

} // namespace promptkv_test

#endif
