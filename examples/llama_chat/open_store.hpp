// SPDX-License-Identifier: MIT
// The store of a second level, by the name of its place.
#ifndef PROMPTKV_EXAMPLES_LLAMA_OPEN_STORE_HPP
#define PROMPTKV_EXAMPLES_LLAMA_OPEN_STORE_HPP

#include <promptkv/file_store.hpp>
#include <promptkv/redis_store.hpp>

#include <cstdint>
#include <memory>
#include <stdexcept>
#include <string>
#include <variant>

using AnyStore =
    std::variant<std::unique_ptr<promptkv::FileStore>, std::unique_ptr<promptkv::RedisStore>>;

/// The store that `place` names: redis://HOST:PORT, whose server limits itself, or a directory that takes at
/// most `max_bytes`.
/// Throws:     promptkv::FileStoreError; std::invalid_argument if the address is none.
inline AnyStore open_store(const std::string& place, std::uint64_t max_bytes) {
    if (!place.starts_with("redis://")) {
        return std::make_unique<promptkv::FileStore>(
            promptkv::FileStoreOptions{.directory = place, .max_bytes = max_bytes});
    }
    promptkv::RedisStoreOptions options;
    if (!promptkv::parse_redis_url(place, options))
        throw std::invalid_argument("not the address of a Redis server: " + place);
    return std::make_unique<promptkv::RedisStore>(options);
}

#endif
