// SPDX-License-Identifier: MIT
// A model key of several parts: state is shared only where all of them are equal. A model that comes
// back under its old name with new weights is a new model. So is another adapter, or another tenant.
#include <promptkv/promptkv.hpp>

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <functional>
#include <string>
#include <vector>

/// Whatever must never share state belongs in here. The chat template too, where the tokens do not
/// show it.
struct ModelKey {
    std::string name;
    std::uint64_t weights = 0; // counts up with each load of weights
    std::string adapter;       // "" for none
    std::string tenant_salt;   // a secret of the tenant; "" where all may share

    friend bool operator==(const ModelKey&, const ModelKey&) = default;
};

template <>
struct std::hash<ModelKey> {
    std::size_t operator()(const ModelKey& key) const noexcept {
        std::size_t mixed = std::hash<std::uint64_t>{}(key.weights);
        for (const std::string* part : {&key.name, &key.adapter, &key.tenant_salt})
            mixed = mixed * 31 + std::hash<std::string>{}(*part);
        return mixed;
    }
};

namespace {

/// Full attention at 128 KiB a token, without the numbers.
struct KvState {
    std::size_t tokens = 0;

    std::size_t nbytes() const { return tokens << 17; }
    std::size_t reusable_prefix(std::size_t n) const { return n; }
    KvState clone_prefix(std::size_t n) const { return {n}; }
    void truncate(std::size_t n) { tokens = n; }
};
static_assert(promptkv::PrefixReusable<KvState> && promptkv::TruncatablePayload<KvState>);

} // namespace

int main() {
    promptkv::LRUPromptCache<KvState, ModelKey> cache({.max_bytes = std::size_t{1} << 30});
    const std::vector<std::int32_t> prompt(1000, 7);

    // Keep the key beside the loaded model: a lookup takes it by reference and copies nothing.
    const ModelKey model = {"llama-3.2-1b", 1, "", "salt of tenant A"};
    cache.insert(model, prompt, KvState{prompt.size()}, promptkv::Tier::system);

    const auto look_up = [&](const char* what, const ModelKey& key) {
        std::printf("%-20s %4zu tokens reused\n", what, cache.fetch_nearest(key, prompt).reused());
    };
    ModelKey with_adapter = model;
    with_adapter.adapter = "sql-lora";
    ModelKey other_tenant = model;
    other_tenant.tenant_salt = "salt of tenant B";
    look_up("the same model", model);
    look_up("another adapter", with_adapter);
    look_up("another tenant", other_tenant);

    // The weights are loaded anew: state that the old ones computed can serve nobody any more.
    ModelKey reloaded = model;
    ++reloaded.weights;
    look_up("new weights", reloaded);
    std::printf("explain: %s\n", promptkv::to_string(cache.explain(reloaded, prompt)).c_str());
    std::printf("%zu entry of the old weights erased\n", cache.erase_model(model));
}
