// SPDX-License-Identifier: MIT
// An answer on its way from the engine to a client.
#ifndef PROMPTKV_EXAMPLES_LLAMA_SERVER_STREAM_HPP
#define PROMPTKV_EXAMPLES_LLAMA_SERVER_STREAM_HPP

#include "store.hpp"

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <optional>
#include <string>

namespace llama_server {

enum class Finish : std::uint8_t { stop, stop_text, length, cancelled, failed };

struct Result {
    Finish finish = Finish::stop;
    std::string stopped_by; // the stop text
    std::size_t prompt_tokens = 0, reused = 0, predicted = 0;
    Lookup lookup;
    bool looked_up = false;
    double prompt_ms = 0, predicted_ms = 0; // computing the prompt; the answer
};

/// Thread safety: any.
class Stream {
public:
    struct News {
        std::string text; // since the last time
        bool done = false;
        Result result; // of the prompt; whole, once it is done
    };

    /// Waits until there is something new. Empty: there was nothing in that time.
    std::optional<News> wait(std::chrono::milliseconds time) {
        std::unique_lock lock(mutex_);
        if (!changed_.wait_for(lock, time, [this] { return fresh_; })) {
            return std::nullopt;
        }
        fresh_ = false;
        News news = news_;
        news_.text.clear();
        return news;
    }

    /// The client is gone: the engine stops, and keeps what was computed.
    void cancel() { cancelled_ = true; }
    [[nodiscard]] bool cancelled() const { return cancelled_; }

    /// For the engine: more of the answer. The first time it says that the answer begins.
    void add(const Result& result, const std::string& text, bool done = false) {
        const std::lock_guard lock(mutex_);
        fresh_ = fresh_ || !begun_ || done || !text.empty();
        begun_ = true;
        news_.text += text;
        news_.done = done;
        news_.result = result;
        changed_.notify_one();
    }

private:
    std::mutex mutex_;
    std::condition_variable changed_;
    News news_;
    bool begun_ = false, fresh_ = false;
    std::atomic<bool> cancelled_{false};
};

} // namespace llama_server

#endif
