// SPDX-License-Identifier: MIT
// How much slower an attack is than harmless work of the same size, in the same run.
#ifndef PROMPTKV_TESTS_SLOWDOWN_HPP
#define PROMPTKV_TESTS_SLOWDOWN_HPP

#include <algorithm>
#include <ctime>
#include <limits>

namespace promptkv_test {

/// Seconds of this process that `work` takes: what others do on the machine does not count.
template <class Work>
double seconds(Work& work) {
    const std::clock_t start = std::clock();
    work();
    return static_cast<double>(std::clock() - start) / CLOCKS_PER_SEC;
}

/// The time of the attack over that of harmless work: the fastest of `rounds` runs of each, taken in
/// turn, so that what slows the machine down meets both or is outlived. Each run is of what
/// `prepare_attack` or `prepare_harmless` returned, which is not timed; both do as many operations of
/// the same size.
template <class PrepareAttack, class PrepareHarmless>
double slowdown(PrepareAttack prepare_attack, PrepareHarmless prepare_harmless, int rounds = 5) {
    double attacked = std::numeric_limits<double>::infinity();
    double harmless = attacked;
    const auto faster = [](double best, auto& prepare) {
        auto work = prepare();
        return std::min(best, seconds(work));
    };
    for (int round = 0; round < rounds; ++round) {
        attacked = faster(attacked, prepare_attack);
        harmless = faster(harmless, prepare_harmless);
    }
    return attacked / harmless;
}

} // namespace promptkv_test

#endif
