// expect: deleted|implicitly
// SPDX-License-Identifier: MIT
// A copy of a reservation, which would hold its room twice; moving it is fine.
#include <promptkv/promptkv.hpp>

#include <cstddef>
#include <utility>

struct KV {
    std::size_t nbytes() const noexcept { return 1; }
};

using Reservation = promptkv::LRUPromptCache<KV>::Reservation;

Reservation pass_on(Reservation& room) {
#if REJECT
    return Reservation(room);
#else
    return Reservation(std::move(room));
#endif
}
