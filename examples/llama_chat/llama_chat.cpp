// SPDX-License-Identifier: MIT
// promptkv in a real engine: a chat of several users with a llama.cpp model, every request computed
// without a cache, with promptkv and with llama-server's policy at the same budget, and compared.
//
//   llama_chat [--model FILE.gguf] [--budget SHARE] [--threads N] [--json]
//
// Exit code: 0, 1 where an answer differs from the one computed without a cache, 2 if it cannot run.
#include "conversation.hpp"
#include "engine.hpp"
#include "llama_kv.hpp"
#include "random_model.hpp"
#include "ways.hpp"

#include <promptkv/promptkv.hpp>

#include <algorithm>
#include <array>
#include <charconv>
#include <chrono>
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
#include <type_traits>
#include <utility>
#include <vector>

#include <unistd.h>

namespace {

using Seconds = std::chrono::duration<double>;
using Clock = std::chrono::steady_clock;

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
            throw std::invalid_argument(
                "usage: llama_chat [--model FILE.gguf] [--budget SHARE] [--threads N] [--json]");
        }
    }
    return options;
}

/// The model to use; one that was made for this run is deleted with it.
class ModelFile {
public:
    explicit ModelFile(std::string path) : path_(std::move(path)) {
        if (path_.empty() && std::filesystem::exists(stories)) {
            path_ = stories;
        } else if (path_.empty()) {
            made_ = true;
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
    bool made_ = false;
};

// serving /////////////////////////////////////////////////////////////////////////////////////////

/// What one way of serving did with a request.
struct Served {
    Restored restored;
    Seconds prefill{};        // from the request to the logits of its first new token
    Seconds total{};          // with the answer, and with what is kept of it
    std::size_t computed = 0; // tokens prefilled, those after the answer included
    std::size_t evictions = 0;
    std::vector<float> logits; // after the prompt
    Tokens answer;
};

/// A line on a terminal that shows how far the prefill is; nothing where there is no terminal.
class ProgressBar {
public:
    explicit ProgressBar(bool enabled) : enabled_(enabled && isatty(STDERR_FILENO) == 1) {}
    ~ProgressBar() { clear(); }
    ProgressBar(const ProgressBar&) = delete;
    ProgressBar& operator=(const ProgressBar&) = delete;

    void show(const std::string& label, std::size_t done, std::size_t total) {
        if (enabled_) {
            constexpr std::size_t width = 40;
            const std::size_t full = width * done / total;
            const std::string bar = std::string(full, '#') + std::string(width - full, '.');
            std::fprintf(stderr, "\r\033[K%s [%s] %zu of %zu tokens", label.c_str(), bar.c_str(),
                         done, total);
        }
    }
    void clear() {
        if (enabled_) {
            std::fputs("\r\033[K", stderr);
        }
    }

private:
    bool enabled_;
};

/// A prompt and how it is to be answered.
struct Task {
    Tokens prompt;
    std::size_t system_tokens;
    std::size_t first_choice; // see Engine::generate
    std::string label;
};

template <class Port, class Way>
Served serve(Engine& engine, Port& port, Way& way, const Task& task, ProgressBar& bar) {
    const std::size_t batch = engine.batch_tokens();
    const std::size_t evictions_before = way.evictions();
    const Clock::time_point begin = Clock::now();
    const std::span<const llama_token> prompt = task.prompt;
    Served served;

    served.restored = way.restore(port, task.prompt, batch);
    std::size_t done = served.restored.reused;
    const auto compute = [&](std::span<const llama_token> tokens) {
        if (tokens.size() > done) {
            engine.prefill(tokens, done,
                           [&](std::size_t n) { bar.show(task.label, n, tokens.size()); });
            served.computed += tokens.size() - done;
            done = tokens.size();
        }
    };
    // Whole batches are kept, of the system prompt and of all that was asked.
    const auto keep_prompt = [&](bool compute_first) {
        using enum promptkv::Tier;
        for (const auto& [length, tier] :
             {std::pair(task.system_tokens, system), std::pair(prompt.size() - 1, user)}) {
            const std::size_t kept = length - length % batch;
            if (kept > 0 && compute_first && kept > done) {
                compute(prompt.first(kept));
                way.keep(port, prompt.first(kept), tier);
            } else if (kept > 0 && !compute_first) {
                way.keep(port, prompt.first(kept), tier);
            }
        }
    };

    if constexpr (!Port::can_cut) {
        keep_prompt(true); // on the way: later the state is that of a longer prompt
    }
    compute(prompt);
    served.logits.assign(engine.logits().begin(), engine.logits().end());
    served.prefill = Clock::now() - begin;
    if constexpr (Port::can_cut) {
        keep_prompt(false);
    }

    served.answer = engine.generate(prompt.size(), Workload::answer_tokens, task.first_choice);

    // The answer was computed token by token. Computed again in whole batches it can be kept: the
    // next turn gets, to the bit, what it would compute itself. The user does not wait for it.
    if constexpr (Port::can_cut && !std::is_same_v<Way, NoCache>) {
        Tokens all = task.prompt;
        all.insert(all.end(), served.answer.begin(), served.answer.end());
        const auto kept = std::span<const llama_token>(all).first(all.size() - all.size() % batch);
        done = std::min(prompt.size() - prompt.size() % batch, kept.size());
        port.cut(done);
        compute(kept);
        if (!kept.empty()) {
            way.keep(port, kept, promptkv::Tier::assistant);
        }
    }
    served.total = Clock::now() - begin;
    served.evictions = way.evictions() - evictions_before;
    bar.clear();
    return served;
}

// report //////////////////////////////////////////////////////////////////////////////////////////

bool identical(const Served& a, const Served& b) {
    return a.answer == b.answer && a.logits.size() == b.logits.size() &&
           std::memcmp(a.logits.data(), b.logits.data(), a.logits.size() * sizeof(float)) == 0;
}

double milliseconds(Seconds time) {
    return time.count() * 1e3;
}

/// Sums over the requests, for one way of serving.
struct Totals {
    const char* name;
    std::size_t computed = 0;
    std::size_t reused = 0;
    std::size_t evictions = 0;
    Seconds prefill{};
    Seconds total{};

    void add(const Served& served) {
        computed += served.computed;
        reused += served.restored.reused;
        evictions += served.evictions;
        prefill += served.prefill;
        total += served.total;
    }
};

const char* kind_name(Request::Kind kind) {
    static constexpr std::array names = {"turn", "edited", "again"};
    return names[static_cast<std::size_t>(kind)];
}

/// Plays the workload. Answers whether every answer was identical.
template <class Port>
bool play(Engine& engine, Port& port, const ModelFile& model, const Options& options) {
    const Workload work = story_workload();
    std::vector<Conversation> conversations;
    for (std::size_t user = 0; user < work.users.size(); ++user) {
        conversations.emplace_back(work.system_of(user));
    }

    // The budget: a share of what all conversations take, had every answer its full length.
    const std::size_t batch = engine.batch_tokens();
    std::size_t whole = 0;
    {
        const Tokens warm_up(8 * batch, 1);
        engine.prefill(warm_up, 0); // also: what runs first would be timed with cold memory
        const std::size_t segment = port.nbytes(batch);
        for (std::size_t user = 0; user < work.users.size(); ++user) {
            Conversation all = conversations[user];
            for (const Request& request : work.requests) {
                if (request.user == user && request.kind == Request::Kind::say) {
                    all.say(request.text);
                    all.answer(Tokens(Workload::answer_tokens, warm_up.front()));
                }
            }
            const std::size_t tokens = all.prompt(engine).size();
            whole += Port::can_cut ? tokens / batch * segment : segment;
        }
    }
    const auto budget = static_cast<std::size_t>(options.budget * static_cast<double>(whole));

    NoCache no_cache;
    WithPromptkv<typename Port::KV> with_promptkv(engine.model_key(), budget, batch);
    std::vector<Totals> totals = {{"without a cache"}, {"promptkv"}};
    std::optional<WithServerPolicy<typename Port::KV>> with_server_policy;
    if constexpr (Port::can_cut) {
        with_server_policy.emplace(budget);
        totals.push_back({"llama-server's policy"});
    }

    if (options.json) {
        std::printf("{\n  \"model\": \"%s\", \"parameters\": %llu, \"threads\": %d,\n"
                    "  \"budget_bytes\": %zu, \"budget_share\": %g, \"batch_tokens\": %zu,\n"
                    "  \"requests\": [\n",
                    model.name().c_str(),
                    static_cast<unsigned long long>(llama_model_n_params(engine.model())),
                    options.threads, budget, options.budget, batch);
    } else {
        std::printf("model    %s, %.1f M parameters, %d thread%s\n", model.name().c_str(),
                    static_cast<double>(llama_model_n_params(engine.model())) * 1e-6,
                    options.threads, options.threads == 1 ? "" : "s");
        if (model.made()) {
            std::printf("         (written for this run: what it says is noise, what it computes "
                        "is real)\n");
        }
        std::printf("work     %zu requests of %zu users on %zu system prompts\n"
                    "budget   %.2f MB: %.0f %% of what the conversations take\n\n",
                    work.requests.size(), work.users.size(), work.systems.size(),
                    static_cast<double>(budget) * 1e-6, options.budget * 100);
        std::printf("                      tokens             prefill, ms\n"
                    "  # user what   prompt reused match     without   with speed-up evicted\n");
    }

    ProgressBar bar(!options.json);
    std::size_t identical_answers = 0;
    for (std::size_t i = 0; i < work.requests.size(); ++i) {
        const Request& request = work.requests[i];
        Conversation& conversation = conversations[request.user];
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
        Task task;
        task.prompt = conversation.prompt(engine);
        task.system_tokens = conversation.system_tokens(engine, task.prompt);
        task.first_choice = request.kind == Request::Kind::regenerate ? 1 : 0;
        task.label = std::to_string(i + 1) + " of " + std::to_string(work.requests.size()) + ' ' +
                     work.users[request.user];

        std::vector<Served> served;
        served.push_back(serve(engine, port, no_cache, task, bar));
        served.push_back(serve(engine, port, with_promptkv, task, bar));
        if (with_server_policy) {
            served.push_back(serve(engine, port, *with_server_policy, task, bar));
        }
        bool same = true;
        for (std::size_t way = 0; way < served.size(); ++way) {
            totals[way].add(served[way]);
            same = same && identical(served[0], served[way]);
        }
        identical_answers += same ? 1 : 0;
        conversation.answer(served[0].answer);

        const Served& without = served[0];
        const Served& with = served[1];
        const double speed_up = without.prefill / with.prefill;
        if (options.json) {
            std::printf("    {\"user\": \"%s\", \"kind\": \"%s\", \"prompt_tokens\": %zu, "
                        "\"reused_tokens\": %zu, \"match\": \"%s\", \"prefill_ms_without\": %.3f, "
                        "\"prefill_ms_with\": %.3f, \"speed_up\": %.2f, \"evictions\": %zu, "
                        "\"identical\": %s}%s\n",
                        work.users[request.user].c_str(), kind_name(request.kind),
                        task.prompt.size(), with.restored.reused, with.restored.match,
                        milliseconds(without.prefill), milliseconds(with.prefill), speed_up,
                        with.evictions, same ? "true" : "false",
                        i + 1 == work.requests.size() ? "" : ",");
        } else {
            std::printf("%3zu %-4s %-6s %6zu %6zu %-8s %8.1f %6.1f  %5.1f x %7zu%s\n", i + 1,
                        work.users[request.user].c_str(), kind_name(request.kind),
                        task.prompt.size(), with.restored.reused, with.restored.match,
                        milliseconds(without.prefill), milliseconds(with.prefill), speed_up,
                        with.evictions, same ? "" : "  WRONG ANSWER");
            std::fflush(stdout);
        }
    }

    const bool all_identical = identical_answers == work.requests.size();
    if (options.json) {
        std::printf("  ],\n  \"totals\": [\n");
        for (const Totals& sum : totals) {
            std::printf("    {\"name\": \"%s\", \"prefilled_tokens\": %zu, \"reused_tokens\": %zu, "
                        "\"prefill_s\": %.6f, \"total_s\": %.6f, \"evictions\": %zu}%s\n",
                        sum.name, sum.computed, sum.reused, sum.prefill.count(), sum.total.count(),
                        sum.evictions, &sum == &totals.back() ? "" : ",");
        }
        std::printf("  ],\n  \"identical_answers\": %zu, \"answers\": %zu\n}\n", identical_answers,
                    work.requests.size());
        return all_identical;
    }
    std::printf("\n                        tokens    tokens   prefill   speed    total\n"
                "                        prefilled reused   time, s   -up      time, s  evicted\n");
    for (const Totals& sum : totals) {
        std::printf("%-23s %9zu %8zu %8.2f %6.1f x %8.2f %8zu\n", sum.name, sum.computed,
                    sum.reused, sum.prefill.count(), totals[0].prefill / sum.prefill,
                    sum.total.count(), sum.evictions);
    }
    std::printf("\n%s: %zu of %zu, with every logit of their first token equal to the bit\n",
                all_identical ? "identical answers" : "WRONG ANSWERS: identical are only",
                identical_answers, work.requests.size());
    return all_identical;
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
