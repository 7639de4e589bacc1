// SPDX-License-Identifier: MIT
// The payload types of examples/llama_chat/llama_kv.hpp against the engine itself.
#include "fixture.hpp"

#include "catch.hpp"

#include <promptkv/kv_traits.hpp>

#include <cstddef>
#include <cstring>
#include <fstream>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

using namespace engine_tests;
using llama_kv::SegmentedKV;
using llama_kv::SegmentedPort;

static_assert(promptkv::KVPayload<SegmentedKV>);
static_assert(promptkv::KVPayload<llama_kv::WholeKV>);

namespace {

SegmentedKV three_segments() {
    std::vector<llama_kv::Blob> segments;
    for (std::size_t i = 0; i < 3; ++i) {
        segments.push_back({std::make_shared<std::uint8_t[]>(10), 10});
    }
    return SegmentedKV(4, 11, std::move(segments));
}

} // namespace

TEST_CASE("SegmentedKV shares its segments with its clones and frees what a cut drops") {
    SegmentedKV kv = three_segments();
    REQUIRE(kv.nbytes() == 30);
    REQUIRE(kv.length() == 11);
    CHECK(kv.reusable_prefix(7) == 7);
    CHECK(kv.reusable_prefix(12) == 11);

    const SegmentedKV clone = kv.clone_prefix(5);
    CHECK(clone.length() == 5);
    CHECK(clone.nbytes() == 20);
    CHECK(clone.segments()[1].data == kv.segments()[1].data);

    const std::weak_ptr<const std::uint8_t[]> second = kv.segments()[1].data;
    const std::weak_ptr<const std::uint8_t[]> third = kv.segments()[2].data;
    kv.truncate(4);
    CHECK(kv.nbytes() == 10);
    CHECK(third.expired());
    CHECK_FALSE(second.expired()); // the clone has it
    kv.truncate(0);
    CHECK(kv.nbytes() == 0);
}

TEST_CASE("A state that was saved and restored gives the logits of the run that it came from") {
    for (const Setting& setting : attention_settings()) {
        INFO(setting.name);
        const Tokens prompt = prompt_of(150, 1);
        const Tokens other = branch(prompt, 150, 0, 1);

        Engine engine(setting.model_file, setting.options);
        SegmentedPort port(engine.context(), 0, 1, engine.batch_tokens());
        engine.prefill(prompt, 0);
        const SegmentedKV saved = port.save(prompt.size());
        CHECK(saved.length() == prompt.size());

        for (const std::size_t cut : {1U, 31U, 32U, 33U, 100U, 149U}) {
            INFO("cut to " << cut);
            const Tokens continued = branch(prompt, cut, 40, 2);

            // The same batches without any saving: computed in place, and cut there.
            Engine plain(setting.model_file, setting.options);
            plain.prefill(prompt, 0);
            llama_memory_seq_rm(llama_get_memory(plain.context()), 0, static_cast<llama_pos>(cut),
                                -1);
            const Answer expected = finish(plain, continued, cut);

            port.restore(saved, cut);
            CHECK(finish(engine, continued, cut) == expected);
            port.restore(saved.clone_prefix(cut), cut);
            CHECK(finish(engine, continued, cut) == expected);
        }
    }
}

TEST_CASE("A save copies only the segments that were not restored") {
    const Setting setting = attention_settings().front();
    Engine engine(setting.model_file, setting.options);
    const std::size_t batch = engine.batch_tokens();
    SegmentedPort port(engine.context(), 0, 1, batch);
    const Tokens prompt = prompt_of(5 * batch + 3, 1);
    engine.prefill(prompt, 0);
    const SegmentedKV first = port.save(3 * batch + 5);
    CHECK(first.segments().size() == 4);

    port.restore(first, 3 * batch + 5);
    engine.prefill(prompt, 3 * batch + 5);
    CHECK(port.nbytes(prompt.size()) > first.nbytes());
    const SegmentedKV second = port.save(prompt.size());
    REQUIRE(second.segments().size() == 6);
    CHECK(port.nbytes(prompt.size()) == second.nbytes());
    for (std::size_t i = 0; i < 3; ++i) {
        CHECK(second.segments()[i].data == first.segments()[i].data);
    }
    CHECK(second.segments()[3].data != first.segments()[3].data); // grown since

    port.cut(2 * batch);
    CHECK(port.save(2 * batch).segments()[1].data == first.segments()[1].data);
    CHECK(port.nbytes(2 * batch) == first.clone_prefix(2 * batch).nbytes());
}

TEST_CASE("What save says it needs is what it takes") {
    for (const Setting& setting : attention_settings()) {
        INFO(setting.name);
        Engine engine(setting.model_file, setting.options);
        SegmentedPort port(engine.context(), 0, 1, engine.batch_tokens());
        engine.prefill(prompt_of(100, 1), 0);
        for (const std::size_t length : {1U, 7U, 32U, 50U, 64U, 100U}) {
            const std::size_t said = port.nbytes(length);
            CHECK(port.save(length).nbytes() == said);
        }
    }
}

TEST_CASE("A damaged state is refused, and the sequence is empty and usable then") {
    const Setting setting = attention_settings().front();
    Engine engine(setting.model_file, setting.options);
    SegmentedPort port(engine.context(), 0, 1, engine.batch_tokens());
    const Tokens prompt = prompt_of(100, 1);
    const Answer expected = finish(engine, prompt, 0);
    const SegmentedKV saved = port.save(prompt.size());

    std::vector<llama_kv::Blob> segments(saved.segments().begin(), saved.segments().end());
    segments[1].size /= 2;
    const SegmentedKV damaged(saved.segment_tokens(), saved.length(), segments);
    CHECK_THROWS_AS(port.restore(damaged, 100), std::runtime_error);
    CHECK(llama_memory_seq_pos_max(llama_get_memory(engine.context()), 0) == -1);
    CHECK(finish(engine, prompt, 0) == expected);
}

TEST_CASE("The model key differs where state must not be shared") {
    const std::string file = small_llama().path();
    const RandomModel same(random_model::Llama{
        .layers = 3, .width = 128, .feed_forward = 256, .heads = 4, .kv_heads = 2});
    const RandomModel other_weights(
        random_model::Llama{
            .layers = 3, .width = 128, .feed_forward = 256, .heads = 4, .kv_heads = 2},
        2);
    const llama_context_params params = llama_context_default_params();
    const std::string key = llama_kv::model_key(file, params);
    CHECK(llama_kv::model_key(same.path(), params) == key);
    CHECK(llama_kv::model_key(other_weights.path(), params) != key);

    const auto changed = [&](auto change) {
        llama_context_params other = params;
        change(other);
        return llama_kv::model_key(file, other) != key;
    };
    CHECK(changed([](llama_context_params& p) { p.type_k = GGML_TYPE_Q8_0; }));
    CHECK(changed([](llama_context_params& p) { p.type_v = GGML_TYPE_Q8_0; }));
    CHECK(changed(
        [](llama_context_params& p) { p.flash_attn_type = LLAMA_FLASH_ATTN_TYPE_DISABLED; }));
    CHECK(changed([](llama_context_params& p) { p.n_ctx += 1; }));
    CHECK(changed([](llama_context_params& p) { p.n_ubatch += 1; }));
    CHECK(changed([](llama_context_params& p) { p.rope_freq_base = 20000.0F; }));
    CHECK(changed([](llama_context_params& p) { p.rope_freq_scale = 0.5F; }));
    CHECK(changed([](llama_context_params& p) { p.yarn_ext_factor = 1.0F; }));
    CHECK(changed([](llama_context_params& p) { p.swa_full = !p.swa_full; }));
    CHECK(changed([](llama_context_params& p) { p.kv_unified = !p.kv_unified; }));

    const std::vector<llama_kv::Adapter> full = {{other_weights.path(), 1.0F}};
    const std::vector<llama_kv::Adapter> half = {{other_weights.path(), 0.5F}};
    CHECK(llama_kv::model_key(file, params, full) != key);
    CHECK(llama_kv::model_key(file, params, full) != llama_kv::model_key(file, params, half));
}

TEST_CASE("The fingerprint of a file sees one flipped byte and a missing one") {
    const RandomModel model(random_model::Mamba{});
    const auto fingerprint = llama_kv::file_fingerprint(model.path());
    {
        std::fstream file(model.path(), std::ios::in | std::ios::out | std::ios::binary);
        file.seekg(-100, std::ios::end);
        const auto byte = static_cast<char>(file.get() ^ 1);
        file.seekp(-100, std::ios::end);
        file.put(byte);
    }
    const auto flipped = llama_kv::file_fingerprint(model.path());
    CHECK(flipped != fingerprint);
    std::filesystem::resize_file(model.path(), std::filesystem::file_size(model.path()) - 1);
    CHECK(llama_kv::file_fingerprint(model.path()) != flipped);
    CHECK_THROWS_AS(llama_kv::file_fingerprint(model.path() + ".absent"), std::runtime_error);
}
