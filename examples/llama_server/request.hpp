// SPDX-License-Identifier: MIT
// A request, and its answer on the way from the engine to a client.
#ifndef PROMPTKV_EXAMPLES_LLAMA_SERVER_REQUEST_HPP
#define PROMPTKV_EXAMPLES_LLAMA_SERVER_REQUEST_HPP

#include "store.hpp"

#include <llama-cpp.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <optional>
#include <utility>

namespace llama_server {

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
    llama_sampler_ptr sampler;
    std::string model; // the cache's model key
    std::uint64_t session = 0;
    bool side_request = false;
    bool cache_prompt = true;
};

enum class Finish : std::uint8_t { none, stop, length, cancelled, failed };

struct Result {
    Finish finish = Finish::none; // so long as the answer grows
    std::string stopped_by;       // the stop text, if one ended it
    std::size_t prompt_tokens = 0, predicted = 0;
    std::size_t marked = 0; // tokens that the cache has, up to the client's last mark
    Lookup lookup;          // its request() is 0 where the cache was not asked
    std::chrono::duration<double, std::milli> prompt_time{}, predicted_time{}; // computing these
};

/// A request that was submitted, and its answer. Thread safety: any.
class Job {
public:
    struct News {
        std::string text; // since the last time
        Result result;    // of the prompt; whole, once it is done
        [[nodiscard]] bool done() const { return result.finish != Finish::none; }
    };

    explicit Job(Request asked) : request(std::move(asked)) {}

    /// Waits until there is something new. Empty: there was nothing in that time.
    std::optional<News> wait(std::chrono::milliseconds time) {
        std::unique_lock lock(mutex_);
        changed_.wait_for(lock, time, [this] { return news_.has_value(); });
        return std::exchange(news_, std::nullopt);
    }

    /// For the engine: more of the answer.
    void add(const Result& result, const std::string& text) {
        const std::lock_guard lock(mutex_);
        News& news = news_ ? *news_ : news_.emplace();
        news.text += text;
        news.result = result;
        changed_.notify_one();
    }

    const Request request;
    std::atomic<bool> cancelled{false}; ///< the engine stops, and keeps what was computed
    std::uint64_t erases_before = 0;    ///< of its model, when it was submitted; see Engine::forget
    std::shared_ptr<void> loaded; ///< what the second level brought, until the engine restored it

private:
    std::mutex mutex_;
    std::condition_variable changed_;
    std::optional<News> news_; // since the last time
};

/// The text of an answer as it grows: whole characters, and nothing that may be the start of a stop text.
class AnswerText {
public:
    explicit AnswerText(std::vector<std::string> stops = {}) : stops_(std::move(stops)) {}

    /// Adds a piece, and returns what may be shown now.
    std::string add(std::string_view piece) {
        held_ += piece;
        std::size_t end = std::string::npos; // where a stop text begins
        std::size_t hold = incomplete_character();
        for (const std::string& stop : stops_) {
            if (const std::size_t at = held_.find(stop); at < end) {
                end = at;
                stopped_by_ = stop;
            }
            std::size_t n = std::min(stop.size() - 1, held_.size());
            while (n > hold && !held_.ends_with(std::string_view(stop).substr(0, n)))
                --n;
            hold = std::max(hold, n);
        }
        if (end != std::string::npos) {
            held_.resize(end);
            return rest();
        }
        std::string shown = held_.substr(0, held_.size() - hold);
        held_.erase(0, shown.size());
        return shown;
    }

    /// What was held back.
    std::string rest() { return std::exchange(held_, {}); }
    /// The stop text that ended the answer, or nothing.
    [[nodiscard]] const std::string& stopped_by() const { return stopped_by_; }

private:
    /// Bytes at the end that begin a UTF-8 character which is not whole.
    [[nodiscard]] std::size_t incomplete_character() const {
        const auto first = std::find_if(held_.rbegin(), held_.rend(),
                                        [](unsigned char byte) { return (byte & 0xc0U) != 0x80; });
        const unsigned char byte = first == held_.rend() ? 0 : static_cast<unsigned char>(*first);
        const auto bytes = static_cast<std::size_t>(first - held_.rbegin()) + 1;
        const std::size_t whole = byte >= 0xf0 ? 4 : byte >= 0xe0 ? 3 : byte >= 0xc0 ? 2 : 1;
        return bytes < whole ? bytes : 0;
    }

    std::vector<std::string> stops_;
    std::string held_;
    std::string stopped_by_;
};

} // namespace llama_server

#endif
