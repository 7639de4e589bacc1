// SPDX-License-Identifier: MIT
// llama_server: an OpenAI-compatible server over llama.cpp, with promptkv as its prompt cache.
#include "api.hpp"
#include "page.hpp"
#include "random_model.hpp"

#include <CLI/CLI.hpp>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <exception>
#include <filesystem>
#include <memory>
#include <thread>

#include <sys/resource.h>
#include <sys/socket.h>

namespace {

using namespace llama_server;

struct Arguments {
    std::string model, name, host = "127.0.0.1";
    int port = 8080;
    std::vector<std::string> api_keys;
    Engine::Options engine;
    std::size_t cache_mib = 1024, disk_mib = 4096, max_answer = 512, max_body_kib = 1024,
                max_connections = 512;
};

void add_options(CLI::App& cli, Arguments& a) {
    cli.add_option("-m,--model", a.model,
                   "a GGUF file, or random, hybrid, recurrent: small models with random weights");
    cli.add_option("--alias", a.name, "name of the model for clients; default: that of the file");
    cli.add_option("--host", a.host, "address to listen on")->capture_default_str();
    cli.add_option("--port", a.port, "0: any free one")
        ->capture_default_str()
        ->check(CLI::Range(0, 65535));
    cli.add_option("--api-key", a.api_keys,
                   "one for each tenant; state is shared within a tenant only")
        ->envname("LLAMA_API_KEY");
    cli.add_option("-c,--ctx-size", a.engine.context_tokens, "tokens, of each sequence")
        ->capture_default_str()
        ->check(CLI::Range(64, 1 << 24));
    cli.add_option("--parallel", a.engine.slots, "sequences that are computed together")
        ->capture_default_str()
        ->check(CLI::Range(1, 64));
    cli.add_option("-b,--batch-size", a.engine.batch_tokens, "tokens of prompts in one batch")
        ->capture_default_str()
        ->check(CLI::Range(1, 8192));
    cli.add_option("-t,--threads", a.engine.threads)
        ->capture_default_str()
        ->check(CLI::Range(1, 512));
    cli.add_option("-n,--predict", a.max_answer,
                   "tokens of an answer, unless the request says more or less")
        ->capture_default_str();
    cli.add_option("--cache-ram", a.cache_mib, "MiB, the budget of the cache")
        ->capture_default_str();
    cli.add_option("--block-tokens", a.engine.store.block_tokens)
        ->capture_default_str()
        ->check(CLI::Range(1, 4096));
    cli.add_option("--min-reuse", a.engine.store.min_reuse, "tokens; a shorter match is a miss")
        ->capture_default_str();
    cli.add_option("--max-body", a.max_body_kib, "KiB of a request")->capture_default_str();
    cli.add_option("--max-connections", a.max_connections, "served at once; further ones wait")
        ->capture_default_str()
        ->check(CLI::Range(1, 960));
    cli.add_option("--max-waiting", a.engine.max_waiting, "requests; more are refused")
        ->capture_default_str();
    cli.add_option("--store", a.engine.store.second_level,
                   "a folder or redis://HOST:PORT for what memory evicts; it outlives the server");
    cli.add_option("--store-max", a.disk_mib, "MiB, the most that a folder takes")
        ->capture_default_str();
}

/// Model files by the words that stand for them.
std::unique_ptr<random_model::TemporaryModel> make_model(std::string& name) {
    random_model::Shape shape{.width = 128, .feed_forward = 256, .heads = 4, .kv_heads = 2};
    shape.layers = name == "random"      ? "aaa"
                   : name == "hybrid"    ? "mamm"
                   : name == "recurrent" ? "mm"
                                         : "";
    return shape.layers.empty() ? nullptr : std::make_unique<random_model::TemporaryModel>(shape);
}

void add_routes(httplib::Server& http, App& app) {
    http.Get("/", [](const httplib::Request&, httplib::Response& response) {
        response.set_header("Content-Security-Policy",
                            "default-src 'self' 'unsafe-inline'; img-src data:");
        response.set_content(page, "text/html; charset=utf-8");
    });
    http.Get("/health", [](const httplib::Request&, httplib::Response& response) {
        send_json(response, {{"status", "ok"}});
    });
    http.Post("/v1/chat/completions", guarded(app, chat_completions));
    http.Post("/v1/completions", guarded(app, completions));
    http.Post("/v1/messages", guarded(app, messages));
    http.Post("/v1/messages/count_tokens", guarded(app, count_tokens));
    http.Get(R"(/v1/models(/.*)?)", guarded(app, models));
    http.Get("/props", guarded(app, props));
    http.Get("/slots", guarded(app, slots));
    http.Post("/tokenize", guarded(app, tokenize));
    http.Get("/metrics", guarded(app, show_metrics));
    http.Get("/cache", guarded(app, show_cache));
    http.Put("/cache", guarded(app, set_budget));
    http.Delete("/cache", guarded(app, erase_cache));
    http.Get("/cache/explain", guarded(app, explain_cache));
    http.Post("/cache/explain", guarded(app, explain_cache));
    http.set_error_handler([](const httplib::Request& request, httplib::Response& response) {
        if (response.body.empty()) { // else an endpoint has said it
            const int status = response.status;
            send_error(request, response,
                       ApiError(status, status == 413   ? "the request is too large"
                                        : status == 404 ? "there is no such endpoint"
                                                        : "the request could not be read"));
            response.set_header("Connection", "close"); // a part of the body may be unread
        }
    });
}

int serve(Arguments& a) {
    const auto made = make_model(a.model);
    a.engine.model_file = made ? made->path() : a.model;
    a.engine.store.max_bytes = a.cache_mib << 20;
    a.engine.store.max_disk_bytes = std::uint64_t{a.disk_mib} << 20;
    if (a.name.empty()) {
        a.name = made ? a.model : std::filesystem::path(a.model).stem().string();
    }
    Metrics metrics;
    Engine engine(a.engine, metrics);
    App app{.engine = engine,
            .metrics = metrics,
            .name = a.name,
            .api_keys = a.api_keys,
            .max_answer = a.max_answer,
            .most_bytes = a.engine.store.max_bytes,
            .loopback = a.host == "127.0.0.1" || a.host == "localhost" || a.host == "::1"};

    httplib::Server http;
    // A streaming answer holds its thread for as long as it lasts: with few some clients would stall others.
    http.new_task_queue = [&] { return new httplib::ThreadPool(a.max_connections); };
    http.set_payload_max_length(a.max_body_kib << 10);
    http.set_tcp_nodelay(true);
    int listener = -1;
    http.set_socket_options([&](int socket) { // not for reuse by two servers, as is the default
        const int yes = 1;
        setsockopt(listener = socket, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
    });
    http.set_keep_alive_max_count(1000);
    http.set_read_timeout(10);
    http.set_write_timeout(10);
    add_routes(http, app);
    const int port = a.port != 0 ? (http.bind_to_port(a.host, a.port) ? a.port : -1)
                                 : http.bind_to_any_port(a.host);
    if (port < 0) {
        throw std::runtime_error("cannot listen on " + a.host + ":" + std::to_string(a.port));
    }
    listen(listener, 1024); // the library asks for 5 connections that wait to be accepted
    std::thread([&http] {   // ends the server when a signal says so
        sigset_t signals;
        sigemptyset(&signals);
        sigaddset(&signals, SIGINT);
        sigaddset(&signals, SIGTERM);
        int signal = 0;
        sigwait(&signals, &signal);
        while (!http.is_running()) { // before that a stop has no effect
            std::this_thread::sleep_for(std::chrono::milliseconds(1));
        }
        http.stop();
    })
        .detach();
    std::printf("llama_server: %s at http://%s:%d\n", a.name.c_str(), a.host.c_str(), port);
    std::fflush(stdout);
    return http.listen_after_bind() ? 0 : 1;
}

} // namespace

int main(int argc, char** argv) {
    Arguments arguments;
    arguments.model = std::filesystem::exists(PROMPTKV_SHARED_DIR "/models/stories260K.gguf")
                          ? PROMPTKV_SHARED_DIR "/models/stories260K.gguf"
                          : "random";
    arguments.engine.threads =
        static_cast<int>(std::max(2U, std::thread::hardware_concurrency()) / 2);
    CLI::App cli("An OpenAI-compatible server over llama.cpp, with promptkv as its prompt cache.");
    add_options(cli, arguments);
    CLI11_PARSE(cli, argc, argv);
    sigset_t signals; // for the thread that waits for them, so blocked in all
    sigemptyset(&signals);
    sigaddset(&signals, SIGINT);
    sigaddset(&signals, SIGTERM);
    pthread_sigmask(SIG_BLOCK, &signals, nullptr);
    std::signal(SIGPIPE, SIG_IGN);
    rlimit files{};
    if (getrlimit(RLIMIT_NOFILE, &files) == 0) { // a connection is a file
        files.rlim_cur = std::min<rlim_t>(files.rlim_max, 4096);
        setrlimit(RLIMIT_NOFILE, &files);
    }
    try {
        return serve(arguments);
    } catch (const std::exception& error) {
        std::fprintf(stderr, "llama_server: %s\n", error.what());
        return 2;
    }
}
