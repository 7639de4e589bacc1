// SPDX-License-Identifier: MIT
// A redis-server of the test's own, on a free port of the loopback.
#ifndef PROMPTKV_TESTS_SECOND_LEVEL_REDIS_SERVER_HPP
#define PROMPTKV_TESTS_SECOND_LEVEL_REDIS_SERVER_HPP

#include "fixture.hpp"

#include <promptkv/redis_store.hpp>

#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include <arpa/inet.h>
#include <csignal>
#include <netinet/in.h>
#include <spawn.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

namespace promptkv_test {

class RedisServer {
public:
    explicit RedisServer(std::vector<std::string> options = {}) : options_(std::move(options)) {
        start();
    }
    RedisServer(const RedisServer&) = delete;
    RedisServer& operator=(const RedisServer&) = delete;
    ~RedisServer() { stop(); }

    /// Starts it. Once more: empty, at the same port.
    void start() {
        const bool is_first = port_ == 0;
        for (int attempt = 0; attempt < 20; ++attempt) { // another process may have the port
            if (is_first)
                port_ = free_port();
            if (spawn() && answers())
                return;
            stop();
        }
        throw std::runtime_error("redis-server does not start");
    }
    void stop() {
        if (process_ > 0) {
            ::kill(process_, SIGKILL);
            ::waitpid(process_, nullptr, 0);
            process_ = 0;
        }
    }
    /// Returns when it has stopped.
    void freeze() const {
        ::kill(process_, SIGSTOP);
        ::waitpid(process_, nullptr, WUNTRACED);
    }
    void thaw() const { ::kill(process_, SIGCONT); }

    [[nodiscard]] promptkv::RedisStoreOptions options() const {
        promptkv::RedisStoreOptions options;
        options.port = port_;
        options.timeout = std::chrono::seconds(30); // never reached where all is well
        options.connect_timeout = std::chrono::seconds(30);
        return options;
    }

    /// Sends a command. Returns the text of the answer.
    std::string ask(std::vector<std::string> words) const {
        promptkv::detail::RedisConnection connection(options());
        promptkv::detail::RedisPipeline one;
        one.add(std::move(words));
        std::vector<promptkv::detail::RedisReply> replies;
        if (!connection.run(one, replies).works)
            return {};
        const auto& reply = replies[0];
        return reply->type == REDIS_REPLY_INTEGER ? std::to_string(reply->integer)
                                                  : std::string(promptkv::detail::text_of(reply));
    }

private:
    static int free_port() {
        const int socket = ::socket(AF_INET, SOCK_STREAM, 0);
        sockaddr_in address{};
        address.sin_family = AF_INET;
        address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        socklen_t size = sizeof address;
        ::bind(socket, reinterpret_cast<sockaddr*>(&address), size);
        ::getsockname(socket, reinterpret_cast<sockaddr*>(&address), &size);
        ::close(socket);
        return ntohs(address.sin_port);
    }

    bool spawn() {
        std::vector<std::string> words = {PROMPTKV_REDIS_SERVER,
                                          "--port",
                                          std::to_string(port_),
                                          "--bind",
                                          "127.0.0.1",
                                          "--save",
                                          "",
                                          "--appendonly",
                                          "no",
                                          "--logfile",
                                          "/dev/null",
                                          "--dir",
                                          folder_.path()};
        words.insert(words.end(), options_.begin(), options_.end());
        std::vector<char*> arguments;
        for (std::string& word : words)
            arguments.push_back(word.data());
        arguments.push_back(nullptr);
        return ::posix_spawn(&process_, words[0].c_str(), nullptr, nullptr, arguments.data(),
                             environ) == 0;
    }

    /// Waits until it answers; false: it ended.
    bool answers() const {
        while (ask({"PING"}).empty()) { // also an error: it wants a password
            if (::waitpid(process_, nullptr, WNOHANG) != 0)
                return false;
            ::usleep(10'000);
        }
        return true;
    }

    Folder folder_;
    std::vector<std::string> options_;
    int port_ = 0;
    pid_t process_ = 0;
};

} // namespace promptkv_test

#endif
