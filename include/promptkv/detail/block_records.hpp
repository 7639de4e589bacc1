// SPDX-License-Identifier: MIT
// The bytes of a record: a header, the record's tokens, its payload. Needs libxxhash.
#ifndef PROMPTKV_DETAIL_BLOCK_RECORDS_HPP
#define PROMPTKV_DETAIL_BLOCK_RECORDS_HPP

#include <promptkv/block_store.hpp>
#include <promptkv/detail/block_names.hpp>
#include <promptkv/tier.hpp>
#include <promptkv/version.hpp>

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string_view>
#include <type_traits>
#include <vector>

namespace promptkv::inline PROMPTKV_ABI {

/// Why a record is not used.
enum class RecordFault : std::uint8_t {
    none,
    not_a_record, ///< other bytes
    version,      ///< of an older or a newer format
    damaged,      ///< torn, truncated or changed: a checksum or a size is wrong
    other_name,   ///< a sound record of other tokens: its name was not unique
    codec,        ///< compressed in a way that this process does not know
    refused       ///< `make_block` refused it
};

[[nodiscard]] constexpr std::string_view name(RecordFault fault) noexcept {
    return detail::name_of(
        fault, {"none", "not_a_record", "version", "damaged", "other_name", "codec", "refused"});
}

namespace detail {

static_assert(std::endian::native == std::endian::little,
              "the numbers in a record are little-endian");

///     | RecordHeader | tokens | zeros up to a multiple of 64 | payload |
///
/// The payload of an end is its block, if there is one, then its State.
struct RecordHeader {
    std::array<char, 8> magic{'p', 'r', 'o', 'm', 'p', 't', 'k', 'v'};
    std::uint32_t version = record_version;
    RecordKind kind = RecordKind::block;
    std::uint8_t tier = 0;
    std::uint8_t codec = 0;
    std::uint8_t token_bytes = 0;
    BlockName name;
    BlockName parent;
    BlockName root;
    Fingerprint fingerprint{};
    std::uint64_t depth = 0;
    std::uint32_t tokens = 0; // of the record itself
    std::uint32_t block_tokens = 0;
    std::uint64_t block_bytes = 0; // of the payload before it was compressed
    std::uint64_t state_bytes = 0;
    std::uint64_t stored_bytes = 0; // of the payload as it is
    std::uint64_t body_check = 0;   // of all that follows the header
    std::uint64_t header_check = 0; // of all above

    [[nodiscard]] std::uint64_t payload_at() const noexcept {
        return (sizeof(RecordHeader) + std::uint64_t{tokens} * token_bytes + 63) / 64 * 64;
    }
    [[nodiscard]] std::uint64_t nbytes() const noexcept { return payload_at() + stored_bytes; }
    [[nodiscard]] RecordInfo info() const noexcept {
        return {name,        parent,   root,
                fingerprint, kind,     tier,
                depth,       nbytes(), block_bytes + state_bytes};
    }
};
static_assert(std::is_trivially_copyable_v<RecordHeader> && sizeof(RecordHeader) == 136);

/// A record as it was read. The spans point into it.
struct RecordView {
    RecordHeader header;
    std::span<const std::byte> tokens;
    std::span<const std::byte> payload;
};

inline constexpr std::uint32_t max_record_tokens = std::uint32_t{1} << 20U;

[[nodiscard]] inline std::uint64_t header_check(const RecordHeader& header) noexcept {
    return checksum(
        std::as_bytes(std::span(&header, 1)).first(offsetof(RecordHeader, header_check)));
}

/// Reads the header of a record, which `start` begins with, and checks it: its sizes can be relied on before
/// anything else of the record was read.
[[nodiscard]] inline RecordFault read_header(std::span<const std::byte> start,
                                             RecordHeader& header) noexcept {
    if (start.size() < sizeof header)
        return RecordFault::not_a_record;
    std::memcpy(&header, start.data(), sizeof header);
    if (header.magic != RecordHeader{}.magic)
        return RecordFault::not_a_record;
    if (header.version != record_version)
        return RecordFault::version;
    const bool is_sound = header.header_check == header_check(header) &&
                          (header.kind == RecordKind::block || header.kind == RecordKind::end);
    return is_sound ? RecordFault::none : RecordFault::damaged;
}

/// Reads a whole record and checks it.
[[nodiscard]] inline RecordFault read_record(std::span<const std::byte> record,
                                             RecordView& view) noexcept {
    const RecordHeader& header = view.header;
    if (const RecordFault fault = read_header(record, view.header); fault != RecordFault::none)
        return fault;
    const std::uint64_t at = header.payload_at();
    if (record.size() < at || record.size() - at != header.stored_bytes ||
        checksum(record.subspan(sizeof header)) != header.body_check)
        return RecordFault::damaged;
    view.tokens = record.subspan(sizeof header, std::size_t{header.tokens} * header.token_bytes);
    view.payload = record.subspan(static_cast<std::size_t>(at));
    return RecordFault::none;
}

} // namespace detail

/// Takes the bytes of a block, in as many pieces as the block likes.
class BlockSink {
public:
    explicit BlockSink(std::vector<std::byte>& bytes) noexcept : bytes_(bytes) {}

    void operator()(std::span<const std::byte> piece) {
        bytes_.insert(bytes_.end(), piece.begin(), piece.end());
    }

private:
    std::vector<std::byte>& bytes_;
};

/// Stores payloads as they are. A codec has a number of its own, which is in each record.
struct NoCodec {
    static constexpr std::uint8_t number = 0;
};

namespace detail {

/// Begins a record: its header, which is not complete yet, and its tokens.
inline void begin_record(std::vector<std::byte>& record, const RecordHeader& header,
                         std::span<const std::byte> tokens) {
    record.clear();
    record.resize(static_cast<std::size_t>(header.payload_at()));
    if (!tokens.empty())
        std::memcpy(record.data() + sizeof header, tokens.data(), tokens.size());
}

/// Completes a record whose payload was appended. Compresses it where that makes it smaller.
template <class Codec>
void finish_record(std::vector<std::byte>& record, std::vector<std::byte>& packed,
                   RecordHeader& header, [[maybe_unused]] const Codec& codec) {
    const std::uint64_t at = header.payload_at();
    header.codec = 0;
    if constexpr (Codec::number != 0) {
        packed.clear();
        const std::span<const std::byte> raw = std::span(record).subspan(at);
        if (codec.compress(raw, packed) && packed.size() < raw.size()) {
            header.codec = Codec::number;
            record.resize(at);
            record.insert(record.end(), packed.begin(), packed.end());
        }
    }
    header.stored_bytes = record.size() - at;
    header.body_check = checksum(std::span(record).subspan(sizeof header));
    header.header_check = header_check(header);
    std::memcpy(record.data(), &header, sizeof header);
}

/// The payload as it was before it was compressed; `unpacked` holds it if need be.
template <class Codec>
[[nodiscard]] RecordFault unpack(const RecordView& view, std::vector<std::byte>& unpacked,
                                 std::span<const std::byte>& payload,
                                 [[maybe_unused]] const Codec& codec) {
    const RecordHeader& header = view.header;
    const std::uint64_t raw_bytes = header.block_bytes + header.state_bytes;
    if (raw_bytes < header.block_bytes)
        return RecordFault::damaged;
    payload = view.payload;
    if (header.codec != 0) {
        if constexpr (Codec::number != 0) {
            if (header.codec != Codec::number)
                return RecordFault::codec;
            if (!codec.decompress(view.payload, raw_bytes, unpacked))
                return RecordFault::damaged;
            payload = unpacked;
        } else {
            return RecordFault::codec;
        }
    }
    return payload.size() == raw_bytes ? RecordFault::none : RecordFault::damaged;
}

} // namespace detail
} // namespace promptkv::inline PROMPTKV_ABI

#endif
