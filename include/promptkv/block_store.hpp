// SPDX-License-Identifier: MIT
// BlockStore: what a second level asks of the place where it keeps records.
//
// Not in the umbrella header.
#ifndef PROMPTKV_BLOCK_STORE_HPP
#define PROMPTKV_BLOCK_STORE_HPP

#include <promptkv/version.hpp>

#include <array>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <string>

namespace promptkv::inline PROMPTKV_ABI {

/// The name of a record: a hash of everything that its state depends on, from the model to its last
/// token.
struct BlockName {
    std::uint64_t high = 0;
    std::uint64_t low = 0;

    friend bool operator==(const BlockName&, const BlockName&) = default;
};

namespace detail {
inline void write_hex(const BlockName& name, char* text) noexcept {
    constexpr std::array<char, 17> digits{"0123456789abcdef"};
    for (std::size_t i = 0; i < 16; ++i) {
        text[15 - i] = digits[(name.high >> (4 * i)) & 15U];
        text[31 - i] = digits[(name.low >> (4 * i)) & 15U];
    }
}
} // namespace detail

/// 32 digits.
[[nodiscard]] inline std::string hex(const BlockName& name) {
    std::string text(32, '0');
    detail::write_hex(name, text.data());
    return text;
}

/// What must be equal for the state of one engine to be right in another: weights, adapter, KV type,
/// layout, engine build. See `fingerprint_of`.
using Fingerprint = std::array<std::byte, 16>;

/// A whole block, or the end of a key: its last, partly filled block and its State.
enum class RecordKind : std::uint8_t { block = 1, end = 2 };

/// What a store knows of a record without its payload.
struct RecordInfo {
    BlockName name;
    BlockName parent; ///< the name of the block before
    BlockName root;   ///< the start of the chain: fingerprint, model, block_tokens
    Fingerprint fingerprint{};
    RecordKind kind = RecordKind::block;
    std::uint8_t tier = 0;
    std::uint64_t depth = 0;         ///< tokens before the record's own
    std::uint64_t nbytes = 0;        ///< of the record as it is stored; 0: there is none
    std::uint64_t payload_bytes = 0; ///< of its payload in memory
};

/// A record to be stored.
struct RecordWrite {
    static constexpr std::uint64_t spares_nothing = ~std::uint64_t{0};

    RecordInfo info;
    std::span<const std::byte> record;
    /// For a store that counts uses: records that were used after the first so many uses make no room for it.
    std::uint64_t spares = spares_nothing;
};

enum class PutResult : std::uint8_t {
    written,
    full,      ///< no room within its limits, or on its disk
    too_large, ///< larger than the whole budget
    read_only,
    failed ///< the store is in trouble
};

/// A store of records. All functions may be called from several threads at once, and none throws for
/// trouble of the store: what cannot be read is absent, what cannot be written is refused, and the store
/// counts both.
///
/// | function             | meaning                                                              |
/// |----------------------|----------------------------------------------------------------------|
/// | `S::is_local`        | whether `find` takes microseconds, as SecondLevel::locate needs       |
/// | `find(names, infos)` | sets `infos[i]` to what is known of `names[i]`; nbytes 0: absent. False: the store is in trouble |
/// | `get(names, f)`      | calls `f(i, record)` in order, with an empty span where there is none; ends early where `f` returns false. False: the store is in trouble |
/// | `put(writes, results)` | stores records; one that is there already is written anew           |
/// | `touch(names, lasting)` | optional: the records' state was used in memory; `lasting`: a restart is to know it |
/// | `uses()`             | optional: how often records were used so far                          |
/// | `is_read_only()`     | optional: whether it refuses all that is put                          |
/// | `erase(names)`       | removes records; returns how many there were                          |
/// | `set_aside(name)`    | the record is damaged: it must not be found again                     |
/// | `for_each(f)`        | `f(const RecordInfo&)` for each record; none where it is read-only    |
template <class S>
concept BlockStore =
    requires(S& store, std::span<const BlockName> names, std::span<RecordInfo> infos,
             std::span<const RecordWrite> writes, std::span<PutResult> results,
             const BlockName& name,
             const std::function<bool(std::size_t, std::span<const std::byte>)>& read,
             const std::function<void(const RecordInfo&)>& visit) {
        { S::is_local } -> std::convertible_to<bool>;
        { store.find(names, infos) } -> std::same_as<bool>;
        { store.get(names, read) } -> std::same_as<bool>;
        store.put(writes, results);
        { store.erase(names) } -> std::same_as<std::size_t>;
        store.set_aside(name);
        store.for_each(visit);
    };

} // namespace promptkv::inline PROMPTKV_ABI

/// The name is a hash already.
template <>
struct std::hash<promptkv::BlockName> {
    std::size_t operator()(const promptkv::BlockName& name) const noexcept {
        return static_cast<std::size_t>(name.low);
    }
};

#endif
