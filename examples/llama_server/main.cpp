// SPDX-License-Identifier: MIT
// llama_server: an OpenAI-compatible server over llama.cpp, with promptkv as its prompt cache.
#include "about.hpp"
#include "answer.hpp"
#include "page.hpp"
#include "random_model.hpp"

#include <CLI/CLI.hpp>

#include <algorithm>
#include <csignal>
#include <cstdio>
#include <exception>
#include <filesystem>
#include <functional>
#include <optional>
#include <stdexcept>
#include <string>

#include <sys/resource.h>
#include <sys/socket.h>

namespace {

using namespace llama_server;

void add_options(CLI::App& cli, Options& o) {
    const auto add = [&](const char* names, auto& value, const char* help) {
        return cli.add_option(names, value, help)->capture_default_str();
    };
    const auto number = [&](const char* names, auto& value, int least, int most, const char* help) {
        add(names, value, help)->check(CLI::Range(least, most));
    };
    Store::Options& store = o.engine.store;
    add("-m,--model", o.engine.model_file,
        "a GGUF file, or random, hybrid, recurrent: small models with random weights");
    add("--alias", o.name, "name of the model for clients; default: that of the file");
    add("--host", o.host, "address to listen on");
    number("--port", o.port, 0, 65535, "0: any free one");
    cli.add_option("--api-key", o.api_keys,
                   "one for each tenant; state is shared within a tenant only")
        ->envname("LLAMA_API_KEY")
        ->check([](const std::string& key) { return std::string(key.empty() ? "is empty" : ""); });
    number("-c,--ctx-size", o.engine.context_tokens, 64, 1 << 24, "tokens, of each sequence");
    number("--parallel", store.slots, 1, 64, "number of sequences that are computed together");
    number("-b,--batch-size", o.engine.batch_tokens, 1, 8192, "tokens of prompts in one batch");
    number("-t,--threads", o.engine.threads, 1, 512, "number of threads that compute");
    add("-n,--predict", o.max_answer, "tokens of an answer, unless the request says more or less");
    number("--cache-ram", store.cache_mib, 0, 1 << 24, "MiB, the budget of the cache");
    number("--block-tokens", store.block_tokens, 1, 4096, "tokens of a block");
    number("--max-body", o.max_body_kib, 1, 1 << 20, "KiB, the largest body of a request");
    number("--max-waiting", o.engine.max_waiting, 0, 1024,
           "requests that may wait; more are refused with status 503");
    add("--store", store.second_level,
        "a folder or redis://HOST:PORT for what memory evicts; it outlives the server");
    add("--store-max", store.max_disk_mib, "MiB, the most that a folder takes");
}

/// The library limits neither a body of unknown length nor what a compressed one becomes, and it would cut
/// any answer, an error too, to the ranges that are asked for.
httplib::Server::HandlerResponse refuse_unlimited(const httplib::Request& request,
                                                  httplib::Response& response) {
    const_cast<httplib::Request&>(request).ranges.clear(); // NOLINT: it is no constant
    const bool has_body = request.method.starts_with('P'); // POST, PUT, PATCH
    if ((!has_body || request.has_header("Content-Length")) &&
        !request.has_header("Transfer-Encoding") && !request.has_header("Content-Encoding")) {
        return httplib::Server::HandlerResponse::Unhandled;
    }
    response.status = 411;
    return httplib::Server::HandlerResponse::Handled;
}

void add_routes(httplib::Server& http, const Options& options, Engine& engine) {
    http.set_pre_routing_handler(refuse_unlimited);
    const auto to = [&](Endpoint endpoint) {
        return std::bind_front(handle, std::cref(options), std::ref(engine), endpoint);
    };
    http.Get("/", [](const httplib::Request&, httplib::Response& response) {
        response.set_header("Content-Security-Policy",
                            "default-src 'self' 'unsafe-inline'; img-src data:; "
                            "frame-ancestors 'none'");
        response.set_content(page, "text/html; charset=utf-8");
    });
    http.Get("/health", [](const httplib::Request&, httplib::Response& response) {
        response.set_content(R"({"status":"ok"})", "application/json");
    });
    http.Post("/v1/chat/completions", to(chat_completions));
    http.Post("/v1/completions", to(completions));
    http.Post("/v1/messages", to(messages));
    http.Post("/v1/messages/count_tokens", to(count_tokens));
    http.Get("/v1/models", to(models));
    http.Get("/props", to(props));
    http.Get("/slots", to([](const Call& call) { return call.engine.slots(); }));
    http.Post("/tokenize", to(tokenize));
    http.Get("/metrics", to(show_metrics));
    http.Get("/cache", to(show_cache));
    http.Put("/cache", to(set_budget));
    http.Delete("/cache", to(erase_cache));
    http.Get("/cache/explain", to(explain_cache));
    http.Post("/cache/explain", to(explain_cache));
    http.set_error_handler([](const httplib::Request& request, httplib::Response& response) {
        if (!response.body.empty()) // an endpoint has said it
            return;
        const int status = response.status;
        send_error(request, response,
                   ApiError(status, status == 404 ? "there is no such endpoint"
                                    : status == 411
                                        ? "a body needs a Content-Length and no encoding"
                                        : "the request could not be read, or it is too "
                                          "large for its content type"));
        response.set_header("Connection", "close"); // a part of the body may be unread
    });
}

httplib::Server* running = nullptr; // for a signal

void on_signals(void (*handler)(int)) {
    std::signal(SIGINT, handler);
    std::signal(SIGTERM, handler);
}

/// Ends the server; a second signal ends the process at once.
void stop(int /*signal*/) {
    on_signals(SIG_DFL);
    running->stop(); // closes a socket, no more
}

int serve(Options& options) {
    if (options.name.empty())
        options.name = std::filesystem::path(options.engine.model_file).stem().string();
    std::optional<random_model::TemporaryModel> made;
    if (const auto layers = random_model::layers_of(options.engine.model_file); !layers.empty()) {
        made.emplace(random_model::small(layers));
        options.engine.model_file = made->path();
    }
    Engine engine(options.engine);

    httplib::Server http;
    int listener = -1;
    http.set_payload_max_length(options.max_body_kib << 10U);
    http.set_tcp_nodelay(true);
    http.set_socket_options([&](int socket) { // not for reuse by two servers, as is the default
        const int yes = 1;
        setsockopt(listener = socket, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
    });
    http.set_keep_alive_max_count(1000);
    http.set_keep_alive_timeout(10); // also for the first byte
    http.set_read_timeout(10);
    http.set_write_timeout(10);
    add_routes(http, options, engine);
    const int port = options.port == 0 ? http.bind_to_any_port(options.host)
                     : http.bind_to_port(options.host, options.port) ? options.port
                                                                     : -1;
    if (port < 0) {
        throw std::runtime_error("cannot listen on " + options.host + ":" +
                                 std::to_string(options.port));
    }
    listen(listener, 1024); // the library asks for 5 connections that wait to be accepted

    http.new_task_queue = [&] { // from here on a stop has an effect
        running = &http;
        on_signals(stop);
        std::printf("llama_server: %s at http://%s:%d\n", options.name.c_str(),
                    options.host.c_str(), port);
        std::fflush(stdout);
        // A connection holds a thread as long as it lives, and a silent one lives for 10 s, a slow one
        // for longer. So many of them leave threads for the others.
        const auto slots = static_cast<std::size_t>(options.engine.store.slots);
        return new httplib::ThreadPool(slots + options.engine.max_waiting + 1024);
    };
    const bool listened = http.listen_after_bind();
    on_signals(SIG_DFL);
    return listened ? 0 : 1;
}

} // namespace

int main(int argc, char** argv) {
    const char* const usual = PROMPTKV_SHARED_DIR "/models/stories260K.gguf";
    Options options;
    options.engine.model_file = std::filesystem::exists(usual) ? usual : "random";
    CLI::App cli("An OpenAI-compatible server over llama.cpp, with promptkv as its prompt cache.");
    add_options(cli, options);
    CLI11_PARSE(cli, argc, argv);
    rlimit files{};
    if (getrlimit(RLIMIT_NOFILE, &files) == 0) { // a connection is a file
        files.rlim_cur = std::min<rlim_t>(files.rlim_max, 4096);
        setrlimit(RLIMIT_NOFILE, &files);
    }
    try {
        return serve(options);
    } catch (const std::exception& error) {
        std::fprintf(stderr, "llama_server: %s\n", error.what());
        return 2;
    }
}
