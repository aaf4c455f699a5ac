#include <kvant/client.h>

#include <memory>
#include <utility>

#include "client/attend.h"
#include "client/guard.h"
#include "client/handles.h"

namespace kvant {
namespace {

using client::Guard;
using client::MovedFrom;

/// What every call on a sequence begins with.
template <typename Impl>
Result<client::Sequence*> Enter(const std::unique_ptr<Impl>& impl, std::string_view operation) {
  if (!impl) return MovedFrom(operation);
  if (auto entered = impl->state->session().connection().Enter(operation); !entered) return entered.error();
  return impl->state.get();
}

/// A view moved by `layers` layers.
TensorView Shifted(TensorView view, std::size_t bytes) noexcept {
  if (view.data != nullptr) view.data = static_cast<std::byte*>(view.data) + bytes;
  return view;
}

}  // namespace

TensorView NewRows::Keys(std::size_t layer) const noexcept { return Shifted(first_keys_, layer * layer_stride_bytes_); }
TensorView NewRows::Values(std::size_t layer) const noexcept { return Shifted(first_values_, layer * layer_stride_bytes_); }

Sequence::Sequence(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Sequence::Sequence(Sequence&&) noexcept = default;

Sequence& Sequence::operator=(Sequence&& other) noexcept {
  std::swap(impl_, other.impl_);
  return *this;
}

Sequence::~Sequence() {
  if (!impl_) return;
  client::Connection& connection = impl_->state->session().connection();
  client::Dispose(connection, std::shared_ptr<void>(std::move(impl_)));
}

SequenceId Sequence::id() const noexcept { return impl_ ? impl_->state->id() : 0; }
std::uint64_t Sequence::length() const noexcept { return impl_ ? impl_->state->length() : 0; }
std::uint64_t Sequence::prefix_hit_tokens() const noexcept { return impl_ ? impl_->state->prefix_hit_tokens() : 0; }
bool Sequence::read_only() const noexcept { return impl_ && impl_->state->read_only(); }

Result<NewRows> Sequence::Reserve(std::size_t tokens) {
  return Guard("reserve", [&]() -> Result<NewRows> {
    auto state = Enter(impl_, "reserve");
    if (!state) return state.error();
    auto rows = (*state)->Reserve(tokens);
    if (!rows) return rows.error();
    NewRows result;
    result.first_keys_ = rows->keys;
    result.first_values_ = rows->values;
    result.layer_stride_bytes_ = rows->layer_stride_bytes;
    result.tokens_ = rows->tokens;
    return result;
  });
}

Result<void> Sequence::Append(std::size_t layer, const ConstTensorView& keys, const ConstTensorView& values) {
  return Guard("append", [&]() -> Result<void> {
    auto state = Enter(impl_, "append");
    if (!state) return state.error();
    return (*state)->Append(layer, keys, values);
  });
}

Result<void> Sequence::Attend(std::size_t layer, const AttendArgs& args) {
  return Guard("attend", [&]() -> Result<void> {
    auto state = Enter(impl_, "attend");
    if (!state) return state.error();
    const client::AttendCall request{*state, &args};
    return client::Attend(layer, {&request, 1});
  });
}

Result<void> Sequence::Step(std::size_t layer, const ConstTensorView& keys, const ConstTensorView& values,
                            const AttendArgs& args) {
  if (auto appended = Append(layer, keys, values); !appended) return appended;
  return Attend(layer, args);
}

Result<void> Sequence::Advance(std::span<const TokenId> tokens) {
  return Guard("advance", [&]() -> Result<void> {
    auto state = Enter(impl_, "advance");
    if (!state) return state.error();
    return (*state)->Advance(tokens);
  });
}

Result<void> Sequence::Trim(std::uint64_t length) {
  return Guard("trim", [&]() -> Result<void> {
    auto state = Enter(impl_, "trim");
    if (!state) return state.error();
    return (*state)->Trim(length);
  });
}

Result<Mark> Sequence::SetMark() {
  return Guard("mark", [&]() -> Result<Mark> {
    auto state = Enter(impl_, "mark");
    if (!state) return state.error();
    return (*state)->SetMark();
  });
}

Result<void> Sequence::Rewind(const Mark& mark) {
  return Guard("rewind", [&]() -> Result<void> {
    auto state = Enter(impl_, "rewind");
    if (!state) return state.error();
    return (*state)->Rewind(mark);
  });
}

Result<void> Sequence::Release(const Mark& mark) {
  return Guard("release", [&]() -> Result<void> {
    auto state = Enter(impl_, "release");
    if (!state) return state.error();
    return (*state)->Release(mark);
  });
}

Result<Sequence> Sequence::Fork(std::optional<std::uint64_t> length) {
  return Guard("fork", [&]() -> Result<Sequence> {
    auto state = Enter(impl_, "fork");
    if (!state) return state.error();
    if ((*state)->read_only()) {
      return Error{ErrorCode::kUnsupported,
                   "fork: this sequence was opened for reading and has no options of its own; use Store::Fork"};
    }
    if (auto flushed = (*state)->Flush("fork"); !flushed) return flushed.error();
    auto forked = client::Sequence::ForkOf((*state)->shared_store(), (*state)->id(), length, (*state)->options());
    if (!forked) return forked.error();
    return Sequence(std::make_unique<Impl>(Impl{std::move(*forked)}));
  });
}

}  // namespace kvant
