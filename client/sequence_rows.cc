// A sequence's raw rows: where new ones go, how they get there, and how local attention sees them.
#include <algorithm>
#include <cfloat>
#include <cmath>
#include <string>
#include <utility>

#include "client/sequence_state.h"
#include "client/tensor_place.h"
#include "kernels/raw/rows.h"
#include "quantizers/sequence/ring.h"

namespace kvant::client {
namespace {

Error InvalidArgument(std::string message) { return {ErrorCode::kInvalidArgument, std::move(message)}; }

}  // namespace

Result<SequenceState::Rows> SequenceState::Reserve(std::size_t tokens) {
  if (auto writable = Writable("reserve"); !writable) return writable.error();
  if (auto ready = Ready("reserve"); !ready) return ready.error();
  if (tokens == 0) return InvalidArgument("reserve: 0 tokens");
  const std::uint64_t held = length_ - switched_ * store_->spec().block_tokens;
  const std::uint64_t row = length_ % layout_.capacity;
  const std::uint64_t room = std::min<std::uint64_t>(layout_.capacity - held, layout_.capacity - row);
  const std::uint64_t rows = std::min<std::uint64_t>({tokens, options_.max_step_tokens, room});
  if (rows == 0) {
    return Error{ErrorCode::kTailFull,
                 "reserve: all " + std::to_string(layout_.capacity) + " rows of the tail hold tokens that are not sealed (" +
                     (seal_error_ ? seal_error_->message : std::string("a mark is held, or the store is full")) + ")"};
  }
  if (rows != reserved_) {
    std::fill(layer_copied_.begin(), layer_copied_.end(), false);
    reserved_layers_copied_ = 0;
  }
  reserved_ = rows;
  Rows result;
  result.tokens = rows;
  result.layer_stride_bytes = layout_.layer_bytes();
  const auto view = [&](std::uint64_t side) {
    return TensorView{tail_.data() + layout_.Offset(0, side, 0) + row * layout_.row_bytes(),
                      layout_.type,
                      rows,
                      layout_.kv_heads,
                      layout_.head_dim,
                      layout_.head_dim,
                      std::size_t{layout_.capacity} * layout_.head_dim};
  };
  result.keys = view(0);
  result.values = view(1);
  return result;
}

Result<void> SequenceState::Append(std::size_t layer, const ConstTensorView& keys, const ConstTensorView& values) {
  if (auto writable = Writable("append"); !writable) return writable;
  if (layer >= layout_.layers) {
    return Error{ErrorCode::kOutOfRange, "append: layer " + std::to_string(layer) + " of " + std::to_string(layout_.layers)};
  }
  if (reserved_ == 0) return InvalidArgument("append: no rows are reserved; call Reserve first");
  const ConstTensorView* const sides[2] = {&keys, &values};
  for (std::size_t side = 0; side < 2; ++side) {
    const ConstTensorView& rows = *sides[side];
    const char* const name = side == 0 ? "append: keys" : "append: values";
    if (auto good = CheckView(rows, name); !good) return good;
    if (rows.tokens != reserved_ || rows.heads != layout_.kv_heads || rows.dim != layout_.head_dim) {
      return InvalidArgument(std::string(name) + " are [" + std::to_string(rows.tokens) + ", " + std::to_string(rows.heads) +
                             ", " + std::to_string(rows.dim) + "], the reserved rows are [" + std::to_string(reserved_) + ", " +
                             std::to_string(layout_.kv_heads) + ", " + std::to_string(layout_.head_dim) + "]");
    }
  }
  const std::uint64_t first_row = length_ % layout_.capacity;
  const float largest = kernels::LargestStorable(layout_.type);
  for (std::size_t side = 0; side < 2; ++side) {
    for (std::size_t head = 0; head < layout_.kv_heads; ++head) {
      const RowsView rows = sides[side]->Head(head);
      std::byte* target = tail_.data() + layout_.Offset(layer, side, head) + first_row * layout_.row_bytes();
      const auto* source = static_cast<const std::byte*>(rows.data);
      for (std::size_t t = 0; t < rows.count; ++t) {
        const float magnitude = kernels::LoadRow(source, rows.type, rows.dim, row_.data());
        if (!(magnitude <= largest)) {
          return Error{ErrorCode::kNotFinite,
                       std::string("append: ") + (side == 0 ? "key" : "value") + " of layer " + std::to_string(layer) +
                           ", head " + std::to_string(head) + ", token " + std::to_string(t) +
                           (std::isfinite(magnitude) ? " does not fit " + std::string(ElementTypeName(layout_.type))
                                                     : " holds NaN or infinity")};
        }
        kernels::StoreRow(row_.data(), rows.dim, layout_.type, target);
        source += rows.stride * ElementBytes(rows.type);
        target += layout_.row_bytes();
      }
    }
  }
  session().counters().bytes_copied += 2 * layout_.kv_heads * reserved_ * layout_.row_bytes();
  if (!layer_copied_[layer]) {
    layer_copied_[layer] = true;
    ++reserved_layers_copied_;
  }
  return {};
}

LocalView SequenceState::View(std::size_t layer) const noexcept {
  LocalView view;
  const StoreSpec& spec = store_->spec();
  view.blocks = std::span(payloads_).first(switched_);
  if (switched_ > 0 && sinks_ && spec.sink_tokens > 0) {
    // [layer][keys, values][kv_head][sink_tokens][head_dim]
    const std::size_t head = std::size_t{spec.sink_tokens} * spec.head_dim;
    const std::size_t side_bytes = spec.kv_heads * head * ElementBytes(sinks_->element_type);
    const std::byte* const keys = sinks_->payload + layer * 2 * side_bytes;
    view.raw[view.raw_count++] = {keys, keys + side_bytes, sinks_->element_type, head, spec.head_dim, 0, spec.sink_tokens};
  }
  const std::uint64_t first = switched_ * spec.block_tokens;
  for (const quantizers::RowRun& run : layout_.Runs(first, length_ + reserved_ - first)) {
    if (run.count == 0) continue;
    const std::byte* const keys = tail_.data() + layout_.Offset(layer, 0, 0) + run.first_row * layout_.row_bytes();
    view.raw[view.raw_count++] = {keys,
                                  keys + layout_.side_bytes(),
                                  layout_.type,
                                  std::size_t{layout_.capacity} * layout_.head_dim,
                                  layout_.head_dim,
                                  run.first_position,
                                  run.count};
  }
  return view;
}

Result<void> SequenceState::CheckReservedRows(std::size_t layer) {
  const std::uint64_t first_row = length_ % layout_.capacity;
  for (std::size_t side = 0; side < 2; ++side) {
    for (std::size_t head = 0; head < layout_.kv_heads; ++head) {
      const std::byte* row = tail_.data() + layout_.Offset(layer, side, head) + first_row * layout_.row_bytes();
      for (std::size_t t = 0; t < reserved_; ++t, row += layout_.row_bytes()) {
        if (!(kernels::LoadRow(row, layout_.type, layout_.head_dim, row_.data()) <= FLT_MAX)) {
          return Error{ErrorCode::kNotFinite, std::string("attend: new ") + (side == 0 ? "key" : "value") + " of layer " +
                                                  std::to_string(layer) + ", head " + std::to_string(head) + ", token " +
                                                  std::to_string(t) + " holds NaN or infinity"};
        }
      }
    }
  }
  return {};
}

}  // namespace kvant::client
