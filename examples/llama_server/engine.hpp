// SPDX-License-Identifier: MIT
// The engine: one context, several sequences that are computed together, and the prompt cache.
#ifndef PROMPTKV_EXAMPLES_LLAMA_SERVER_ENGINE_HPP
#define PROMPTKV_EXAMPLES_LLAMA_SERVER_ENGINE_HPP

#include "metrics.hpp"
#include "store.hpp"
#include "text.hpp"

#include <promptkv/tier.hpp>

#include <llama.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
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

/// A request that was submitted, and its answer on the way from the engine to a client.
/// Thread safety: any.
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

/// What a slot does, under the names that llama-server has for it.
struct SlotView {
    std::int32_t id = 0;
    bool is_processing = false;
    std::size_t n_ctx = 0, n_prompt_tokens = 0, n_prompt_tokens_cache = 0, n_past = 0,
                n_decoded = 0;
    NLOHMANN_DEFINE_TYPE_INTRUSIVE(SlotView, id, is_processing, n_ctx, n_prompt_tokens,
                                   n_prompt_tokens_cache, n_past, n_decoded)
};

class Engine {
public:
    struct Options {
        std::string model_file;
        std::uint32_t context_tokens = 4096; // of each sequence
        std::uint32_t batch_tokens = 256;
        llama_seq_id slots = 4;
        int threads = 2;
        std::size_t max_waiting = 128;
        Store::Options store;
    };

    /// Throws:     std::runtime_error if the model cannot be loaded.
    Engine(const Options& options, Metrics& metrics);
    Engine(const Engine&) = delete;
    Engine& operator=(const Engine&) = delete;
    ~Engine();

    /// Queues a request, once the second level has brought what it has of the prompt. Null where too many
    /// wait.
    /// Requires: 0 < prompt.size() < context_tokens(), of valid tokens.
    [[nodiscard]] std::shared_ptr<Job> submit(Request request);

    [[nodiscard]] const Text& text() const { return text_; }
    [[nodiscard]] Store& store() { return *store_; }
    [[nodiscard]] const llama_model* model() const { return model_.get(); }
    /// Equal only where the state of one context can serve another.
    [[nodiscard]] const std::string& model_key() const { return model_key_; }
    [[nodiscard]] std::size_t context_tokens() const { return options_.context_tokens; }
    /// What each slot does, for GET /slots.
    [[nodiscard]] std::vector<SlotView> slots() const;
    [[nodiscard]] std::size_t waiting() const;

private:
    struct Slot;

    void run();
    void admit(Slot& slot);
    void begin(Slot& slot, std::shared_ptr<Job> job);
    bool fill_batch();
    void take_token(Slot& slot);
    void keep_marks(Slot& slot);
    void end(Slot& slot, Finish finish);
    void fail_all();
    void show_slots();

    Options options_;
    Metrics& metrics_;
    std::unique_ptr<llama_model, decltype(&llama_model_free)> model_;
    Text text_;
    std::unique_ptr<llama_context, decltype(&llama_free)> context_{nullptr, llama_free};
    std::unique_ptr<Store> store_;
    std::string model_key_;
    llama_batch batch_;
    std::vector<Slot> slots_;

    mutable std::mutex mutex_; // of what follows
    std::condition_variable wake_;
    std::deque<std::shared_ptr<Job>> waiting_;
    std::vector<SlotView> views_;
    bool stopping_ = false;
    std::thread thread_; // last: it uses all of the above
};

} // namespace llama_server

#endif
