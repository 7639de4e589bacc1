// SPDX-License-Identifier: MIT
// State that cannot be cut: a small Mamba model, whose payloads serve whole keys only.
#include "fixture.hpp"

#include "catch.hpp"

#include <cstddef>
#include <span>
#include <stdexcept>
#include <string>

using namespace engine_tests;
using llama_kv::WholeKV;
using llama_kv::WholePort;
using promptkv::Match;
using promptkv::Tier;

namespace {

const Setting& mamba() {
    static const Setting setting{"mamba", small_mamba().path(), {}};
    return setting;
}

/// An engine with a cache of recurrent state, which it keeps at the end of a prompt's last whole
/// batch, on the way.
struct CachedMamba {
    struct Result {
        Answer answer;
        std::size_t reused;
        Match match;
    };

    Result answer(const Tokens& prompt) {
        Result result{};
        {
            const auto lease = cache.lease_nearest(engine.model_key(), prompt);
            if (lease) {
                port.restore(lease.kv(), lease.reused);
            } else {
                port.clear();
            }
            result.reused = lease.reused;
            result.match = lease.match;
        }
        const std::size_t kept = prompt.size() - 1 - (prompt.size() - 1) % engine.batch_tokens();
        const auto key = std::span<const llama_token>(prompt).first(kept);
        engine.prefill(key, result.reused);
        cache.insert(engine.model_key(), key, port.nbytes(kept), Tier::user,
                     [&] { return port.save(kept); });
        result.answer = finish(engine, prompt, kept);
        return result;
    }

    Engine engine{mamba().model_file, mamba().options};
    WholePort port{engine.context(), 0};
    promptkv::LRUPromptCache<WholeKV, std::string, llama_token> cache;
};

} // namespace

TEST_CASE("Recurrent state is told apart from full attention") {
    const Engine recurrent(mamba().model_file, mamba().options);
    const Engine attention(small_llama().path(), Engine::Options{});
    CHECK_FALSE(llama_kv::SegmentedPort::supports(recurrent.model()));
    CHECK(llama_kv::SegmentedPort::supports(attention.model()));
}

TEST_CASE("Recurrent state answers as an engine without a cache") {
    CachedMamba served;
    const std::size_t batch = served.engine.batch_tokens();
    const Tokens prompt = prompt_of(3 * batch + 5, 1);
    const Tokens grown = branch(prompt, prompt.size(), 2 * batch, 2);

    const auto first = served.answer(prompt);
    CHECK(first.match == Match::none);
    CHECK(first.answer == answer_from_nothing(mamba(), prompt));

    const auto again = served.answer(prompt);
    CHECK(again.match == Match::shorter);
    CHECK(again.reused == 3 * batch);
    CHECK(again.answer == first.answer);

    const auto next = served.answer(grown);
    CHECK(next.reused == 3 * batch);
    CHECK(next.answer == answer_from_nothing(mamba(), grown));
    CHECK(served.cache.size() == 2); // the longer one cannot stand in for the shorter one
    CHECK(served.answer(prompt).answer == first.answer);
}

TEST_CASE("Recurrent state is not served to a prompt that leaves its key") {
    CachedMamba served;
    const std::size_t batch = served.engine.batch_tokens();
    const Tokens prompt = prompt_of(3 * batch + 5, 1);
    const Tokens branched = branch(prompt, 2 * batch + 1, batch, 2);
    served.answer(prompt);
    const auto result = served.answer(branched);
    CHECK(result.match == Match::none);
    CHECK(result.reused == 0);
    CHECK(result.answer == answer_from_nothing(mamba(), branched));
}

TEST_CASE("A part of recurrent state cannot be restored") {
    CachedMamba served;
    const Tokens prompt = prompt_of(70, 1);
    served.engine.prefill(prompt, 0);
    const WholeKV saved = served.port.save(70);
    CHECK(saved.nbytes() == served.port.nbytes(70));
    CHECK(saved.length() == 70);
    CHECK_THROWS_AS(served.port.restore(saved, 69), std::logic_error);
    served.port.restore(saved, 70);
    const Tokens more = branch(prompt, 70, 10, 2);
    Engine plain(mamba().model_file, mamba().options);
    plain.prefill(prompt, 0);
    CHECK(finish(served.engine, more, 70) == finish(plain, more, 70));
}
