// SPDX-License-Identifier: MIT
// ReuseOrder has the victims that a naive re-implementation has.
//
// The naive one keeps whole histories, finds every bucket by a search, and walks all that it has for
// each answer. It follows what the contract says: a kind's level is taken when a candidate is nominated
// or used, and stays until then; a lesson is due after a twelfth of the intervals that are known.
#include "catch.hpp"
#include "random.hpp"

#include <promptkv/reuse_order.hpp>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <iostream>
#include <limits>
#include <map>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

using namespace promptkv_test;

namespace {

using promptkv::ReuseOrder;
using promptkv::Rules;
using promptkv::Tier;

// what the order sees of a cache //////////////////////////////////////////////////////////////////

struct FakeRecord;

struct FakeNode {
    ReuseOrder::NodeHook hook;
    FakeRecord* value = nullptr;
};

struct FakeRecord {
    using Node = FakeNode;
    ReuseOrder::Hook<FakeRecord> hook;
    FakeNode* node = nullptr;
    Tier tier = Tier::user;
    bool is_entry = true;
    bool aside = false;
    bool leaf = true;

    [[nodiscard]] bool is_aside() const { return aside; }
    [[nodiscard]] bool is_leaf() const { return leaf; }
};

using Order = ReuseOrder::Order<FakeRecord, Tier>;

// the naive one ///////////////////////////////////////////////////////////////////////////////////

constexpr std::size_t n_ages = 40;
constexpr std::size_t n_levels = 16;
constexpr std::size_t known_intervals = 16'384;

/// The fewest requests of a bucket: half an octave of (requests + 1) each. Bucket 1 is empty.
double from_of(std::size_t bucket) {
    if (bucket < 2)
        return static_cast<double>(bucket);
    const double octave = std::pow(2.0, static_cast<double>(bucket / 2));
    return (bucket % 2 == 0 ? octave : 1.5 * octave) - 1;
}
double width_of(std::size_t bucket) {
    return from_of(bucket + 1) - from_of(bucket);
}
std::size_t bucket_of(std::uint32_t requests) {
    std::size_t bucket = 0;
    for (std::size_t i = 0; i < n_ages; ++i) {
        if (from_of(i) <= static_cast<double>(requests))
            bucket = i;
    }
    return bucket;
}

/// The values of a kind's features.
using Kind = std::array<std::size_t, 6>;

class NaiveLesson {
public:
    struct Interval {
        std::uint32_t begin;
        Kind kind;
        std::optional<std::uint32_t> age; // when it ended; empty: it is open
    };

    NaiveLesson() {
        for (std::size_t level = 0; level < n_levels; ++level) {
            for (std::size_t age = 0; age < n_ages; ++age)
                worth_[level][age] = static_cast<float>((static_cast<double>(level) - 8) / 2 +
                                                        std::log2(0.1 / (from_of(age) + 1)));
        }
    }

    std::size_t begin(std::uint32_t now, const Kind& kind) {
        all_.push_back({now, kind, std::nullopt});
        return all_.size();
    }
    void end(std::size_t number, std::uint32_t now) {
        if (number == 0 || number + known_intervals <= all_.size())
            return;
        Interval& interval = all_[number - 1];
        if (!interval.age)
            interval.age = now - interval.begin;
    }

    void amend(std::size_t number, const Kind& kind) {
        if (number != 0 && number + known_intervals > all_.size())
            all_[number - 1].kind = kind;
    }

    void learn(std::uint32_t now) {
        const std::size_t due =
            std::max<std::size_t>(64, (std::min)(all_.size() + 1, known_intervals) / 12);
        if (all_.size() - learned_ < due)
            return;
        learned_ = all_.size();
        refit(now);
    }

    [[nodiscard]] float level(const Kind& kind) const {
        float level = 8;
        for (std::size_t f = 0; f < kind.size(); ++f)
            level += 2 * weight(f, kind[f]);
        return std::clamp(level, 0.0F, 14.999F);
    }
    /// Between the levels on both sides.
    [[nodiscard]] double worth(float level, std::uint32_t age) const {
        const double below = std::floor(level);
        const auto i = static_cast<std::size_t>(below);
        const std::size_t bucket = bucket_of(age);
        const double part = static_cast<double>(level) - below;
        return (1 - part) * static_cast<double>(worth_[i][bucket]) +
               part * static_cast<double>(worth_[i + 1][bucket]);
    }
    [[nodiscard]] std::uint32_t span(std::uint32_t now) const {
        return all_.size() >= known_intervals ? now - all_[all_.size() - known_intervals].begin : 0;
    }

private:
    using Ages = std::array<double, n_ages>;
    /// What the hazards of a set of intervals are made of: how many ended with a use in a bucket, and how
    /// many were last seen there.
    struct Counts {
        Ages uses{}, ends{};
    };

    [[nodiscard]] float weight(std::size_t feature, std::size_t value) const {
        const auto found = weights_.find({feature, value});
        return found != weights_.end() ? found->second : 0;
    }

    static void add(Counts& counts, std::size_t age, bool used) {
        if (used) {
            counts.uses[age] += 1;
            counts.ends[age] += 1;
        } else { // half of it is counted at the end of the bucket before
            counts.ends[age] += 0.5;
            counts.ends[age == 0 ? 0 : age - 1] += 0.5;
        }
    }

    template <class Guess>
    static Ages hazards(const Counts& counts, double trust, Guess guess) {
        Ages result{};
        for (std::size_t age = 0; age < n_ages; ++age) {
            double lasted = 0;
            for (std::size_t later = n_ages; later-- > age;)
                lasted += counts.ends[later];
            if (width_of(age) > 0)
                result[age] =
                    (std::min)(0.97, (counts.uses[age] + trust * guess(age)) / (lasted + trust));
        }
        return result;
    }

    void refit(std::uint32_t now) {
        const std::size_t first = all_.size() > known_intervals ? all_.size() - known_intervals : 0;
        const auto last_age = [&](const Interval& each) {
            return bucket_of(each.age ? *each.age : now - each.begin);
        };
        Counts all;
        for (std::size_t i = all_.size(); i-- > first;)
            add(all, last_age(all_[i]), all_[i].age.has_value());
        const Ages hazard = hazards(all, 300, [](std::size_t age) {
            return (std::min)(0.5, static_cast<double>(0.1F) * width_of(age) / (from_of(age) + 1));
        });

        // A weight goes towards as many uses as its value was expected to have.
        std::map<std::pair<std::size_t, std::size_t>, std::pair<double, double>> sums;
        std::array<Counts, n_levels> by_level{};
        for (std::size_t i = all_.size(); i-- > first;) {
            const Interval& each = all_[i];
            const std::size_t age = last_age(each);
            double expected = hazard[age] / 2;
            for (std::size_t before = 0; before < age; ++before)
                expected += hazard[before];
            for (std::size_t f = 0; f < each.kind.size(); ++f)
                expected *= std::exp2(static_cast<double>(weight(f, each.kind[f])));
            for (std::size_t f = 0; f < each.kind.size(); ++f) {
                auto& sum = sums[{f, each.kind[f]}];
                sum.first += each.age ? 1 : 0;
                sum.second += expected;
            }
            add(by_level[static_cast<std::size_t>(level(each.kind) + 0.5F)], age,
                each.age.has_value());
        }
        for (std::size_t f = 0; f < 6; ++f) {
            for (std::size_t v = 0; v < 16; ++v) {
                const auto sum = sums[{f, v}];
                const double before = static_cast<double>(weight(f, v));
                const double ratio = (sum.first + 30) / (sum.second + 30 * std::exp2(before));
                const float after = weight(f, v) + static_cast<float>(std::log2(ratio)) / 6;
                weights_[{f, v}] = std::clamp(after, -4.0F, 4.0F);
            }
        }

        // The best ratio of expected hits to expected room over all times at which one could stop.
        for (std::size_t level = 0; level < n_levels; ++level) {
            const double times = std::exp2((static_cast<double>(level) - 8) / 2);
            const Ages of_level = hazards(by_level[level], 30, [&](std::size_t age) {
                return (std::min)(0.9, times * hazard[age]);
            });
            for (std::size_t from = 0; from < n_ages; ++from) {
                double alive = 1, room = 0, gain = 0, best = 0;
                for (std::size_t age = from; age < n_ages && alive > 1e-4; ++age) {
                    if (width_of(age) <= 0)
                        continue;
                    gain += alive * of_level[age];
                    room += alive * width_of(age) * (1 - of_level[age] / 2);
                    alive *= 1 - of_level[age];
                    best = (std::max)(best, gain / room);
                }
                worth_[level][from] = static_cast<float>(std::log2((std::max)(best, 1e-30)));
            }
        }
    }

    std::vector<Interval> all_;
    std::size_t learned_ = 0;
    std::map<std::pair<std::size_t, std::size_t>, float> weights_;
    std::array<std::array<float, n_ages>, n_levels> worth_{};
};

/// What the naive one knows of an edge.
struct NaiveEdge {
    std::uint32_t last = 0;
    std::size_t interval = 0;
    std::size_t uses = 0; // 0: it was not observed yet
    std::size_t siblings = 0;
    std::size_t key = 0;
    Kind kind{};
    bool is_new_part = false;
    bool is_tail = false;
    bool is_obsolete = false;
};

/// Edges and records are numbers; a record has the number of its edge.
class NaiveOrder {
public:
    struct Candidate {
        int record;
        float level;
        double wish;
    };

    explicit NaiveOrder(std::size_t sample) : sample_(sample) {}

    void nominate(int record, Tier tier, bool is_candidate) {
        const auto found = find(record);
        if (!is_candidate) {
            if (found != candidates_.end()) { // the last one takes its place
                const bool is_next = hand_ == candidates_.size() - 1; // the last one keeps its turn
                *found = candidates_.back();
                if (is_next)
                    hand_ = static_cast<std::size_t>(found - candidates_.begin());
                candidates_.pop_back();
            }
            return;
        }
        NaiveEdge& edge = edges[record];
        if (found == candidates_.end()) {
            edge.is_tail = false;
            edge.uses = std::max<std::size_t>(edge.uses, 1);
        }
        const Candidate made{record, lesson_.level(edge.kind),
                             static_cast<double>(tier) - (edge.is_obsolete ? 1000 : 0)};
        if (found == candidates_.end())
            candidates_.push_back(made);
        else
            *found = made;
    }

    /// The sweep goes on with this one: it changes places with the one before the hand.
    void bring_forward(int record) {
        const auto found = find(record);
        if (found == candidates_.end())
            return;
        hand_ = (hand_ == 0 || hand_ > candidates_.size() ? candidates_.size() : hand_) - 1;
        std::swap(*found, candidates_[hand_]);
    }
    /// The worth of the next candidates, in the order of the sweep; of the next one alone where it is obsolete.
    [[nodiscard]] std::vector<std::pair<int, double>> sweep() {
        std::vector<std::pair<int, double>> asked;
        const std::size_t n = (std::min)(sample_, candidates_.size());
        for (std::size_t i = 0; i < n; ++i) {
            if (hand_ >= candidates_.size())
                hand_ = 0;
            const Candidate& each = candidates_[hand_++];
            asked.emplace_back(each.record,
                               lesson_.worth(each.level, age_of(each.record)) + each.wish);
            if (i == 0 && each.wish < -500)
                break;
        }
        return asked;
    }
    [[nodiscard]] std::uint32_t age_of(int record) { return now_ - edges[record].last; }
    /// `asked`: what the sweep gave. The hand goes back to the first other obsolete one.
    void victim_was(int record, const std::vector<std::pair<int, double>>& asked) {
        for (const auto& [other, worth] : asked) {
            const auto found = find(other);
            if (other != record && found->wish < -500) {
                hand_ = static_cast<std::size_t>(found - candidates_.begin());
                break;
            }
        }
        victim_age_ += (static_cast<float>(age_of(record)) - victim_age_) / 256;
    }

    void next_request(std::uint32_t now) {
        now_ = now;
        lesson_.learn(now);
        if (now % 1024 != 0)
            return;
        const auto span = static_cast<float>(lesson_.span(now));
        if (span > 0 && span < 4 * victim_age_ && skipped_ < 255)
            skipped_ = 2 * skipped_ + 1;
        else if (span > 16 * victim_age_)
            skipped_ /= 2;
        most_skipped = (std::max)(most_skipped, skipped_);
    }

    void used(int number, const Order::Use& use) {
        NaiveEdge& edge = edges[number];
        const std::size_t gap = use.request - edge.last;
        if (edge.is_new_part) // the first part has been observed since the last use as well
            lesson_.end(begin(edge), use.request);
        else
            lesson_.end(edge.interval, use.request);
        edge.is_new_part = false;
        edge.uses = std::min<std::size_t>(edge.uses + 1, 65'535);
        describe(number, log_of(gap), use);
        observe(edge);
    }
    void separated(int number) {
        edges[number].is_new_part = false;
        observe(edges[number]);
    }
    void hint(int number, std::size_t hint) {
        NaiveEdge& edge = edges[number];
        edge.kind[4] = std::min<std::size_t>(15, hint);
        lesson_.amend(edge.interval, edge.kind);
        if (const auto found = find(number); found != candidates_.end())
            found->level = lesson_.level(edge.kind);
    }
    void born(int number, std::size_t children, const Order::Use& use) {
        expect(number, children, use);
        NaiveEdge& edge = edges[number];
        edge.key = static_cast<std::uint32_t>(births_ * 2'654'435'761U) >> 24U;
        ++births_;
        observe(edge);
    }
    void expect(int number, std::size_t children, const Order::Use& use) {
        NaiveEdge& edge = edges[number] = NaiveEdge{};
        edge.uses = 1;
        constexpr std::array<std::size_t, 7> up_to{1, 2, 3, 5, 10, 30, 1'000'000};
        while (children > up_to[edge.siblings])
            ++edge.siblings;
        if (children == 0)
            edge.siblings = 9;
        describe(number, 0, use);
    }
    void expect_more(int number, int extended, const Order::Use& use) {
        NaiveEdge& edge = edges[number] = edges[extended];
        edge.is_obsolete = false;
        const std::size_t gap = use.request - edge.last;
        if (gap == 0)
            return;
        edge.uses = std::min<std::size_t>(edge.uses + 1, 65'535);
        describe(number, log_of(gap), use);
    }

    std::map<int, NaiveEdge> edges;
    std::size_t most_skipped = 0;

    [[nodiscard]] const std::vector<Candidate>& candidates() const { return candidates_; }

private:
    std::vector<Candidate>::iterator find(int record) {
        return std::find_if(candidates_.begin(), candidates_.end(),
                            [record](const Candidate& each) { return each.record == record; });
    }
    /// Binary digits.
    [[nodiscard]] static std::size_t log_of(std::size_t x) {
        std::size_t digits = 0;
        for (; x > 0; x /= 2)
            ++digits;
        return std::min<std::size_t>(15, digits);
    }
    void describe(int number, std::size_t gap, const Order::Use& use) {
        NaiveEdge& edge = edges[number];
        edge.last = use.request;
        constexpr std::array<std::size_t, 9> up_to{0, 1, 2, 3, 5, 9, 20, 50, 1'000'000};
        std::size_t uses = 0;
        while (edge.uses > up_to[uses])
            ++uses;
        edge.kind = {uses,          gap,
                     edge.siblings, log_of(use.tokens),
                     edge.kind[4],  std::min<std::size_t>(15, use.tier)};
        if (const auto found = find(number); found != candidates_.end())
            found->level = lesson_.level(edge.kind);
    }
    std::size_t begin(const NaiveEdge& edge) {
        return (edge.key & skipped_) == 0 ? lesson_.begin(edge.last, edge.kind) : 0;
    }
    /// Of the busiest edges one use in 16 is enough.
    void observe(NaiveEdge& edge) {
        edge.interval = edge.uses > 32 && edge.uses % 16 != 0 ? 0 : begin(edge);
    }

    std::size_t sample_;
    NaiveLesson lesson_;
    std::vector<Candidate> candidates_;
    std::size_t hand_ = 0;
    std::uint32_t now_ = 0;
    std::uint32_t births_ = 0;
    std::size_t skipped_ = 0;
    float victim_age_ = 0;
};

// both side by side ///////////////////////////////////////////////////////////////////////////////

class Pair {
public:
    explicit Pair(std::size_t sample)
        : order_({.sample = static_cast<std::uint32_t>(sample)}, Rules::promptkv), naive_(sample) {}
    Pair(const Pair&) = delete;
    Pair& operator=(const Pair&) = delete;
    ~Pair() {
        while (!records_.empty())
            remove(records_.begin()->first);
    }

    void next_request() {
        ++now_;
        order_.next_request(now_, 100);
        naive_.next_request(static_cast<std::uint32_t>(now_));
    }

    /// A new edge with an entry, or a new entry on an edge that outlived its last one.
    void add(int number, Tier tier, bool leaf, std::size_t children, std::size_t tokens) {
        const Order::Use use = use_of(tokens, tier);
        FakeNode& node = nodes_[number];
        if (node.hook.is_observed()) {
            if (is_later(number))
                use_edge(number, use);
        } else {
            order_.born(node, children, use);
            naive_.born(number, children, use);
        }
        auto record = std::make_unique<FakeRecord>();
        record->node = &node;
        node.value = record.get();
        record->tier = tier;
        record->leaf = leaf;
        order_.reserve(records_.size() + 1);
        order_.enter(*record);
        naive_.nominate(number, tier, leaf);
        records_.emplace(number, std::move(record));
    }
    /// New edges of which nothing more is heard.
    void pass_edges(int n) {
        constexpr int passing = -2;
        const Order::Use use = use_of(50, Tier::user);
        for (int i = 0; i < n; ++i) {
            order_.born(nodes_[passing], 1, use);
            naive_.born(passing, 1, use);
        }
        forget(passing);
    }
    void use_edge(int number, const Order::Use& use) {
        order_.used(nodes_.at(number), use);
        naive_.used(number, use);
    }
    void use(int number, std::size_t tokens) {
        FakeRecord& record = *records_.at(number);
        if (is_later(number)) {
            use_edge(number, use_of(tokens, record.tier));
        } else if (nodes_.at(number).hook.is_new_part) {
            order_.separated(nodes_.at(number));
            naive_.separated(number);
        }
        order_.used(record);
        record.aside = false;
        naive_.edges[number].is_obsolete = false;
        naive_.nominate(number, record.tier, record.leaf);
    }
    void hint(int number, std::size_t hint) {
        order_.hint(nodes_.at(number), static_cast<std::uint32_t>(hint));
        naive_.hint(number, hint);
    }
    void demote(int number) {
        FakeRecord& record = *records_.at(number);
        order_.demote(record);
        record.aside = false;
        naive_.edges[number].is_obsolete = true;
        naive_.nominate(number, record.tier, record.leaf);
        naive_.bring_forward(number);
    }
    void set_leaf(int number, bool leaf) {
        FakeRecord& record = *records_.at(number);
        record.leaf = leaf;
        order_.resident_leaf(record, leaf && !record.aside);
        naive_.nominate(number, record.tier, leaf && !record.aside);
    }
    void set_aside(int number) {
        FakeRecord& record = *records_.at(number);
        if (record.aside)
            return;
        order_.set_aside(record);
        record.aside = true;
        naive_.nominate(number, record.tier, false);
    }
    void put_back(int number) {
        FakeRecord& record = *records_.at(number);
        if (!record.aside)
            return;
        order_.put_back(record);
        record.aside = false;
        naive_.nominate(number, record.tier, record.leaf);
        if (naive_.edges[number].is_obsolete)
            naive_.bring_forward(number);
    }
    /// The edge stays: it is remembered.
    void remove(int number) {
        FakeRecord& record = *records_.at(number);
        order_.leave(record);
        naive_.edges[number].is_obsolete = false;
        naive_.nominate(number, record.tier, false);
        record.node->value = nullptr;
        records_.erase(number);
    }
    /// The edge is split: `upper` is its first part.
    void split(int number, int upper) {
        nodes_[upper].hook = nodes_.at(number).hook.first_part(8);
        NaiveEdge part = naive_.edges.at(number);
        part.interval = 0;
        part.is_new_part = true;
        part.is_obsolete = false;
        naive_.edges[upper] = part;
    }
    /// The edge is cut: its entry ends above, and the rest is remembered.
    void cut(int number, int tail) {
        FakeNode& lower = nodes_[tail];
        FakeNode& upper = nodes_.at(number);
        lower.hook = upper.hook;
        lower.hook.hand_over(upper.hook);
        naive_.edges[tail] = naive_.edges.at(number);
        naive_.edges[tail].interval = 0;
        naive_.edges[tail].is_tail = true;
        naive_.edges[tail].is_obsolete = false;
    }
    /// The edge above is joined with this one, which goes on as it was, unless it was a tail.
    void join(int number, int above) {
        nodes_.at(number).hook.join(nodes_.at(above).hook, 8);
        if (naive_.edges[number].uses == 0 || naive_.edges[number].is_tail)
            naive_.edges[number] = naive_.edges.at(above);
        nodes_.erase(above);
        naive_.edges.erase(above);
    }
    /// Compares what an edge would be with the candidates, as a reservation does.
    void expect(bool extends, int extended, std::size_t children, std::size_t tokens, Tier tier) {
        constexpr int to_come = -1;
        const Order::Use use = use_of(tokens, tier);
        FakeNode& node = nodes_[to_come];
        node = FakeNode{};
        if (extends) {
            node.hook = nodes_.at(extended).hook.continued(use);
            naive_.expect_more(to_come, extended, use);
        } else {
            node.hook.begin(children, use);
            naive_.expect(to_come, children, use);
        }
        FakeRecord record;
        record.node = &node;
        record.tier = tier;
        order_.reserve(records_.size() + 1);
        order_.resident_leaf(record, true);
        naive_.nominate(to_come, tier, true);
        check_victim(&record);
        order_.resident_leaf(record, false);
        naive_.nominate(to_come, tier, false);
        nodes_.erase(to_come);
        naive_.edges.erase(to_come);
    }

    /// Returns the victim's number; none if there is none.
    std::optional<int> check_victim(FakeRecord* to_come = nullptr) {
        const auto asked = naive_.sweep();
        FakeRecord* victim = order_.victim();
        if (asked.empty()) { // what is left is continued by entries that are set aside
            REQUIRE((victim == nullptr || !victim->leaf));
            return std::nullopt;
        }
        REQUIRE(victim != nullptr);
        int number = -1;
        if (victim != to_come) {
            const auto found =
                std::find_if(records_.begin(), records_.end(),
                             [&](const auto& each) { return each.second.get() == victim; });
            REQUIRE(found != records_.end());
            number = found->first;
        }
        // The first of the least worth, the oldest among equals.
        auto least = asked.front();
        double worth = std::numeric_limits<double>::infinity();
        for (const auto& each : asked) {
            if (each.second < least.second ||
                (each.second == least.second &&
                 naive_.age_of(each.first) > naive_.age_of(least.first)))
                least = each;
            if (each.first == number)
                worth = each.second;
        }
        CAPTURE(number, least.first, worth, least.second);
        // The naive one sums in another order, so very near worths are equal.
        REQUIRE(worth <= least.second + 1e-4);
        ++victims;
        same_victims += number == least.first ? 1U : 0U;
        naive_.victim_was(number, asked);
        return number;
    }

    void check_all() {
        REQUIRE(order_.check_invariants());
        std::size_t leaves = 0;
        for (const auto& [number, record] : records_)
            leaves += record->leaf && !record->aside ? 1U : 0U;
        REQUIRE(naive_.candidates().size() == leaves);
        bool equal = true;
        for (const auto& [number, node] : nodes_) {
            const NaiveEdge& edge = naive_.edges.at(number);
            equal = equal && node.hook.last == edge.last && node.hook.uses == edge.uses &&
                    node.hook.is_tail == edge.is_tail &&
                    node.hook.is_obsolete == edge.is_obsolete &&
                    (node.hook.interval == 0) == (edge.interval == 0);
        }
        REQUIRE(equal);
    }

    [[nodiscard]] std::vector<int> record_numbers() const { return keys_of(records_); }
    [[nodiscard]] bool has_record(int number) const { return records_.count(number) > 0; }
    [[nodiscard]] bool has_edge(int number) const { return nodes_.count(number) > 0; }
    [[nodiscard]] bool observed(int number) const { return nodes_.at(number).hook.is_observed(); }
    [[nodiscard]] bool is_later(int number) const {
        return static_cast<std::uint32_t>(now_) != nodes_.at(number).hook.last;
    }
    [[nodiscard]] Order::Use use_of(std::size_t tokens, Tier tier) const {
        return {static_cast<std::uint32_t>(now_), tokens, static_cast<std::uint32_t>(tier) + 1};
    }
    void forget(int number) {
        nodes_.erase(number);
        naive_.edges.erase(number);
    }
    [[nodiscard]] std::size_t most_skipped() const { return naive_.most_skipped; }

    std::size_t victims = 0;
    std::size_t same_victims = 0;

private:
    template <class Map>
    static std::vector<int> keys_of(const Map& map) {
        std::vector<int> keys;
        for (const auto& each : map)
            keys.push_back(each.first);
        return keys;
    }

    Order order_;
    NaiveOrder naive_;
    std::map<int, FakeNode> nodes_;
    std::map<int, std::unique_ptr<FakeRecord>> records_;
    std::uint64_t now_ = 0xffff'ff00U; // the requests' numbers wrap soon
};

/// What a run is like, and what it showed.
struct Run {
    std::size_t operations = 1'500;
    std::size_t most = 40;   // entries
    std::size_t sample = 32; // candidates
    int passing = 0;         // edges of each request that are not used again
    std::size_t victims = 0;
    std::size_t same_victims = 0;
    std::size_t most_skipped = 0;
};

void carry_out(Run& run, std::uint64_t seed) {
    Random random(seed);
    Pair pair(run.sample);
    int next = 0;
    for (std::size_t i = 0; i < run.operations; ++i) {
        CAPTURE(i);
        pair.next_request();
        pair.pass_edges(run.passing);
        const std::vector<int> records = pair.record_numbers();
        const auto any = [&] { return records[random.below(records.size())]; };
        // Even numbers come back, the low ones soon; odd ones are seen once.
        const int number =
            random.one_in(3)
                ? ++next * 2 + 1
                : static_cast<int>(2 * random.below(random.pick<std::size_t>({10, 60, 400})));
        const auto tier = static_cast<Tier>(random.below(3));
        if (pair.has_record(number))
            pair.use(number, random.below(300));
        else
            pair.add(number, tier, !random.one_in(6), random.below(40), 1 + random.below(5'000));
        if (random.one_in(2))
            pair.hint(number, random.below(18));
        while (pair.record_numbers().size() > run.most) {
            const auto victim = pair.check_victim();
            pair.remove(victim ? *victim : pair.record_numbers().front());
            if (victim && *victim % 2 == 1)
                pair.forget(*victim);
        }
        if (!records.empty() && pair.has_record(any())) {
            const int other = any();
            const std::size_t action = random.below(40);
            if (!pair.has_record(other)) {
            } else if (action < 2) {
                pair.demote(other);
            } else if (action < 6) {
                pair.set_leaf(other, random.one_in(2));
            } else if (action < 8) {
                pair.set_aside(other);
            } else if (action < 11) {
                pair.put_back(other);
            } else if (action < 12) {
                pair.remove(other);
            } else if (action < 14) {
                const int upper = ++next * 2 + 1;
                pair.split(other, upper);
                if (random.one_in(2))
                    pair.use_edge(upper, pair.use_of(7, tier));
                if (random.one_in(2))
                    pair.join(other, upper);
            } else if (action < 15) {
                const int tail = ++next * 2 + 1;
                pair.cut(other, tail);
                if (random.one_in(2))
                    pair.add(tail, tier, true, 1, 30);
            } else if (action < 18) {
                pair.expect(random.one_in(2), other, random.below(9), random.below(900), tier);
            }
        }
        if (i % (run.most / 4 + 1) == 0)
            pair.check_all();
    }
    pair.check_all();
    run.victims += pair.victims;
    run.same_victims += pair.same_victims;
    run.most_skipped = pair.most_skipped();
}

} // namespace

TEST_CASE("ReuseOrder has the victims that a naive re-implementation has") {
    const std::size_t wanted = operations_wanted() * 3;
    std::size_t operations = 0;
    std::size_t victims = 0;
    std::uint64_t seed = first_seed();
    for (; operations < wanted; ++seed) {
        CAPTURE(seed);
        Random random(seed);
        Run run;
        run.most = random.pick<std::size_t>({5, 40, 120});
        run.sample = random.pick<std::size_t>({1, 4, 32});
        carry_out(run, seed);
        CHECK(run.same_victims * 100 >= run.victims * 99);
        operations += run.operations;
        victims += run.victims;
    }
    CHECK(victims * 5 > operations);
    std::cout << "model: " << operations << " operations on ReuseOrder, " << victims
              << " victims, seeds " << first_seed() << " to " << seed - 1 << '\n';
}

TEST_CASE("ReuseOrder has these victims also while it observes a part of the edges") {
    Run run{.operations = 4'500, .most = 900, .passing = 9};
    carry_out(run, first_seed());
    CHECK(run.victims > 1'000);
    CHECK(run.same_victims * 100 >= run.victims * 99);
    CHECK(run.most_skipped > 0);
}
