#include <kvant/client.h>

#include <memory>
#include <utility>

#include "client/attend.h"
#include "client/guard.h"
#include "client/sequence.h"

namespace kvant {
namespace {

using client::Guard;
using client::MovedFrom;

/// What every call on a sequence begins with.
Result<client::Sequence*> Enter(const std::shared_ptr<client::Sequence>& state, std::string_view operation) {
  if (!state) return MovedFrom(operation);
  if (auto entered = state->session().connection().Enter(operation); !entered) return entered.error();
  return state.get();
}

/// A call on a sequence; what its session counts meanwhile counts for the sequence too.
template <typename Body>
auto On(const std::shared_ptr<client::Sequence>& state, std::string_view operation, Body body) -> decltype(body(*state)) {
  return Guard(operation, [&]() -> decltype(body(*state)) {
    auto entered = Enter(state, operation);
    if (!entered) return entered.error();
    const client::CountFor counted(**entered);
    return body(**entered);
  });
}

/// A view moved by `layers` layers.
TensorView Shifted(TensorView view, std::size_t bytes) noexcept {
  if (view.data != nullptr) view.data = static_cast<std::byte*>(view.data) + bytes;
  return view;
}

}  // namespace

TensorView NewRows::Keys(std::size_t layer) const noexcept { return Shifted(first_keys_, layer * layer_stride_bytes_); }
TensorView NewRows::Values(std::size_t layer) const noexcept { return Shifted(first_values_, layer * layer_stride_bytes_); }

Sequence::Sequence(std::shared_ptr<client::Sequence> state) : state_(std::move(state)) {}
Sequence::Sequence(Sequence&&) noexcept = default;

Sequence& Sequence::operator=(Sequence&& other) noexcept {
  std::swap(state_, other.state_);
  return *this;
}

Sequence::~Sequence() {
  if (!state_) return;
  client::Connection& connection = state_->session().connection();
  client::Dispose(connection, std::shared_ptr<void>(std::move(state_)));
}

SequenceId Sequence::id() const noexcept { return state_ ? state_->id() : 0; }
std::uint64_t Sequence::length() const noexcept { return state_ ? state_->length() : 0; }
std::uint64_t Sequence::unnamed() const noexcept { return state_ ? state_->unnamed() : 0; }
std::uint64_t Sequence::prefix_hit_tokens() const noexcept { return state_ ? state_->prefix_hit_tokens() : 0; }
SequenceCounters Sequence::counters() const noexcept { return state_ ? state_->counters() : SequenceCounters{}; }
bool Sequence::read_only() const noexcept { return state_ && state_->read_only(); }

std::uint64_t Sequence::kept() const noexcept { return state_ ? state_->kept() : 0; }

Result<void> Sequence::ApplyPolicy() {
  return On(state_, "apply policy", [](client::Sequence& sequence) { return sequence.ApplyPolicy(); });
}

Result<std::vector<std::uint64_t>> Sequence::KeptTokens(std::size_t layer, std::size_t kv_head) const {
  if (!state_) return MovedFrom("kept tokens");
  return Guard("kept tokens", [&] { return state_->KeptTokens(layer, kv_head); });
}

Result<void> Sequence::Keep(std::size_t layer, std::size_t kv_head, std::span<const std::uint64_t> positions) {
  return On(state_, "keep", [&](client::Sequence& sequence) { return sequence.Keep(layer, kv_head, positions); });
}

std::size_t Sequence::reservable() const noexcept { return state_ ? state_->reservable() : 0; }

Result<NewRows> Sequence::Reserve(std::size_t tokens) {
  return Guard("reserve", [&]() -> Result<NewRows> {
    auto entered = Enter(state_, "reserve");
    if (!entered) return entered.error();
    auto rows = (*entered)->Reserve(tokens);
    if (!rows) return rows.error();
    NewRows result;
    result.first_keys_ = rows->keys;
    result.first_values_ = rows->values;
    result.layer_stride_bytes_ = rows->layer_stride_bytes;
    result.tokens_ = rows->tokens;
    result.layers_ = rows->layers;
    return result;
  });
}

Result<void> Sequence::Append(std::size_t layer, const ConstTensorView& keys, const ConstTensorView& values) {
  return On(state_, "append", [&](client::Sequence& sequence) { return sequence.Append(layer, keys, values); });
}

Result<void> Sequence::Attend(std::size_t layer, const AttendArgs& args) {
  return Guard("attend", [&]() -> Result<void> {
    auto entered = Enter(state_, "attend");
    if (!entered) return entered.error();
    const client::AttendCall request{*entered, &args};
    return client::Attend(layer, {&request, 1});
  });
}

Result<void> Sequence::Step(std::size_t layer, const ConstTensorView& keys, const ConstTensorView& values,
                            const AttendArgs& args) {
  if (auto appended = Append(layer, keys, values); !appended) return appended;
  return Attend(layer, args);
}

Result<void> Sequence::Advance(std::span<const TokenId> tokens) {
  return On(state_, "advance", [&](client::Sequence& sequence) { return sequence.Advance(tokens); });
}

Result<void> Sequence::AdvanceUnnamed(std::size_t tokens) {
  return On(state_, "advance", [&](client::Sequence& sequence) { return sequence.AdvanceUnnamed(tokens); });
}

Result<void> Sequence::Name(std::span<const TokenId> tokens) {
  return On(state_, "name", [&](client::Sequence& sequence) { return sequence.Name(tokens); });
}

Result<void> Sequence::CopyRows(std::size_t layer, std::uint64_t first, std::size_t count, const TensorView& keys,
                                const TensorView& values) {
  return On(state_, "copy rows", [&](client::Sequence& sequence) {
    return sequence.CopyRows({.layer = layer, .first = first, .count = count, .keys = keys, .values = values});
  });
}

Result<void> Sequence::PutState(std::span<const std::byte> state) {
  return On(state_, "put state", [&](client::Sequence& sequence) { return sequence.PutState(state); });
}

Result<StateInfo> Sequence::FindState() {
  return On(state_, "find state", [&](client::Sequence& sequence) { return sequence.FindState(); });
}

Result<void> Sequence::CopyState(std::span<std::byte> to) {
  return On(state_, "copy state", [&](client::Sequence& sequence) { return sequence.CopyState(to); });
}

Result<void> Sequence::Trim(std::uint64_t length) {
  return On(state_, "trim", [&](client::Sequence& sequence) { return sequence.Trim(length); });
}

Result<Mark> Sequence::SetMark() {
  return On(state_, "mark", [&](client::Sequence& sequence) { return sequence.SetMark(); });
}

Result<void> Sequence::Rewind(const Mark& mark) {
  return On(state_, "rewind", [&](client::Sequence& sequence) { return sequence.Rewind(mark); });
}

Result<void> Sequence::Release(const Mark& mark) {
  return On(state_, "release", [&](client::Sequence& sequence) { return sequence.Release(mark); });
}

Result<Sequence> Sequence::Fork(std::optional<std::uint64_t> length) {
  return Guard("fork", [&]() -> Result<Sequence> {
    auto entered = Enter(state_, "fork");
    if (!entered) return entered.error();
    if ((*entered)->read_only()) {
      return Error{ErrorCode::kUnsupported,
                   "fork: this sequence was opened for reading and has no options of its own; use Store::Fork"};
    }
    auto forked = (*entered)->Fork(length);
    if (!forked) return forked.error();
    return Sequence(std::move(*forked));
  });
}

}  // namespace kvant
