// SPDX-License-Identifier: MIT
// How an answer is sent.
#ifndef PROMPTKV_EXAMPLES_LLAMA_SERVER_ANSWER_HPP
#define PROMPTKV_EXAMPLES_LLAMA_SERVER_ANSWER_HPP

#include "api.hpp"

#include <promptkv/cache_types.hpp>

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <random>
#include <string>
#include <utility>

namespace llama_server {

inline std::string new_id(const char* prefix) {
    static const auto start = std::random_device{}();
    static std::atomic<std::uint32_t> count{0};
    return prefix + std::to_string(start) + "-" + std::to_string(++count);
}

/// A server-sent event. It has a name where the data have a type.
inline std::string event(const json& data) {
    const std::string type = data.value("type", "");
    return (type.empty() ? "" : "event: " + type + "\n") + "data: " + dump(data) + "\n\n";
}

/// Why the prompt was reused or not, in the terms of OpenAI's prompt_cache_diagnostics, and in ours.
inline json diagnostics(const Result& result) {
    const Lookup& found = result.lookup;
    if (found.request() == 0) {
        return {{"type", "unavailable"}};
    }
    json told = {{"type", found ? "cache_hit" : "cache_miss"},
                 {"cache_missed_tokens", result.prompt_tokens - found.reused()},
                 {"comparison_reusable_tokens", found.matched()},
                 {"match", name(found.match())},
                 {"tier", found ? json(name(found.tier())) : json()}};
    if (!found) {
        const bool changed = found.miss() == promptkv::MissReason::nothing_shared ||
                             found.miss() == promptkv::MissReason::below_min_reuse;
        told["reason"] = changed ? "input_changed" : "unavailable";
        told["miss"] = name(found.miss());
    }
    return told;
}

/// How an API writes an answer.
struct Format {
    /// All of it at once.
    std::function<json(const std::string& text, const Result& result)> whole;
    /// What is new, as server-sent events. `first`: there was nothing before.
    std::function<std::string(const Job::News& news, bool first)> events;
};

/// Submits the request, and sends its answer: as it comes where the field `stream` says so. A client that
/// goes away cancels the request.
inline json answer(const Call& call, Request request, const Format& format) {
    const bool streaming = field(call.fields, "stream", false);
    const std::string failure =
        event(error_body(ApiError(500, "the engine failed"), is_anthropic(call.http)));
    const std::shared_ptr<Job> job = call.engine.submit(std::move(request));
    if (job == nullptr) {
        throw ApiError(503, "too many requests are waiting", "", "overloaded");
    }
    const auto next = [=, text = std::string(), first = true](std::size_t,
                                                              httplib::DataSink& sink) mutable {
        const std::optional<Job::News> news = job->wait(std::chrono::milliseconds(100));
        if (!news) {
            return sink.is_writable(); // false where the client is gone: that cancels the request
        }
        const bool failed = news->result.finish == Finish::failed;
        std::string data;
        if (streaming) {
            data = failed ? failure : format.events(*news, std::exchange(first, false));
        } else if (failed) {
            return false; // the connection breaks: the status has been sent
        } else if (text += news->text; news->done) {
            data = dump(format.whole(text, news->result));
        }
        if (!data.empty() && !sink.write(data.data(), data.size())) {
            return false;
        }
        if (news->done) {
            sink.done();
        }
        return true;
    };
    call.response.set_header("Cache-Control", "no-store");
    call.response.set_chunked_content_provider(streaming ? "text/event-stream" : "application/json",
                                               next, [job](bool) { job->cancel(); });
    return nullptr;
}

} // namespace llama_server

#endif
