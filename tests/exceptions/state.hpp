// SPDX-License-Identifier: MIT
// A cache as one line: what it holds, what it answers and what it has counted.
#ifndef PROMPTKV_TESTS_EXCEPTIONS_STATE_HPP
#define PROMPTKV_TESTS_EXCEPTIONS_STATE_HPP

#include "fire_payloads.hpp"

#include <promptkv/cache_types.hpp>
#include <promptkv/stats.hpp>
#include <promptkv/tier.hpp>

#include <initializer_list>
#include <string>
#include <string_view>

namespace promptkv_test {

/// The counters of a cache but for `peak_nbytes`, which a call that fails later may have raised.
template <class Cache>
std::string counters_of(const Cache& cache) {
    std::string line;
    const auto add = [&line](std::string_view name, auto value) {
        if (name != "peak_nbytes" && value != 0)
            line.append(" ").append(name).append(" ").append(std::to_string(value));
    };
    for_each_counter(cache.stats(), add);
    for (const promptkv::Tier tier :
         {promptkv::Tier::assistant, promptkv::Tier::user, promptkv::Tier::system}) {
        line.append(" / ").append(name(tier));
        for_each_counter(cache.stats(tier), add);
    }
    return line;
}

/// Everything that can be asked of a cache without changing it; `models` are all that it may know.
template <class Cache, class Model>
std::string state_of(const Cache& cache, std::initializer_list<const Model*> models) {
    std::string line = contents(cache) + " size " + std::to_string(cache.size()) + " nbytes " +
                       std::to_string(cache.nbytes());
    for (const Model* model : models) {
        line += " / model " + std::to_string(cache.nbytes(*model));
        for (const char* prompt : {"abcd", "abcdefghijkl", "abcxyzw", "mnopqr", "mnz", "stuvwx"}) {
            const auto probe = cache.probe(*model, key(prompt), {.min_remaining = 0});
            line += " " + std::to_string(probe.reused()) + "." + std::to_string(probe.matched());
            line.append(name(probe.match())).append(name(probe.miss()));
        }
    }
    return line + counters_of(cache) + " limits " + std::to_string(cache.limits().max_bytes) + " " +
           std::to_string(cache.limits().max_entries);
}

} // namespace promptkv_test

#endif
