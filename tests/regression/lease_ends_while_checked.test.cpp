// SPDX-License-Identifier: MIT
// The last lease of a payload that had left ended on another thread while check_invariants looked at it: the payload
// was destroyed under the cache's lock, and its blocks were read afterwards.
#include <promptkv/lru_prompt_cache.hpp>

#include "catch.hpp"
#include "leaving.hpp"
#include "unit_payloads.hpp"

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <utility>

using namespace promptkv_test;
using promptkv::Tier;

namespace {

/// A block of one byte, and a function that runs, once, while the cache asks for the size.
class Asked {
public:
    static inline std::function<void()> when_asked;
    static inline bool destroyed_under_lock = false;

    Asked() : use_(std::make_unique<promptkv::BlockUse>()) {}
    Asked(Asked&&) noexcept = default;
    Asked& operator=(Asked&&) noexcept = default;
    ~Asked() {
        destroyed_under_lock = destroyed_under_lock || (use_ != nullptr && Watched::is_held);
    }
    [[nodiscard]] std::size_t nbytes() const {
        if (when_asked)
            std::exchange(when_asked, nullptr)();
        return 1;
    }
    template <class F>
    void for_each_block(std::size_t from, F&& f) const {
        if (from == 0)
            f(*use_, 1, false);
    }

private:
    std::unique_ptr<promptkv::BlockUse> use_;
};

} // namespace

TEST_CASE("A payload whose last lease ends while the cache is checked is destroyed afterwards") {
    promptkv::BasicPromptCache<Asked, std::string, std::int32_t, Tier, promptkv::TieredLRU, Watched>
        cache;
    cache.insert("m", key("a"), Asked(), Tier::user);
    auto lease = cache.lease_nearest("m", key("a"), {.min_remaining = 0});
    CHECK(cache.erase("m", key("a")));
    Asked::when_asked = [&lease] { lease.end(); };
    CHECK(cache.check_invariants());
    CHECK_FALSE(lease);
    CHECK_FALSE(Asked::destroyed_under_lock);
    CHECK(cache.nbytes() == 0);
    CHECK(cache.check_invariants());
}
