// SPDX-License-Identifier: MIT
// Candidates: the entries that ReuseOrder may evict, and what each of them is worth.
#ifndef PROMPTKV_DETAIL_CANDIDATES_HPP
#define PROMPTKV_DETAIL_CANDIDATES_HPP

#include <promptkv/detail/hook_list.hpp>
#include <promptkv/version.hpp>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <utility>
#include <vector>

namespace promptkv::inline PROMPTKV_ABI::detail {

/// The hook of a record that may be a candidate.
template <class R>
struct CandidateHook : ListHook<R> {
    static constexpr std::uint32_t none = (std::numeric_limits<std::uint32_t>::max)();
    std::uint32_t slot = none; // its place among the candidates
    std::uint32_t young = 0;   // the request that made it young without using its edge; 0: none

    [[nodiscard]] bool is_candidate() const noexcept { return slot != none; }
};

/// A table of entries, and a hand that sweeps over it. It repeats what a sweep has to know, so that a sweep
/// reads the table alone.
template <class R>
class Candidates {
public:
    static constexpr float obsolete_wish = -1000;

    struct Candidate {
        R* record;
        std::uint32_t last; // request
        float level;
        float wish; // log2 of a factor
    };

    [[nodiscard]] std::size_t size() const noexcept { return table_.size(); }
    [[nodiscard]] std::size_t nbytes() const noexcept {
        return table_.capacity() * sizeof(Candidate);
    }

    /// Makes sure that there is memory for so many.
    void reserve(std::size_t n) {
        if (table_.capacity() < n)
            table_.reserve((std::max)(n, 2 * table_.capacity()));
    }

    /// Adds an entry, or changes it. Requires: there is memory for one more; see reserve.
    void set(R& record, float level, float wish) noexcept {
        if (!record.hook.is_candidate()) {
            record.hook.slot = static_cast<std::uint32_t>(table_.size());
            table_.push_back({});
        }
        table_[record.hook.slot] = {&record, last_of(record), level, wish};
    }
    /// The uses of a candidate's edge changed.
    void refresh(const R& record, float level) noexcept {
        table_[record.hook.slot].last = last_of(record);
        table_[record.hook.slot].level = level;
    }
    /// Without effect if the entry is no candidate.
    void remove(R& record) noexcept {
        if (!record.hook.is_candidate())
            return;
        const std::uint32_t slot = std::exchange(record.hook.slot, record.hook.none);
        const Candidate last = table_.back();
        table_.pop_back();
        if (slot < table_.size()) {
            table_[slot] = last;
            last.record->hook.slot = slot;
            if (hand_ == table_.size())
                hand_ = slot; // it was to be the next
        }
    }

    /// The hand comes to this candidate next. Without effect if the entry is no candidate.
    void bring_forward(const R& record) noexcept {
        if (!record.hook.is_candidate())
            return;
        const std::uint32_t slot = record.hook.slot;
        hand_ = (hand_ == 0 || hand_ > table_.size() ? table_.size() : hand_) - 1;
        std::swap(table_[slot], table_[hand_]);
        for (const std::size_t moved : {std::size_t{slot}, hand_})
            table_[moved].record->hook.slot = static_cast<std::uint32_t>(moved);
    }

    /// Moves the hand over the next `n` candidates. Returns the one for which `worth(candidate)` is least;
    /// of equals the one that was used longest ago, then the first; null: there are none. An obsolete one at
    /// the hand is returned at once: of those that were demoted, the last. If others are obsolete, the hand
    /// goes back to the first of them.
    template <class Worth>
    [[nodiscard]] const Candidate* least(std::size_t n, std::uint32_t now, Worth worth) noexcept {
        const Candidate* found = nullptr;
        std::array<const Candidate*, 2> obsolete{}; // the first two
        float least = 0;
        for (std::size_t i = (std::min)(n, table_.size()); i-- > 0;) {
            if (hand_ >= table_.size())
                hand_ = 0;
            const Candidate& each = table_[hand_++];
            const float own = worth(each);
            if (found == nullptr && own <= obsolete_wish / 2)
                return &each; // the last one that was brought forward
            if (found == nullptr || own < least ||
                (own == least && now - each.last > now - found->last)) {
                found = &each;
                least = own;
            }
            if (each.wish <= obsolete_wish / 2 && obsolete[1] == nullptr)
                obsolete[obsolete[0] != nullptr ? 1 : 0] = &each;
        }
        if (const Candidate* other = obsolete[found == obsolete[0] ? 1 : 0])
            hand_ = other->record->hook.slot;
        return found;
    }

    [[nodiscard]] bool check_invariants() const noexcept {
        for (std::size_t i = 0; i < table_.size(); ++i) {
            const R& record = *table_[i].record;
            if (record.hook.slot != i || !record.is_entry || record.is_aside() ||
                table_[i].last != last_of(record))
                return false;
        }
        return true;
    }

private:
    [[nodiscard]] static std::uint32_t last_of(const R& record) noexcept {
        const std::uint32_t last = record.node->hook.last, young = record.hook.young;
        return young != 0 && static_cast<std::int32_t>(young - last) > 0 ? young : last;
    }

    std::vector<Candidate> table_;
    std::size_t hand_ = 0;
};

} // namespace promptkv::inline PROMPTKV_ABI::detail

#endif
