#include "quantizers/spectral_head.h"

#include <algorithm>
#include <cmath>
#include <initializer_list>
#include <numbers>
#include <numeric>
#include <string>

#include "kernels/lloyd/layout.h"
#include "kernels/matrix/matrix.h"
#include "quantizers/artifact.h"
#include "quantizers/water_filling.h"

namespace kvant::quantizers {
namespace {

constexpr std::size_t kStep = 8;          // of the sizes of groups: of rotations and layouts
constexpr float kLeastDeviation = 1e-3F;  // of the head's largest: noise of the calibration, not of rows
constexpr double kOrthonormal = 1e-3;     // how far products of the basis' rows may be off
constexpr float kLargestDeviation = 1e6F;

std::string TensorName(const CodecConfig& config, std::string_view what) {
  return "layers." + std::to_string(config.layer) + (config.side == Side::kKeys ? ".keys." : ".values.") + std::string(what);
}

Result<std::span<const float>> Find(const CodecConfig& config, std::string_view what,
                                    std::initializer_list<std::size_t> shape) {
  const std::string name = TensorName(config, what);
  if (config.artifact != nullptr) return config.artifact->Find(name, shape);
  std::string sizes;
  for (const std::size_t size : shape) sizes += (sizes.empty() ? "" : ", ") + std::to_string(size);
  return Error{ErrorCode::kInvalidArgument, "needs the tensor " + name + " [" + sizes + "], but the plan has no artifact"};
}

/// The rows of a basis are orthonormal: a basis that is not would make garbage of every row.
bool Orthonormal(std::span<const float> basis, std::size_t dim) {
  std::vector<float> products(dim * dim);
  kernels::RowsTimesTransposed(basis.data(), dim, basis.data(), dim, dim, products.data());
  for (std::size_t i = 0; i < products.size(); ++i) {
    if (!(std::fabs(static_cast<double>(products[i]) - (i / dim == i % dim ? 1.0 : 0.0)) < kOrthonormal)) return false;
  }
  return true;
}

/// The participation ratio (sum l)^2 / sum l^2 of the variances, rounded up: how many directions carry the rows.
double ParticipationRatio(std::span<const float> deviations) {
  double sum = 0, squares = 0;
  for (const float deviation : deviations) {
    const double variance = static_cast<double>(deviation) * static_cast<double>(deviation);
    sum += variance;
    squares += variance * variance;
  }
  const auto last = static_cast<double>(deviations.size()) - 2;
  return std::clamp(std::ceil(sum * sum / squares), 2.0, std::max(2.0, last));
}

/// `boundary` directions to the nearest whole number of steps; some stay some.
std::size_t WholeSteps(std::size_t boundary) {
  return boundary == 0 ? 0 : std::max(kStep, (boundary + kStep / 2) / kStep * kStep);
}

/// Bits of the directions by rank, and which direction has which rank: heaviest first, the ones with codes before those
/// without.
struct Ranks {
  std::vector<std::uint16_t> order;
  std::vector<std::uint32_t> bits;
};

void SortByDeviation(std::vector<std::uint16_t>& order, std::span<const float> deviations) {
  std::ranges::stable_sort(order, std::ranges::greater(), [&](std::uint16_t a) { return deviations[a]; });
}

Result<Ranks> RanksBySignal(const CodecConfig& config, const SpectralBits& bits, std::size_t head,
                            std::span<const float> deviations) {
  const std::size_t dim = deviations.size();
  double signal = ParticipationRatio(deviations);
  if (config.artifact != nullptr && config.artifact->Has(TensorName(config, "signal"))) {
    auto stored = Find(config, "signal", {config.kv_heads});
    if (!stored) return std::move(stored).error();
    signal = static_cast<double>((*stored)[head]);
    if (!(signal >= 0 && signal <= static_cast<double>(dim)) || signal != std::floor(signal)) {
      return Error{ErrorCode::kInvalidArgument,
                   TensorName(config, "signal") + " of KV head " + std::to_string(head) + " is no number of directions"};
    }
  }
  Ranks ranks{std::vector<std::uint16_t>(dim), std::vector<std::uint32_t>(dim, bits.noise)};
  std::iota(ranks.order.begin(), ranks.order.end(), std::uint16_t{0});
  SortByDeviation(ranks.order, deviations);
  std::fill_n(ranks.bits.begin(), std::min(dim, WholeSteps(static_cast<std::size_t>(signal))), bits.signal);
  return ranks;
}

Result<Ranks> RanksByMap(const CodecConfig& config, std::size_t head, std::span<const float> deviations) {
  const std::size_t dim = deviations.size();
  auto stored = Find(config, "bits", {config.kv_heads, config.head_dim});
  if (!stored) return std::move(stored).error();
  std::vector<std::uint32_t> map(dim);
  for (std::size_t a = 0; a < dim; ++a) {
    const float bits = (*stored)[head * dim + a];
    const bool whole = bits >= 0 && bits <= 8 && bits == std::floor(bits);
    if (!whole || (bits > 4 && bits < 8)) {
      return Error{ErrorCode::kInvalidArgument, TensorName(config, "bits") + " of KV head " + std::to_string(head) +
                                                    ": there are no codes of " + std::to_string(bits) + " bits"};
    }
    map[a] = static_cast<std::uint32_t>(bits);
  }
  Ranks ranks{std::vector<std::uint16_t>(dim), std::vector<std::uint32_t>(dim, 0)};
  std::iota(ranks.order.begin(), ranks.order.end(), std::uint16_t{0});
  SortByDeviation(ranks.order, deviations);
  std::ranges::stable_sort(ranks.order, std::ranges::greater(), [&](std::uint16_t a) { return map[a]; });
  std::size_t begin = 0;
  for (std::uint32_t bits = 8; bits > 0; --bits) {
    const auto wanted = static_cast<std::size_t>(std::ranges::count_if(map, [&](std::uint32_t b) { return b >= bits; }));
    const std::size_t end = std::max(begin, std::min(dim, WholeSteps(wanted)));
    const bool exists = std::ranges::find(map, bits) != map.end();
    if (!exists) continue;
    std::fill(ranks.bits.begin() + static_cast<std::ptrdiff_t>(begin), ranks.bits.begin() + static_cast<std::ptrdiff_t>(end),
              bits);
    begin = end;
  }
  return ranks;
}

}  // namespace

std::size_t SpectralHead::code_bytes(std::size_t tokens) const noexcept {
  std::size_t bytes = 0;
  for (const SpectralGroup& group : groups) bytes += kernels::LloydCodesBytes(group.table->bits, group.count, tokens);
  return bytes;
}

std::size_t SpectralHead::memory_bytes() const noexcept {
  std::size_t bytes = order.capacity() * sizeof(order[0]) + deviations.capacity() * sizeof(float);
  for (const SpectralGroup& group : groups) bytes += sizeof(group) + group.rotation.memory_bytes();
  return bytes;
}

Result<std::vector<SpectralHead>> MakeSpectralHeads(const CodecConfig& config, std::string_view codec, std::uint32_t version,
                                                    const SpectralBits& bits) {
  const std::size_t dim = config.head_dim;
  auto mean = Find(config, "mean", {config.kv_heads, dim});
  if (!mean) return std::move(mean).error();
  auto basis = Find(config, "basis", {config.kv_heads, dim, dim});
  if (!basis) return std::move(basis).error();
  auto deviation = Find(config, "deviation", {config.kv_heads, dim});
  if (!deviation) return std::move(deviation).error();
  std::vector<SpectralHead> heads;
  for (std::size_t h = config.head_begin; h < config.head_end; ++h) {
    const std::string of_head = " of KV head " + std::to_string(h);
    SpectralHead head{mean->subspan(h * dim, dim), basis->subspan(h * dim * dim, dim * dim), {}, {}, {}};
    if (!Orthonormal(head.basis, dim)) {
      return Error{ErrorCode::kInvalidArgument, TensorName(config, "basis") + of_head + " has no orthonormal rows"};
    }
    const std::span<const float> deviations = deviation->subspan(h * dim, dim);
    const float largest = *std::ranges::max_element(deviations);
    if (!(largest > 0 && largest <= kLargestDeviation) || *std::ranges::min_element(deviations) < 0) {
      return Error{ErrorCode::kInvalidArgument,
                   TensorName(config, "deviation") + of_head + " is negative, all 0 or beyond 1e6"};
    }
    auto ranks = bits.from_map ? RanksByMap(config, h, deviations) : RanksBySignal(config, bits, h, deviations);
    if (!ranks) return std::move(ranks).error();
    const RotationKey key{codec,       version,      config.model, config.layer, static_cast<std::uint32_t>(h),
                          config.side, config.stream};
    const std::uint64_t seed = RotationSeed(key);
    for (std::size_t begin = 0, end = 0; begin < dim; begin = end) {
      while (end < dim && ranks->bits[end] == ranks->bits[begin]) ++end;
      const std::uint32_t width = ranks->bits[begin];
      if (width == 0) continue;
      const auto count = static_cast<std::uint32_t>(end - begin);
      const double shrunk = config.side == Side::kKeys ? 1 - LloydErrors()[width] : 1;
      head.groups.push_back({kernels::FindLloydTable(width), head.order.size(), count, static_cast<float>(1 / shrunk),
                             Rotation(count, RotationRounds(count), seed + head.groups.size())});
      for (std::size_t rank = begin; rank < end; ++rank) {
        head.order.push_back(ranks->order[rank]);
        head.deviations.push_back(std::max(deviations[ranks->order[rank]], kLeastDeviation * largest));
      }
    }
    if (head.groups.empty()) {
      return Error{ErrorCode::kInvalidArgument, "no direction" + of_head + " has bits"};
    }
    heads.push_back(std::move(head));
  }
  return heads;
}

Example ExampleSpectral(const CodecConfig& config) {
  const std::size_t dim = config.head_dim, heads = config.kv_heads;
  Example example;
  ExampleTensor mean{TensorName(config, "mean"), {heads, dim}, {}};
  ExampleTensor basis{TensorName(config, "basis"), {heads, dim, dim}, {}};
  ExampleTensor deviation{TensorName(config, "deviation"), {heads, dim}, std::vector<float>(heads * dim, 1.0F)};
  ExampleTensor bits{TensorName(config, "bits"), {heads, dim}, {}};
  ExampleTensor signal{TensorName(config, "signal"), {heads}, {}};
  for (std::size_t h = 0; h < heads; ++h) {
    // The discrete cosine transform, its rows begun at another one for each head.
    for (std::size_t a = 0; a < dim; ++a) {
      const std::size_t row = (a + h) % dim;
      for (std::size_t i = 0; i < dim; ++i) {
        const double angle =
            std::numbers::pi * static_cast<double>((2 * i + 1) * row % (4 * dim)) / (2.0 * static_cast<double>(dim));
        basis.values.push_back(
            static_cast<float>(std::sqrt((row == 0 ? 1.0 : 2.0) / static_cast<double>(dim)) * std::cos(angle)));
      }
      mean.values.push_back(0.25F * static_cast<float>(static_cast<int>((a + h) % 5) - 2));
      bits.values.push_back(a < dim / 4 ? 4 : a < dim / 2 ? 3 : a < dim / 8 * 7 ? 2 : 0);
    }
    signal.values.push_back(static_cast<float>(dim / 4));
  }
  example.mean = mean.values;
  for (ExampleTensor* tensor : {&mean, &basis, &deviation, &bits, &signal}) example.tensors.push_back(std::move(*tensor));
  return example;
}

}  // namespace kvant::quantizers
