// SPDX-License-Identifier: MIT
// The caches that several unit tests use. caches.cpp compiles them once for all of these tests, which is
// half of the time that they take. CMakeLists.txt includes this in each file of the folder; a test that
// is compiled alone needs neither.
#ifndef PROMPTKV_TESTS_UNIT_CACHES_HPP
#define PROMPTKV_TESTS_UNIT_CACHES_HPP

#include <promptkv/lru_prompt_cache.hpp>
#include <promptkv/reuse_order.hpp>

#include "unit_payloads.hpp"

namespace promptkv::inline PROMPTKV_ABI {

extern template class BasicPromptCache<promptkv_test::Tape>;
extern template class BasicPromptCache<promptkv_test::WholeTape>;
extern template class BasicPromptCache<promptkv_test::UncutTape>;
extern template class BasicPromptCache<promptkv_test::Blocks>;
extern template class BasicPromptCache<promptkv_test::Blocks, std::string, std::int32_t, Tier,
                                       ReuseOrder>;
extern template class BasicPromptCache<promptkv_test::Hybrid>;
extern template class BasicPromptCache<promptkv_test::ThrowsWhenCopied>;

} // namespace promptkv::inline PROMPTKV_ABI

#endif
