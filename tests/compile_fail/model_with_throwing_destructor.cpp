// expect: model.*(destructor|destroyed)
// SPDX-License-Identifier: MIT
// A model whose destructor may throw.
#include <promptkv/promptkv.hpp>

#include <cstddef>
#include <functional>

struct Name {
    int number = 0;

    Name() = default;
    Name(const Name&) = default;
    Name& operator=(const Name&) = default;
    ~Name() noexcept(REJECT == 0) {}
    friend bool operator==(const Name& a, const Name& b) { return a.number == b.number; }
};

template <>
struct std::hash<Name> {
    std::size_t operator()(const Name& name) const noexcept {
        return static_cast<std::size_t>(name.number);
    }
};

struct KV {
    std::size_t nbytes() const noexcept { return 1; }
};

promptkv::LRUPromptCache<KV, Name> cache;
