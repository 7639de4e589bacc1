// SPDX-License-Identifier: MIT
// What a victim policy is; TieredLRU.
#ifndef PROMPTKV_VICTIM_POLICY_HPP
#define PROMPTKV_VICTIM_POLICY_HPP

#include <promptkv/cache_types.hpp>
#include <promptkv/detail/tier_queues.hpp>
#include <promptkv/version.hpp>

#include <concepts>
#include <cstddef>

namespace promptkv::inline PROMPTKV_ABI {

/// A victim policy decides which entry a cache evicts next: a plain type `P` with
///
///     P::Options            its options, a struct with defaults
///     P::declines           whether an entry can be the victim of its own insert
///     P::Hook<R>            its state in each record; the record's member `hook`. It is a
///                           detail::ListHook<R> or derives from it
///     P::NodeHook           its state in each node of the index; empty where it needs none
///     P::remembered         tokens of evicted keys to remember, as a multiple of the most that were stored
///     P::Order<R, TierEnum> the order itself, made from (const P::Options&, Rules)
///
/// The cache tells the order what happens. A record has `tier` and `is_aside()`, which the cache alone
/// changes: a record leaves before its tier changes, and enters again. While a function of the order runs,
/// `is_aside()` still has the value from before.
///
/// | call           | meaning                                                                     |
/// |----------------|-----------------------------------------------------------------------------|
/// | `enter(r)`     | a new entry, or one whose tier changed                                      |
/// | `used(r)`      | a lookup used the entry                                                     |
/// | `demote(r)`    | the entry is obsolete: let it be the next victim of its tier                |
/// | `leave(r)`     | the entry left                                                              |
/// | `set_aside(r)` | it is no victim for now: it is leased, is being stored, or frees nothing    |
/// | `put_back(r)`  | it can be a victim again, as the coldest of its tier                        |
/// | `victim(n)`    | the next victim of the first `n` tiers; it stays where it is; null: none    |
/// | `for_each(f)`  | `f(r)` tier by tier, within a tier from the coldest to the hottest; `f` may |
/// |                | return false to end                                                         |
///
/// `used`, `demote` and `leave` may concern a record that is set aside; the first two end that.
///
/// Where `P::NodeHook` is not empty the order observes the nodes of the index as well, and is told:
///
/// | call                        | meaning                                                       |
/// |-----------------------------|---------------------------------------------------------------|
/// | `reserve(n)`                | there will be up to `n` entries; the only call that may throw  |
/// | `next_request(number, n)`   | a lookup or a touch of `n` tokens begins                      |
/// | `used(node, use)`           | a request ran over the whole edge                             |
/// | `born(node, siblings, use)` | a request made the edge                                       |
/// | `used_in_part(r)`           | a longer match used a part of it, and `used(r)` was called    |
/// | `resident_leaf(r, is)`      | entries that continue the record's state came or left         |
/// | `separated(node)`           | an edge was split by the request that has used it last        |
/// | `extend_request(number, n)` | a request stores a key of `n` tokens                          |
/// | `hint(node, hint)`          | what the request that used an edge last says of it            |
///
/// A lookup reports every node that it runs over, evicted or not, so there is no call for a miss. This part was
/// made for ReuseOrder, and may still change: detail/edges.hpp asks more of the order and of the node hook.
template <class P, class R, class TierEnum>
concept VictimPolicy = requires(typename P::template Order<R, TierEnum> order,
                                const typename P::template Order<R, TierEnum> asked, R& record,
                                const typename P::Options& options, Rules rules) {
    typename P::NodeHook;
    { P::remembered } -> std::convertible_to<std::size_t>;
    { P::declines } -> std::convertible_to<bool>;
    requires std::derived_from<typename P::template Hook<R>, detail::ListHook<R>>;
    requires std::constructible_from<typename P::template Order<R, TierEnum>,
                                     const typename P::Options&, Rules>;
    order.enter(record);
    order.used(record);
    order.demote(record);
    order.leave(record);
    order.set_aside(record);
    order.put_back(record);
    { order.victim(std::size_t{1}) } -> std::same_as<R*>;
    asked.for_each(+[](R&) {});
    { asked.check_invariants() } -> std::same_as<bool>;
};

/// The least recently used entry of a tier; which tier, says the rule of CacheOrder.
struct TieredLRU {
    struct Options {};
    struct NodeHook {};
    static constexpr std::size_t remembered = 0;
    static constexpr bool declines = false;

    template <class R>
    using Hook = detail::ListHook<R>;

    template <class R, class TierEnum>
    class Order {
    public:
        Order(const Options& /*options*/, Rules rules) noexcept : queues_(rules == Rules::mlx_lm) {}

        void enter(R& record) noexcept { queues_.push_hot(record); }
        void used(R& record) noexcept {
            leave(record);
            queues_.push_hot(record);
        }
        void demote(R& record) noexcept {
            leave(record);
            queues_.push_cold(record);
        }
        void leave(R& record) noexcept { queues_.remove(record, record.is_aside()); }
        void set_aside(R& record) noexcept { queues_.set_aside(record); }
        void put_back(R& record) noexcept { demote(record); }
        [[nodiscard]] R* victim(std::size_t tiers = tier_traits<TierEnum>::count) const noexcept {
            return queues_.victim(tiers);
        }

        template <class F>
        void for_each(F f) const {
            queues_.for_each(f);
        }
        [[nodiscard]] bool check_invariants() const noexcept { return queues_.check_invariants(); }

    private:
        detail::TierQueues<R, TierEnum> queues_;
    };
};

} // namespace promptkv::inline PROMPTKV_ABI

#endif
