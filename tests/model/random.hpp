// SPDX-License-Identifier: MIT
// Random numbers that are the same everywhere, and how many operations to run.
#ifndef PROMPTKV_TESTS_RANDOM_HPP
#define PROMPTKV_TESTS_RANDOM_HPP

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <initializer_list>
#include <random>
#include <string>

namespace promptkv_test {

/// The distributions of the standard differ between libraries; these do not.
class Random {
public:
    explicit Random(std::uint64_t seed) : engine_(seed) {}

    [[nodiscard]] std::size_t below(std::size_t n) {
        return static_cast<std::size_t>(engine_() % n);
    }

    /// A source for RunMaker that never ends.
    [[nodiscard]] static constexpr bool exhausted() { return false; }

    [[nodiscard]] bool one_in(std::size_t n) { return below(n) == 0; }

    template <class T>
    [[nodiscard]] T pick(std::initializer_list<T> from) {
        return from.begin()[below(from.size())];
    }

private:
    std::mt19937_64 engine_;
};

/// The number in an environment variable, or `otherwise`.
inline std::uint64_t number_from_environment(const char* name, std::uint64_t otherwise) {
    const char* text = std::getenv(name);
    return text == nullptr ? otherwise : std::stoull(text);
}

/// The seed of the first run; PROMPTKV_MODEL_SEED gives another.
inline std::uint64_t first_seed() {
    return number_from_environment("PROMPTKV_MODEL_SEED", 1);
}

/// Operations that each test is to run; PROMPTKV_MODEL_OPS asks for more.
inline std::size_t operations_wanted() {
    return static_cast<std::size_t>(number_from_environment("PROMPTKV_MODEL_OPS", 2'000));
}

} // namespace promptkv_test

#endif
