// SPDX-License-Identifier: MIT
// RecordWriter: makes records of payloads and writes them, on a thread of its own.
#ifndef PROMPTKV_DETAIL_RECORD_WRITER_HPP
#define PROMPTKV_DETAIL_RECORD_WRITER_HPP

#include <promptkv/block_kv.hpp>
#include <promptkv/block_store.hpp>
#include <promptkv/detail/block_names.hpp>
#include <promptkv/detail/block_records.hpp>
#include <promptkv/detail/write_queue.hpp>
#include <promptkv/second_level_types.hpp>
#include <promptkv/tier.hpp>
#include <promptkv/version.hpp>

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <list>
#include <memory>
#include <optional>
#include <span>
#include <thread>
#include <utility>
#include <vector>

namespace promptkv::inline PROMPTKV_ABI::detail {

/// A record that waits to be written. It shares its block with the payload that it came from.
template <class Types>
struct WaitingRecord {
    RecordHeader header; // without sizes and checksums
    std::vector<typename Types::Token> tokens;
    std::optional<SharedBlock<typename Types::Block>> block;
    std::shared_ptr<const typename Types::State> state;
    std::size_t nbytes = 0;
    std::uint64_t number = 0; // in the queue
    std::uint64_t spares = RecordWrite::spares_nothing;

    [[nodiscard]] const BlockName& name() const noexcept { return header.name; }
    [[nodiscard]] bool covers(const WaitingRecord& same) const noexcept {
        return header.tier >= same.header.tier;
    }
    /// The same record is offered once more: its key may be of a more persistent tier.
    void merge(const WaitingRecord& same) noexcept {
        header.tier = (std::max)(header.tier, same.header.tier);
        spares = (std::min)(spares, same.spares);
    }
    /// Bytes of state that go with it: no entry, lease, other record or copy of a payload has them.
    [[nodiscard]] std::size_t freed() const noexcept {
        std::size_t bytes = 0;
        if (block && block->is_sole_holder())
            bytes = block->nbytes();
        if constexpr (Types::has_states) {
            if (state.use_count() == 1)
                bytes += detail::bytes_of(*state);
        }
        return bytes;
    }
    [[nodiscard]] RecordInfo info() const noexcept {
        RecordInfo info = header.info();
        info.nbytes = nbytes;
        info.payload_bytes = nbytes;
        return info;
    }
};

/// A payload, or the tail of one, to make records of.
template <class Types>
struct OfferedPayload {
    typename Types::Tokens tokens; // of the whole key
    std::size_t first_block = 0;   // number of the first block that is there
    std::span<const SharedBlock<typename Types::Block>> blocks;
    std::shared_ptr<const typename Types::State> state;
    typename Types::TierEnum tier{};
    std::uint64_t spares = RecordWrite::spares_nothing;
};

/// Writes on its own thread, so that no request waits for a store.
template <class Types, class Store, class Codec>
class RecordWriter {
public:
    using Waiting = WaitingRecord<Types>;
    using Queue = WriteQueue<Waiting>;
    using Clock = std::chrono::steady_clock;
    using Offered = OfferedPayload<Types>;
    using Token = typename Types::Token;

    RecordWriter(Store& store, SharedStats& stats, const Codec& codec, std::size_t block_tokens,
                 std::size_t queue_bytes, double bytes_per_second)
        : queue(queue_bytes), store_(store), stats_(stats), codec_(codec),
          block_tokens_(block_tokens), bytes_per_second_(bytes_per_second),
          thread_([this] { run(); }) {}
    RecordWriter(const RecordWriter&) = delete;
    RecordWriter& operator=(const RecordWriter&) = delete;
    ~RecordWriter() { stop(); }

    /// Ends the thread. What waits is dropped.
    void stop() {
        queue.close();
        if (thread_.joinable())
            thread_.join();
        const auto left = queue.drop_all();
        stats_.add(&SecondLevelStats::dropped_at_end, left.size());
    }

    /// Queues what the store does not have. `deadline`: see WriteQueue::push_by. False: something was left
    /// out.
    bool offer(const RecordHome& home, const Offered& offered, Clock::time_point deadline) {
        if constexpr (requires { store_.is_read_only(); }) {
            // A request waits: a store that only reads would have to look into its files.
            if (deadline == (Clock::time_point::min)() && store_.is_read_only()) {
                stats_.add(&SecondLevelStats::refused_read_only, offered.blocks.size());
                return false;
            }
        }
        std::vector<Waiting> records = records_of(home, offered);
        std::vector<RecordInfo> known(records.size());
        if constexpr (Store::is_local) { // else the writer asks
            std::vector<BlockName> names;
            for (const Waiting& record : records)
                names.push_back(record.name());
            store_.find(names, known);
            // Memory used it until now, and from now on the store may have it alone.
            if constexpr (requires { store_.touch(std::span<const BlockName>(names)); })
                store_.touch(names);
        }
        for (std::size_t i = 0; i < records.size(); ++i) {
            if (is_stored(known[i], records[i])) {
                stats_.add(&SecondLevelStats::stored_already);
                continue;
            }
            std::list<Waiting> one;
            one.push_back(std::move(records[i]));
            switch (queue.push_by(one, deadline)) {
            case Queue::Pushed::queued:
                break;
            case Queue::Pushed::present:
                stats_.add(&SecondLevelStats::stored_already);
                break;
            case Queue::Pushed::full: // what follows would not be found without it
                stats_.add(&SecondLevelStats::dropped_queue_full, records.size() - i);
                return false;
            case Queue::Pushed::closed:
                stats_.add(&SecondLevelStats::dropped_at_end, records.size() - i);
                return false;
            }
        }
        return true;
    }

    Queue queue;

private:
    /// Whether a record need not be written. One of a less persistent tier is written anew.
    [[nodiscard]] static bool is_stored(const RecordInfo& known, const Waiting& record) noexcept {
        return known.nbytes > 0 && known.tier >= record.header.tier;
    }

    std::vector<Waiting> records_of(const RecordHome& home, const Offered& offered) const {
        BlockNames<Token> names;
        const std::vector<BlockName> chain = names.chain(home.root, offered.tokens, block_tokens_);
        const std::size_t whole = chain.size() - 1;
        std::vector<Waiting> records;
        for (std::size_t i = offered.first_block;
             i < whole && i - offered.first_block < offered.blocks.size(); ++i) {
            Waiting& record = records.emplace_back();
            begin(record, home, offered, i * block_tokens_, block_tokens_);
            record.header.name = chain[i + 1];
            record.header.parent = chain[i];
            record.block = offered.blocks[i - offered.first_block];
            record.nbytes += record.block->nbytes();
        }
        const std::size_t rest = offered.tokens.size() - whole * block_tokens_;
        const bool has_last = rest > 0 && whole >= offered.first_block &&
                              whole - offered.first_block < offered.blocks.size();
        // A hybrid key without its state serves nothing: an end record would say that it has one.
        if (Types::has_states ? offered.state != nullptr : has_last) {
            Waiting& record = records.emplace_back();
            begin(record, home, offered, whole * block_tokens_, rest);
            record.header.kind = RecordKind::end;
            record.header.name = names.end(chain[whole], record.tokens);
            record.header.parent = chain[whole];
            if (has_last) {
                record.block = offered.blocks[whole - offered.first_block];
                record.nbytes += record.block->nbytes();
            }
            if (offered.state != nullptr) {
                record.state = offered.state;
                record.nbytes += state_nbytes(*offered.state);
            }
        }
        return records;
    }

    void begin(Waiting& record, const RecordHome& home, const Offered& offered, std::size_t from,
               std::size_t n) const {
        const auto own = offered.tokens.subspan(from, n);
        record.tokens.assign(own.begin(), own.end());
        record.nbytes = own.size_bytes();
        record.spares = offered.spares;
        record.header.tier = static_cast<std::uint8_t>(detail::tier_index(offered.tier));
        record.header.token_bytes = sizeof(Token);
        record.header.root = home.root;
        record.header.fingerprint = home.fingerprint;
        record.header.depth = from;
        record.header.tokens = static_cast<std::uint32_t>(n);
        record.header.block_tokens = static_cast<std::uint32_t>(block_tokens_);
    }

    [[nodiscard]] static std::size_t state_nbytes(const typename Types::State& state) noexcept {
        if constexpr (Types::has_states)
            return detail::bytes_of(state);
        else
            return 0;
    }

    void run() {
        std::vector<std::byte> record;
        std::vector<std::byte> packed;
        while (const Waiting* waiting = queue.take()) {
            const auto started = Clock::now();
            std::size_t written = 0;
            try {
                written = write(*waiting, record, packed);
            } catch (...) { // memory ran out, or write_block threw
                stats_.add(&SecondLevelStats::dropped_no_memory);
            }
            queue.finish();
            if (bytes_per_second_ > 0 && written > 0) {
                const std::chrono::duration<double> due(static_cast<double>(written) /
                                                        bytes_per_second_);
                queue.pause(due - (Clock::now() - started));
            }
        }
    }

    /// Returns the bytes written.
    std::size_t write(const Waiting& waiting, std::vector<std::byte>& record,
                      std::vector<std::byte>& packed) {
        if (waiting.header.parent == refused_) { // it would not be found without what is before it
            refused_ = waiting.name();
            count(refusal_);
            return 0;
        }
        if (waiting.name() == refused_)
            refused_ = {};
        RecordInfo known;
        store_.find(std::span(&waiting.header.name, 1), std::span(&known, 1));
        if (is_stored(known, waiting)) {
            stats_.add(&SecondLevelStats::stored_already);
            return 0;
        }
        RecordHeader header = waiting.header;
        begin_record(record, header, std::as_bytes(std::span(waiting.tokens)));
        BlockSink sink(record);
        std::size_t before = record.size();
        if (waiting.block)
            kv_traits<typename Types::Block>::write_block(**waiting.block, sink);
        header.block_bytes = record.size() - before;
        before = record.size();
        if constexpr (Types::has_states) {
            if (waiting.state != nullptr)
                kv_traits<typename Types::State>::write_block(*waiting.state, sink);
        }
        header.state_bytes = record.size() - before;
        finish_record(record, packed, header, codec_);
        const RecordWrite write{header.info(), record, waiting.spares};
        PutResult result = PutResult::failed;
        store_.put(std::span(&write, 1), std::span(&result, 1));
        if (result != PutResult::written) {
            const bool has_no_room = result == PutResult::full || result == PutResult::too_large;
            refused_ = has_no_room ? waiting.name() : BlockName{};
            refusal_ = result;
            count(result);
            return 0;
        }
        stats_.change([&](SecondLevelStats& stats) {
            ++stats.written;
            stats.bytes_written += record.size();
            stats.bytes_raw += header.block_bytes + header.state_bytes;
        });
        return record.size();
    }

    void count(PutResult refusal) {
        stats_.change([&](SecondLevelStats& stats) {
            switch (refusal) {
            case PutResult::written:
                break;
            case PutResult::full:
                ++stats.refused_full;
                break;
            case PutResult::too_large:
                ++stats.refused_too_large;
                break;
            case PutResult::read_only:
                ++stats.refused_read_only;
                break;
            case PutResult::failed:
                ++stats.refused_failed;
                break;
            }
        });
    }

    Store& store_;
    SharedStats& stats_;
    const Codec codec_;
    const std::size_t block_tokens_;
    const double bytes_per_second_;
    BlockName refused_; // the last record that there was no room for; the thread's own
    PutResult refusal_ = PutResult::full; // why
    std::thread thread_;                  // last: it uses the others
};

} // namespace promptkv::inline PROMPTKV_ABI::detail

#endif
