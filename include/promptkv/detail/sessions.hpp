// SPDX-License-Identifier: MIT
// Sessions: which entry a session stored last, and when that entry has become a dead branch.
#ifndef PROMPTKV_DETAIL_SESSIONS_HPP
#define PROMPTKV_DETAIL_SESSIONS_HPP

#include <promptkv/detail/neighbours.hpp>
#include <promptkv/detail/partitions.hpp>
#include <promptkv/version.hpp>

#include <cstdint>

namespace promptkv::inline PROMPTKV_ABI::detail {

/// The only writer of `Partition::sessions`, and of a record's `last_of_session` and `many_sessions`. Session 0 is none.
///
/// An entry that several sessions stored is the last one of none.
template <class R>
struct Sessions {
    /// Makes a place for a session. Returns whether it is new; until an entry has it, `forget` takes it back. Throws
    /// what an allocation throws.
    static bool expect(Partition<R>& home, std::uint64_t session) {
        return session != 0 && home.sessions.try_emplace(session, nullptr).second;
    }
    static void forget(Partition<R>& home, std::uint64_t session) noexcept {
        home.sessions.erase(session);
    }

    /// One more session stored the entry.
    static void join(R& record, std::uint64_t session) noexcept {
        if (session == 0 || session == record.session)
            return;
        if (record.session == 0) {
            record.session = session;
            return;
        }
        record.many_sessions = true;
        leave(record);
    }
    /// The entry is no session's last one from now on.
    static void leave(R& record) noexcept {
        if (record.last_of_session)
            forget(*record.home, record.session);
        record.last_of_session = false;
    }
    /// A new entry takes the place of another one of the same key.
    static void succeed(R& record, R& former) noexcept {
        record.many_sessions = former.many_sessions;
        record.session = former.session;
        if (former.last_of_session)
            make_last(record);
        former.last_of_session = false;
    }

    /// The session stored `record`, an entry, for which there is a place. Returns the entry that it stored last
    /// before; null: none.
    static R* advance(R& record, std::uint64_t session) noexcept {
        const auto found = record.home->sessions.find(session);
        if (found == record.home->sessions.end())
            return nullptr; // the key is of several sessions
        R* last = found->second != &record ? found->second : nullptr;
        if (last != nullptr)
            last->last_of_session = false;
        if (record.many_sessions)
            record.home->sessions.erase(found);
        else
            make_last(record);
        return last;
    }
    /// Takes that back. `last`: what it returned.
    static void go_back(R& record, R* last) noexcept {
        if (last != nullptr && last->is_entry)
            make_last(*last);
        else
            leave(record);
    }

    /// Whether nothing continues the session's last entry, and no other session stored it, when the session's next
    /// one is `record`.
    [[nodiscard]] static bool is_dead_branch(const R& last, const R& record) noexcept {
        return !last.many_sessions && !detail::is_continued(last) && !is_on_path(last, record) &&
               !is_on_path(record, last);
    }

private:
    static void make_last(R& record) noexcept {
        record.last_of_session = true;
        record.home->sessions.find(record.session)->second = &record;
    }
    [[nodiscard]] static bool is_on_path(const R& entry, const R& record) noexcept {
        const auto* node = record.node;
        while (node != nullptr && node->depth > entry.node->depth)
            node = node->parent;
        return node == entry.node;
    }
};

} // namespace promptkv::inline PROMPTKV_ABI::detail

#endif
