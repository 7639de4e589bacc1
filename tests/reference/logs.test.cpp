// SPDX-License-Identifier: MIT
// With Rules::mlx_lm, LRUPromptCache answers as the Python implementation did.
//
// A log is a file of JSON lines: the configuration, then one operation per line with the answer of the
// reference. The logs lie beside the project; where they are absent, a short one still runs.
//
// The rules deviate from the reference in three points, which the logs do not touch:
//
// | case                               | reference                    | here                             |
// |------------------------------------|------------------------------|----------------------------------|
// | a payload larger than the budget   | evicts everything, itself too | `too_large`, nothing is touched |
// | a key stored again in a lower tier | its tier falls               | its tier stays                   |
// | the victim of an insert            | may be what was just stored  | never is                         |
//
// Blocks that payloads share are counted once; the payloads of the logs share none.

#include <promptkv/lru_prompt_cache.hpp>

#include "catch.hpp"
#include "unit_payloads.hpp"

#include <nlohmann/json.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <istream>
#include <map>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

namespace {

using namespace promptkv_test;
using Json = nlohmann::json; // compares without regard to the order of members

using Cache = promptkv::LRUPromptCache<Sheet>;
using promptkv::Match;
using promptkv::Rules;
using promptkv::Tier;

struct Stored {
    std::string model;
    Key tokens;
};

std::size_t number_or_unlimited(const Json& value) {
    return value.is_null() ? promptkv::unlimited : value.get<std::size_t>();
}

Tier tier_named(const std::string& name) {
    return name == "system" ? Tier::system : name == "user" ? Tier::user : Tier::assistant;
}

std::size_t common(const Key& a, const Key& b) {
    return static_cast<std::size_t>(std::mismatch(a.begin(), a.end(), b.begin(), b.end()).first -
                                    a.begin());
}

/// Replays one log, line after line.
class Replay {
public:
    explicit Replay(const Json& config)
        : cache_({.max_bytes = config.at("max_bytes").get<std::size_t>(),
                  .max_entries = config.at("max_sequences").get<std::size_t>(),
                  .rules = Rules::mlx_lm}) {}

    /// Does one operation. Returns its answer in the words of the log.
    Json answer(const Json& operation) {
        const std::string name = operation.at("op");
        Json result;
        if (name == "fetch") {
            result = fetch(operation);
        } else {
            name == "insert" ? insert(operation) : trim(operation);
            result = {{"size", cache_.size()}, {"nbytes", cache_.nbytes()}, {"by_tier", by_tier()}};
        }
        return result;
    }

    [[nodiscard]] bool check_invariants() const { return cache_.check_invariants(); }

private:
    void insert(const Json& operation) {
        const int id = operation.at("id");
        const Stored stored{operation.at("model"), operation.at("tokens").get<Key>()};
        cache_.insert(
            stored.model, stored.tokens,
            Sheet(id, operation.at("nbytes"), operation.at("trimmable"), stored.tokens.size()),
            tier_named(operation.at("tier")));
        stored_[id] = stored;
    }

    void trim(const Json& operation) {
        cache_.trim_to({.max_bytes = number_or_unlimited(operation.at("max_bytes")),
                        .max_entries = number_or_unlimited(operation.at("max_sequences"))});
    }

    Json fetch(const Json& operation) {
        const std::string model = operation.at("model");
        const auto tokens = operation.at("tokens").get<Key>();
        const auto hit = cache_.fetch_nearest(
            model, tokens, {.min_remaining = operation.at("min_remaining").get<std::size_t>()});
        Json result = {{"match", std::string(name(hit.match()))}};
        if (hit) {
            const int id = hit.kv->id();
            if (hit.match() != Match::longer) {
                result["id"] = id;
            } else { // any entry that can be cut to the same length is as good
                const Stored& found = stored_.at(id);
                REQUIRE(found.model == model);
                REQUIRE(common(found.tokens, tokens) >= hit.reused());
                result["stored_tokens"] = operation.at("expect").value("stored_tokens", Json());
            }
            REQUIRE(hit.kv->length() == hit.reused());
            result["reused"] = hit.reused();
        }
        result["remaining"] = hit.remaining(tokens).size();
        return result;
    }

    [[nodiscard]] Json by_tier() const {
        Json result;
        for (const char* name : {"assistant", "user", "system"}) {
            const auto stats = cache_.stats(tier_named(name));
            result[name] = {stats.entries, stats.nbytes};
        }
        return result;
    }

    Cache cache_;
    std::map<int, Stored> stored_; // by id
};

/// Replays a log and compares every answer. Returns the number of operations.
std::size_t replay(std::istream& log) {
    std::string line;
    REQUIRE(std::getline(log, line));
    Replay replay(Json::parse(line).at("config"));
    std::size_t operations = 0;
    while (std::getline(log, line)) {
        ++operations;
        CAPTURE(operations, line);
        const Json operation = Json::parse(line);
        REQUIRE(replay.answer(operation) == operation.at("expect"));
        REQUIRE(replay.check_invariants());
    }
    return operations;
}

constexpr const char* short_log = R"(
{"config":{"max_sequences":3,"max_bytes":20,"tiers":["assistant","user","system"]}}
{"op":"fetch","model":"a","tokens":[1],"min_remaining":0,"expect":{"match":"none","remaining":1}}
{"op":"insert","model":"a","tokens":[1,2,3],"id":1,"nbytes":6,"trimmable":true,"tier":"user","expect":{"size":1,"nbytes":6,"by_tier":{"assistant":[0,0],"user":[1,6],"system":[0,0]}}}
{"op":"fetch","model":"a","tokens":[1,2,3],"min_remaining":0,"expect":{"match":"exact","id":1,"reused":3,"remaining":0}}
{"op":"fetch","model":"a","tokens":[1,2,3,4,5],"min_remaining":1,"expect":{"match":"shorter","id":1,"reused":3,"remaining":2}}
{"op":"fetch","model":"a","tokens":[1,2,9],"min_remaining":1,"expect":{"match":"longer","stored_tokens":[1,2,3],"reused":2,"remaining":1}}
{"op":"fetch","model":"b","tokens":[1,2,3],"min_remaining":0,"expect":{"match":"none","remaining":3}}
{"op":"insert","model":"b","tokens":[7,8],"id":2,"nbytes":7,"trimmable":false,"tier":"assistant","expect":{"size":2,"nbytes":13,"by_tier":{"assistant":[1,7],"user":[1,6],"system":[0,0]}}}
{"op":"fetch","model":"b","tokens":[7,9],"min_remaining":1,"expect":{"match":"none","remaining":2}}
{"op":"insert","model":"b","tokens":[7,8,9],"id":3,"nbytes":5,"trimmable":false,"tier":"system","expect":{"size":3,"nbytes":18,"by_tier":{"assistant":[1,7],"user":[1,6],"system":[1,5]}}}
{"op":"insert","model":"a","tokens":[1,2,3,4],"id":4,"nbytes":8,"trimmable":true,"tier":"assistant","expect":{"size":3,"nbytes":20,"by_tier":{"assistant":[2,15],"user":[0,0],"system":[1,5]}}}
{"op":"insert","model":"a","tokens":[5],"id":5,"nbytes":1,"trimmable":true,"tier":"user","expect":{"size":3,"nbytes":14,"by_tier":{"assistant":[1,8],"user":[1,1],"system":[1,5]}}}
{"op":"trim_to","max_sequences":2,"max_bytes":null,"expect":{"size":2,"nbytes":6,"by_tier":{"assistant":[0,0],"user":[1,1],"system":[1,5]}}}
{"op":"trim_to","max_sequences":null,"max_bytes":5,"expect":{"size":1,"nbytes":5,"by_tier":{"assistant":[0,0],"user":[0,0],"system":[1,5]}}}
)";

} // namespace

TEST_CASE("Rules::mlx_lm answers a short log as the reference did") {
    std::istringstream log(short_log + 1);
    REQUIRE(replay(log) == 13);
}

TEST_CASE("Rules::mlx_lm answers recorded logs as the reference did") {
    const std::filesystem::path folder = std::filesystem::path(PROMPTKV_SHARED_DIR) / "reference";
    std::vector<std::filesystem::path> files;
    std::error_code absent;
    for (const auto& entry : std::filesystem::directory_iterator(folder, absent)) {
        if (entry.path().extension() == ".jsonl")
            files.push_back(entry.path());
    }
    if (files.empty()) {
        WARN("skipped: no logs of the reference in " << folder.lexically_normal().string());
        SUCCEED();
        return;
    }
    std::sort(files.begin(), files.end());
    std::size_t operations = 0;
    for (const auto& file : files) {
        CAPTURE(file.filename().string());
        std::ifstream log(file);
        operations += replay(log);
    }
    std::cout << "reference: " << operations << " operations of " << files.size() << " logs\n";
}
