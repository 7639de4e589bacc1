// SPDX-License-Identifier: MIT
// The engine: one context, several sequences that are computed together, and the prompt cache.
#ifndef PROMPTKV_EXAMPLES_LLAMA_SERVER_ENGINE_HPP
#define PROMPTKV_EXAMPLES_LLAMA_SERVER_ENGINE_HPP

#include "llama_context.hpp"
#include "request.hpp"

#include <cstdio>
#include <deque>
#include <exception>
#include <functional>
#include <stop_token>
#include <thread>
#include <unordered_map>

namespace llama_server {

class Engine {
public:
    struct Options {
        Store::Options store;
        std::string model_file;
        std::uint32_t context_tokens = 4096; // of each sequence
        std::uint32_t batch_tokens = 256;
        int threads = static_cast<int>(std::max(2U, std::thread::hardware_concurrency()) / 2);
        std::size_t max_waiting = 128;
    };

    /// Since the engine was made; now in a slot, and waiting for one. Thread safety: any; reads see each
    /// number by itself.
    struct Counts {
        std::atomic<std::uint64_t> queried_tokens, cached_tokens, prompt_tokens, predicted_tokens;
        std::atomic<std::uint64_t> decodes, cancelled, refused, processing, deferred;
        std::atomic<double> prompt_seconds, predicted_seconds;
    };

    /// Throws:     std::runtime_error if the model cannot be loaded.
    explicit Engine(const Options& options)
        : options_(options), llama_(options.model_file, params_of(options)),
          store_(make_store(llama_.get(), options.store)) {
        for (llama_seq_id id = 0; id < options.store.slots; ++id)
            slots_.emplace_back(id);
        show_slots();
        thread_ = std::jthread([this](const std::stop_token& stop) { run(stop); });
    }

    /// Queues a request, once the second level has brought what it has of the prompt. Null where too many
    /// wait.
    /// Requires: 0 < prompt.size() < Options::context_tokens, of valid tokens.
    [[nodiscard]] std::shared_ptr<Job> submit(Request asked) {
        auto job = std::make_shared<Job>(std::move(asked));
        const Request& request = job->request;
        std::unique_lock lock(mutex_);
        job->erases_before = erases_of(request.model);
        if (request.cache_prompt && has_room()) {
            lock.unlock();
            job->loaded = store_->prefetch(request.model, request.prompt,
                                           request.side_request ? 0 : request.session);
            lock.lock();
        }
        if (!has_room()) {
            ++counts_.refused;
            return nullptr;
        }
        waiting_.push_back(job);
        wake_.notify_one();
        return job;
    }

    /// Something of a model is about to be erased: what its requests compute is not kept any more.
    /// What is being kept is there when this returns, and is erased as well.
    void forget(const std::string& model) {
        const std::lock_guard keeping(keeping_);
        const std::lock_guard lock(mutex_);
        ++erases_[model];
    }

    [[nodiscard]] const LlamaText& text() const { return llama_.text(); }
    [[nodiscard]] Store& store() { return *store_; }
    [[nodiscard]] const std::string& model_key() const { return llama_.model_key(); }
    /// What each slot does, as llama-server shows it.
    [[nodiscard]] json slots() const {
        const std::lock_guard lock(mutex_);
        return shown_;
    }
    [[nodiscard]] const Counts& counts() const { return counts_; }

private:
    /// A sequence of the context, and the request that it serves.
    ///
    ///     tokens   [ reused | computed here | answer ]
    ///                                       ^ done: the sequence holds the tokens before it
    struct Slot {
        explicit Slot(llama_seq_id number) : id(number) {}

        llama_seq_id id;
        std::shared_ptr<Job> job; // null: idle
        Tokens tokens;
        std::size_t done = 0;
        std::vector<Request::Mark> marks; // those that are still to be kept, the last one first
        AnswerText answer;
        Result result;
        Clock::time_point begun, answered; // the request; its first token
        std::int32_t logits = -1; // the place in the batch whose logits give the next token

        [[nodiscard]] bool busy() const { return job != nullptr; }
        [[nodiscard]] bool in_prompt() const { return done < result.prompt_tokens; }
    };

    static llama_context_params params_of(const Options& options) {
        const auto slots = static_cast<std::uint32_t>(options.store.slots);
        llama_context_params params = llama_context_default_params();
        params.n_ctx = options.context_tokens * slots;
        params.n_batch = options.batch_tokens + slots;
        params.n_seq_max = slots + 1; // with the scratch sequence
        params.n_threads = options.threads;
        return params;
    }

    // the engine's thread ////////////////////////////////////////////////////////////////////////

    void run(const std::stop_token& stop) {
        std::unique_lock lock(mutex_);
        const auto has_work = [this] {
            return !waiting_.empty() || std::ranges::any_of(slots_, &Slot::busy);
        };
        while (wake_.wait(lock, stop, has_work), !stop.stop_requested()) {
            counts_.cancelled +=
                std::erase_if(waiting_, [](const auto& job) { return job->cancelled.load(); });
            for (Slot& slot : slots_) {
                if (!slot.busy() && !waiting_.empty()) {
                    slot.job = std::move(waiting_.front());
                    waiting_.pop_front();
                }
            }
            show_slots();
            lock.unlock();
            step();
            lock.lock();
        }
        lock.unlock();
        end_all(Finish::cancelled); // nobody waits for these, nor for those in the queue
    }

    /// Begins the slot's request with what is stored of its prompt.
    void begin(Slot& slot) {
        const Request& request = slot.job->request;
        slot.begun = Clock::now();
        slot.tokens = request.prompt;
        slot.answer = AnswerText(request.stops);
        slot.result.prompt_tokens = slot.tokens.size();
        if (request.cache_prompt) {
            slot.result.lookup = store_->restore(slot.id, request.model, slot.tokens);
            slot.job->loaded.reset();
            slot.done = slot.result.lookup.reused();
            counts_.queried_tokens += slot.tokens.size();
            counts_.cached_tokens += slot.done;
            // The end of the prompt: what a next turn continues, or an answer that is asked for again. A
            // state that serves its whole key only must leave a token to compute.
            const std::size_t end = slot.tokens.size() - (store_->cuttable() ? 0 : 1);
            slot.marks = request.marks;
            slot.marks.push_back({end, promptkv::Tier::user});
            std::ranges::sort(slot.marks, std::ranges::greater(), &Request::Mark::tokens);
            keep_marks(slot);
        }
    }

    /// Computes one batch.
    void step() {
        for (Slot& slot : slots_) {
            if (slot.busy() && slot.job->cancelled)
                end(slot, Finish::cancelled);
            else if (slot.busy() && slot.tokens.empty())
                begin(slot);
        }
        fill_batch();
        if (llama_.batch_empty())
            return;
        ++counts_.decodes;
        if (!llama_.compute())
            end_all(Finish::failed); // nothing of this batch is sure
        for (Slot& slot : slots_) {
            if (slot.logits >= 0)
                take_token(slot); // first: a client waits for it
            if (slot.busy())
                keep_marks(slot);
        }
    }

    /// One token of each answer, then as much of the prompts as there is room for.
    void fill_batch() {
        const auto add = [&](Slot& slot) {
            const bool last = slot.done + 1 == slot.tokens.size();
            const auto place = llama_.add(slot.tokens[slot.done], slot.done, slot.id, last);
            slot.logits = last ? place : -1;
            ++slot.done;
        };
        std::vector<Slot*> prompts; // the oldest first: that it is done sooner makes none later
        for (Slot& slot : slots_) {
            if (slot.busy() && slot.in_prompt())
                prompts.push_back(&slot);
            else if (slot.busy())
                add(slot);
        }
        std::ranges::sort(prompts, {}, &Slot::begun);
        std::size_t room = options_.batch_tokens;
        for (Slot* slot : prompts) {
            std::size_t end = slot->result.prompt_tokens;
            if (!store_->cuttable() && !slot->marks.empty())
                end = std::min(end, slot->marks.back().tokens); // where a state is kept
            for (; room > 0 && slot->done < end; --room)
                add(*slot);
        }
    }

    /// Chooses the next token of the slot's answer.
    void take_token(Slot& slot) {
        Result& result = slot.result;
        const llama_token token =
            llama_sampler_sample(slot.job->request.sampler.get(), llama_.get(), slot.logits);
        slot.logits = -1;
        if (result.predicted++ == 0) {
            slot.answered = Clock::now();
            result.prompt_time = slot.answered - slot.begun;
            counts_.prompt_tokens += result.prompt_tokens - result.lookup.reused();
            counts_.prompt_seconds += result.prompt_time.count() / 1000;
        }
        result.predicted_time = Clock::now() - slot.answered;
        ++counts_.predicted_tokens;
        const bool ends = text().ends(token);
        if (!ends) {
            slot.tokens.push_back(token);
            slot.job->add(result, slot.answer.add(text().piece(token)));
        }
        if (ends || !slot.answer.stopped_by().empty()) {
            end(slot, Finish::stop);
        } else if (result.predicted >= slot.job->request.max_tokens ||
                   slot.tokens.size() >= options_.context_tokens) {
            end(slot, Finish::length);
        }
    }

    /// Keeps the prefixes that are computed by now.
    void keep_marks(Slot& slot) {
        const Request& request = slot.job->request;
        const std::lock_guard keeping(keeping_);
        if (erases_of(request.model) != slot.job->erases_before)
            slot.marks.clear();
        while (!slot.marks.empty() && slot.marks.back().tokens <= slot.done) {
            const auto [tokens, tier] = slot.marks.back();
            slot.marks.pop_back();
            if (tokens == 0 || (!store_->cuttable() && tokens != slot.done))
                continue;
            // A system prompt belongs to no session: it outlives each.
            const bool shared = tier == promptkv::Tier::system;
            try {
                const bool kept =
                    store_->keep(slot.id, request.model, TokenSpan(slot.tokens).first(tokens), tier,
                                 {.session = shared ? 0 : request.session,
                                  .request = slot.result.lookup.request(),
                                  .side_request = request.side_request});
                if (kept && tokens <= request.marked)
                    slot.result.marked = tokens;
            } catch (const std::exception& error) { // the answer does not need it
                std::fprintf(stderr, "a state could not be kept: %s\n", error.what());
            }
        }
    }

    /// Ends the slot's request, and keeps what was computed of it.
    void end(Slot& slot, Finish finish) {
        Result& result = slot.result;
        result.finish = finish;
        result.stopped_by = slot.answer.stopped_by();
        if (finish != Finish::failed && slot.job->request.cache_prompt) {
            keep_marks(slot);
            slot.marks = {
                {slot.done, slot.in_prompt() ? promptkv::Tier::user : promptkv::Tier::assistant}};
            keep_marks(slot);
        }
        store_->clear(slot.id);
        counts_.cancelled += finish == Finish::cancelled ? 1 : 0;
        counts_.predicted_seconds += result.predicted_time.count() / 1000;
        Slot ended = std::exchange(slot, Slot(slot.id));
        {
            const std::lock_guard lock(mutex_);
            show_slots(); // before the client asks again
        }
        ended.job->add(ended.result, ended.answer.rest());
    }

    void end_all(Finish finish) {
        for (Slot& slot : slots_) {
            if (slot.busy())
                end(slot, finish);
        }
    }

    /// Requires: one of the locks.
    [[nodiscard]] std::uint64_t erases_of(const std::string& model) const {
        const auto found = erases_.find(model);
        return found != erases_.end() ? found->second : 0;
    }

    /// Whether a request can begin soon, or may wait. Requires: the lock.
    [[nodiscard]] bool has_room() const {
        return waiting_.size() + counts_.processing < options_.max_waiting + slots_.size();
    }

    /// Requires: the lock.
    void show_slots() {
        shown_ = json::array();
        for (const Slot& slot : slots_) {
            shown_.push_back({{"id", slot.id},
                              {"is_processing", slot.busy()},
                              {"n_ctx", options_.context_tokens},
                              {"n_prompt_tokens", slot.result.prompt_tokens},
                              {"n_prompt_tokens_cache", slot.result.lookup.reused()},
                              {"n_past", slot.done},
                              {"n_decoded", slot.result.predicted}});
        }
        const auto busy = std::ranges::count_if(slots_, &Slot::busy);
        counts_.processing = static_cast<std::uint64_t>(busy);
        counts_.deferred = waiting_.size();
    }

    Options options_;
    Counts counts_;
    LlamaContext llama_;
    std::unique_ptr<Store> store_;
    std::vector<Slot> slots_;

    std::mutex keeping_;       // while state is kept; taken before the other
    mutable std::mutex mutex_; // of what follows
    std::condition_variable_any wake_;
    std::deque<std::shared_ptr<Job>> waiting_;
    std::unordered_map<std::string, std::uint64_t> erases_; // of each model; changed under both
    json shown_;                                            // of the slots
    std::jthread thread_;                                   // last: it uses all of the above
};

} // namespace llama_server

#endif
