#include "daemon/store/key_mean.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "kernels/raw/rows.h"

namespace kvant::daemon {
namespace {

constexpr std::size_t kPairsPerBlock = 4;
constexpr std::uint64_t kLeastPairs = 16;
constexpr double kLeastShare = 0.5;
constexpr double kThreeBitError = 0.0345;

double Dot(const std::vector<float>& a, const std::vector<float>& b) {
  double sum = 0.0;
  for (std::size_t i = 0; i < a.size(); ++i) sum += static_cast<double>(a[i]) * static_cast<double>(b[i]);
  return sum;
}

}  // namespace

void KeyMean::Sample(const RowsView& rows) {
  std::vector<float> first(rows.dim);
  std::vector<float> second(rows.dim);
  const auto load = [&rows](std::size_t token, std::vector<float>& to) {
    const auto* row = static_cast<const std::byte*>(rows.data) + token * rows.stride * ElementBytes(rows.type);
    kernels::LoadRow(row, rows.type, rows.dim, to.data());
  };
  const std::size_t half = rows.tokens / 2;
  const std::size_t step = std::max<std::size_t>(1, half / kPairsPerBlock);
  for (std::size_t token = 0; token < half; token += step) {
    load(token, first);
    load(token + half, second);
    const double both = Dot(first, second);
    const double norms = (Dot(first, first) + Dot(second, second)) / 2.0;
    if (!std::isfinite(both) || !std::isfinite(norms)) continue;
    common += both;
    energy += norms;
    ++pairs;
  }
}

void KeyMean::Add(const KeyMean& other) noexcept {
  common += other.common;
  energy += other.energy;
  pairs += other.pairs;
}

double KeyMean::share() const noexcept { return energy > 0.0 ? std::clamp(common / energy, 0.0, 1.0) : 0.0; }

double EffectiveError(double expected_error, double share) noexcept { return expected_error / std::max(1.0 - share, 1e-12); }

bool MeanSpoilsCodes(const KeyMean& mean, double expected_error) noexcept {
  const double share = mean.share();
  return mean.pairs >= kLeastPairs && share >= kLeastShare && EffectiveError(expected_error, share) > kThreeBitError;
}

}  // namespace kvant::daemon
