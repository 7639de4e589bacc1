// SPDX-License-Identifier: MIT
#include "engine.hpp"

#include "load_model.hpp"
#include "model_key.hpp"

#include <algorithm>
#include <cstdio>
#include <exception>
#include <optional>
#include <stdexcept>
#include <utility>

namespace llama_server {
namespace {

using Clock = std::chrono::steady_clock;

double milliseconds_since(Clock::time_point begin) {
    return std::chrono::duration<double, std::milli>(Clock::now() - begin).count();
}

} // namespace

/// A sequence of the context, and the request that it serves.
///
///     tokens   [ reused | computed here | answer ]
///                                       ^ done: the sequence holds the tokens before it
struct Engine::Slot {
    llama_seq_id id = 0;
    std::optional<Job> job;
    Tokens tokens;
    std::size_t done = 0;
    std::vector<Request::Mark> marks; // those that are still to be kept, the last one first
    Sampler sampler{nullptr, llama_sampler_free};
    AnswerText answer{{}};
    Result result;
    Clock::time_point begun, answered; // the request; its first token
    std::int32_t logits = -1;          // the place in the batch whose logits give the next token

    [[nodiscard]] std::size_t prompt_tokens() const { return job->request.prompt.size(); }
};

Engine::Engine(const Options& options, Metrics& metrics)
    : options_(options), metrics_(metrics),
      model_(load_model(options.model_file), llama_model_free), context_(nullptr, llama_free),
      text_(std::make_unique<Text>(model_.get())),
      batch_(
          llama_batch_init(static_cast<std::int32_t>(options.batch_tokens) + options.slots, 0, 1)) {
    const auto slots = static_cast<std::uint32_t>(options.slots);
    llama_context_params params = llama_context_default_params();
    params.n_ctx = options.context_tokens * slots;
    params.n_batch = options.batch_tokens + slots;
    params.n_ubatch = params.n_batch;
    params.n_seq_max = slots + 1; // with the scratch sequence
    params.n_threads = params.n_threads_batch = options.threads;
    params.kv_unified = true; // the sequences share cells with the scratch sequence
    params.swa_full = true;   // sliding windows are not pruned, so that they can be cut
    context_.reset(llama_init_from_model(model_.get(), params));
    if (context_ == nullptr) {
        throw std::runtime_error("llama.cpp made no context for " + options.model_file);
    }
    model_key_ = llama_kv::model_key(options.model_file, params);
    store_ = make_store(context_.get(), options.slots, options.store);
    slots_.resize(slots);
    views_.resize(slots);
    for (llama_seq_id id = 0; id < options.slots; ++id) {
        slots_[static_cast<std::size_t>(id)].id = id;
    }
    thread_ = std::thread([this] { run(); });
}

Engine::~Engine() {
    {
        const std::lock_guard lock(mutex_);
        stopping_ = true;
    }
    wake_.notify_one();
    thread_.join();
    llama_batch_free(batch_);
}

std::shared_ptr<Stream> Engine::submit(Request request) {
    Job job{std::move(request), std::make_shared<Stream>(), Clock::now(), nullptr};
    const std::shared_ptr<Stream> stream = job.stream;
    if (job.request.cache_prompt) {
        job.loaded = store_->prefetch(job.request.model, job.request.prompt, job.request.session);
    }
    {
        const std::lock_guard lock(mutex_);
        if (waiting_.size() >= options_.max_waiting || stopping_) {
            metrics_.refused.Increment();
            return nullptr;
        }
        waiting_.push_back(std::move(job));
    }
    wake_.notify_one();
    return stream;
}

std::vector<Engine::SlotView> Engine::slots() const {
    const std::lock_guard lock(mutex_);
    return views_;
}

std::size_t Engine::waiting() const {
    const std::lock_guard lock(mutex_);
    return waiting_.size();
}

// the engine's thread //////////////////////////////////////////////////////////////////////////////////

void Engine::run() {
    for (;;) {
        {
            std::unique_lock lock(mutex_);
            wake_.wait(lock, [&] {
                return stopping_ || !waiting_.empty() ||
                       std::ranges::any_of(slots_,
                                           [](const Slot& slot) { return slot.job.has_value(); });
            });
            if (stopping_) {
                break;
            }
        }
        for (Slot& slot : slots_) {
            if (slot.job && slot.job->stream->cancelled()) {
                end(slot, Finish::cancelled);
            }
        }
        admit();
        if (fill_batch()) {
            metrics_.decodes.Increment();
            if (llama_decode(context_.get(), batch_) == 0) {
                after_batch();
            } else { // nothing of this batch is sure
                fail_all();
            }
        }
        show_slots();
    }
    fail_all();
    for (const Job& job : waiting_) {
        Result failed;
        failed.finish = Finish::failed;
        job.stream->add(failed, "", true);
    }
}

/// Gives waiting requests to idle slots, first come, first served.
void Engine::admit() {
    for (Slot& slot : slots_) {
        while (!slot.job) {
            std::optional<Job> job;
            {
                const std::lock_guard lock(mutex_);
                if (waiting_.empty()) {
                    return;
                }
                job = std::move(waiting_.front());
                waiting_.pop_front();
            }
            if (job->stream->cancelled()) {
                metrics_.cancelled.Increment();
            } else {
                begin(slot, std::move(*job));
            }
        }
    }
}

void Engine::begin(Slot& slot, Job job) {
    slot.begun = Clock::now();
    slot.tokens = job.request.prompt;
    slot.marks = job.request.marks;
    slot.sampler = make_sampler(job.request.sampling);
    slot.answer = AnswerText(job.request.stops);
    slot.result = {};
    slot.result.prompt_tokens = slot.tokens.size();
    slot.logits = -1;
    slot.done = 0;
    if (job.request.cache_prompt) {
        slot.result.lookup = store_->restore(slot.id, job.request.model, slot.tokens);
        slot.result.looked_up = true;
        slot.done = slot.result.reused = slot.result.lookup.reused();
        metrics_.cache_queries.Increment(static_cast<double>(slot.tokens.size()));
        metrics_.cache_hits.Increment(static_cast<double>(slot.done));
        metrics_.prompt_tokens_cached.Increment(static_cast<double>(slot.done));
        // The end of the prompt: what a next turn continues, or an answer that is asked for again. A
        // state that serves its whole key only must leave a token to compute.
        const std::size_t end = slot.tokens.size() - (store_->cuttable() ? 0 : 1);
        slot.marks.push_back({end, promptkv::Tier::user});
        std::ranges::sort(slot.marks, std::ranges::greater(), &Request::Mark::tokens);
    } else {
        slot.marks.clear();
    }
    job.loaded.reset();
    slot.job = std::move(job);
    keep_marks(slot);
}

/// One token of each answer, then as much of the prompts as there is room for. False: nothing to do.
bool Engine::fill_batch() {
    batch_.n_tokens = 0;
    const auto add = [&](Slot& slot) {
        const std::int32_t i = batch_.n_tokens++;
        batch_.token[i] = slot.tokens[slot.done];
        batch_.pos[i] = static_cast<llama_pos>(slot.done++);
        batch_.n_seq_id[i] = 1;
        batch_.seq_id[i][0] = slot.id;
        batch_.logits[i] = static_cast<std::int8_t>(slot.done == slot.tokens.size());
        slot.logits = batch_.logits[i] != 0 ? i : -1;
    };
    std::vector<Slot*> prompts; // the oldest first: that it is done sooner makes none later
    for (Slot& slot : slots_) {
        if (slot.job && slot.done < slot.prompt_tokens()) {
            prompts.push_back(&slot);
        } else if (slot.job) {
            add(slot);
        }
    }
    std::ranges::sort(prompts, {}, &Slot::begun);
    std::size_t room = options_.batch_tokens;
    for (Slot* slot : prompts) {
        std::size_t end = slot->prompt_tokens();
        if (!store_->cuttable() &&
            !slot->marks.empty()) { // a state is kept when it is at its token
            end = std::min(end, slot->marks.back().tokens);
        }
        for (; room > 0 && slot->done < end; --room) {
            add(*slot);
        }
    }
    return batch_.n_tokens > 0;
}

void Engine::after_batch() {
    for (Slot& slot : slots_) {
        if (!slot.job) {
            continue;
        }
        if (slot.logits >= 0) {
            take_token(slot); // first: a client waits for it
        }
        if (slot.job) {
            keep_marks(slot);
        }
    }
}

/// Chooses the next token of the slot's answer.
void Engine::take_token(Slot& slot) {
    Result& result = slot.result;
    const llama_token token = llama_sampler_sample(slot.sampler.get(), context_.get(), slot.logits);
    slot.logits = -1;
    if (result.predicted++ == 0) {
        slot.answered = Clock::now();
        result.prompt_ms = milliseconds_since(slot.begun);
        metrics_.prompt_tokens.Increment(static_cast<double>(result.prompt_tokens - result.reused));
        metrics_.prompt_seconds.Increment(result.prompt_ms / 1000);
        metrics_.first_token.Observe(milliseconds_since(slot.job->arrived) / 1000);
    }
    result.predicted_ms = milliseconds_since(slot.answered);
    metrics_.predicted_tokens.Increment();
    if (text_->ends(token)) {
        end(slot, Finish::stop);
        return;
    }
    slot.tokens.push_back(token);
    slot.job->stream->add(result, slot.answer.add(text_->piece(token)));
    if (!slot.answer.stopped_by().empty()) {
        end(slot, Finish::stop_text);
    } else if (result.predicted >= slot.job->request.max_tokens ||
               slot.tokens.size() >= options_.context_tokens) {
        end(slot, Finish::length);
    }
}

/// Keeps the prefixes that are computed by now.
void Engine::keep_marks(Slot& slot) {
    while (!slot.marks.empty() && slot.marks.back().tokens <= slot.done) {
        const Request::Mark mark = slot.marks.back();
        slot.marks.pop_back();
        if (mark.tokens > 0 && (store_->cuttable() || mark.tokens == slot.done)) {
            keep(slot, mark.tokens, mark.tier);
        }
    }
}

void Engine::keep(const Slot& slot, std::size_t tokens, promptkv::Tier tier) {
    const Request& request = slot.job->request;
    // A system prompt belongs to no session: it outlives each.
    const bool shared = tier == promptkv::Tier::system;
    try {
        store_->keep(slot.id, request.model, TokenSpan(slot.tokens).first(tokens), tier,
                     {.session = shared ? 0 : request.session,
                      .request = slot.result.lookup.request(),
                      .side_request = request.side_request});
    } catch (const std::exception& error) { // the answer does not need it
        std::fprintf(stderr, "a state could not be kept: %s\n", error.what());
    }
}

/// Ends the slot's request, and keeps what was computed of it.
void Engine::end(Slot& slot, Finish finish) {
    Result& result = slot.result;
    result.finish = finish;
    result.stopped_by = slot.answer.stopped_by();
    if (finish != Finish::failed && slot.job->request.cache_prompt && slot.done > 0) {
        keep_marks(slot);
        keep(slot, slot.done,
             slot.done < slot.prompt_tokens() ? promptkv::Tier::user : promptkv::Tier::assistant);
    }
    store_->clear(slot.id);
    if (finish == Finish::cancelled) {
        metrics_.cancelled.Increment();
    }
    metrics_.predicted_seconds.Increment(result.predicted_ms / 1000);
    slot.job->stream->add(result, slot.answer.rest(), true);
    slot.job.reset();
    slot.tokens.clear();
    slot.done = 0;
}

void Engine::fail_all() {
    for (Slot& slot : slots_) {
        if (slot.job) {
            end(slot, Finish::failed);
        }
    }
}

void Engine::show_slots() {
    std::size_t busy = 0;
    const std::lock_guard lock(mutex_);
    for (std::size_t i = 0; i < slots_.size(); ++i) {
        const Slot& slot = slots_[i];
        views_[i] = {};
        if (slot.job) {
            ++busy;
            views_[i] = {true,      slot.prompt_tokens(),  slot.result.reused,
                         slot.done, slot.result.predicted, slot.job->request.session};
        }
    }
    metrics_.processing.Set(static_cast<double>(busy));
}

} // namespace llama_server
