// SPDX-License-Identifier: MIT
// A request, and its answer on the way from the engine to a client.
#ifndef PROMPTKV_EXAMPLES_LLAMA_SERVER_REQUEST_HPP
#define PROMPTKV_EXAMPLES_LLAMA_SERVER_REQUEST_HPP

#include "store.hpp"
#include "text.hpp"

#include <promptkv/tier.hpp>

#include <llama.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace llama_server {

using Clock = std::chrono::steady_clock;

/// What a client asks for.
struct Request {
    /// A prefix that gets an entry of its own.
    struct Mark {
        std::size_t tokens;
        promptkv::Tier tier;
    };

    Tokens prompt;
    std::vector<Mark> marks;
    std::size_t marked = 0; // tokens up to the last mark that the client set
    std::size_t max_tokens = 256;
    std::vector<std::string> stops;
    float temperature = 0.8F; // 0: the most likely token
    float top_p = 0.95F;
    float min_p = 0.05F;
    std::int32_t top_k = 40;
    std::uint32_t seed = LLAMA_DEFAULT_SEED;
    std::string model; // the cache's model key
    std::uint64_t session = 0;
    bool side_request = false;
    bool cache_prompt = true;
};

enum class Finish : std::uint8_t { stop, stop_text, length, cancelled, failed };

struct Result {
    Finish finish = Finish::stop;
    std::string stopped_by; // the stop text
    std::size_t prompt_tokens = 0, predicted = 0;
    Lookup lookup;                          // its request() is 0 where the cache was not asked
    double prompt_ms = 0, predicted_ms = 0; // computing the prompt; the answer
};

/// A request that was submitted, and its answer. Thread safety: any.
class Job {
public:
    struct News {
        std::string text; // since the last time
        Result result;    // of the prompt; whole, once it is done
        bool done = false;
    };

    explicit Job(Request asked) : request(std::move(asked)) {}

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

    /// For the engine: more of the answer.
    void add(const Result& result, const std::string& text, bool done = false) {
        const std::lock_guard lock(mutex_);
        fresh_ = true;
        news_.text += text;
        news_.result = result;
        news_.done = done;
        changed_.notify_one();
    }

    const Request request;
    const Clock::time_point arrived = Clock::now();
    std::shared_ptr<void> loaded; ///< what the second level brought, until the engine restored it

private:
    std::mutex mutex_;
    std::condition_variable changed_;
    News news_;
    bool fresh_ = false;
    std::atomic<bool> cancelled_{false};
};

} // namespace llama_server

#endif
