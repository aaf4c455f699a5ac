#include "daemon/memory/tail.h"

#include <string>
#include <vector>

#include "kernels/raw/rows.h"

namespace kvant::daemon {
namespace {

Error RowNotFinite(const TailView& to, std::size_t layer, std::size_t side, std::size_t head, std::uint64_t position) {
  return {ErrorCode::kNotFinite, "copy " + std::string(side == 0 ? "key" : "value") + " row of layer " + std::to_string(layer) +
                                     ", head " + std::to_string(head) + ", position " + std::to_string(position) +
                                     ": NaN, infinity or beyond the range of " + ElementTypeName(to.layout.type)};
}

std::byte* Row(const TailView& tail, std::size_t layer, std::size_t side, std::size_t head, std::uint64_t position) {
  return tail.Ring(layer, side, head) + position % tail.layout.capacity * tail.layout.row_bytes();
}

}  // namespace

std::size_t TailPieces(const TailView& tail, std::size_t layer, std::uint64_t first, std::uint64_t count,
                       std::span<quantizers::RawRows> pieces) {
  const quantizers::TailLayout& layout = tail.layout;
  std::size_t used = 0;
  for (const quantizers::RowRun& run : layout.Runs(first, count)) {
    if (run.count == 0) continue;
    quantizers::RawRows& piece = pieces[used++];
    piece.keys = tail.Ring(layer, 0, 0) + run.first_row * layout.row_bytes();
    piece.values = tail.Ring(layer, 1, 0) + run.first_row * layout.row_bytes();
    piece.type = layout.type;
    piece.head_stride = std::size_t{layout.capacity} * layout.head_dim;
    piece.row_stride = layout.head_dim;
    piece.first_position = run.first_position;
    piece.count = run.count;
  }
  return used;
}

Result<std::uint64_t> CopyRows(const TailView& from, const TailView& to, std::uint64_t first, std::uint64_t count) {
  const std::size_t dim = to.layout.head_dim;
  const float largest = kernels::LargestStorable(to.layout.type);
  std::vector<float> row(dim);
  for (std::size_t layer = 0; layer < to.layout.layers; ++layer) {
    for (std::size_t side = 0; side < 2; ++side) {
      for (std::size_t head = 0; head < to.layout.kv_heads; ++head) {
        for (std::uint64_t position = first; position < first + count; ++position) {
          const float magnitude = kernels::LoadRow(Row(from, layer, side, head, position), from.layout.type, dim, row.data());
          if (!(magnitude <= largest)) return RowNotFinite(to, layer, side, head, position);
          kernels::StoreRow(row.data(), dim, to.layout.type, Row(to, layer, side, head, position));
        }
      }
    }
  }
  return count * to.layout.layers * 2 * to.layout.kv_heads * to.layout.row_bytes();
}

Result<void> StoreRows(const TailView& to, std::size_t layer, std::size_t side, std::size_t head, std::uint64_t first,
                       std::uint64_t count, const float* rows) {
  const std::size_t dim = to.layout.head_dim;
  const float largest = kernels::LargestStorable(to.layout.type);
  for (std::uint64_t i = 0; i < count; ++i) {
    for (std::size_t j = 0; j < dim; ++j) {
      const float magnitude = rows[i * dim + j] < 0 ? -rows[i * dim + j] : rows[i * dim + j];
      if (!(magnitude <= largest)) return RowNotFinite(to, layer, side, head, first + i);
    }
    kernels::StoreRow(rows + i * dim, dim, to.layout.type, Row(to, layer, side, head, first + i));
  }
  return {};
}

}  // namespace kvant::daemon
