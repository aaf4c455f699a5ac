// rabitq: rotated keys rounded to the direction on a uniform grid that is closest to them (RaBitQ: Gao and Long, arXiv
// 2405.12497, for one bit; Gao et al., arXiv 2409.09913, for more), with one 16-bit scale per row and, if wanted, a second one
// that bounds the error of each estimate.
//
//   k -> y = Q k -> c_i = sign(y_i) (2 floor(t |y_i|) + 1), at most 2^bits - 1 in size, t the best of this row
//   <q, k> is estimated by scale / (unit sqrt(dim)) <Q q, c> with scale = |k|^2 / <y, c / (unit sqrt(dim))>, which is unbiased
//   over rotations; its error has the standard deviation |q| f, f = |k| sqrt((1 / cos^2 - 1) / (dim - 1)), cos that of y and c.
// sign(0) is +1. With one bit these are the signs of y: the code of turboquant_mse:bits=1 but for rotations' rounding. The
// centroid that RaBitQ subtracts is 0.
//
// With more bits Lloyd-Max levels are as good or better from 128 dims on (1 - cos^2 of 2, 3, 4 bits at 128 dims: 0.116, 0.0349,
// 0.0097 against 0.1155, 0.0334, 0.0091), and finding each row's t makes encoding some hundred times slower; what this code has
// is the bound.
//
// Block: the codes of block_tokens rows as kernels/lloyd/layout.h lays keys out (an index counts the levels c from below), then
// block_tokens ufloat16 scales, with bound=1 as many ufloat16 factors f: bits + 16 / head_dim bits per element, with the bound
// bits + 32 / head_dim. The rotation is made as for turboquant_mse; rows are rotated in floats.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <memory>
#include <string>

#include "kernels/lloyd/encode.h"
#include "kernels/rotation/hadamard.h"
#include "kernels/rotation/transpose.h"
#include "kernels/ufloat16.h"
#include "quantizers/best_grid.h"
#include "quantizers/lloyd_error.h"
#include "quantizers/rabitq.h"
#include "quantizers/random_numbers.h"
#include "quantizers/rotated_keys.h"

namespace kvant::quantizers {
namespace {

using kernels::kLanes;

constexpr CodecName kCodec{"rabitq", 1};

enum Param : std::size_t { kBits, kBound };

/// Odd numbers; `unit` is 2 over the best step of a uniform code of normal numbers, so that scales are about |k|.
const kernels::LloydTable& TableOf(std::int64_t bits) {
  static constexpr std::int16_t kOdd[] = {1, 3, 5, 7, 9, 11, 13, 15};
  static const kernels::LloydTable tables[] = {
      kernels::MakeLloydTable(1, 1.2533141F, {kOdd, 1}), kernels::MakeLloydTable(2, 2.0086634F, {kOdd, 2}),
      kernels::MakeLloydTable(3, 3.4128586F, {kOdd, 4}), kernels::MakeLloydTable(4, 5.9665693F, {kOdd, 8})};
  return tables[bits - 1];
}

class GridKeys final : public RotatedKeys {
 public:
  explicit GridKeys(const CodecConfig& config)
      : RotatedKeys(kCodec, config, TableOf(config.params.Integer(kBits))), bound_(config.params.Integer(kBound) != 0) {}

  [[nodiscard]] std::size_t part_bytes(std::size_t) const noexcept override {
    return codes_bytes() + (bound_ ? tokens() * sizeof(std::uint16_t) : 0);
  }
  [[nodiscard]] CodecTraits traits() const noexcept override {
    // Every |c_i| is at least 1, so <y, c> is at least |y|, and a scale at most |k| unit sqrt(dim).
    return {.largest_norm = 0.99F * kernels::kUfloat16Max / (table().unit * std::sqrt(static_cast<float>(dim())))};
  }
  [[nodiscard]] Needs needs(std::size_t n) const noexcept override {
    Needs needs = RotatedKeys::needs(n);
    needs.encode = scratch_columns() + scratch_row() + BestGridScratchBytes(dim(), top());
    return needs;
  }
  /// With one bit a formula. With more there is none for the best t: the mean over some 32000 normal numbers, within 1 %.
  [[nodiscard]] std::optional<double> expected_error(std::size_t) const override {
    if (top() == 0) {
      return RotatedLloydError(table(), static_cast<std::uint32_t>(dim()), kernels::LloydScale::kUnbiased);
    }
    const std::size_t rows = std::max<std::size_t>(32, 32768 / dim());
    std::vector<float> row(dim());
    std::vector<std::uint8_t> index(dim());
    std::vector<std::uint64_t> steps(dim() * top());
    std::uint64_t state = 0;
    double sum = 0;
    for (std::size_t i = 0; i < rows; ++i) {
      double square = 0;
      for (float& v : row) {
        v = std::fabs(NextNormal(state));
        square += static_cast<double>(v) * static_cast<double>(v);
      }
      const GridFit fit = BestGrid(row.data(), dim(), top(), index.data(), reinterpret_cast<std::byte*>(steps.data()));
      sum += square * fit.square / (fit.dot * fit.dot) - 1.0;
    }
    return sum / static_cast<double>(rows);
  }

  /// Scratch: kLanes rows as columns, one row, BestGrid's.
  [[nodiscard]] Result<void> Encode(const EncodeArgs& args) const override {
    const Rotation& map = rotation(args.head);
    auto* columns = reinterpret_cast<float*>(args.scratch);
    auto* codes = reinterpret_cast<std::uint8_t*>(args.block.part[0]);
    std::memset(codes, 0, kernels::LloydCodesBytes(table().bits, dim(), tokens()));
    for (std::size_t first = 0; first < tokens(); first += kLanes) {
      kernels::LoadColumns(args.rows, first, kLanes, columns);
      kernels::Hadamard(map.shape(), map.rounds(), map.signs(), columns);
      for (std::size_t lane = 0; lane < kLanes; ++lane) {
        if (!EncodeRow(map, columns + lane, first + lane, args)) return BadRow(kCodec, first + lane, args.head);
      }
    }
    return {};
  }

 private:
  /// The largest index of a magnitude.
  [[nodiscard]] std::uint32_t top() const noexcept { return table().half() - 1; }
  [[nodiscard]] std::size_t scratch_columns() const noexcept { return kernels::RotationScratchBytes(dim()); }
  /// Magnitudes and their indices, to a multiple of 8 bytes.
  [[nodiscard]] std::size_t scratch_row() const noexcept { return dim() * (sizeof(float) + 1); }

  /// `rotated`: number i at rotated[i * kLanes], times the rotation's gain. False if the row cannot be stored.
  bool EncodeRow(const Rotation& map, const float* rotated, std::size_t token, const EncodeArgs& args) const {
    auto* magnitudes = reinterpret_cast<float*>(args.scratch + scratch_columns());
    auto* index = reinterpret_cast<std::uint8_t*>(magnitudes + dim());
    double square = 0;
    for (std::size_t i = 0; i < dim(); ++i) {
      magnitudes[i] = std::fabs(rotated[i * kLanes]);
      square += static_cast<double>(magnitudes[i]) * static_cast<double>(magnitudes[i]);
    }
    const double gain = map.shape().gain(map.rounds());
    square /= gain * gain;
    if (!(square <= FLT_MAX)) return false;
    const bool zero = square < static_cast<double>(kernels::kLloydTinySquare);
    if (zero) std::fill_n(magnitudes, dim(), 1.0F);  // codes without meaning
    const GridFit fit = BestGrid(magnitudes, dim(), top(), index, args.scratch + scratch_columns() + scratch_row());
    const double dot = fit.dot / gain;
    const double scale = zero ? 0.0 : square / (dot * static_cast<double>(level()));
    const double rest = std::max(0.0, square * fit.square / (dot * dot) - 1.0);
    const double factor = zero ? 0.0 : std::sqrt(square * rest / static_cast<double>(dim() - 1));
    if (!(scale < static_cast<double>(kernels::kUfloat16Overflow))) return false;
    std::byte* numbers = args.block.part[0] + kernels::LloydCodesBytes(table().bits, dim(), tokens());
    StoreNumber(static_cast<float>(scale), numbers + token * sizeof(std::uint16_t));
    if (bound_) StoreNumber(static_cast<float>(factor), numbers + (tokens() + token) * sizeof(std::uint16_t));
    StoreCodes(rotated, index, token, reinterpret_cast<std::uint8_t*>(args.block.part[0]));
    return true;
  }

  static void StoreNumber(float number, std::byte* to) {
    const std::uint16_t bits = kernels::FloatToUfloat16(number);
    std::memcpy(to, &bits, sizeof(bits));
  }

  void StoreCodes(const float* rotated, const std::uint8_t* index, std::size_t token, std::uint8_t* codes) const {
    for (std::uint32_t p = 0; p < kernels::LloydPlaneCount(table().bits); ++p) {
      const kernels::LloydPlane plane = kernels::LloydPlaneAt(table().bits, p);
      const std::uint32_t mask = (1u << plane.bits) - 1u;
      for (std::size_t i = 0; i < dim(); ++i) {
        const std::uint32_t code = rotated[i * kLanes] < 0.0F ? top() - index[i] : table().half() + index[i];
        const kernels::LloydField at = kernels::LloydFieldOf(kernels::LloydLayout::kKeys, plane.bits, dim(), token, i);
        codes[at.byte] = static_cast<std::uint8_t>(codes[at.byte] | (code >> plane.shift & mask) << at.shift);
      }
      codes += kernels::LloydPlaneBytes(plane.bits, dim(), tokens());
    }
  }

  bool bound_;
};

Result<std::unique_ptr<KeyCodec>> MakeGridKeys(const CodecConfig& config) {
  const auto bits = static_cast<std::uint32_t>(config.params.Integer(kBits));
  if (auto ok = CheckRotatedShape(kCodec, config, bits); !ok) return ok.error();
  return std::unique_ptr<KeyCodec>(std::make_unique<GridKeys>(config));
}

constexpr std::int64_t kBitChoices[] = {1, 2, 3, 4};
constexpr ParamSpec kParams[] = {
    {.name = "bits", .default_value = "4", .meaning = "bits per code", .min = 1, .max = 4, .allowed = kBitChoices},
    {.name = "bound", .default_value = "0", .meaning = "1: store each row's error factor", .min = 0, .max = 1},
};

}  // namespace

float RabitqErrorFactor(const std::byte* block, std::uint32_t bits, std::size_t head_dim, std::size_t block_tokens,
                        std::size_t token) noexcept {
  std::uint16_t stored;
  const std::size_t factors = kernels::LloydBlockBytes(bits, head_dim, block_tokens);
  std::memcpy(&stored, block + factors + token * sizeof(stored), sizeof(stored));
  return kernels::Ufloat16ToFloat(stored);
}

extern const Codec kRabitq{
    .name = kCodec.name,
    .version = kCodec.version,
    .summary = "keys as the nearest direction on a uniform grid, each row's error bound if wanted; slow to encode",
    .params = kParams,
    .block_multiple =
        [](const Params& params) { return kernels::LloydBlockMultiple(static_cast<std::uint32_t>(params.Integer(kBits))); },
    .make_keys = MakeGridKeys,
};

}  // namespace kvant::quantizers
