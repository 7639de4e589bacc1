// SPDX-License-Identifier: MIT
// RedisConnection: pipelined commands over hiredis, with time-outs and a new attempt when it broke.
#ifndef PROMPTKV_DETAIL_REDIS_CONNECTION_HPP
#define PROMPTKV_DETAIL_REDIS_CONNECTION_HPP

#include <promptkv/detail/blocked_signal.hpp>
#include <promptkv/version.hpp>

#include <hiredis/hiredis.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <csignal>
#include <sys/socket.h>
#include <sys/time.h>

namespace promptkv::inline PROMPTKV_ABI {

/// Where a server is, and how long it may take.
struct RedisAddress {
    std::string host = "127.0.0.1";
    int port = 6379;
    std::string user{};
    std::string password{};
    int database = 0;
    std::chrono::milliseconds connect_timeout{500};
    std::chrono::milliseconds timeout{1000}; ///< of one whole answer; 0: none
    /// For how long a server that is down is not tried again; doubled with each failure, up to 32 times.
    std::chrono::milliseconds retry_after{1000};
};

/// Reads `redis://[user:password@]host[:port][/database]` into an address; false where it is none.
[[nodiscard]] inline bool parse_redis_url(std::string_view url, RedisAddress& address) {
    constexpr std::string_view scheme = "redis://";
    if (!url.starts_with(scheme))
        return false;
    url.remove_prefix(scheme.size());
    const auto number = [](std::string_view text, int& value) {
        const auto read = std::from_chars(text.data(), text.data() + text.size(), value);
        return read.ec == std::errc() && read.ptr == text.data() + text.size() && value >= 0;
    };
    if (const auto at = url.rfind('@'); at != std::string_view::npos) {
        const std::string_view login = url.substr(0, at);
        const auto colon = login.find(':');
        if (colon == std::string_view::npos)
            return false;
        address.user = login.substr(0, colon);
        address.password = login.substr(colon + 1);
        url.remove_prefix(at + 1);
    }
    if (const auto slash = url.find('/'); slash != std::string_view::npos) {
        if (slash + 1 < url.size() && !number(url.substr(slash + 1), address.database))
            return false;
        url = url.substr(0, slash);
    }
    if (const auto colon = url.rfind(':'); colon != std::string_view::npos) {
        if (!number(url.substr(colon + 1), address.port))
            return false;
        url = url.substr(0, colon);
    }
    address.host = url;
    return !url.empty();
}

namespace detail {

struct FreesReply {
    void operator()(redisReply* reply) const noexcept { freeReplyObject(reply); }
};
using RedisReply = std::unique_ptr<redisReply, FreesReply>;

[[nodiscard]] inline std::string_view text_of(const RedisReply& reply) noexcept {
    const bool has_text = reply != nullptr && reply->str != nullptr &&
                          (reply->type == REDIS_REPLY_STRING || reply->type == REDIS_REPLY_STATUS ||
                           reply->type == REDIS_REPLY_ERROR);
    return has_text ? std::string_view(reply->str, static_cast<std::size_t>(reply->len))
                    : std::string_view();
}
/// The bytes of a string; empty for all else.
[[nodiscard]] inline std::span<const std::byte> bytes_of(const RedisReply& reply) noexcept {
    if (reply == nullptr || reply->type != REDIS_REPLY_STRING)
        return {};
    const std::string_view text = text_of(reply);
    return std::as_bytes(std::span(text.data(), text.size()));
}

/// Commands that are sent together. A value is not copied here.
class RedisPipeline {
public:
    struct Command {
        std::vector<std::string> words;
        std::size_t value_at = ~std::size_t{0}; // the word that `value` replaces
        std::span<const std::byte> value{};
    };

    void add(std::vector<std::string> words) { commands_.emplace_back().words = std::move(words); }
    void add(std::vector<std::string> words, std::size_t value_at,
             std::span<const std::byte> value) {
        commands_.push_back({std::move(words), value_at, value});
    }
    [[nodiscard]] std::span<const Command> commands() const noexcept { return commands_; }

private:
    std::vector<Command> commands_;
};

/// A connection that is made when it is needed, and made anew when it broke. All commands may be sent
/// twice. Thread safety: none.
class RedisConnection {
public:
    struct Ran {
        bool works = false;
        bool was_down = false; // it was not tried
        std::uint64_t connects = 0;
        std::uint64_t failures = 0;
    };

    explicit RedisConnection(const RedisAddress& address) : address_(address) {}

    /// Sends the commands and reads the answers, in their order.
    Ran run(const RedisPipeline& pipeline, std::vector<RedisReply>& replies) {
        Ran ran;
        try {
            run(pipeline, replies, ran);
        } catch (...) { // answers are left to be read, or it is not logged in
            context_.reset();
            throw;
        }
        return ran;
    }

private:
    using Clock = std::chrono::steady_clock;
    struct FreesContext {
        void operator()(redisContext* context) const noexcept { redisFree(context); }
    };

    [[nodiscard]] static timeval to_timeval(std::chrono::milliseconds time) noexcept {
        timeval value{};
        value.tv_sec = static_cast<time_t>(time.count() / 1000);
        value.tv_usec = static_cast<suseconds_t>(time.count() % 1000 * 1000);
        return value;
    }

    void run(const RedisPipeline& pipeline, std::vector<RedisReply>& replies, Ran& ran) {
        if (pipeline.commands().empty()) {
            ran.works = true;
            return;
        }
        // An idle connection may have been closed by the server: then one new attempt is made.
        for (bool is_fresh = false; !is_fresh && !ran.works;) {
            if (context_ == nullptr) {
                if (Clock::now() < retry_at_) {
                    ran.was_down = true;
                    return;
                }
                is_fresh = true;
                ++ran.connects;
                if (!connect()) {
                    failed(ran);
                    return;
                }
            }
            ran.works = exchange(pipeline, replies);
            if (!ran.works) {
                const bool was_late =
                    was_late_ || (context_->err == REDIS_ERR_IO && errno == EAGAIN);
                context_.reset();
                if (is_fresh || was_late) {
                    failed(ran);
                    return;
                }
                ++ran.failures;
            }
        }
        wait_ = std::chrono::milliseconds(0);
        // After a failover the address may lead to another server: the next call asks there.
        if (std::ranges::any_of(replies, [](const RedisReply& reply) {
                return reply->type == REDIS_REPLY_ERROR && text_of(reply).starts_with("READONLY");
            }))
            context_.reset();
    }

    void failed(Ran& ran) {
        ++ran.failures;
        wait_ = wait_.count() == 0 ? address_.retry_after
                                   : (std::min)(2 * wait_, 32 * address_.retry_after);
        retry_at_ = Clock::now() + wait_;
    }

    [[nodiscard]] bool connect() {
        context_.reset(redisConnectWithTimeout(address_.host.c_str(), address_.port,
                                               to_timeval(address_.connect_timeout)));
        bool works = context_ != nullptr && context_->err == 0 &&
                     redisSetTimeout(context_.get(), to_timeval(address_.timeout)) == REDIS_OK;
#ifdef SO_NOSIGPIPE // where a signal may go to another thread: see BlockedSignal
        const int on = 1;
        if (context_ != nullptr)
            ::setsockopt(context_->fd, SOL_SOCKET, SO_NOSIGPIPE, &on, sizeof on);
#endif
        RedisPipeline login;
        if (!address_.password.empty() && address_.user.empty())
            login.add({"AUTH", address_.password});
        else if (!address_.password.empty())
            login.add({"AUTH", address_.user, address_.password});
        if (address_.database != 0)
            login.add({"SELECT", std::to_string(address_.database)});
        std::vector<RedisReply> replies;
        works = works && exchange(login, replies) &&
                std::ranges::none_of(replies, [](const RedisReply& reply) {
                    return reply->type == REDIS_REPLY_ERROR;
                });
        if (!works)
            context_.reset();
        return works;
    }

    [[nodiscard]] bool exchange(const RedisPipeline& pipeline, std::vector<RedisReply>& replies) {
        const BlockedSignal broken_pipe(SIGPIPE); // hiredis writes to what the server has closed
        const std::size_t n = pipeline.commands().size();
        was_late_ = false;
        replies.clear();
        replies.reserve(n);
        std::vector<const char*> words;
        std::vector<std::size_t> sizes;
        for (const RedisPipeline::Command& command : pipeline.commands()) {
            words.clear();
            sizes.clear();
            for (std::size_t i = 0; i < command.words.size(); ++i) {
                const bool is_value = i == command.value_at;
                words.push_back(is_value ? reinterpret_cast<const char*>(command.value.data())
                                         : command.words[i].data());
                sizes.push_back(is_value ? command.value.size() : command.words[i].size());
            }
            if (redisAppendCommandArgv(context_.get(), static_cast<int>(words.size()), words.data(),
                                       sizes.data()) != REDIS_OK)
                return false;
        }
        // A server that goes on by single bytes never runs into the socket's own time-out.
        const auto send_by = Clock::now() + address_.timeout * static_cast<int>(n);
        for (int done = 0; n > 0 && done == 0;) {
            if (is_late(send_by) || redisBufferWrite(context_.get(), &done) != REDIS_OK)
                return false;
        }
        while (replies.size() < n) {
            void* reply = nullptr;
            const auto receive_by = Clock::now() + address_.timeout;
            while (redisGetReplyFromReader(context_.get(), &reply) == REDIS_OK &&
                   reply == nullptr) {
                if (is_late(receive_by) || redisBufferRead(context_.get()) != REDIS_OK)
                    return false;
            }
            if (reply == nullptr)
                return false;
            replies.emplace_back(static_cast<redisReply*>(reply));
        }
        return true;
    }
    [[nodiscard]] bool is_late(Clock::time_point deadline) noexcept {
        was_late_ = address_.timeout.count() > 0 && Clock::now() >= deadline;
        return was_late_;
    }

    const RedisAddress address_;
    std::unique_ptr<redisContext, FreesContext> context_;
    bool was_late_ = false; // the last command
    std::chrono::milliseconds wait_{0};
    Clock::time_point retry_at_{};
};

} // namespace detail
} // namespace promptkv::inline PROMPTKV_ABI

#endif
