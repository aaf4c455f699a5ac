#include "quantizers/spectral_encode.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>

#include "kernels/matrix/matrix.h"
#include "kernels/raw/rows.h"
#include "kernels/rotation/hadamard.h"
#include "kernels/rotation/transpose.h"
#include "kernels/ufloat16.h"

namespace kvant::quantizers {
namespace {

using kernels::kLanes;
using Lanes = std::array<float, kLanes>;

constexpr float kTinySquare = 0x1p-82F;  // squared norms below count as 0: their scale would round to 0

/// The codes of one direction of 16 rows.
void Pack(const SpectralEncoding& how, const SpectralGroup& group, std::size_t tokens, std::size_t first, std::size_t direction,
          const std::array<std::uint32_t, kLanes>& indices, std::uint8_t* codes) {
  for (std::uint32_t p = 0; p < kernels::LloydPlaneCount(group.table->bits); ++p) {
    const kernels::LloydPlane plane = kernels::LloydPlaneAt(group.table->bits, p);
    for (std::size_t lane = 0; lane < kLanes; ++lane) {
      const auto at = kernels::LloydFieldOf(how.layout, plane.bits, group.count, first + lane, direction);
      const std::uint32_t field = indices[lane] >> plane.shift & ((1U << plane.bits) - 1U);
      codes[at.byte] = static_cast<std::uint8_t>(codes[at.byte] | field << at.shift);
    }
    codes += kernels::LloydPlaneBytes(plane.bits, group.count, tokens);
  }
}

/// Codes of a number in codebook units, and what they stand for.
std::uint32_t Index(const kernels::LloydTable& table, float number) {
  const float size = std::fabs(number);
  std::uint32_t index = 0;
  if (kernels::LloydHasWords(table.bits)) {
    index = table.grid[static_cast<std::size_t>(std::min(size, 2047.0F))];
  } else {
    for (std::uint32_t i = 0; i + 1 < table.half(); ++i) index += size >= table.thresholds[i] ? 1U : 0U;
  }
  return number < 0 ? table.half() - 1 - index : table.half() + index;
}

/// Columns of the directions of a group, divided by their deviations and rotated, become codes, and `columns` what the codes
/// stand for, rotated back. `size`: of each row, what its numbers are divided by.
void EncodeGroup(const SpectralEncoding& how, const SpectralGroup& group, std::size_t tokens, std::size_t first,
                 const Lanes& size, float* columns, std::uint8_t* codes) {
  const Rotation& rotation = group.rotation;
  const auto gain = static_cast<float>(rotation.shape().gain(rotation.rounds()));
  const float unit = group.table->unit;
  kernels::Hadamard(rotation.shape(), rotation.rounds(), rotation.signs(), columns);
  Lanes to_units;
  for (std::size_t lane = 0; lane < kLanes; ++lane) to_units[lane] = size[lane] > 0 ? unit / gain / size[lane] : 0.0F;
  std::array<std::uint32_t, kLanes> indices;
  for (std::size_t k = 0; k < group.count; ++k) {
    float* numbers = columns + k * kLanes;
    for (std::size_t lane = 0; lane < kLanes; ++lane) {
      indices[lane] = Index(*group.table, numbers[lane] * to_units[lane]);
      numbers[lane] = static_cast<float>(group.table->Centroid(indices[lane])) / (unit * gain);
    }
    Pack(how, group, tokens, first, k, indices, codes);
  }
  kernels::HadamardInverse(rotation.shape(), rotation.rounds(), rotation.signs(), columns);
}

/// The scale of each row: `square` is the size of its coordinates, `dot` their product with what the codes stand for, `norm`
/// that of the latter. It stays within a factor of two of the row's own size, whatever the row.
float ScaleOf(bool unbiased, float size, float square, float dot, float norm) {
  if (size == 0.0F) return 0.0F;
  const float scale = unbiased ? (dot > 0 ? square / dot : 2 * size) : (norm > 0 ? dot / norm : 0.0F);
  return std::min(std::max(scale, unbiased ? size / 2 : 0.0F), 2 * size);
}

}  // namespace

std::size_t SpectralEncode(const SpectralEncoding& how, const RowsView& rows, std::uint8_t* codes, std::uint16_t* scales,
                           std::byte* scratch) noexcept {
  const SpectralHead& head = *how.head;
  const std::size_t dim = rows.dim, coded = head.order.size();
  auto* plain = reinterpret_cast<float*>(scratch);
  float* coordinates = plain + kLanes * dim;
  float* all = coordinates + kLanes * dim;  // [dim][16]
  float* columns = all + kLanes * dim;      // [coded][16], whitened, then what the codes stand for
  std::memset(codes, 0, head.code_bytes(rows.count));
  for (std::size_t first = 0; first < rows.count; first += kLanes) {
    Lanes largest;
    for (std::size_t lane = 0; lane < kLanes; ++lane) {
      float* row = plain + lane * dim;
      const auto* from = static_cast<const std::byte*>(rows.data) + (first + lane) * rows.stride * ElementBytes(rows.type);
      largest[lane] = kernels::LoadRow(from, rows.type, dim, row);
      for (std::size_t i = 0; i < dim; ++i) row[i] -= head.mean[i];
    }
    kernels::RowsTimesTransposed(head.basis.data(), dim, plain, dim, kLanes, coordinates);
    kernels::LoadColumns({coordinates, ElementType::kF32, kLanes, dim, dim}, 0, kLanes, all);
    Lanes squares{}, size{};
    for (std::size_t k = 0; k < coded; ++k) {
      for (std::size_t lane = 0; lane < kLanes; ++lane) {
        const float number = all[head.order[k] * kLanes + lane] / head.deviations[k];
        columns[k * kLanes + lane] = number;
        squares[lane] += number * number;
      }
    }
    for (std::size_t lane = 0; lane < kLanes; ++lane) {
      const float square = squares[lane] / static_cast<float>(coded);
      size[lane] = square < kTinySquare ? 0.0F : std::sqrt(square);
      // Twice the size is the largest scale. A mean may be larger than what overflows in its coordinates: hence both.
      if (!(largest[lane] < kernels::kUfloat16Overflow && 2 * size[lane] < kernels::kUfloat16Overflow)) return first + lane;
    }
    std::uint8_t* to = codes;
    Lanes square{}, dot{}, norm{};
    for (const SpectralGroup& group : head.groups) {
      float* own = columns + group.begin * kLanes;
      EncodeGroup(how, group, rows.count, first, size, own, to);
      to += kernels::LloydCodesBytes(group.table->bits, group.count, rows.count);
      for (std::size_t k = 0; k < group.count; ++k) {
        const float factor = group.unshrink * head.deviations[group.begin + k];
        for (std::size_t lane = 0; lane < kLanes; ++lane) {
          const float number = all[head.order[group.begin + k] * kLanes + lane], back = own[k * kLanes + lane] * factor;
          square[lane] += number * number;
          dot[lane] += number * back;
          norm[lane] += back * back;
        }
      }
    }
    for (std::size_t lane = 0; lane < kLanes; ++lane) {
      scales[first + lane] = kernels::FloatToUfloat16(ScaleOf(how.unbiased, size[lane], square[lane], dot[lane], norm[lane]));
    }
  }
  return rows.count;
}

}  // namespace kvant::quantizers
