// SPDX-License-Identifier: MIT
// RedisStore: records in Redis or Valkey, shared by machines. Needs hiredis and libxxhash; not in the
// umbrella header.
#ifndef PROMPTKV_REDIS_STORE_HPP
#define PROMPTKV_REDIS_STORE_HPP

#include <promptkv/block_store.hpp>
#include <promptkv/config.hpp>
#include <promptkv/detail/block_records.hpp>
#include <promptkv/detail/redis_connection.hpp>
#include <promptkv/version.hpp>

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <span>
#include <string>
#include <utility>
#include <vector>

namespace promptkv::inline PROMPTKV_ABI {

struct RedisStoreOptions : RedisAddress {
    std::string prefix = "promptkv:";     ///< of all keys; letters, digits, : and -
    std::chrono::seconds time_to_live{0}; ///< of a record; 0: until the server evicts it
    /// The largest value; larger records are cut. Redis is slow with larger ones: see
    /// benchmarks/second_level.
    std::size_t piece_bytes = (512U << 10U) - 4096;
};

/// What a RedisStore counts; it only grows.
struct RedisStoreStats {
    std::uint64_t written = 0; ///< records
    std::uint64_t bytes_written = 0;
    std::uint64_t read = 0; ///< records
    std::uint64_t bytes_read = 0;
    std::uint64_t erased = 0;
    std::uint64_t full = 0;    ///< commands, that is pieces, that the server had no memory for
    std::uint64_t refused = 0; ///< other errors that the server answered
    std::uint64_t missing_pieces = 0; ///< records that had lost a piece on the server
    std::uint64_t connects = 0;
    std::uint64_t failed = 0; ///< connections that broke, timed out or could not be made
    std::uint64_t unavailable =
        0; ///< calls that were not made, since the server was down just before
};

/// Calls `f(name, value)` for each.
template <class F>
void for_each_counter(const RedisStoreStats& s, F f) {
    f("written", s.written);
    f("bytes_written", s.bytes_written);
    f("read", s.read);
    f("bytes_read", s.bytes_read);
    f("erased", s.erased);
    f("full", s.full);
    f("refused", s.refused);
    f("missing_pieces", s.missing_pieces);
    f("connects", s.connects);
    f("failed", s.failed);
    f("unavailable", s.unavailable);
}

/// Records as values of Redis. A record larger than `piece_bytes` is in several values. The first value is
/// written last:
///
///     promptkv:4f3a...      the record, or its first piece
///     promptkv:4f3a.../1    the second piece
///
/// The server evicts as it is configured: `maxmemory-policy allkeys-lru` suits. Reads have a connection of
/// their own, and go past writes. A server that is down or slow costs a time-out, then nothing until it is
/// tried again. Anybody who can write to the server can plant state: protect it. TLS needs a proxy.
///
/// `erase_below`, `erase_model` and `erase_other_than` of a second level scan all keys of the server. They leave
/// records that another version of the format wrote.
/// Thread safety: all functions.
class RedisStore {
public:
    static constexpr bool is_local = false;
    using Options = RedisStoreOptions;
    using Stats = RedisStoreStats;

    /// Connects at the first call. Throws: what an allocation throws.
    explicit RedisStore(Options options)
        : options_(std::move(options)), reading_(options_), writing_(options_) {
        PROMPTKV_ASSERT(options_.piece_bytes >= 4096);
        PROMPTKV_ASSERT(options_.prefix.find_first_of("*?[]\\^") == std::string::npos);
    }

    // what BlockStore asks ///////////////////////////////////////////////////

    bool find(std::span<const BlockName> names, std::span<RecordInfo> infos) {
        return find(reading_, names, infos);
    }

    template <class F>
    bool get(std::span<const BlockName> names, F&& f) {
        detail::RedisPipeline first;
        for (const BlockName& name : names)
            first.add({"GET", key(name)});
        std::vector<detail::RedisReply> replies;
        if (!run(reading_, first, replies)) {
            f(0, std::span<const std::byte>());
            return false;
        }
        std::vector<std::byte> whole;
        swap_spare(whole); // memory that is used again takes no page faults
        bool works = true;
        for (std::size_t i = 0; i < names.size(); ++i) {
            std::span<const std::byte> record = detail::bytes_of(replies[i]);
            const std::uint64_t total = info_of(record).nbytes;
            if (total > record.size()) {
                const bool reads = get_rest(names[i], total, record, whole);
                works = reads && works;
                record = whole;
                if (reads && record.empty())
                    set_aside(names[i]); // it would be found, and so never be written again
            }
            works = works && replies[i]->type != REDIS_REPLY_ERROR;
            if (!record.empty()) {
                const std::lock_guard lock(mutex_);
                ++stats_.read;
                stats_.bytes_read += record.size();
            }
            if (!f(i, record))
                break;
            replies[i].reset();
        }
        swap_spare(whole);
        return works;
    }

    void put(std::span<const RecordWrite> writes, std::span<PutResult> results) {
        detail::RedisPipeline all;
        std::vector<std::size_t> write_of; // each command
        for (std::size_t i = 0; i < writes.size(); ++i) {
            const std::span<const std::byte> record = writes[i].record;
            const std::size_t pieces = pieces_of(record.size(), options_.piece_bytes);
            if (pieces > most_pieces) {
                results[i] = PutResult::too_large;
                continue;
            }
            results[i] = PutResult::written;
            for (std::size_t piece = pieces; piece-- > 0;) { // the first piece last
                const std::size_t at = piece * options_.piece_bytes;
                add_set(all, key(writes[i].info.name, piece),
                        record.subspan(at, (std::min)(options_.piece_bytes, record.size() - at)));
                write_of.push_back(i);
            }
        }
        std::vector<detail::RedisReply> replies;
        if (!run(writing_, all, replies)) {
            std::fill(results.begin(), results.end(), PutResult::failed);
            return;
        }
        for (std::size_t i = 0; i < replies.size(); ++i) {
            if (replies[i]->type == REDIS_REPLY_ERROR)
                results[write_of[i]] = is_full(replies[i]) ? PutResult::full : PutResult::failed;
        }
        detail::RedisPipeline undo; // pieces that belong to no whole record
        for (std::size_t i = 0; i < replies.size(); ++i) {
            if (results[write_of[i]] != PutResult::written)
                undo.add({"DEL", all.commands()[i].words[1]});
        }
        static_cast<void>(run(writing_, undo, replies));
        const std::lock_guard lock(mutex_);
        for (std::size_t i = 0; i < writes.size(); ++i) {
            stats_.written += results[i] == PutResult::written ? 1U : 0U;
            stats_.bytes_written += results[i] == PutResult::written ? writes[i].record.size() : 0;
        }
    }

    /// Also what is left of records whose first piece is gone, or that another process cut otherwise. Where the
    /// server does not answer, or does not let this user delete, nothing is erased: `failed`, `unavailable` and
    /// `refused` count that.
    std::size_t erase(std::span<const BlockName> names) {
        std::size_t erased = 0;
        for_windows(names, [&](std::span<const BlockName> some) {
            std::vector<RecordInfo> infos(some.size());
            find(writing_, some, infos);
            struct Left {
                BlockName name;
                std::size_t pieces; // so many at least
            };
            std::vector<Left> left; // these may have more pieces
            for (std::size_t i = 0; i < some.size(); ++i)
                left.push_back({some[i], pieces_of(infos[i].nbytes, options_.piece_bytes)});
            for (std::size_t at = 0, n = 2; !left.empty() && at < most_pieces; at += n, n = 64) {
                detail::RedisPipeline all; // pieces from `at` on; most records have one
                for (const Left& each : left) {
                    for (std::size_t piece = at; piece < at + n; ++piece)
                        all.add({"DEL", key(each.name, piece)});
                }
                std::vector<detail::RedisReply> replies;
                if (!run(writing_, all, replies))
                    return false;
                const auto was_there = [](const detail::RedisReply& reply) {
                    return reply->type == REDIS_REPLY_INTEGER && reply->integer > 0;
                };
                std::vector<Left> more;
                auto reply = replies.begin();
                for (const Left& each : left) {
                    erased += at == 0 && was_there(*reply) ? 1U : 0U;
                    const auto next = reply + static_cast<std::ptrdiff_t>(n);
                    if (each.pieces > at + n ||
                        std::any_of(at == 0 ? reply + 1 : reply, next, was_there))
                        more.push_back(each);
                    reply = next;
                }
                left.swap(more);
            }
            return true;
        });
        const std::lock_guard lock(mutex_);
        stats_.erased += erased;
        return erased;
    }

    void set_aside(const BlockName& name) { erase(std::span(&name, 1)); }

    /// Scans the server.
    template <class F>
    void for_each(F&& f) {
        std::string cursor = "0";
        do {
            detail::RedisPipeline scan;
            scan.add({"SCAN", cursor, "MATCH", options_.prefix + "*", "COUNT", "512"});
            std::vector<detail::RedisReply> replies;
            if (!run(writing_, scan, replies) || replies[0]->type != REDIS_REPLY_ARRAY ||
                replies[0]->elements != 2)
                return;
            const redisReply& keys = *replies[0]->element[1];
            detail::RedisPipeline starts;
            for (std::size_t i = 0; i < keys.elements; ++i) {
                const std::string found(keys.element[i]->str, keys.element[i]->len);
                if (found.size() == options_.prefix.size() + 32) // no further piece
                    add_header(starts, found);
            }
            const std::string before = std::exchange(
                cursor, std::string(replies[0]->element[0]->str, replies[0]->element[0]->len));
            std::vector<detail::RedisReply> headers;
            if (!run(writing_, starts, headers))
                return;
            for (const detail::RedisReply& header : headers) {
                if (const RecordInfo info = info_of(detail::bytes_of(header)); info.nbytes > 0)
                    f(info);
            }
            if (cursor == before)
                return; // no server says so
        } while (cursor != "0");
    }

    // observers //////////////////////////////////////////////////////////////

    [[nodiscard]] Stats stats() const {
        const std::lock_guard lock(mutex_);
        return stats_;
    }

private:
    static constexpr std::size_t window = 512; // commands at once
    static constexpr std::size_t most_pieces = 4096;

    struct Link {
        explicit Link(const RedisAddress& address) : connection(address) {}
        std::mutex mutex;
        detail::RedisConnection connection;
    };

    [[nodiscard]] std::string key(const BlockName& name, std::size_t piece = 0) const {
        std::string text = options_.prefix + hex(name);
        if (piece > 0)
            text.append(1, '/').append(std::to_string(piece));
        return text;
    }
    [[nodiscard]] static std::size_t pieces_of(std::uint64_t nbytes, std::size_t piece) noexcept {
        return static_cast<std::size_t>((std::max<std::uint64_t>)((nbytes + piece - 1) / piece, 1));
    }

    static void add_header(detail::RedisPipeline& commands, const std::string& of_key) {
        commands.add({"GETRANGE", of_key, "0", std::to_string(sizeof(detail::RecordHeader) - 1)});
    }
    void add_set(detail::RedisPipeline& commands, std::string name,
                 std::span<const std::byte> value) const {
        if (options_.time_to_live.count() > 0)
            commands.add(
                {"SET", std::move(name), "", "EX", std::to_string(options_.time_to_live.count())},
                2, value);
        else
            commands.add({"SET", std::move(name), ""}, 2, value);
    }

    /// What is known of a record whose header is sound; else nbytes is 0.
    [[nodiscard]] static RecordInfo info_of(std::span<const std::byte> start) noexcept {
        detail::RecordHeader header;
        return detail::read_header(start, header) == RecordFault::none ? header.info()
                                                                       : RecordInfo{};
    }

    template <class F>
    static void for_windows(std::span<const BlockName> names, F f) {
        for (std::size_t at = 0; at < names.size(); at += window) {
            if (!f(names.subspan(at, (std::min)(window, names.size() - at))))
                return;
        }
    }

    bool find(Link& link, std::span<const BlockName> names, std::span<RecordInfo> infos) {
        std::fill(infos.begin(), infos.end(), RecordInfo{});
        std::size_t at = 0;
        bool works = true;
        for_windows(names, [&](std::span<const BlockName> some) {
            detail::RedisPipeline all;
            for (const BlockName& name : some)
                add_header(all, key(name));
            std::vector<detail::RedisReply> replies;
            works = run(link, all, replies);
            for (std::size_t i = 0; works && i < replies.size(); ++i)
                infos[at++] = info_of(detail::bytes_of(replies[i]));
            return works;
        });
        return works;
    }

    void swap_spare(std::vector<std::byte>& record) noexcept {
        const std::lock_guard lock(mutex_);
        record.swap(spare_);
    }

    /// Reads the further pieces of a record into `whole`, which is empty where one is missing. False: the
    /// server is in trouble.
    [[nodiscard]] bool get_rest(const BlockName& name, std::uint64_t total,
                                std::span<const std::byte> first, std::vector<std::byte>& whole) {
        const std::size_t piece_bytes = first.size(); // another process may cut otherwise
        const std::size_t pieces = pieces_of(total, piece_bytes);
        whole.assign(first.begin(), first.end());
        for (std::size_t piece = 1; piece < (std::min)(pieces, most_pieces); ++piece) {
            detail::RedisPipeline one; // large enough to be on its own
            one.add({"GET", key(name, piece)});
            std::vector<detail::RedisReply> replies;
            const bool works = run(reading_, one, replies);
            const auto bytes = works ? detail::bytes_of(replies[0]) : std::span<const std::byte>();
            if (bytes.empty()) {
                whole.clear();
                const std::lock_guard lock(mutex_);
                stats_.missing_pieces += works ? 1U : 0U;
                return works;
            }
            whole.insert(whole.end(), bytes.begin(), bytes.end());
        }
        return true;
    }

    /// False: the server is down, or was down just before.
    [[nodiscard]] bool run(Link& link, const detail::RedisPipeline& commands,
                           std::vector<detail::RedisReply>& replies) {
        const std::lock_guard using_it(link.mutex);
        const detail::RedisConnection::Ran ran = link.connection.run(commands, replies);
        const std::lock_guard lock(mutex_);
        stats_.connects += ran.connects;
        stats_.failed += ran.failures;
        stats_.unavailable += ran.was_down ? 1U : 0U;
        for (std::size_t i = 0; ran.works && i < replies.size(); ++i) {
            if (replies[i]->type == REDIS_REPLY_ERROR)
                ++(is_full(replies[i]) ? stats_.full : stats_.refused);
        }
        return ran.works;
    }
    [[nodiscard]] static bool is_full(const detail::RedisReply& error) noexcept {
        return detail::text_of(error).starts_with("OOM");
    }

    const Options options_;
    Link reading_;
    Link writing_;
    mutable std::mutex mutex_; // of what follows
    Stats stats_;
    std::vector<std::byte> spare_; // as large as the largest record in pieces that was read
};

static_assert(BlockStore<RedisStore>);

} // namespace promptkv::inline PROMPTKV_ABI

#endif
