#include <kvant/client.h>

#include <memory>
#include <utility>

#include "client/guard.h"
#include "client/handles.h"

namespace kvant {

using client::Guard;
using client::MovedFrom;

Store::Store(std::shared_ptr<Impl> impl) : impl_(std::move(impl)) {}
Store::Store(Store&&) noexcept = default;

Store& Store::operator=(Store&& other) noexcept {
  std::swap(impl_, other.impl_);
  return *this;
}

Store::~Store() {
  if (!impl_) return;
  client::Connection& connection = impl_->state->session().connection();
  client::Dispose(connection, std::shared_ptr<void>(std::move(impl_)));
}

const StoreInfo& Store::info() const noexcept {
  static const StoreInfo kNone;
  return impl_ ? impl_->state->info() : kNone;
}

Result<Sequence> Store::Open(std::span<const TokenId> tokens, const SequenceOptions& options) {
  return Guard("open sequence", [&]() -> Result<Sequence> {
    if (!impl_) return MovedFrom("open sequence");
    if (auto entered = impl_->state->session().connection().Enter("open sequence"); !entered) return entered.error();
    auto state = client::Sequence::Open(impl_->state, tokens, options);
    if (!state) return state.error();
    return Sequence(std::make_unique<Sequence::Impl>(Sequence::Impl{std::move(*state)}));
  });
}

Result<Sequence> Store::Fork(SequenceId source, std::optional<std::uint64_t> length, const SequenceOptions& options) {
  return Guard("fork", [&]() -> Result<Sequence> {
    if (!impl_) return MovedFrom("fork");
    if (auto entered = impl_->state->session().connection().Enter("fork"); !entered) return entered.error();
    auto state = client::Sequence::ForkOf(impl_->state, source, length, options);
    if (!state) return state.error();
    return Sequence(std::make_unique<Sequence::Impl>(Sequence::Impl{std::move(*state)}));
  });
}

Result<Sequence> Store::Read(SequenceId source) {
  return Guard("read sequence", [&]() -> Result<Sequence> {
    if (!impl_) return MovedFrom("read sequence");
    if (auto entered = impl_->state->session().connection().Enter("read sequence"); !entered) return entered.error();
    auto state = client::Sequence::Read(impl_->state, source);
    if (!state) return state.error();
    return Sequence(std::make_unique<Sequence::Impl>(Sequence::Impl{std::move(*state)}));
  });
}

}  // namespace kvant
