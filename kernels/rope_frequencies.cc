#include "kernels/rope_frequencies.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdio>
#include <string>
#include <utility>

namespace kvant::kernels {
namespace {

constexpr double kPi = 3.141592653589793238462643383279502884;
constexpr double kMaxFactor = 1 << 20;
constexpr double kMinLongFactor = 1.0 / 64;  // frequencies stay below 64 radians per token
constexpr double kMaxTheta = 1e30;
constexpr std::uint32_t kMaxHeadDim = 1024;

std::string Number(double value) {
  char text[32];
  std::snprintf(text, sizeof text, "%.17g", value);
  return text;
}

Error Invalid(const std::string& field, const std::string& value, const std::string& wanted) {
  return {ErrorCode::kInvalidArgument, "rope." + field + " " + value + " is not " + wanted};
}

/// NaN is in no range.
Result<void> CheckRange(const std::string& field, double value, double min, double max) {
  if (value >= min && value <= max) return {};
  return Invalid(field, Number(value), "in " + Number(min) + ".." + Number(max));
}

Result<void> CheckFactor(double factor) { return CheckRange("factor", factor, 1.0, kMaxFactor); }

Result<void> CheckTokens(const char* field, std::uint32_t tokens) {
  if (tokens > 0) return {};
  return Invalid(field, "0", "a number of tokens");
}

/// 0 asks for the scaling's own formula.
Result<void> CheckAttentionFactor(double factor) {
  if (factor == 0.0) return {};
  return CheckRange("attention_factor", factor, 1.0 / kMaxFactor, kMaxFactor);
}

/// Frequencies of one spec: first those of theta alone, then one overload per scaling works on them.
class Frequencies {
 public:
  Frequencies(double theta, std::size_t dims) : theta_(theta), dims_(static_cast<double>(dims)), pairs_(dims / 2) {
    Set(theta);
  }

  Result<void> operator()(std::monostate) { return {}; }
  Result<void> operator()(const RopeLinear& linear);
  Result<void> operator()(const RopeDynamic& dynamic);
  Result<void> operator()(const RopeYarn& yarn);
  Result<void> operator()(const RopeLlama3& llama3);
  Result<void> operator()(const RopeLong& longrope);

  RopeFrequencies Take() && { return {std::move(radians_), attention_factor_}; }

 private:
  void Set(double theta) {
    radians_.resize(pairs_);
    for (std::size_t p = 0; p < pairs_; ++p) radians_[p] = std::pow(theta, -2.0 * static_cast<double>(p) / dims_);
  }
  Result<void> CheckLongFactors(const char* field, const std::vector<double>& factors) const;
  /// The pair, not a whole number, that turns `turns` times over `positions`.
  [[nodiscard]] double PairOfTurns(double turns, std::uint32_t positions) const {
    return dims_ * std::log(positions / (turns * 2 * kPi)) / (2 * std::log(theta_));
  }

  double theta_;
  double dims_;
  std::size_t pairs_;
  std::vector<double> radians_;
  double attention_factor_ = 1.0;
};

Result<void> Frequencies::operator()(const RopeLinear& linear) {
  if (auto ok = CheckFactor(linear.factor); !ok) return ok;
  for (double& radians : radians_) radians /= linear.factor;
  return {};
}

Result<void> Frequencies::operator()(const RopeDynamic& dynamic) {
  if (auto ok = CheckFactor(dynamic.factor); !ok) return ok;
  if (auto ok = CheckTokens("original_positions", dynamic.original_positions); !ok) return ok;
  if (auto ok = CheckTokens("context_tokens", dynamic.context_tokens); !ok) return ok;
  if (pairs_ < 2) return Invalid("rotary_dims", Number(dims_), "at least 4, which dynamic scaling needs");
  const double tokens = std::max(dynamic.context_tokens, dynamic.original_positions);
  const double stretch = dynamic.factor * tokens / dynamic.original_positions - (dynamic.factor - 1);
  Set(theta_ * std::pow(stretch, dims_ / (dims_ - 2)));
  return {};
}

Result<void> Frequencies::operator()(const RopeYarn& yarn) {
  if (auto ok = CheckFactor(yarn.factor); !ok) return ok;
  if (auto ok = CheckTokens("original_positions", yarn.original_positions); !ok) return ok;
  if (auto ok = CheckRange("beta_slow", yarn.beta_slow, 1.0 / kMaxFactor, kMaxFactor); !ok) return ok;
  if (auto ok = CheckRange("beta_fast", yarn.beta_fast, yarn.beta_slow, kMaxFactor); !ok) return ok;
  if (auto ok = CheckAttentionFactor(yarn.attention_factor); !ok) return ok;
  if (theta_ == 1.0) return Invalid("theta", "1", "above 1, which YaRN needs");
  double low = PairOfTurns(yarn.beta_fast, yarn.original_positions);
  double high = PairOfTurns(yarn.beta_slow, yarn.original_positions);
  if (yarn.truncate) {
    low = std::floor(low);
    high = std::ceil(high);
  }
  low = std::max(low, 0.0);
  high = std::min(high, dims_ - 1);
  if (low == high) high += 0.001;  // a ramp has a width
  for (std::size_t p = 0; p < pairs_; ++p) {
    const double interpolated = std::clamp((static_cast<double>(p) - low) / (high - low), 0.0, 1.0);
    radians_[p] = radians_[p] / yarn.factor * interpolated + radians_[p] * (1 - interpolated);
  }
  attention_factor_ = yarn.attention_factor != 0.0 ? yarn.attention_factor : 0.1 * std::log(yarn.factor) + 1.0;
  return {};
}

Result<void> Frequencies::operator()(const RopeLlama3& llama3) {
  if (auto ok = CheckFactor(llama3.factor); !ok) return ok;
  if (auto ok = CheckTokens("original_positions", llama3.original_positions); !ok) return ok;
  if (auto ok = CheckRange("low_freq_factor", llama3.low_freq_factor, 1.0 / kMaxFactor, kMaxFactor); !ok) return ok;
  if (auto ok = CheckRange("high_freq_factor", llama3.high_freq_factor, 1.0 / kMaxFactor, kMaxFactor); !ok) return ok;
  if (llama3.high_freq_factor <= llama3.low_freq_factor) {
    return Invalid("high_freq_factor", Number(llama3.high_freq_factor),
                   "above rope.low_freq_factor " + Number(llama3.low_freq_factor));
  }
  for (double& radians : radians_) {
    const double wavelength = 2 * kPi / radians;
    const double turns = llama3.original_positions / wavelength;
    const double kept =
        std::clamp((turns - llama3.low_freq_factor) / (llama3.high_freq_factor - llama3.low_freq_factor), 0.0, 1.0);
    radians = (1 - kept) * radians / llama3.factor + kept * radians;
  }
  return {};
}

Result<void> Frequencies::operator()(const RopeLong& longrope) {
  if (auto ok = CheckFactor(longrope.factor); !ok) return ok;
  if (auto ok = CheckTokens("original_positions", longrope.original_positions); !ok) return ok;
  if (auto ok = CheckTokens("context_tokens", longrope.context_tokens); !ok) return ok;
  if (auto ok = CheckAttentionFactor(longrope.attention_factor); !ok) return ok;
  if (auto ok = CheckLongFactors("short_factors", longrope.short_factors); !ok) return ok;
  if (auto ok = CheckLongFactors("long_factors", longrope.long_factors); !ok) return ok;
  if (longrope.attention_factor == 0.0 && longrope.original_positions < 2) {
    return Invalid("original_positions", std::to_string(longrope.original_positions),
                   "at least 2, which the formula of the attention factor needs");
  }
  const bool extended = longrope.context_tokens > longrope.original_positions;
  const std::vector<double>& factors = extended ? longrope.long_factors : longrope.short_factors;
  for (std::size_t p = 0; p < pairs_; ++p) radians_[p] /= factors[p];
  attention_factor_ = longrope.attention_factor != 0.0
                          ? longrope.attention_factor
                          : std::sqrt(1 + std::log(longrope.factor) / std::log(longrope.original_positions));
  return {};
}

Result<void> Frequencies::CheckLongFactors(const char* field, const std::vector<double>& factors) const {
  if (factors.size() != pairs_) {
    return Invalid(field, "of " + std::to_string(factors.size()) + " entries",
                   "one for each of " + std::to_string(pairs_) + " pairs");
  }
  for (std::size_t p = 0; p < pairs_; ++p) {
    const std::string entry = std::string(field) + "[" + std::to_string(p) + "]";
    if (auto ok = CheckRange(entry, factors[p], kMinLongFactor, kMaxFactor); !ok) return ok;
  }
  return {};
}

}  // namespace

Result<RopeFrequencies> ComputeRopeFrequencies(const RopeSpec& spec, std::uint32_t head_dim) {
  switch (spec.pairing) {
    case RopePairing::kNone:
      if (std::holds_alternative<std::monostate>(spec.scaling)) return RopeFrequencies{};
      return Invalid("scaling", "of a model without rotary positions (rope.pairing none)", "possible");
    case RopePairing::kHalfSplit:
    case RopePairing::kAdjacent: break;
    default: return Invalid("pairing", std::to_string(static_cast<unsigned>(spec.pairing)), "known");
  }
  if (auto ok = CheckRange("theta", spec.theta, 1.0, kMaxTheta); !ok) return ok.error();
  const std::uint32_t dims = spec.rotary_dims == 0 ? head_dim : spec.rotary_dims;
  if (dims == 0 || dims % 2 != 0 || dims > std::min(head_dim, kMaxHeadDim)) {
    return Invalid("rotary_dims", std::to_string(dims),
                   "an even number in 2.." + std::to_string(std::min(head_dim, kMaxHeadDim)) + ", the size of a head");
  }
  Frequencies frequencies(spec.theta, dims);
  if (auto ok = std::visit(frequencies, spec.scaling); !ok) return ok.error();
  return std::move(frequencies).Take();
}

}  // namespace kvant::kernels
