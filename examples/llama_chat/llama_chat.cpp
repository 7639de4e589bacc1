// SPDX-License-Identifier: MIT
// promptkv in a real engine: a chat of several users with a llama.cpp model, every request computed
// without a cache, with promptkv and with llama-server's policy at the same budget, and compared.
//
//   llama_chat [--model FILE.gguf|random|hybrid|recurrent] [--budget SHARE] [--threads N] [--json]
//              [--store DIRECTORY|redis://HOST:PORT]
//
// With a store the state outlives the process: a second run restores what the first one computed.
// Exit code: 0, 1 where an answer differs from the one computed without a cache, 2 if it cannot run.
#include "conversation.hpp"
#include "engine.hpp"
#include "llama_kv.hpp"
#include "random_model.hpp"
#include "report.hpp"
#include "serve.hpp"
#ifdef PROMPTKV_LLAMA_STORE
#include "open_store.hpp"
#include "store.hpp"
#endif
#include "ways.hpp"

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <exception>
#include <filesystem>
#include <optional>
#include <span>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

namespace {

struct Options {
    std::string model;
    double budget = 0.8; // of the bytes of all conversations at their ends
    int threads = 1;
    bool json = false;
    std::string store; // empty: none
};

Options parse_options(std::span<char*> arguments) {
    Options options;
    for (std::size_t i = 1; i < arguments.size(); ++i) {
        const std::string name = arguments[i];
        const char* value = i + 1 < arguments.size() ? arguments[i + 1] : "";
        bool valid = true;
        if (name == "--json") {
            options.json = true;
            continue;
        }
        if (name == "--model")
            options.model = value;
        else if (name == "--budget")
            valid = std::sscanf(value, "%lf", &options.budget) == 1 && options.budget > 0;
        else if (name == "--threads")
            valid = std::sscanf(value, "%d", &options.threads) == 1 && options.threads > 0;
        else if (name == "--store")
            options.store = value;
        else
            valid = false;
        if (!valid || *value == '\0') {
            throw std::invalid_argument(
                "usage: llama_chat [--model FILE.gguf|random|hybrid|recurrent] "
                "[--budget SHARE] [--threads N] [--json] [--store DIRECTORY|redis://HOST:PORT]");
        }
        ++i;
    }
    return options;
}

/// The bytes of all conversations at their ends, each by itself, if every answer has its full length.
template <class Sequence>
std::size_t bytes_of_conversations(Engine& engine, Sequence& sequence, const Workload& work) {
    const std::size_t batch = engine.batch_tokens();
    const Tokens warm_up(8 * batch, 1);
    engine.prefill(warm_up, 0); // also: what runs first would be timed with cold memory
    std::size_t sum = 0;
    for (std::size_t user = 0; user < work.users.size(); ++user) {
        Conversation all(work.system_of(user));
        for (const Request& request : work.requests) {
            if (request.user == user && request.kind == Request::Kind::say) {
                all.say(request.text);
                all.answer(Tokens(Workload::answer_tokens, warm_up.front()));
            }
        }
        sum += sequence.nbytes(all.prompt(engine).size() / batch * batch);
    }
    return sum;
}

/// Changes the conversation as a request says.
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

/// Calls `serve_in_each(task)` for each request of the workload, and reports what it returns.
template <class ServeInEach>
bool play(Engine& engine, const Workload& work, Report& report, ServeInEach serve_in_each) {
    std::vector<Conversation> conversations;
    for (std::size_t user = 0; user < work.users.size(); ++user)
        conversations.emplace_back(work.system_of(user));
    for (const Request& request : work.requests) {
        Conversation& conversation = conversations[request.user];
        apply(request, conversation);
        Task task;
        task.prompt = conversation.prompt(engine);
        task.user = request.user + 1;
        task.system_tokens = conversation.system_tokens(engine, task.prompt);
        task.answer_tokens = Workload::answer_tokens;
        task.first_choice = request.kind == Request::Kind::regenerate ? 1 : 0;
        const std::vector<Served> served = serve_in_each(task);
        report.add(work.users[request.user], kind_name(request.kind), task.prompt.size(), served);
        conversation.answer(served[0].answer);
    }
    return report.finish();
}

/// Plays the workload in every way. Answers whether every answer was identical.
template <class KV>
bool play(Engine& engine, const std::string& model, const Options& options) {
    using Sequence = llama_kv::Sequence<KV>;
    Sequence sequence(engine.context(), 0, 1, engine.batch_tokens());
    const Workload work = story_workload();
    const auto budget = static_cast<std::size_t>(
        options.budget * static_cast<double>(bytes_of_conversations(engine, sequence, work)));
    const auto parameters = static_cast<double>(llama_model_n_params(engine.model()));
    NoCache no_cache;

    if (!options.store.empty()) {
#ifdef PROMPTKV_LLAMA_STORE
        const auto play_with = [&](const auto& store) {
            WithStore<KV, std::remove_reference_t<decltype(*store)>> with_store(
                engine.model_key(), budget, engine.batch_tokens(), *store);
            Report report(options.json, work.requests.size(), {"without a cache", "with a store"},
                          true);
            report.begin(model, parameters, budget, options.budget);
            const bool identical = play(engine, work, report, [&](const Task& task) {
                std::vector<Served> served;
                served.push_back(serve(engine, sequence, no_cache, task));
                served.push_back(serve(engine, sequence, with_store, task));
                return served;
            });
            return with_store.flush() && identical;
        };
        return std::visit(play_with, open_store(options.store, std::uint64_t{4} << 30U));
#else
        throw std::invalid_argument("this program was built without libxxhash or hiredis");
#endif
    }

    WithPromptkv<KV> with_promptkv(engine.model_key(), budget);
    WithServerPolicy with_server_policy(budget);
    std::vector<const char*> ways = {"without a cache", "promptkv"};
    if (!Sequence::has_state)
        ways.push_back("llama-server's policy");
    Report report(options.json, work.requests.size(), ways);
    report.begin(model, parameters, budget, options.budget);
    return play(engine, work, report, [&](const Task& task) {
        std::vector<Served> served;
        served.push_back(serve(engine, sequence, no_cache, task));
        served.push_back(serve(engine, sequence, with_promptkv, task));
        if constexpr (!Sequence::has_state)
            served.push_back(serve(engine, sequence, with_server_policy, task));
        return served;
    });
}

bool run(const Options& options) {
    std::string name = options.model;
    std::string file = name;
    if (name.empty()) {
        name = "stories260K.gguf";
        file = PROMPTKV_SHARED_DIR "/models/" + name;
        if (!std::filesystem::exists(file))
            name = "random";
    }
    std::optional<random_model::TemporaryModel> made;
    if (const std::string layers = random_model::layers_of(name); !layers.empty()) {
        random_model::Shape shape{.layers = layers + layers + layers};
        shape.width = name == "random" ? 512 : 256; // Mamba layers are slower
        made.emplace(shape);
        file = made->path();
        name += " weights, written for this run: its text is noise";
    }
    Engine engine(file, {.threads = options.threads});
    return llama_kv::is_recurrent(engine.model())
               ? play<llama_kv::RecurrentKV>(engine, name, options)
               : play<llama_kv::AttentionKV>(engine, name, options);
}

} // namespace

int main(int argc, char** argv) {
    try {
        return run(parse_options({argv, static_cast<std::size_t>(argc)})) ? 0 : 1;
    } catch (const std::exception& error) {
        std::fprintf(stderr, "llama_chat: %s\n", error.what());
        return 2;
    }
}
