// SPDX-License-Identifier: MIT
// promptkv in a real engine: a chat of several users with a llama.cpp model, every request computed
// without a cache, with promptkv and with llama-server's policy at the same budget, and compared.
//
//   llama_chat [--model FILE.gguf|random] [--budget SHARE] [--threads N] [--json]
//
// Exit code: 0, 1 where an answer differs from the one computed without a cache, 2 if it cannot run.
#include "conversation.hpp"
#include "engine.hpp"
#include "llama_kv.hpp"
#include "random_model.hpp"
#include "report.hpp"
#include "serve.hpp"
#include "ways.hpp"

#include <charconv>
#include <cstddef>
#include <cstdio>
#include <cstring>
#include <exception>
#include <filesystem>
#include <optional>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <unistd.h>

namespace {

// options /////////////////////////////////////////////////////////////////////////////////////////

struct Options {
    std::string model;
    double budget = 0.8; // of what the conversations take at their ends
    int threads = 1;
    bool json = false;
};

template <class Number>
Number parse_number(const char* text) {
    Number number{};
    const auto [end, error] = std::from_chars(text, text + std::strlen(text), number);
    if (error != std::errc{} || *end != '\0' || !(number > 0)) {
        throw std::invalid_argument(std::string("not a positive number: ") + text);
    }
    return number;
}

Options parse_options(std::span<char*> arguments) {
    Options options;
    for (std::size_t i = 1; i < arguments.size(); ++i) {
        const std::string_view name = arguments[i];
        const auto value = [&] {
            if (++i == arguments.size()) {
                throw std::invalid_argument(std::string(name) + " needs a value");
            }
            return arguments[i];
        };
        if (name == "--model") {
            options.model = value();
        } else if (name == "--budget") {
            options.budget = parse_number<double>(value());
        } else if (name == "--threads") {
            options.threads = parse_number<int>(value());
        } else if (name == "--json") {
            options.json = true;
        } else {
            throw std::invalid_argument("usage: llama_chat [--model FILE.gguf|random] "
                                        "[--budget SHARE] [--threads N] [--json]");
        }
    }
    return options;
}

/// The model to use: a file, or random weights, which are written for this run and deleted with it.
class ModelFile {
public:
    /// `name`: a file, or "random", or "" for the trained model if it is there, else random weights.
    explicit ModelFile(const std::string& name)
        : path_(name.empty() ? stories : name),
          made_(name == "random" || (name.empty() && !std::filesystem::exists(stories))) {
        if (made_) {
            path_ = std::filesystem::temp_directory_path() /
                    ("promptkv_random_" + std::to_string(getpid()) + ".gguf");
            random_model::write(path_, random_model::Llama{}, 1);
        }
    }
    ModelFile(const ModelFile&) = delete;
    ModelFile& operator=(const ModelFile&) = delete;
    ~ModelFile() {
        if (made_) {
            std::error_code ignored;
            std::filesystem::remove(path_, ignored);
        }
    }

    [[nodiscard]] const std::string& path() const { return path_; }
    [[nodiscard]] bool made() const { return made_; }
    [[nodiscard]] std::string name() const {
        return made_ ? "random weights" : std::filesystem::path(path_).filename().string();
    }

private:
    static constexpr const char* stories = PROMPTKV_SHARED_DIR "/models/stories260K.gguf";

    std::string path_;
    bool made_;
};

// the run /////////////////////////////////////////////////////////////////////////////////////////

/// What all conversations take at their ends, had every answer its full length.
template <class Port>
std::size_t bytes_of_conversations(Engine& engine, Port& port, const Workload& work) {
    const std::size_t batch = engine.batch_tokens();
    const Tokens warm_up(8 * batch, 1);
    engine.prefill(warm_up, 0); // also: what runs first would be timed with cold memory
    const std::size_t of_a_batch = port.nbytes(batch);
    std::size_t sum = 0;
    for (std::size_t user = 0; user < work.users.size(); ++user) {
        Conversation all(work.system_of(user));
        for (const Request& request : work.requests) {
            if (request.user == user && request.kind == Request::Kind::say) {
                all.say(request.text);
                all.answer(Tokens(Workload::answer_tokens, warm_up.front()));
            }
        }
        sum += Port::can_cut ? all.prompt(engine).size() / batch * of_a_batch : of_a_batch;
    }
    return sum;
}

/// What a request makes of its conversation.
void apply(const Request& request, Conversation& conversation) {
    switch (request.kind) {
    case Request::Kind::say:
        conversation.say(request.text);
        break;
    case Request::Kind::edit:
        conversation.edit(request.turn, request.text);
        break;
    case Request::Kind::regenerate:
        conversation.retract();
        break;
    }
}

/// Plays the workload in every way. Answers whether every answer was identical.
template <class Port>
bool play(Engine& engine, Port& port, const ModelFile& model, const Options& options) {
    const Workload work = story_workload();
    const auto budget = static_cast<std::size_t>(
        options.budget * static_cast<double>(bytes_of_conversations(engine, port, work)));

    NoCache no_cache;
    WithPromptkv<typename Port::KV> with_promptkv(engine.model_key(), budget,
                                                  engine.batch_tokens());
    std::vector<const char*> ways = {"without a cache", "promptkv"};
    std::optional<WithServerPolicy<typename Port::KV>> with_server_policy;
    if constexpr (Port::can_cut) {
        with_server_policy.emplace(budget);
        ways.push_back("llama-server's policy");
    }

    const Setup setup{.model = model.name(),
                      .random_weights = model.made(),
                      .parameters = static_cast<double>(llama_model_n_params(engine.model())),
                      .threads = options.threads,
                      .batch_tokens = engine.batch_tokens(),
                      .requests = work.requests.size(),
                      .users = work.users.size(),
                      .systems = work.systems.size(),
                      .budget_bytes = budget,
                      .budget_share = options.budget};
    Report report(options.json, setup, ways);
    const ProgressBar bar;

    std::vector<Conversation> conversations;
    for (std::size_t user = 0; user < work.users.size(); ++user) {
        conversations.emplace_back(work.system_of(user));
    }
    for (std::size_t i = 0; i < work.requests.size(); ++i) {
        const Request& request = work.requests[i];
        const std::string& user = work.users[request.user];
        Conversation& conversation = conversations[request.user];
        apply(request, conversation);

        Task task;
        task.prompt = conversation.prompt(engine);
        task.system_tokens = conversation.system_tokens(engine, task.prompt);
        task.answer_tokens = Workload::answer_tokens;
        task.first_choice = request.kind == Request::Kind::regenerate ? 1 : 0;
        const std::string label =
            std::to_string(i + 1) + " of " + std::to_string(work.requests.size()) + ' ' + user;
        const auto progress = [&](std::size_t done, std::size_t total) {
            bar.show(label, done, total);
        };

        std::vector<Served> served;
        served.push_back(serve(engine, port, no_cache, task, progress));
        served.push_back(serve(engine, port, with_promptkv, task, progress));
        if (with_server_policy) {
            served.push_back(serve(engine, port, *with_server_policy, task, progress));
        }
        bar.clear();
        report.add(user, kind_name(request.kind), task.prompt.size(), served);
        conversation.answer(served[0].answer);
    }
    return report.finish();
}

} // namespace

int main(int argc, char** argv) {
    try {
        const Options options = parse_options({argv, static_cast<std::size_t>(argc)});
        const ModelFile model(options.model);
        Engine engine(model.path(), {.threads = options.threads});
        bool all_identical = false;
        if (llama_kv::SegmentedPort::supports(engine.model())) {
            llama_kv::SegmentedPort port(engine.context(), 0, 1, engine.batch_tokens());
            all_identical = play(engine, port, model, options);
        } else {
            llama_kv::WholePort port(engine.context(), 0);
            all_identical = play(engine, port, model, options);
        }
        return all_identical ? 0 : 1;
    } catch (const std::exception& error) {
        std::fprintf(stderr, "llama_chat: %s\n", error.what());
        return 2;
    }
}
