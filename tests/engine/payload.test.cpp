// SPDX-License-Identifier: MIT
// What examples/llama_chat/llama_kv.hpp copies out of a context and into it, without a cache.
#include "fixture.hpp"

#include "model_key.hpp"

#include <promptkv/kv_traits.hpp>

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <span>
#include <stdexcept>
#include <string>
#include <vector>

using namespace engine_tests;
using llama_kv::Sequence;

static_assert(promptkv::TruncatablePayload<AttentionKV>);
static_assert(promptkv::PrefixClonable<AttentionKV>);
static_assert(promptkv::BlockPayload<AttentionKV>);
static_assert(promptkv::SharedPrefixPayload<RecurrentKV>);
static_assert(promptkv::BlockPayload<RecurrentKV>);

namespace {

/// The state of sequence 0 as the engine writes it.
std::vector<std::uint8_t> whole_state(Engine& engine) {
    std::vector<std::uint8_t> bytes(llama_state_seq_get_size(engine.context(), 0));
    llama_state_seq_get_data(engine.context(), bytes.data(), bytes.size(), 0);
    return bytes;
}

} // namespace

TEST_CASE("Models with a recurrent state are told apart from attention alone") {
    for (const Setting& setting : attention_settings()) {
        INFO(setting.name);
        CHECK_FALSE(llama_kv::is_recurrent(Engine(setting.model_file, {}).model()));
    }
    for (const Setting& setting : recurrent_settings()) {
        INFO(setting.name);
        CHECK(llama_kv::is_recurrent(Engine(setting.model_file, {}).model()));
    }
}

TEST_CASE("Attention that was saved and cut gives the logits of the run that it came from") {
    for (const Setting& setting : attention_settings()) {
        INFO(setting.name);
        const Tokens prompt = prompt_of(150, 1);
        Engine engine(setting.model_file, setting.options);
        Sequence<AttentionKV> sequence(engine.context(), 0, 1, engine.batch_tokens());
        engine.prefill(prompt, 0);
        AttentionKV saved(engine.batch_tokens());
        sequence.save(saved, prompt.size());
        CHECK(saved.length() == prompt.size());

        for (const std::size_t cut : {1U, 32U, 149U}) {
            INFO("cut to " << cut);
            const Tokens continued = branch(prompt, cut, 40, 2);

            // Equal batches without any saving: computed in place, and cut there.
            Engine plain(setting.model_file, setting.options);
            plain.prefill(prompt, 0);
            llama_memory_seq_rm(llama_get_memory(plain.context()), 0, static_cast<llama_pos>(cut),
                                -1);
            const Answer expected = finish(plain, continued, cut);

            sequence.restore(saved, cut);
            CHECK(finish(engine, continued, cut) == expected);
            sequence.restore(saved.clone_prefix(cut), cut);
            CHECK(finish(engine, continued, cut) == expected);
        }
    }
}

TEST_CASE("Layers with a sliding window are restored behind the window") {
    const Setting setting{"sliding windows", small_model("wwwa"), {}};
    const Tokens prompt = prompt_of(600, 1); // longer than what the engine keeps of pruned windows
    Engine engine(setting.model_file, setting.options);
    Sequence<AttentionKV> sequence(engine.context(), 0, 1, engine.batch_tokens());
    engine.prefill(prompt, 0);
    AttentionKV saved(engine.batch_tokens());
    sequence.save(saved, prompt.size());
    for (const std::size_t cut : {64U, 576U}) {
        INFO("cut to " << cut);
        sequence.restore(saved, cut);
        CHECK(finish(engine, prompt, cut) == answer_from_nothing(setting, prompt));
    }
}

TEST_CASE("A state that was saved gives the logits of the run that it came from") {
    for (const Setting& setting : recurrent_settings()) {
        INFO(setting.name);
        const Tokens prompt = prompt_of(150, 1); // ends within a block
        const Tokens continued = branch(prompt, 150, 40, 2);
        Engine engine(setting.model_file, setting.options);
        Sequence<RecurrentKV> sequence(engine.context(), 0, 1, engine.batch_tokens());
        engine.prefill(prompt, 0);
        RecurrentKV saved(engine.batch_tokens());
        sequence.save(saved, prompt.size());

        Engine plain(setting.model_file, setting.options);
        plain.prefill(prompt, 0);
        const Answer expected = finish(plain, continued, 150);
        CHECK(finish(engine, continued, 150) == expected);
        sequence.restore(saved, 150);
        CHECK(finish(engine, continued, 150) == expected);
    }
}

TEMPLATE_TEST_CASE("A save leaves the sequence as it was, and a restore brings it back", "",
                   AttentionKV, RecurrentKV) {
    for (const Setting& setting : settings_of<TestType>()) {
        INFO(setting.name);
        Engine engine(setting.model_file, setting.options);
        Sequence<TestType> sequence(engine.context(), 0, 1, engine.batch_tokens());
        const Tokens prompt = prompt_of(160, 1);
        engine.prefill(std::span(prompt).first(100), 0);
        const auto before = whole_state(engine);
        TestType saved(engine.batch_tokens());
        sequence.save(saved, 100);
        CHECK((whole_state(engine) == before)); // not thousands of bytes in a message
        CHECK(llama_memory_seq_pos_max(llama_get_memory(engine.context()), 1) == -1);

        engine.prefill(prompt, 100);
        CHECK((whole_state(engine) != before));
        sequence.restore(saved, 100);
        CHECK((whole_state(engine) == before));
    }
}

TEST_CASE("A state lies in a payload once, not in each block") {
    for (const Setting& setting : recurrent_settings()) {
        INFO(setting.name);
        Engine engine(setting.model_file, setting.options);
        Sequence<RecurrentKV> sequence(engine.context(), 0, 1, engine.batch_tokens());
        engine.prefill(prompt_of(320, 1), 0);
        RecurrentKV saved(engine.batch_tokens());
        sequence.save(saved, 320);
        REQUIRE(saved.blocks().size() == 10);
        CHECK(saved.nbytes() < whole_state(engine).size() + 10 * 256); // headers
    }
}

TEMPLATE_TEST_CASE("A save copies only the blocks that the payload lacks", "", AttentionKV,
                   RecurrentKV) {
    for (const Setting& setting : settings_of<TestType>()) {
        INFO(setting.name);
        Engine engine(setting.model_file, setting.options);
        const std::size_t batch = engine.batch_tokens();
        Sequence<TestType> sequence(engine.context(), 0, 1, batch);
        const Tokens prompt = prompt_of(5 * batch, 1);
        engine.prefill(std::span(prompt).first(3 * batch), 0);
        TestType first(batch);
        sequence.save(first, 3 * batch);
        CHECK(first.nbytes() == sequence.nbytes(3 * batch));

        engine.prefill(prompt, 3 * batch);
        TestType second = first;
        sequence.save(second, 5 * batch);
        REQUIRE(second.blocks().size() == 5);
        CHECK(second.length() == 5 * batch);
        CHECK(second.nbytes() == sequence.nbytes(5 * batch));
        for (std::size_t i = 0; i < 3; ++i)
            CHECK(second.blocks()[i] == first.blocks()[i]);
    }
}

TEMPLATE_TEST_CASE("A payload has the size that was announced", "", AttentionKV, RecurrentKV) {
    for (const Setting& setting : settings_of<TestType>()) {
        for (const std::size_t length : {1U, 5U, 31U, 32U, 50U}) {
            INFO(setting.name << ", " << length << " tokens");
            Engine engine(setting.model_file, setting.options);
            Sequence<TestType> sequence(engine.context(), 0, 1, engine.batch_tokens());
            engine.prefill(prompt_of(length, 1), 0);
            TestType saved(engine.batch_tokens());
            sequence.save(saved, length);
            CHECK(saved.nbytes() == sequence.nbytes(length));
        }
    }
}

TEMPLATE_TEST_CASE("A damaged block is refused, and the sequence is empty and usable then", "",
                   AttentionKV, RecurrentKV) {
    for (const Setting& setting : settings_of<TestType>()) {
        INFO(setting.name);
        Engine engine(setting.model_file, setting.options);
        Sequence<TestType> sequence(engine.context(), 0, 1, engine.batch_tokens());
        const Tokens prompt = prompt_of(100, 1);
        const Answer expected = answer_from_nothing(setting, prompt);
        engine.prefill(prompt, 0);
        TestType saved(engine.batch_tokens());
        sequence.save(saved, 100);

        TestType damaged(engine.batch_tokens());
        llama_kv::Bytes block = *saved.blocks()[0];
        damaged.append(block, engine.batch_tokens());
        block.data.resize(block.data.size() / 2);
        damaged.append(block, engine.batch_tokens());
        CHECK_THROWS_AS(sequence.restore(damaged, 2 * engine.batch_tokens()), std::runtime_error);
        CHECK(llama_memory_seq_pos_max(llama_get_memory(engine.context()), 0) == -1);
        CHECK(finish(engine, prompt, 0) == expected);
    }
}

TEST_CASE("The model key differs where state must not be shared") {
    const std::string file = small_model("aaa");
    const TemporaryModel same(small_llama, 1);
    const TemporaryModel other_weights(small_llama, 2);
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
}

TEST_CASE("The fingerprint of a file sees one flipped byte and a missing one") {
    const TemporaryModel model(random_model::Shape{.layers = "mm", .width = 64});
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
