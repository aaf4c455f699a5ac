#include "client/recent_queries.h"

#include <algorithm>

#include "kernels/raw/rows.h"

namespace kvant::client {

float* RecentQueries::Row(std::size_t layer, std::uint64_t position) const noexcept {
  return reinterpret_cast<float*>(memory_.data()) +
         (layer * window_ + static_cast<std::size_t>(position % window_)) * heads_ * dim_;
}

Result<void> RecentQueries::Record(Session& session, std::size_t layer, std::uint64_t first, const AttendArgs& args) {
  const ConstTensorView& q = args.q;
  if (layer >= layers_.size() || q.tokens == 0 || q.heads == 0 || q.dim == 0) return {};  // attention refuses it
  if (q.heads != heads_ || q.dim != dim_) {
    auto memory = session.Allocate(layers_.size() * window_ * q.heads * q.dim * sizeof(float), "queries for SnapKV");
    if (!memory) return memory.error();
    memory_ = std::move(*memory);
    heads_ = q.heads;
    dim_ = q.dim;
    for (Layer& each : layers_) each = {};
  }
  Layer& to = layers_[layer];
  if (first > to.end || first < to.first) to.first = first;
  to.end = first + q.tokens;
  to.first = std::max(to.first, to.end - std::min<std::uint64_t>(to.end, window_));
  for (std::uint64_t p = std::max(first, to.first); p < to.end; ++p) {
    for (std::size_t head = 0; head < heads_; ++head) {
      const RowsView rows = q.Head(head);
      const auto* from = static_cast<const std::byte*>(rows.data) +
                         static_cast<std::size_t>(p - first) * rows.stride * ElementBytes(rows.type);
      kernels::LoadRow(from, rows.type, dim_, Row(layer, p) + head * dim_);
    }
  }
  to.style = args;
  to.sink_logits.clear();
  if (args.sink_logits != nullptr) to.sink_logits.assign(args.sink_logits, args.sink_logits + heads_);
  return {};
}

void RecentQueries::Trim(std::uint64_t length) noexcept {
  for (Layer& layer : layers_) {
    layer.end = std::min(layer.end, length);
    layer.first = std::min(layer.first, layer.end);
  }
}

Result<RecentQueries> RecentQueries::CopyAt(Session& session, std::uint64_t length) const {
  RecentQueries copy(static_cast<std::uint32_t>(layers_.size()), window_);
  if (memory_.data() == nullptr) return copy;
  auto memory = session.Allocate(memory_.bytes(), "queries for SnapKV");
  if (!memory) return memory.error();
  std::copy_n(memory_.data(), memory_.bytes(), memory->data());
  copy.memory_ = std::move(*memory);
  copy.heads_ = heads_;
  copy.dim_ = dim_;
  copy.layers_ = layers_;
  copy.Trim(length);
  return copy;
}

std::array<RecentQueries::Piece, 2> RecentQueries::Pieces(std::size_t layer, std::uint64_t from) const noexcept {
  const Layer& known = layers_[layer];
  std::array<Piece, 2> pieces;
  std::uint64_t at = std::clamp(from, known.first, known.end);
  for (Piece& piece : pieces) {
    if (at == known.end) break;
    const std::uint64_t end = std::min(known.end, (at / window_ + 1) * window_);
    piece.first = at;
    piece.args = known.style;
    piece.args.out = {};
    piece.args.lse = nullptr;
    piece.args.sink_logits = known.sink_logits.empty() ? nullptr : known.sink_logits.data();
    piece.args.q = {Row(layer, at), ElementType::kF32, static_cast<std::size_t>(end - at), heads_, dim_, heads_ * dim_, dim_};
    at = end;
  }
  return pieces;
}

}  // namespace kvant::client
