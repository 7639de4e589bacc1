// SPDX-License-Identifier: MIT
// Edges: tells a policy that observes the trie how requests run over it.
#ifndef PROMPTKV_DETAIL_EDGES_HPP
#define PROMPTKV_DETAIL_EDGES_HPP

#include <promptkv/cache_types.hpp>
#include <promptkv/detail/index.hpp>
#include <promptkv/detail/lookup.hpp>
#include <promptkv/detail/lru_watch.hpp>
#include <promptkv/detail/parts.hpp>
#include <promptkv/version.hpp>

#include <bit>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <utility>

namespace promptkv::inline PROMPTKV_ABI::detail {

/// Tells the policy which nodes a request used, and which are new. For a policy without node hooks the first
/// three functions do nothing, and nobody calls the others.
///
/// Where entries serve parts of their keys, a request uses each node that it runs over, whether its
/// state is stored or remembered. Where they serve their whole keys only, it uses the entry that it was
/// served from, and the remembered key that would have served it. An insert belongs to the lookup that it
/// names, or to the last one: what that lookup has used is not used again.
template <class R>
class Edges {
public:
    using Node = typename R::Node;
    using Policy = typename R::Policy;

    explicit Edges(Parts<R>& parts) noexcept : parts_(parts), order_(parts.order) {}

    /// A lookup was counted.
    void looked_up([[maybe_unused]] const Choice<R>& choice,
                   [[maybe_unused]] typename R::Tokens tokens) noexcept {
        if constexpr (observes_edges<Policy>) {
            order_.next_request(parts_.requests, tokens.size());
            if (LruWatch* watch = order_.watch())
                compare(*watch, choice, tokens);
            touched(choice.spot, choice.record);
        }
    }
    /// A request begins that nobody counts as a lookup.
    void begin_request([[maybe_unused]] typename R::Tokens tokens) noexcept {
        if constexpr (observes_edges<Policy>)
            order_.next_request(++parts_.requests, tokens.size());
    }
    /// A prompt was used, as by a lookup.
    void touched([[maybe_unused]] const Spot<R>& spot, [[maybe_unused]] const R* match) noexcept {
        if constexpr (observes_edges<Policy>) {
            if (match != nullptr && !match->serves_any)
                use(*match->node, order_.now());
            bool found = false;
            for (Node* node = spot.place.node; node != nullptr; node = node->parent) {
                const R* record = node->value;
                const bool is_whole = record != nullptr && !record->serves_any;
                if (!is_whole || (!found && record->remembered))
                    use(*node, order_.now());
                found = found || is_whole;
            }
        }
    }

    /// An entry was stored, and what it replaces or absorbs has left.
    void stored([[maybe_unused]] R& record,
                [[maybe_unused]] const InsertOptions& options) noexcept {
        if constexpr (observes_edges<Policy>) {
            Node& node = *record.node;
            const std::uint32_t now = request_of(options);
            if (record.serves_any)
                use_above(node, now);
            if (node.hook.is_observed() && (record.serves_any || !node.hook.is_new_part))
                use(node, now);
            else
                born(node, now);
            extended(node, now, options.hint);
        }
    }

    /// The key at a node is remembered although it was never stored: what continues an entry without a
    /// branch belongs to that entry's edge.
    void declined(Node& node, const InsertOptions& options) noexcept {
        const std::uint32_t now = request_of(options);
        const bool parts = node.value->serves_any;
        if (parts)
            use_above(node, now);
        if (parts && is_joined(node, node.value->tier))
            node.hook.is_tail = true;
        else
            born(node, now);
        extended(node, now, options.hint);
    }

    /// Fills `hook` as if a key of `n` tokens had been stored at the spot. Requires: it is not stored.
    void expect(typename Policy::NodeHook& hook, const Spot<R>& spot, std::size_t n,
                typename R::TierEnum tier, const InsertOptions& options) noexcept {
        const Node* edge = edge_of_key(spot, n, tier);
        const std::size_t start = edge != nullptr ? edge->parent->depth : spot.common();
        const std::uint32_t now = request_of(options);
        const typename Order::Use use{now, n - start, feature_of(tier)};
        if (edge == nullptr)
            hook.begin(spot.place.inside != nullptr ? 2 : siblings(spot.place.node, 1), use);
        else if (edge->hook.is_observed())
            hook = edge->hook.continued(use);
        else
            hook.begin(siblings(edge->parent, 0), use);
        if (const auto said = hint_of(order_.extension(now, n), options.hint))
            hook.set_hint(*said);
    }

private:
    using Order = typename Policy::template Order<R, typename R::TierEnum>;

    [[nodiscard]] std::uint32_t request_of(const InsertOptions& options) const noexcept {
        return options.request != 0 ? static_cast<std::uint32_t>(options.request) : order_.now();
    }
    /// Children of a node, with `more`; 0: it is the root.
    [[nodiscard]] static std::size_t siblings(const Node* parent, std::size_t more) noexcept {
        return parent == nullptr || parent->parent == nullptr ? 0 : parent->children.size() + more;
    }
    [[nodiscard]] static std::uint32_t feature_of(typename R::TierEnum tier) noexcept {
        return static_cast<std::uint32_t>(detail::tier_index(tier)) + 1;
    }
    [[nodiscard]] static auto use_of(const Node& node, std::uint32_t now) noexcept {
        const R* record = node.value;
        return typename Order::Use{now, node.edge_length,
                                   record != nullptr ? feature_of(record->tier) : 0};
    }
    /// Whether a node has no value, or one that leaves when a key of `tier` that continues it is stored.
    [[nodiscard]] static bool gives_way(const Node& node, typename R::TierEnum tier) noexcept {
        const R* record = node.value;
        return record == nullptr ||
               (record->serves_any && (!record->is_entry || record->tier <= tier));
    }
    /// Whether the edge of a node is joined with the one above where a key of a tier is stored at its end.
    [[nodiscard]] static bool is_joined(const Node& node, typename R::TierEnum tier) noexcept {
        const Node& above = *node.parent;
        return above.parent != nullptr && above.children.size() == 1 && gives_way(above, tier);
    }
    /// The edge that a new key of `n` tokens makes longer, or ends in. Null: the key gets one of its own.
    [[nodiscard]] const Node* edge_of_key(const Spot<R>& spot, std::size_t n,
                                          typename R::TierEnum tier) const noexcept {
        const Node* inside = spot.place.inside;
        const Node* edge = spot.place.below();
        if (edge == nullptr || edge->parent == nullptr)
            return nullptr;
        const bool ends_in_it = spot.common() == n && (inside == nullptr || parts_.serves_parts);
        const bool extends_it =
            inside == nullptr && edge->children.size() == 0 && gives_way(*edge, tier);
        if (!ends_in_it && !extends_it)
            return nullptr;
        while (edge->hook.is_tail && is_joined(*edge, tier))
            edge = edge->parent;
        return edge;
    }
    /// The request `now` ran over the node, which counts once per request. The first part of an edge that was
    /// split just now may be used by an earlier request than the last one of the whole edge.
    void use(Node& node, std::uint32_t now) noexcept {
        auto& hook = node.hook;
        const bool is_later = hook.is_later(now, hook.last);
        if (!hook.is_observed()) {
            if (hook.is_tail && is_later)
                hook.last = now;
        } else if (is_later) {
            order_.used(node, use_of(node, now));
        } else if (hook.is_new_part && now != hook.last) {
            const std::uint32_t last = std::exchange(hook.last, now);
            order_.used(node, use_of(node, last));
        } else if (hook.is_new_part) {
            order_.separated(node);
        }
    }

    void use_above(Node& node, std::uint32_t now) noexcept {
        for (Node* above = node.parent; above != nullptr; above = above->parent)
            use(*above, now);
    }
    void born(Node& node, std::uint32_t now) noexcept {
        order_.born(node, siblings(node.parent, 0), use_of(node, now));
    }

    /// A request stored, or would have stored, the key at a node: what the request added to its prompt says
    /// something about all that it used.
    void extended(Node& node, std::uint32_t now, std::int8_t hint) noexcept {
        const auto added = order_.extension(now, node.depth);
        order_.extend_request(now, node.depth);
        if (added && *added > 0 && order_.watch() != nullptr)
            order_.watch()->add(*added);
        const auto said = hint_of(added, hint);
        if (!said)
            return;
        for (Node* used = &node; used != nullptr; used = used->parent) {
            if (used->hook.is_observed() && used->hook.last == now)
                order_.hint(*used, *said);
        }
    }
    /// What a request says by the tokens that it adds, unless the caller gives a hint.
    [[nodiscard]] static std::optional<std::uint32_t> hint_of(std::optional<std::size_t> added,
                                                              std::int8_t hint) noexcept {
        constexpr std::size_t unit = 16; // tokens
        if (hint >= 0)
            return static_cast<std::uint32_t>(hint);
        if (!added)
            return std::nullopt;
        return static_cast<std::uint32_t>(std::bit_width(*added / unit));
    }

    /// Tells the watch which tokens the prompt uses, from the root on.
    void compare(LruWatch& watch, const Choice<R>& choice, typename R::Tokens tokens) noexcept {
        const auto resident = static_cast<double>(parts_.index.resident_tokens());
        const auto nbytes = static_cast<double>(parts_.ledger.nbytes());
        watch.begin(parts_.requests, parts_.options.max_bytes, nbytes > 0 ? resident / nbytes : 0);
        const auto& place = choice.spot.place;
        std::size_t at = 0;
        const auto use_to = [&](Node& node, std::size_t end) {
            watch.use(node.hook, end - at, node.edge_length);
            at = end;
        };
        if (place.node != nullptr)
            choice.spot.home->tree.for_each_on_path(place, tokens, [&](Node& node) {
                if (node.depth > 0)
                    use_to(node, node.depth);
            });
        if (place.inside != nullptr && place.common > at)
            use_to(*place.inside, place.common);
        if (tokens.size() > at)
            watch.use_new(tokens.size() - at);
        watch.end(choice.reused);
    }

    Parts<R>& parts_;
    Order& order_;
};

} // namespace promptkv::inline PROMPTKV_ABI::detail

#endif
