#include "quantizers/sequence/rows.h"

#include <array>
#include <cfloat>
#include <cmath>
#include <cstring>
#include <string>

#include "kernels/raw/rows.h"

namespace kvant::quantizers {
namespace {

constexpr std::size_t kMaxHeadDim = 1024;  // Plan refuses more

/// NaN with a payload that no arithmetic makes.
constexpr std::uint32_t kPoison32 = 0x7FC05B5B;
constexpr std::uint16_t kPoisonF16 = 0x7E5B;
constexpr std::uint16_t kPoisonBF16 = 0x7FDB;

/// Sets `dim` elements to the poison.
void Poison(std::byte* row, ElementType type, std::size_t dim) noexcept {
  const std::uint16_t half = type == ElementType::kF16 ? kPoisonF16 : kPoisonBF16;
  for (std::size_t i = 0; i < dim; ++i) {
    if (type == ElementType::kF32) {
      std::memcpy(row + i * sizeof(kPoison32), &kPoison32, sizeof(kPoison32));
    } else {
      std::memcpy(row + i * sizeof(half), &half, sizeof(half));
    }
  }
}

bool HoldsPoison(const std::byte* row, ElementType type, std::size_t dim) {
  std::array<std::byte, sizeof(float)> poison;
  Poison(poison.data(), type, 1);
  for (std::size_t i = 0; i < dim; ++i) {
    if (std::memcmp(row + i * ElementBytes(type), poison.data(), ElementBytes(type)) == 0) return true;
  }
  return false;
}

/// `magnitude` is what the row's conversion answered.
Error Refused(std::size_t layer, std::size_t side, std::size_t head, std::uint64_t position, float magnitude,
              ElementType type) {
  return {ErrorCode::kNotFinite,
          std::string("the ") + (side == 0 ? "key" : "value") + " row of layer " + std::to_string(layer) + ", KV head " +
              std::to_string(head) + ", position " + std::to_string(position) + " holds " +
              (std::isfinite(magnitude) ? "a number beyond the range of " + std::string(ElementTypeName(type))
                                        : "NaN or infinity")};
}

}  // namespace

Result<void> CheckNewRows(const Tail& tail, std::size_t layer, const NewRowRange& range) {
  const TailLayout& layout = tail.layout;
  std::array<float, kMaxHeadDim> widened;
  for (std::size_t side = 0; side < 2; ++side) {
    for (std::size_t head = 0; head < layout.kv_heads; ++head) {
      const std::byte* row = tail.NewRow(layer, side, head, range.length, range.first);
      for (std::uint64_t i = 0; i < range.count; ++i, row += layout.row_bytes()) {
        const float magnitude = kernels::LoadRow(row, layout.type, layout.head_dim, widened.data());
        if (magnitude <= FLT_MAX) continue;
        Error error = Refused(layer, side, head, range.length + range.first + i, magnitude, layout.type);
        if (HoldsPoison(row, layout.type, layout.head_dim)) error.message += ": it was reserved but not (wholly) written";
        return error;
      }
    }
  }
  return {};
}

void PoisonNewRows(const Tail& tail, const NewRowRange& range) noexcept {
  const TailLayout& layout = tail.layout;
  for (std::size_t layer = 0; layer < layout.layers; ++layer) {
    for (std::size_t side = 0; side < 2; ++side) {
      for (std::size_t head = 0; head < layout.kv_heads; ++head) {
        for (std::uint64_t i = range.first; i < range.first + range.count; ++i) {
          Poison(tail.NewRow(layer, side, head, range.length, i), layout.type, layout.head_dim);
        }
      }
    }
  }
}

Result<void> WriteNewRows(const Tail& to, std::size_t layer, std::size_t side, std::uint64_t length,
                          const ConstTensorView& rows) {
  const TailLayout& layout = to.layout;
  const float largest = kernels::LargestStorable(layout.type);
  for (std::size_t head = 0; head < layout.kv_heads; ++head) {
    const RowsView of_head = rows.Head(head);
    const auto* from = static_cast<const std::byte*>(of_head.data);
    std::byte* row = to.NewRow(layer, side, head, length, 0);
    for (std::size_t i = 0; i < of_head.count; ++i) {
      const float magnitude = kernels::CopyRow(from, of_head.type, of_head.dim, layout.type, row);
      if (!(magnitude <= largest)) return Refused(layer, side, head, length + i, magnitude, layout.type);
      from += of_head.stride * ElementBytes(of_head.type);
      row += layout.row_bytes();
    }
  }
  return {};
}

void FoldNewRows(const Tail& tail, std::uint64_t length, std::uint64_t count) noexcept {
  const TailLayout& layout = tail.layout;
  const std::uint64_t in_ring = layout.capacity - length % layout.capacity;
  if (count <= in_ring) return;
  for (std::size_t layer = 0; layer < layout.layers; ++layer) {
    for (std::size_t side = 0; side < 2; ++side) {
      for (std::size_t head = 0; head < layout.kv_heads; ++head) {
        std::memcpy(tail.Ring(layer, side, head), tail.NewRow(layer, side, head, length, in_ring),
                    (count - in_ring) * layout.row_bytes());
      }
    }
  }
}

Result<void> WriteRows(const Tail& to, std::size_t layer, std::size_t side, std::size_t head, std::uint64_t first,
                       const RowsView& rows) {
  const TailLayout& layout = to.layout;
  const float largest = kernels::LargestStorable(layout.type);
  const auto* from = static_cast<const std::byte*>(rows.data);
  for (std::size_t i = 0; i < rows.count; ++i, from += rows.stride * ElementBytes(rows.type)) {
    const float magnitude = kernels::CopyRow(from, rows.type, rows.dim, layout.type, to.Row(layer, side, head, first + i));
    if (!(magnitude <= largest)) return Refused(layer, side, head, first + i, magnitude, layout.type);
  }
  return {};
}

Result<std::uint64_t> CopyRows(const Tail& from, const Tail& to, std::uint64_t first, std::uint64_t count) {
  const TailLayout& layout = from.layout;
  for (std::size_t layer = 0; layer < layout.layers; ++layer) {
    for (std::size_t side = 0; side < 2; ++side) {
      for (std::size_t head = 0; head < layout.kv_heads; ++head) {
        for (const RowRun& run : layout.Runs(first, count)) {
          const RowsView rows{from.Ring(layer, side, head) + run.first_row * layout.row_bytes(), layout.type,
                              static_cast<std::size_t>(run.count), layout.head_dim, layout.head_dim};
          if (auto written = WriteRows(to, layer, side, head, run.first_position, rows); !written) return written.error();
        }
      }
    }
  }
  return count * to.layout.layers * 2 * to.layout.kv_heads * to.layout.row_bytes();
}

Result<void> CopySinks(const Tail& from, const SinkLayout& layout, std::byte* to) {
  const float largest = kernels::LargestStorable(layout.type);
  for (std::size_t layer = 0; layer < from.layout.layers; ++layer) {
    for (std::size_t side = 0; side < 2; ++side) {
      for (std::size_t head = 0; head < layout.kv_heads; ++head) {
        for (std::uint32_t i = 0; i < layout.tokens; ++i, to += layout.row_bytes()) {
          const float magnitude =
              kernels::CopyRow(from.Row(layer, side, head, i), from.layout.type, layout.head_dim, layout.type, to);
          if (!(magnitude <= largest)) return Refused(layer, side, head, i, magnitude, layout.type);
        }
      }
    }
  }
  return {};
}

}  // namespace kvant::quantizers
