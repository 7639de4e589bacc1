// SPDX-License-Identifier: MIT
// Records with payloads for the tests of the parts in promptkv/detail, without a cache around them.
#ifndef PROMPTKV_TESTS_DETAIL_PARTS_HPP
#define PROMPTKV_TESTS_DETAIL_PARTS_HPP

#include <promptkv/detail/index.hpp>
#include <promptkv/detail/record.hpp>
#include <promptkv/detail/shared_payload.hpp>
#include <promptkv/victim_policy.hpp>

#include "unit_payloads.hpp"

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace promptkv_test {

template <class KV>
using RecordOf =
    promptkv::detail::Record<KV, std::string, std::int32_t, promptkv::Tier, promptkv::TieredLRU>;

/// An account that lives as long as a test, or longer where payloads do.
template <class KV>
class TestAccount {
public:
    TestAccount() = default;
    TestAccount(const TestAccount&) = delete;
    TestAccount& operator=(const TestAccount&) = delete;
    ~TestAccount() { account_->release(); }

    [[nodiscard]] promptkv::detail::Account<KV>& operator*() const noexcept { return *account_; }
    [[nodiscard]] promptkv::detail::Account<KV>* operator->() const noexcept { return account_; }

private:
    promptkv::detail::Account<KV>* account_ = new promptkv::detail::Account<KV>;
};

template <class KV>
std::unique_ptr<promptkv::detail::SharedPayload<KV>>
shared_payload(promptkv::detail::Account<KV>& account, KV kv) {
    auto payload = std::make_unique<promptkv::detail::SharedPayload<KV>>(account);
    payload->nbytes = promptkv::kv_traits<KV>::nbytes(kv);
    payload->emplace(std::move(kv));
    return payload;
}

/// An index of tapes.
class TestIndex {
public:
    using R = RecordOf<Tape>;
    using Index = promptkv::detail::Index<R>;

    TestIndex() = default;
    TestIndex(const TestIndex&) = delete;
    TestIndex& operator=(const TestIndex&) = delete;
    ~TestIndex() {
        while (!all_.empty())
            remove(*all_.back());
    }

    /// Links an entry and shows it, if it serves parts of its key.
    R& add(std::string_view text, promptkv::Tier tier = promptkv::Tier::user, Shape shape = {},
           const std::string& model = "m") {
        const Key tokens = key(text);
        R& record = index.link(index.locate(model, tokens), model, tokens, std::make_unique<R>());
        record.payload = shared_payload<Tape>(*account_, Tape(text, shape)).release();
        record.payload->record = &record;
        record.tier = tier;
        record.is_entry = true;
        index.show(record, record.serves_parts());
        all_.push_back(&record);
        return record;
    }

    /// Unlinks a record and destroys it with its payload.
    void remove(R& record) {
        std::erase(all_, &record);
        record.is_entry = false;
        index.unlink(record);
        forget(&record);
    }
    /// Destroys a record that is linked no more.
    static void forget(R* record) {
        record->payload->drop(R::Payload::in_cache);
        delete record;
    }
    /// Gives up a record that somebody else will destroy.
    void let_go(R& record) { std::erase(all_, &record); }

    [[nodiscard]] promptkv::detail::Spot<R> locate(std::string_view text,
                                                   const std::string& model = "m") const {
        return index.locate(model, key(text));
    }

    Index index;

private:
    TestAccount<Tape> account_;
    std::vector<R*> all_;
};

/// The words of records, one after the other.
template <class R>
std::string word_of(const R* record) {
    return record != nullptr ? word(record->node->key()) : "-";
}

} // namespace promptkv_test

#endif
