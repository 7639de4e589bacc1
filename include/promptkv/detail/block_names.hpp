// SPDX-License-Identifier: MIT
// Names of records: a chain of 128-bit hashes. Needs libxxhash.
#ifndef PROMPTKV_DETAIL_BLOCK_NAMES_HPP
#define PROMPTKV_DETAIL_BLOCK_NAMES_HPP

#include <promptkv/block_store.hpp>
#include <promptkv/version.hpp>

#include <xxhash.h>

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

namespace promptkv::inline PROMPTKV_ABI::detail {

/// The format of names and records. A record of another version is never read.
inline constexpr std::uint32_t record_version = 2;

[[nodiscard]] inline std::uint64_t checksum(std::span<const std::byte> bytes) noexcept {
    return XXH3_64bits(bytes.data(), bytes.size());
}

/// Makes names.
///
///     root -> block 0 -> block 1 -> block 2        each: a hash of the one before and of its own tokens
///                            \-> end               of the name and the tokens that remain
///
/// Keeps its buffer between names: one object for each thread.
template <class Token>
class BlockNames {
public:
    /// The start of a chain. `model`: empty where models share blocks.
    [[nodiscard]] BlockName root(const Fingerprint& fingerprint,
                                 std::optional<std::string_view> model, std::size_t block_tokens) {
        begin('r');
        add_number(record_version);
        add_number(sizeof(Token));
        add_number(block_tokens);
        add(fingerprint);
        add_number(model ? 1 : 0);
        if (model)
            add(std::as_bytes(std::span(*model)));
        return name();
    }
    [[nodiscard]] BlockName block(const BlockName& before, std::span<const Token> tokens) {
        return following('b', before, tokens);
    }
    [[nodiscard]] BlockName end(const BlockName& before, std::span<const Token> tokens) {
        return following('e', before, tokens);
    }

    /// The root and the name of each whole block of `tokens`.
    [[nodiscard]] std::vector<BlockName> chain(const BlockName& root, std::span<const Token> tokens,
                                               std::size_t block_tokens) {
        std::vector<BlockName> names;
        names.reserve(tokens.size() / block_tokens + 1);
        names.push_back(root);
        for (std::size_t at = 0; at + block_tokens <= tokens.size(); at += block_tokens)
            names.push_back(block(names.back(), tokens.subspan(at, block_tokens)));
        return names;
    }

private:
    BlockName following(char what, const BlockName& before, std::span<const Token> tokens) {
        begin(what);
        add_number(before.high);
        add_number(before.low);
        add(std::as_bytes(tokens));
        return name();
    }

    void begin(char what) {
        buffer_.clear();
        add_number(static_cast<std::uint64_t>(what));
    }
    void add(std::span<const std::byte> bytes) {
        buffer_.insert(buffer_.end(), bytes.begin(), bytes.end());
    }
    void add_number(std::uint64_t number) { add(std::as_bytes(std::span(&number, 1))); }

    [[nodiscard]] BlockName name() const noexcept {
        const XXH128_hash_t hash = XXH3_128bits(buffer_.data(), buffer_.size());
        return {hash.high64, hash.low64};
    }

    std::vector<std::byte> buffer_;
};

} // namespace promptkv::inline PROMPTKV_ABI::detail

#endif
