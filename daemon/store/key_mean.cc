#include "daemon/store/key_mean.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <utility>
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
  const std::size_t half = rows.count / 2;
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

void KeyMeans::Add(std::span<const KeyMean> block) {
  if (heads_.empty()) heads_.resize(block.size());
  bool asked = false;
  unfit_heads_ = 0;
  for (std::size_t i = 0; i < heads_.size() && i < block.size(); ++i) {
    heads_[i].Add(block[i]);
    if (heads_[i].share() < kLeastShare) continue;  // nearly every head of nearly every store
    const quantizers::BlockCodec& codec = CodecOf(i);
    auto known = expected_errors_.find(&codec);
    if (known == expected_errors_.end()) {
      if (std::exchange(asked, true)) continue;  // the next block asks the next one
      const double error = codec.form().centered ? 0.0 : codec.expected_error(codec.parts()).value_or(0.0);
      known = expected_errors_.emplace(&codec, error).first;
    }
    if (MeanSpoilsCodes(heads_[i], known->second)) ++unfit_heads_;
  }
}

std::vector<KeyHead> KeyMeans::Worst(std::size_t most) const {
  std::vector<KeyHead> list;
  for (std::size_t i = 0; i < heads_.size(); ++i) {
    const auto known = expected_errors_.find(&CodecOf(i));
    if (heads_[i].share() < kLeastShare || known == expected_errors_.end()) continue;
    list.push_back({.layer = static_cast<std::uint32_t>(i / plan_->spec().kv_heads),
                    .kv_head = static_cast<std::uint32_t>(i % plan_->spec().kv_heads),
                    .mean_share = heads_[i].share(),
                    .effective_error = EffectiveError(known->second, heads_[i].share()),
                    .unfit = MeanSpoilsCodes(heads_[i], known->second)});
  }
  const auto middle = list.begin() + static_cast<std::ptrdiff_t>(std::min(most, list.size()));
  std::partial_sort(list.begin(), middle, list.end(),
                    [](const KeyHead& a, const KeyHead& b) { return a.effective_error > b.effective_error; });
  list.erase(middle, list.end());
  return list;
}

const quantizers::BlockCodec& KeyMeans::CodecOf(std::size_t head) const {
  return plan_->codec(head / plan_->spec().kv_heads, head % plan_->spec().kv_heads, quantizers::Side::kKeys);
}

std::string KeyMeans::Warning() const {
  const std::vector<KeyHead> worst = Worst(1);
  if (unfit_heads_ == 0 || worst.empty()) return {};
  std::array<char, 64> figures{};
  std::snprintf(figures.data(), figures.size(), "%.2f %% of the energy, an error of %.2g", 100.0 * worst[0].mean_share,
                worst[0].effective_error);
  return "the keys of " + std::to_string(unfit_heads_) + " KV heads have a common mean that their codec " +
         plan_->spec().plan.keys + " spends its precision on (worst: layer " + std::to_string(worst[0].layer) + ", head " +
         std::to_string(worst[0].kv_head) + ", " + figures.data() +
         " of what tokens differ by); use a codec that subtracts a calibrated mean, or more bits for these keys";
}

}  // namespace kvant::daemon
