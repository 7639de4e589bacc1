// SPDX-License-Identifier: MIT
// The caches that several scenarios use. caches.cpp compiles them once for all of these tests, which is
// half of the time that they take. CMakeLists.txt includes this in each file of the folder; a test that
// is compiled alone needs neither.
#ifndef PROMPTKV_TESTS_SCENARIOS_CACHES_HPP
#define PROMPTKV_TESTS_SCENARIOS_CACHES_HPP

#include "state.hpp"

namespace promptkv::inline PROMPTKV_ABI {

extern template class BasicPromptCache<scenario::State>;
extern template class BasicPromptCache<scenario::Recurrent>;
extern template class BasicPromptCache<scenario::Checkpointed>;
extern template class BasicPromptCache<scenario::Plain>;
extern template class BasicPromptCache<scenario::Whole>;
extern template class BasicPromptCache<scenario::Blocks>;

} // namespace promptkv::inline PROMPTKV_ABI

#endif
