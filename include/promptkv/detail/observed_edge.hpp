// SPDX-License-Identifier: MIT
// ObservedEdge: what ReuseOrder knows of an edge.
#ifndef PROMPTKV_DETAIL_OBSERVED_EDGE_HPP
#define PROMPTKV_DETAIL_OBSERVED_EDGE_HPP

#include <promptkv/version.hpp>

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <limits>

namespace promptkv::inline PROMPTKV_ABI::detail {

/// The uses of an edge, and its kind: six features of four bits each. From the lowest bits: how often it was
/// used, the requests between its last two uses, its siblings at first, its length, a hint of the caller's,
/// its tier. Numbers without a bound are features by their order of magnitude.
struct ObservedEdge {
    /// A request uses an edge, or makes it.
    struct Use {
        std::uint32_t request;
        std::size_t tokens;     // of the edge
        std::uint32_t tier = 0; // as a feature
    };

    std::uint32_t last = 0;      // the request that used it last
    std::uint32_t interval = 0;  // that is open; 0: none
    std::uint32_t features = 0;  // of its last use
    std::uint32_t part = 0;      // for LruWatch: tokens of a first part that was used later
    std::uint32_t part_last = 0; // the request that used that part last
    std::uint16_t uses = 0;      // 0: it was not observed yet
    std::uint8_t key = 0; // decides whether it is observed while only a share of the edges is
    std::uint8_t siblings : 4 = 0; // when it was made, as a feature
    bool is_new_part : 1 = false;  // the first part of an edge that was split and not used since
    bool is_tail : 1 = false;      // it was cut off; the edge above is observed in its place
    bool is_obsolete : 1 = false;  // its entry was demoted

    [[nodiscard]] bool is_observed() const noexcept { return uses > 0 && !is_tail; }

    // what happens to it /////////////////////////////////////////////////////

    /// It was made, below a node that has `children` with it; 0: at the root.
    void begin(std::size_t children, const Use& use) noexcept {
        *this = ObservedEdge{};
        uses = 1;
        siblings = siblings_feature(children) & 15U;
        describe(0, use);
    }
    void use_again(const Use& use) noexcept {
        is_new_part = false;
        if (uses < (std::numeric_limits<std::uint16_t>::max)())
            ++uses;
        describe(log_feature(use.request - last), use);
    }
    /// What it becomes when a request continues it, perhaps the one that used it last.
    [[nodiscard]] ObservedEdge continued(const Use& use) const noexcept {
        ObservedEdge edge = *this;
        edge.is_obsolete = false;
        if (is_later(use.request, last))
            edge.use_again(use);
        return edge;
    }
    void set_hint(std::uint32_t hint) noexcept {
        features = (features & ~0xf0000U) | (std::min)(hint, 15U) << 16U;
    }

    // what RadixNode asks for ////////////////////////////////////////////////

    [[nodiscard]] ObservedEdge first_part(std::uint32_t tokens) noexcept {
        ObservedEdge first = *this;
        first.part = (std::min)(later_part(), tokens);
        part = later_part() - first.part;
        first.interval = 0;
        first.is_new_part = true;
        first.is_obsolete = false;
        return first;
    }
    /// The edge above takes over what was observed; this is what was cut off.
    void hand_over(ObservedEdge& above) noexcept {
        const std::uint32_t part_above = above.part;
        above = *this;
        above.part = part_above;
        interval = 0;
        is_obsolete = false;
        is_tail = true;
    }
    void join(const ObservedEdge& above, std::uint32_t tokens_above) noexcept {
        const std::uint32_t later = later_part(), later_above = above.later_part();
        const std::uint32_t last_above = later_above == tokens_above ? above.part_last : above.last;
        if (!is_observed()) {
            *this = above;
        } else if (is_later(last_above, later > 0 ? part_last : last)) {
            part = tokens_above;
            part_last = last_above;
        } else if (later > 0) {
            part = tokens_above + later;
        } else {
            part = later_above;
            part_last = above.part_last;
        }
    }

    // the part that was used later than the rest /////////////////////////////

    [[nodiscard]] static bool is_later(std::uint32_t request, std::uint32_t other) noexcept {
        return static_cast<std::int32_t>(request - other) > 0;
    }
    /// Tokens of that part; 0: there is none, or all was used since.
    [[nodiscard]] std::uint32_t later_part() const noexcept {
        return is_later(part_last, last) ? part : 0;
    }

private:
    void describe(std::uint32_t gap_feature, const Use& use) noexcept {
        last = use.request;
        features = uses_feature(uses) | gap_feature << 4U | std::uint32_t{siblings} << 8U |
                   log_feature(use.tokens) << 12U | (features & 0xf0000U) |
                   (std::min)(use.tier, 15U) << 20U;
    }
    [[nodiscard]] static std::uint8_t siblings_feature(std::size_t children) noexcept {
        if (children == 0)
            return 9;
        const std::size_t n = children - 1;
        return static_cast<std::uint8_t>(n < 3 ? n : n < 5 ? 3 : n < 10 ? 4 : n < 30 ? 5 : 6);
    }
    [[nodiscard]] static std::uint32_t uses_feature(std::uint32_t n) noexcept {
        return n <= 3 ? n : n <= 5 ? 4 : n <= 9 ? 5 : n <= 20 ? 6 : n <= 50 ? 7 : 8;
    }
    [[nodiscard]] static std::uint32_t log_feature(std::size_t x) noexcept {
        return std::min<std::uint32_t>(15, static_cast<std::uint32_t>(std::bit_width(x)));
    }
};

} // namespace promptkv::inline PROMPTKV_ABI::detail

#endif
