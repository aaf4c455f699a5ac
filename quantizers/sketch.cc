#include "quantizers/sketch.h"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <string>

#include "kernels/raw/weighted_sum.h"
#include "kernels/rotation/unrotate.h"
#include "kernels/sketch/dense.h"
#include "quantizers/random_numbers.h"

namespace kvant::quantizers {
namespace {

constexpr std::uint32_t kMaxRotations = kMaxProjections / 8;

/// What the numbers of a random unit vector have in size, on average: Gamma(d / 2) / (sqrt(pi) Gamma((d + 1) / 2)), d even.
double MeanMagnitude(std::uint32_t dim) {
  double mean = 2.0 / std::numbers::pi;
  for (std::uint32_t j = 2; j < dim; j += 2) mean *= static_cast<double>(j) / (j + 1.0);
  return mean;
}

}  // namespace

Sketch::Sketch(SketchKind kind, std::uint32_t head_dim, std::uint32_t projections, RotationKey key)
    : kind_(kind),
      dim_(head_dim),
      projections_(projections),
      constant_(kind == SketchKind::kGaussian ? std::sqrt(std::numbers::pi / 2.0) / projections
                                              : 1.0 / (projections * MeanMagnitude(head_dim))) {
  // Of its own name, so that no sketch is a rotation of the codec, and of one stream per rotation.
  const std::string name = std::string(key.codec) + ".sketch";
  key.codec = name;
  key.stream *= kMaxRotations;
  if (kind == SketchKind::kGaussian) {
    std::uint64_t state = RotationSeed(key);
    matrix_.resize(std::size_t{projections} * head_dim);
    for (float& number : matrix_) number = NextNormal(state);
    return;
  }
  const std::size_t count = ColumnRows(head_dim, projections) / head_dim;
  rotations_.reserve(count);
  for (std::size_t i = 0; i < count; ++i, ++key.stream) {
    rotations_.emplace_back(head_dim, RotationRounds(head_dim), RotationSeed(key));
  }
}

double Sketch::expected_error() const {
  const double m = projections_, d = dim_;
  if (kind_ == SketchKind::kGaussian) return (std::numbers::pi / 2.0 * d - 1.0) / m;
  // The mean of the rotations' estimates, each unbiased, weighted by their rows.
  double error = m * constant_ * constant_;
  for (double rest = m; rest > 0.0; rest -= d) error -= std::pow(std::min(rest, d) / m, 2);
  return error;
}

std::size_t Sketch::memory_bytes() const noexcept {
  std::size_t bytes = matrix_.capacity() * sizeof(float) + rotations_.capacity() * sizeof(Rotation);
  for (const Rotation& each : rotations_) bytes += each.memory_bytes();
  return bytes;
}

std::size_t Sketch::MostBytes(SketchKind kind, std::uint32_t head_dim, std::uint32_t projections) noexcept {
  if (kind == SketchKind::kGaussian) return sizeof(Sketch) + std::size_t{projections} * head_dim * sizeof(float);
  return sizeof(Sketch) + ColumnRows(head_dim, projections) * kHeadBytesPerNumber;
}

void Sketch::Columns(const float* columns, float factor, float* out) const {
  if (kind_ == SketchKind::kGaussian) return kernels::DenseColumns(matrix_.data(), projections_, dim_, columns, factor, out);
  const std::size_t numbers = std::size_t{dim_} * kernels::kLanes;
  for (const Rotation& each : rotations_) {
    const auto scale = static_cast<float>(factor / each.shape().gain(each.rounds()));
    for (std::size_t i = 0; i < numbers; ++i) out[i] = columns[i] * scale;
    kernels::Hadamard(each.shape(), each.rounds(), each.signs(), out);
    out += numbers;
  }
}

void Sketch::AddTransposed(const float* signs, std::size_t count, float* rows, std::byte* scratch) const {
  if (kind_ == SketchKind::kGaussian) {
    for (std::size_t t = 0; t < count; ++t) {
      for (std::size_t i = 0; i < projections_; ++i) {
        kernels::AddScaled(matrix_.data() + i * dim_, dim_, signs[t * projections_ + i], rows + t * dim_);
      }
    }
    return;
  }
  auto* part = reinterpret_cast<float*>(scratch + kernels::RotationScratchBytes(dim_));
  float* turned = part + kernels::kLanes * dim_;
  std::size_t first = 0;
  for (const Rotation& each : rotations_) {
    const std::size_t length = std::min<std::size_t>(dim_, projections_ - first);
    for (std::size_t t = 0; t < count; ++t) {
      std::copy_n(signs + t * projections_ + first, length, part + t * dim_);
      std::fill_n(part + t * dim_ + length, dim_ - length, 0.0F);
    }
    kernels::Unrotate({.map = each.map(),
                       .factor = static_cast<float>(1.0 / each.shape().gain(each.rounds())),
                       .from = part,
                       .stride = dim_,
                       .n = count,
                       .rows = turned,
                       .scratch = scratch});
    for (std::size_t t = 0; t < count; ++t) kernels::AddScaled(turned + t * dim_, dim_, 1.0F, rows + t * dim_);
    first += length;
  }
}

}  // namespace kvant::quantizers
