// SPDX-License-Identifier: MIT
// Partitions: the keys of each model.
#ifndef PROMPTKV_DETAIL_PARTITIONS_HPP
#define PROMPTKV_DETAIL_PARTITIONS_HPP

#include <promptkv/config.hpp>
#include <promptkv/detail/exceptions.hpp>
#include <promptkv/version.hpp>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <type_traits>
#include <unordered_map>
#include <unordered_set>

namespace promptkv::inline PROMPTKV_ABI::detail {

/// The keys of one model.
template <class R>
struct Partition {
    Partition(typename R::ModelView name, std::size_t hash_of_name)
        : model(name), hash(hash_of_name) {}

    const typename R::Model model;
    const std::size_t hash; // of the model: removing it asks nothing of the caller's type
    typename R::Tree tree;
    std::size_t nbytes = 0; // what its entries refer to; the ledger writes it
    std::unordered_map<std::uint64_t, R*> sessions; // the entry that a session stored last
    std::atomic<std::size_t> owners{1}; // the index, and removals that are not reported yet

    void release() noexcept {
        if (owners.fetch_sub(1, std::memory_order_acq_rel) == 1)
            delete this;
    }
};

/// A table of partitions.
///
/// Exceptions: what hashing, comparing or copying a model throws.
template <class R>
class Partitions {
public:
    using Home = Partition<R>;
    using ModelView = typename R::ModelView;

    Partitions() = default;
    Partitions(const Partitions&) = delete;
    Partitions& operator=(const Partitions&) = delete;
    ~Partitions() { PROMPTKV_ASSERT(homes_.empty()); }

    /// Null: the model has no key.
    [[nodiscard]] Home* find(ModelView model) const {
        if (homes_.empty())
            return nullptr;
        if (homes_.size() == 1) { // as in most caches: comparing costs less than hashing
            Home* only = *homes_.begin();
            return only->model == model ? only : nullptr;
        }
        const auto found = homes_.find(Name{model, hash_of(model)});
        return found != homes_.end() ? *found : nullptr;
    }
    /// Requires: find(model) is null. Throws what an allocation throws, too; nothing has changed then.
    [[nodiscard]] Home& add(ModelView model) {
        auto made = std::make_unique<Home>(model, hash_of(model));
        homes_.insert(made.get());
        return *made.release();
    }
    /// Removes a partition without keys.
    void remove_if_empty(Home& home) noexcept {
        if (home.tree.size() > 0)
            return;
        homes_.erase(homes_.find(&home));
        home.release();
        if (homes_.size() * 8 < homes_.bucket_count()) {
            PROMPTKV_TRY {
                if (homes_.empty())
                    Homes().swap(homes_);
                else
                    homes_.rehash(2 * homes_.size());
            }
            PROMPTKV_CATCH_ALL {} // the table stays larger than it has to be
        }
    }

    template <class F>
    void for_each(F f) const {
        for (Home* home : homes_)
            f(*home);
    }
    /// Bytes of the table, and of the partitions with their tries.
    [[nodiscard]] std::size_t nbytes() const noexcept {
        std::size_t bytes = homes_.empty() ? 0 : homes_.bucket_count() * sizeof(void*);
        for (const Home* home : homes_) {
            bytes += 2 * sizeof(void*) + sizeof(Home) + home->tree.nbytes();
            bytes += home->sessions.size() * (2 * sizeof(void*) + sizeof(std::uint64_t));
            if (home->sessions.bucket_count() > 1) // the first bucket is part of the map
                bytes += home->sessions.bucket_count() * sizeof(void*);
            if constexpr (std::is_same_v<typename R::Model, std::string>) {
                const std::size_t capacity = home->model.capacity();
                bytes += capacity > std::string().capacity() ? capacity + 1 : 0;
            }
        }
        return bytes;
    }

private:
    struct Name {
        ModelView model;
        std::size_t hash;
    };
    struct Hash {
        using is_transparent = void;
        std::size_t operator()(const Name& name) const noexcept { return name.hash; }
        std::size_t operator()(const Home* home) const noexcept { return home->hash; }
    };
    struct Equal {
        using is_transparent = void;
        bool operator()(const Home* a, const Home* b) const noexcept { return a == b; }
        bool operator()(const Name& name, const Home* home) const {
            return name.hash == home->hash && home->model == name.model;
        }
        bool operator()(const Home* home, const Name& name) const { return (*this)(name, home); }
    };
    using Homes = std::unordered_set<Home*, Hash, Equal>;

    /// Mixed, since hashes of numbers are often the numbers themselves.
    [[nodiscard]] static std::size_t hash_of(ModelView model) {
        const std::uint64_t hash = std::hash<std::remove_cvref_t<ModelView>>{}(model);
        return static_cast<std::size_t>((hash * 0x9e3779b97f4a7c15U) ^ (hash >> 32U));
    }

    Homes homes_;
};

} // namespace promptkv::inline PROMPTKV_ABI::detail

#endif
