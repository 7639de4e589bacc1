// SPDX-License-Identifier: MIT
// SpaceTable: the models of a cache, by hash.
#ifndef PROMPTKV_DETAIL_SPACE_TABLE_HPP
#define PROMPTKV_DETAIL_SPACE_TABLE_HPP

#include <promptkv/detail/stored.hpp>
#include <promptkv/version.hpp>

#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

namespace promptkv::inline PROMPTKV_ABI::detail {

/// A hash table of spaces, one a model, each with the members `model`, `hash`, `owners`, `slot` and
/// `next`, of which the latter two are the table's.
///
///     spaces_  dense, to walk over          chains_  by hash, each space with the `next` of its chain
///
/// The standard's table would do as well, but a file would take some 7 % longer to compile.
template <class Space>
class SpaceTable {
public:
    SpaceTable() = default;
    SpaceTable(const SpaceTable&) = delete;
    SpaceTable& operator=(const SpaceTable&) = delete;
    ~SpaceTable() {
        for (Space* each : spaces_)
            Release{}(each);
    }

    /// Null where there is none. Throws what the comparison of models throws.
    template <class Model>
    [[nodiscard]] Space* find(const Model& model, std::size_t hash) const {
        if (chains_.empty())
            return nullptr;
        for (Space* each = chains_[chain_of(hash)]; each != nullptr; each = each->next) {
            if (each->hash == hash && each->model == model)
                return each;
        }
        return nullptr;
    }

    /// Requires: there is none of that model. The table is one of its owners from now on, unless it throws.
    void add(Space* space) {
        if (spaces_.size() == chains_.size())
            grow(chains_.empty() ? 8 : 2 * chains_.size());
        spaces_.push_back(space);
        space->slot = spaces_.size() - 1;
        enchain(space);
    }

    void remove(Space* space) noexcept {
        Space** link = &chains_[chain_of(space->hash)];
        while (*link != space)
            link = &(*link)->next;
        *link = space->next;
        spaces_.back()->slot = space->slot;
        spaces_[space->slot] = spaces_.back();
        spaces_.pop_back();
        Release{}(space);
        if (spaces_.empty()) { // an empty cache holds nothing
            spaces_ = std::vector<Space*>();
            chains_ = std::vector<Space*>();
        }
    }

    [[nodiscard]] auto begin() const noexcept { return spaces_.begin(); }
    [[nodiscard]] auto end() const noexcept { return spaces_.end(); }
    [[nodiscard]] std::size_t nbytes() const noexcept {
        return spaces_.size() * sizeof(Space) +
               (spaces_.capacity() + chains_.capacity()) * sizeof(Space*);
    }

private:
    /// By the upper bits of a product, since hashes of numbers and addresses are often they themselves.
    [[nodiscard]] std::size_t chain_of(std::size_t hash) const noexcept {
        const std::uint64_t product = std::uint64_t{hash} * 0x9e3779b97f4a7c15U;
        return static_cast<std::size_t>(product >> 32U) & (chains_.size() - 1);
    }

    void enchain(Space* space) noexcept {
        space->next = std::exchange(chains_[chain_of(space->hash)], space);
    }

    void grow(std::size_t n) {
        spaces_.reserve(n);
        chains_ = std::vector<Space*>(n);
        for (Space* each : spaces_)
            enchain(each);
    }

    std::vector<Space*> spaces_;
    std::vector<Space*> chains_; // a power of two of them, at least as many as spaces
};

} // namespace promptkv::inline PROMPTKV_ABI::detail

#endif
