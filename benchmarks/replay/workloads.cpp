// SPDX-License-Identifier: MIT
// generate_workload: traffic whose habits change.
#include "generate.hpp"

#include "random.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <memory>
#include <span>
#include <stdexcept>
#include <utility>
#include <vector>

namespace replay {
namespace {

constexpr std::uint64_t cache_tokens = 100'000;

constexpr Length question_length{60, 0.8, 1'000};
constexpr Length answer_length{220, 0.8, 2'000};
constexpr std::uint64_t document_tokens = 1'500;

/// The trace in the making. Tokens that are asked for are new ones.
class Writer {
public:
    Writer(std::string_view name, std::uint64_t seed) : random(seed) {
        trace_.name = fmt::format("{}-{}", name, seed);
        trace_.usual_capacity = cache_tokens;
    }

    Range fresh(std::uint64_t tokens) {
        const Range range{next_id_, tokens};
        next_id_ += static_cast<std::int64_t>(tokens);
        return range;
    }

    std::vector<Range> fresh_documents(std::size_t count, std::uint64_t tokens) {
        std::vector<Range> documents(count);
        for (Range& document : documents)
            document = fresh(tokens);
        return documents;
    }

    /// Adds a request: a new question on a document.
    void ask(const Range& document) {
        write(std::array{document, fresh(random.length(question_length))});
    }

    void ask_popular(std::span<const Range> documents) {
        ask(documents[random.popular(documents.size())]);
    }

    void ask_one_off(std::uint64_t tokens = document_tokens) { ask(fresh(tokens)); }

    /// Adds a request. The first part is the system prompt.
    void write(std::span<const Range> parts, std::uint64_t session = 0,
               std::span<const Range> answer = {}) {
        trace_.append(length_of(parts), parts.front().length, parts, session, answer);
    }

    Trace release() && { return std::move(trace_); }

    Random random;

private:
    std::int64_t next_id_ = 0;
    Trace trace_;
};

/// Makes the requests of one workload.
class Workload {
public:
    explicit Workload(Writer& writer) : writer_(writer) {}
    Workload(const Workload&) = delete;
    Workload& operator=(const Workload&) = delete;
    virtual ~Workload() = default;

    /// Writes request number `i`, from 0 on.
    virtual void write(std::size_t i) = 0;

protected:
    Writer& writer_;
};

/// Conversations that take turns with each other, under system prompts of unequal popularity.
class Chats {
public:
    Chats(Writer& writer, std::size_t n_system_prompts, std::uint64_t system_tokens)
        : writer_(writer),
          system_prompts_(writer.fresh_documents(n_system_prompts, system_tokens)) {
        for (Chat& chat : chats_)
            begin(chat);
    }

    void take_turn() {
        Chat& chat = chats_[writer_.random.below(chats_.size())];
        chat.parts.push_back(writer_.fresh(writer_.random.length(question_length)));
        const Range answer = writer_.fresh(writer_.random.length(answer_length));
        writer_.write(chat.parts, chat.session, std::span(&answer, 1));
        chat.parts.push_back(answer);
        --chat.turns_left;
        if (chat.turns_left == 0)
            begin(chat);
    }

private:
    static constexpr std::size_t n_live = 24;
    static constexpr Length turns_length{5, 0.8, 40};

    struct Chat {
        std::vector<Range> parts;
        std::uint64_t session = 0;
        std::uint64_t turns_left = 0;
    };

    void begin(Chat& chat) {
        chat.parts = {system_prompts_[writer_.random.popular(system_prompts_.size())]};
        chat.session = ++last_session_;
        chat.turns_left = writer_.random.length(turns_length);
    }

    Writer& writer_;
    std::vector<Range> system_prompts_;
    std::array<Chat, n_live> chats_;
    std::uint64_t last_session_ = 0;
};

class Flood : public Workload {
public:
    using Workload::Workload;

    void write(std::size_t i) override {
        const bool flooded = i / 1'000 % 3 == 1;
        if (flooded && writer_.random.chance(0.85))
            writer_.ask_one_off();
        else
            writer_.ask_popular(documents_);
    }

private:
    std::vector<Range> documents_ = writer_.fresh_documents(60, document_tokens);
};

/// How many of nine requests are of which kind.
struct Mixture {
    std::size_t loop;
    std::size_t popular; // the rest are one-offs
};

/// A fixed cycle of documents. Between two visits to a document more tokens come than the cache holds.
class Loop : public Workload {
public:
    Loop(Writer& writer, std::uint64_t loop_tokens, Mixture mixture)
        : Workload(writer), mixture_(mixture),
          loop_(writer.fresh_documents(loop_tokens / loop_document_tokens, loop_document_tokens)),
          popular_(writer.fresh_documents(5, popular_tokens)) {}

    void write(std::size_t i) override {
        const std::size_t kind = i * 4 % 9; // spreads the kinds evenly
        if (kind < mixture_.loop) {
            writer_.ask(loop_[next_]);
            next_ = (next_ + 1) % loop_.size();
        } else if (kind < mixture_.loop + mixture_.popular) {
            writer_.ask_popular(popular_);
        } else {
            writer_.ask_one_off();
        }
    }

private:
    static constexpr std::uint64_t loop_document_tokens = 1'250;
    static constexpr std::uint64_t popular_tokens = 1'650;

    Mixture mixture_;
    std::vector<Range> loop_;
    std::vector<Range> popular_;
    std::size_t next_ = 0;
};

class Midnight : public Workload {
public:
    using Workload::Workload;

    void write(std::size_t i) override {
        if (i % 1'500 == 0)
            chats_ = std::make_unique<Chats>(writer_, 16, 3'000);
        chats_->take_turn();
    }

private:
    std::unique_ptr<Chats> chats_;
};

class TenantLeaves : public Workload {
public:
    using Workload::Workload;

    void write(std::size_t i) override {
        if (i > 0 && i % 1'500 == 0) {
            // the second becomes the busiest
            std::rotate(tenants_.begin(), tenants_.begin() + 1, tenants_.end());
            tenants_.back() = documents_of_a_tenant();
        }
        writer_.ask_popular(tenants_[writer_.random.popular(tenants_.size())]);
    }

private:
    static constexpr std::size_t n_tenants = 6;

    std::vector<Range> documents_of_a_tenant() { return writer_.fresh_documents(30, 1'000); }

    std::vector<std::vector<Range>> tenants_ = [this] {
        std::vector<std::vector<Range>> tenants(n_tenants);
        for (std::vector<Range>& documents : tenants)
            documents = documents_of_a_tenant();
        return tenants;
    }();
};

class Bursts : public Workload {
public:
    using Workload::Workload;

    void write(std::size_t) override {
        if (!writer_.random.chance(0.5)) {
            writer_.ask_popular(steady_);
            return;
        }
        Burst& burst = bursts_[writer_.random.below(bursts_.size())];
        if (burst.left == 0)
            burst = {writer_.fresh(document_tokens), writer_.random.length(burst_length)};
        writer_.ask(burst.document);
        --burst.left;
    }

private:
    static constexpr Length burst_length{12, 1.0, 100}; // in requests

    struct Burst {
        Range document;
        std::uint64_t left = 0;
    };

    std::vector<Range> steady_ = writer_.fresh_documents(80, document_tokens);
    std::array<Burst, 6> bursts_;
};

class Phases : public Workload {
public:
    using Workload::Workload;

    void write(std::size_t i) override {
        if (i / 1'000 % 2 == 0) {
            chats_.take_turn();
        } else {
            writer_.ask(loop_[next_]);
            next_ = (next_ + 1) % loop_.size();
        }
    }

private:
    Chats chats_{writer_, 8, 1'500};
    std::vector<Range> loop_ = writer_.fresh_documents(80, document_tokens);
    std::size_t next_ = 0;
};

std::unique_ptr<Workload> make_workload(std::string_view name, Writer& writer) {
    if (name == "flood")
        return std::make_unique<Flood>(writer);
    if (name == "loop-half")
        return std::make_unique<Loop>(writer, cache_tokens / 2, Mixture{4, 2});
    if (name == "loop-90")
        return std::make_unique<Loop>(writer, cache_tokens * 9 / 10, Mixture{6, 2});
    if (name == "midnight")
        return std::make_unique<Midnight>(writer);
    if (name == "tenant-leaves")
        return std::make_unique<TenantLeaves>(writer);
    if (name == "bursts")
        return std::make_unique<Bursts>(writer);
    if (name == "phases")
        return std::make_unique<Phases>(writer);
    throw std::invalid_argument(
        fmt::format("'{}' is no workload: {}", name, fmt::join(workload_names(), ", ")));
}

} // namespace

std::span<const std::string_view> workload_names() noexcept {
    static constexpr std::string_view names[] = {
        "flood", "loop-half", "loop-90", "midnight", "tenant-leaves", "bursts", "phases"};
    return names;
}

Trace generate_workload(std::string_view name, std::uint64_t seed, std::size_t n_requests) {
    Writer writer(name, seed);
    const std::unique_ptr<Workload> workload = make_workload(name, writer);
    for (std::size_t i = 0; i < n_requests; ++i)
        workload->write(i);
    return std::move(writer).release();
}

} // namespace replay
