// SPDX-License-Identifier: MIT
// ZstdCodec: records compressed by zstd. Needs libzstd; not in the umbrella header.
#ifndef PROMPTKV_ZSTD_CODEC_HPP
#define PROMPTKV_ZSTD_CODEC_HPP

#include <promptkv/version.hpp>

#include <zstd.h>

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace promptkv::inline PROMPTKV_ABI {

/// A codec for SecondLevel: `SecondLevel<Cache, Store, ZstdCodec>`. A record that does not get smaller is
/// stored as it is. KV state gains little, 7 to 9 % with level 1: use it where a network or a disk is slower than
/// zstd (0.5 to 1 GB/s per core).
struct ZstdCodec {
    static constexpr std::uint8_t number = 1;

    int level = 1;

    /// Appends the compressed bytes.
    [[nodiscard]] bool compress(std::span<const std::byte> raw,
                                std::vector<std::byte>& packed) const {
        const std::size_t at = packed.size();
        packed.resize(at + ZSTD_compressBound(raw.size()));
        const std::size_t size =
            ZSTD_compress(packed.data() + at, packed.size() - at, raw.data(), raw.size(), level);
        const bool works = ZSTD_isError(size) == 0;
        packed.resize(works ? at + size : at);
        return works;
    }

    /// Replaces `raw` by `raw_bytes` bytes; false where the packed bytes are not exactly that many.
    [[nodiscard]] bool decompress(std::span<const std::byte> packed, std::uint64_t raw_bytes,
                                  std::vector<std::byte>& raw) const {
        if (ZSTD_getFrameContentSize(packed.data(), packed.size()) != raw_bytes)
            return false;
        raw.resize(raw_bytes);
        return ZSTD_decompress(raw.data(), raw.size(), packed.data(), packed.size()) == raw_bytes;
    }
};

} // namespace promptkv::inline PROMPTKV_ABI

#endif
