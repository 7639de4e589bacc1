// SPDX-License-Identifier: MIT
// The caches that several of these tests use.
#include "caches.hpp"

namespace promptkv::inline PROMPTKV_ABI {

template class BasicPromptCache<promptkv_test::Tape>;
template class BasicPromptCache<promptkv_test::WholeTape>;
template class BasicPromptCache<promptkv_test::UncutTape>;
template class BasicPromptCache<promptkv_test::Blocks>;
template class BasicPromptCache<promptkv_test::Blocks, std::string, std::int32_t, Tier, ReuseOrder>;
template class BasicPromptCache<promptkv_test::Hybrid>;
template class BasicPromptCache<promptkv_test::ThrowsWhenCopied>;

} // namespace promptkv::inline PROMPTKV_ABI
