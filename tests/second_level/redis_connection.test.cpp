// SPDX-License-Identifier: MIT
// RedisConnection, with a server that does as the test says.

#include "catch.hpp"

#include <promptkv/detail/redis_connection.hpp>

#include <array>
#include <chrono>
#include <csignal>
#include <cstddef>
#include <span>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

namespace {

using promptkv::RedisAddress;
using promptkv::detail::RedisConnection;
using promptkv::detail::RedisPipeline;
using promptkv::detail::RedisReply;

/// Serves one connection on a thread of its own: `serve(socket)`. Then nobody listens any more.
class FakeServer {
public:
    template <class Serve>
    explicit FakeServer(Serve serve) {
        listener_ = ::socket(AF_INET, SOCK_STREAM, 0);
        sockaddr_in address{};
        address.sin_family = AF_INET;
        address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        socklen_t size = sizeof address;
        ::bind(listener_, reinterpret_cast<sockaddr*>(&address), size);
        ::getsockname(listener_, reinterpret_cast<sockaddr*>(&address), &size);
        ::listen(listener_, 1);
        address_.port = ntohs(address.sin_port);
        address_.timeout = std::chrono::seconds(30); // never reached where all is well
        address_.connect_timeout = std::chrono::seconds(30);
        thread_ = std::thread([this, serve] {
            const int connection = ::accept(listener_, nullptr, nullptr);
            ::close(listener_);
            serve(connection);
            ::close(connection);
        });
    }
    FakeServer(const FakeServer&) = delete;
    FakeServer& operator=(const FakeServer&) = delete;
    ~FakeServer() { wait(); }

    /// Waits until the connection is closed.
    void wait() {
        if (thread_.joinable())
            thread_.join();
    }
    [[nodiscard]] const RedisAddress& address() const noexcept { return address_; }

private:
    int listener_ = -1;
    RedisAddress address_;
    std::thread thread_;
};

void answer(int connection, std::string_view text) {
    std::array<char, 4096> command{};
    if (::recv(connection, command.data(), command.size(), 0) > 0)
        ::send(connection, text.data(), text.size(), 0);
}

volatile std::sig_atomic_t broken_pipes = 0;

TEST_CASE("a connection that the server closed raises no SIGPIPE") {
    FakeServer server([](int connection) { answer(connection, "+PONG\r\n"); });
    RedisConnection connection(server.address());
    std::vector<RedisReply> replies;
    RedisPipeline ping;
    ping.add({"PING"});
    REQUIRE(connection.run(ping, replies).works);
    server.wait();

    broken_pipes = 0;
    auto* const before = std::signal(SIGPIPE, [](int) { broken_pipes = 1; });
    const std::vector<std::byte> value(std::size_t{64} << 20U); // more than a socket takes at once
    RedisPipeline set;
    set.add({"SET", "key", ""}, 2, value);
    const RedisConnection::Ran ran = connection.run(set, replies);
    std::signal(SIGPIPE, before);
    CHECK_FALSE(ran.works);
    CHECK(ran.failures > 0);
    CHECK(broken_pipes == 0);
}

TEST_CASE("an answer that comes byte by byte is not waited for without end") {
    FakeServer server([](int connection) {
        answer(connection, "$200\r\n");
        for (int i = 0; i < 200; ++i) { // each byte in time
            if (::send(connection, "x", 1, MSG_NOSIGNAL) < 0)
                return;
            std::this_thread::sleep_for(std::chrono::milliseconds(10));
        }
        ::send(connection, "\r\n", 2, MSG_NOSIGNAL);
    });
    RedisAddress address = server.address();
    address.timeout = std::chrono::milliseconds(500);
    RedisConnection connection(address);
    RedisPipeline get;
    get.add({"GET", "key"});
    std::vector<RedisReply> replies;
    const RedisConnection::Ran ran = connection.run(get, replies);
    CHECK_FALSE(ran.works);
    CHECK(ran.connects == 1);
    CHECK(ran.failures == 1);
}

} // namespace
