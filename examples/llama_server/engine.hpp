// SPDX-License-Identifier: MIT
// The engine: one context, several sequences that are computed together, and the prompt cache.
#ifndef PROMPTKV_EXAMPLES_LLAMA_SERVER_ENGINE_HPP
#define PROMPTKV_EXAMPLES_LLAMA_SERVER_ENGINE_HPP

#include "metrics.hpp"
#include "sampling.hpp"
#include "store.hpp"
#include "stream.hpp"
#include "text.hpp"

#include <promptkv/tier.hpp>

#include <llama.h>

#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

namespace llama_server {

struct Request {
    /// A prefix that gets an entry of its own.
    struct Mark {
        std::size_t tokens;
        promptkv::Tier tier;
    };

    Tokens prompt;
    std::vector<Mark> marks;
    std::size_t max_tokens = 256;
    Sampling sampling;
    std::vector<std::string> stops;
    std::string model; // the cache's model key
    std::uint64_t session = 0;
    bool side_request = false;
    bool cache_prompt = true;
};

class Engine {
public:
    struct Options {
        std::string model_file;
        std::uint32_t context_tokens = 4096; // of each sequence
        std::uint32_t batch_tokens = 256;
        llama_seq_id slots = 4;
        int threads = 2;
        std::size_t max_waiting = 1024;
        Store::Options store;
    };

    /// What a slot does, for GET /slots.
    struct SlotView {
        bool busy = false;
        std::size_t prompt_tokens = 0, reused = 0, computed = 0, predicted = 0;
        std::uint64_t session = 0;
    };

    /// Throws:     std::runtime_error if the model cannot be loaded.
    Engine(const Options& options, Metrics& metrics);
    Engine(const Engine&) = delete;
    Engine& operator=(const Engine&) = delete;
    ~Engine();

    /// Queues a request, once the second level has brought what it has of the prompt. Null where too many
    /// wait.
    /// Requires: 0 < prompt.size() < context_tokens(), of valid tokens.
    [[nodiscard]] std::shared_ptr<Stream> submit(Request request);

    [[nodiscard]] const Text& text() const { return *text_; }
    [[nodiscard]] Store& store() { return *store_; }
    [[nodiscard]] const llama_model* model() const { return model_.get(); }
    /// Equal only where the state of one context can serve another.
    [[nodiscard]] const std::string& model_key() const { return model_key_; }
    [[nodiscard]] std::size_t context_tokens() const { return options_.context_tokens; }
    [[nodiscard]] std::vector<SlotView> slots() const;
    [[nodiscard]] std::size_t waiting() const;

private:
    struct Job {
        Request request;
        std::shared_ptr<Stream> stream;
        std::chrono::steady_clock::time_point arrived;
        std::shared_ptr<void> loaded; // what the second level brought, until it is restored
    };
    struct Slot;

    void run();
    void admit();
    void begin(Slot& slot, Job job);
    bool fill_batch();
    void after_batch();
    void take_token(Slot& slot);
    void keep_marks(Slot& slot);
    void keep(const Slot& slot, std::size_t tokens, promptkv::Tier tier);
    void end(Slot& slot, Finish finish);
    void fail_all();
    void show_slots();

    Options options_;
    Metrics& metrics_;
    std::unique_ptr<llama_model, decltype(&llama_model_free)> model_;
    std::unique_ptr<llama_context, decltype(&llama_free)> context_;
    std::unique_ptr<Text> text_;
    std::unique_ptr<Store> store_;
    std::string model_key_;
    llama_batch batch_;
    std::vector<Slot> slots_;

    mutable std::mutex mutex_; // of what follows
    std::condition_variable wake_;
    std::deque<Job> waiting_;
    std::vector<SlotView> views_;
    bool stopping_ = false;
    std::thread thread_; // last: it uses all of the above
};

} // namespace llama_server

#endif
