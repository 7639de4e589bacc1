// SPDX-License-Identifier: MIT
// The caches that several of these tests use.
#include "caches.hpp"

namespace promptkv::inline PROMPTKV_ABI {

template class BasicPromptCache<scenario::State>;
template class BasicPromptCache<scenario::Recurrent>;
template class BasicPromptCache<scenario::Checkpointed>;
template class BasicPromptCache<scenario::Plain>;
template class BasicPromptCache<scenario::Whole>;
template class BasicPromptCache<scenario::Blocks>;

} // namespace promptkv::inline PROMPTKV_ABI
