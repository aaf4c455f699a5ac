#include <kvant/client.h>

#include <memory>
#include <utility>

#include "client/guard.h"
#include "client/sequence.h"
#include "client/store.h"

namespace kvant {

using client::Guard;
using client::MovedFrom;

Store::Store(std::shared_ptr<client::Store> state) : state_(std::move(state)) {}
Store::Store(Store&&) noexcept = default;

Store& Store::operator=(Store&& other) noexcept {
  std::swap(state_, other.state_);
  return *this;
}

Store::~Store() {
  if (!state_) return;
  client::Connection& connection = state_->session().connection();
  client::Dispose(connection, std::shared_ptr<void>(std::move(state_)));
}

const StoreInfo& Store::info() const noexcept {
  static const StoreInfo kNone;
  return state_ ? state_->info() : kNone;
}

Result<Sequence> Store::Open(std::span<const TokenId> tokens, const SequenceOptions& options) {
  return Guard("open sequence", [&]() -> Result<Sequence> {
    if (!state_) return MovedFrom("open sequence");
    if (auto entered = state_->session().connection().Enter("open sequence"); !entered) return entered.error();
    auto sequence = client::Sequence::Open(state_, tokens, options);
    if (!sequence) return sequence.error();
    return Sequence(std::move(*sequence));
  });
}

Result<Sequence> Store::Fork(SequenceId source, std::optional<std::uint64_t> length, const SequenceOptions& options) {
  return Guard("fork", [&]() -> Result<Sequence> {
    if (!state_) return MovedFrom("fork");
    if (auto entered = state_->session().connection().Enter("fork"); !entered) return entered.error();
    auto sequence = client::Sequence::ForkOf(state_, source, length, options);
    if (!sequence) return sequence.error();
    return Sequence(std::move(*sequence));
  });
}

Result<Sequence> Store::Read(SequenceId source) {
  return Guard("read sequence", [&]() -> Result<Sequence> {
    if (!state_) return MovedFrom("read sequence");
    if (auto entered = state_->session().connection().Enter("read sequence"); !entered) return entered.error();
    auto sequence = client::Sequence::Read(state_, source);
    if (!sequence) return sequence.error();
    return Sequence(std::move(*sequence));
  });
}

}  // namespace kvant
