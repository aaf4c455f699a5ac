// A sequence's raw rows: where new ones go and how they get there.
#include <algorithm>
#include <string>
#include <utility>

#include "client/sequence.h"
#include "client/tensor_place.h"
#include "quantizers/sequence/rows.h"

namespace kvant::client {
namespace {

Error InvalidArgument(std::string message) { return {ErrorCode::kInvalidArgument, std::move(message)}; }

}  // namespace

std::size_t Sequence::reservable() const noexcept {
  if (read_only_) return 0;
  return std::min<std::size_t>(options_.max_step_tokens, tail_.layout.capacity - progress_.raw_tokens() - unnamed_);
}

std::string Sequence::WhyNotSealed() const {
  if (seal_error_) return seal_error_->message;
  if (unnamed_ > 0) return std::to_string(unnamed_) + " of them have no ids yet; name them (Name)";
  return "a mark is held, or the store is full";
}

Result<Sequence::Rows> Sequence::Reserve(std::size_t tokens) {
  if (auto writable = Writable("reserve"); !writable) return writable.error();
  if (auto ready = Ready("reserve"); !ready) return ready.error();
  if (tokens == 0) return InvalidArgument("reserve: 0 tokens");
  const quantizers::TailLayout& layout = tail_.layout;
  if (tokens > options_.max_step_tokens) {
    return Error{ErrorCode::kOutOfRange, "reserve: " + std::to_string(tokens) +
                                             " tokens, the sequence was opened for steps of at most " +
                                             std::to_string(options_.max_step_tokens) + " (max_step_tokens)"};
  }
  if (tokens > reservable()) {
    return Error{ErrorCode::kTailFull,
                 "reserve: " + std::to_string(tokens) + " tokens, the tail has room for " + std::to_string(reservable()) +
                     ": " + std::to_string(progress_.raw_tokens() + unnamed_) + " of its " + std::to_string(layout.capacity) +
                     " rows hold tokens that are not sealed (" + WhyNotSealed() + ")"};
  }
  if (tokens != reserved_) {
    ForgetReserved();
    reserved_ = tokens;
  }
  if (poisoned_rows_ && *poisoned_rows_ < tokens) {
    quantizers::PoisonNewRows(tail_, {.length = length(), .first = *poisoned_rows_, .count = tokens - *poisoned_rows_});
    poisoned_rows_ = tokens;
  }
  Rows result;
  result.tokens = tokens;
  result.layers = layout.layers;
  result.layer_stride_bytes = layout.layer_bytes();
  const auto view = [&](std::uint64_t side) {
    return TensorView{tail_.Row(0, side, 0, length()),
                      layout.type,
                      tokens,
                      layout.kv_heads,
                      layout.head_dim,
                      layout.head_dim,
                      static_cast<std::size_t>(layout.head_rows()) * layout.head_dim};
  };
  result.keys = view(0);
  result.values = view(1);
  return result;
}

Result<void> Sequence::Append(std::size_t layer, const ConstTensorView& keys, const ConstTensorView& values) {
  if (auto writable = Writable("append"); !writable) return writable;
  const quantizers::TailLayout& layout = tail_.layout;
  if (layer >= layout.layers) {
    return Error{ErrorCode::kOutOfRange, "append: layer " + std::to_string(layer) + " of " + std::to_string(layout.layers)};
  }
  if (reserved_ == 0) return InvalidArgument("append: no rows are reserved; call Reserve first");
  const ConstTensorView* const sides[2] = {&keys, &values};
  for (std::size_t side = 0; side < 2; ++side) {
    const ConstTensorView& rows = *sides[side];
    const char* const name = side == 0 ? "append: keys" : "append: values";
    if (auto good = CheckView(rows, name); !good) return good;
    if (rows.tokens != reserved_ || rows.heads != layout.kv_heads || rows.dim != layout.head_dim) {
      return InvalidArgument(std::string(name) + " are [" + std::to_string(rows.tokens) + ", " + std::to_string(rows.heads) +
                             ", " + std::to_string(rows.dim) + "], the reserved rows are [" + std::to_string(reserved_) + ", " +
                             std::to_string(layout.kv_heads) + ", " + std::to_string(layout.head_dim) + "]");
    }
  }
  for (std::size_t side = 0; side < 2; ++side) {
    auto written = quantizers::WriteNewRows(tail_, layer, side, length(), *sides[side]);
    if (!written) return Error{written.error().code, "append: " + written.error().message};
  }
  session().counters().bytes_copied += 2 * layout.kv_heads * reserved_ * layout.row_bytes();
  finite_rows_[layer] = reserved_;
  if (!layer_copied_[layer]) {
    layer_copied_[layer] = true;
    ++reserved_layers_copied_;
  }
  return {};
}

void Sequence::ForgetReserved() noexcept {
  reserved_ = 0;
  reserved_layers_copied_ = 0;
  std::fill(layer_copied_.begin(), layer_copied_.end(), false);
  std::fill(finite_rows_.begin(), finite_rows_.end(), 0);
}

void Sequence::RowsAreFinite(std::size_t layer, std::uint64_t rows) noexcept {
  if (reserved_ > 0) finite_rows_[layer] = std::max(finite_rows_[layer], rows);
}

Result<void> Sequence::CheckUnseenRows(std::size_t tokens) const {
  for (std::size_t layer = 0; layer < finite_rows_.size(); ++layer) {
    const std::uint64_t seen = finite_rows_[layer];
    if (seen >= tokens) continue;
    if (auto finite = quantizers::CheckNewRows(tail_, layer, {.length = length(), .first = seen, .count = tokens - seen});
        !finite) {
      return Error{finite.error().code, "advance: " + finite.error().message};
    }
  }
  return {};
}

quantizers::CachedSequence Sequence::Cache() const noexcept {
  quantizers::Sinks sinks;
  if (sinks_) {
    sinks = {.data = sinks_->payload,
             .layout = {.kv_heads = tail_.layout.kv_heads,
                        .head_dim = tail_.layout.head_dim,
                        .tokens = store_->spec().sink_tokens,
                        .type = sinks_->element_type}};
  }
  const auto switched = static_cast<std::size_t>(progress_.switched_blocks());
  return {.blocks = std::span(payloads_).first(switched),
          .sections = std::span(sections_).first(switched),
          .sinks = sinks,
          .tail = tail_,
          .length = length()};
}

}  // namespace kvant::client
