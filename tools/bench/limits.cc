#include "tools/bench/limits.h"

#include <algorithm>

namespace kvant::tools {
namespace {

constexpr std::size_t kProbesPerRound = 5;
constexpr double kNsPerSecond = 1e9;

}  // namespace

Arithmetic ArithmeticOf(const std::string& key_spec) {
  if (key_spec == "f32" || key_spec == "f16" || key_spec == "bf16") return Arithmetic::kFloats;
  return key_spec == "int8" || key_spec.find("bits=8") != std::string::npos ? Arithmetic::kWords : Arithmetic::kBytes;
}

void Limits::AddTo(std::vector<Contender>& contenders, std::size_t calls) {
  contenders.push_back({[this] { sum_.Run(); }, calls});
  contenders.push_back({[this] { probe_.Run(); }, kProbesPerRound});
}

void Limits::Put(Json& figure, const std::vector<Series>& series, std::size_t of, std::size_t first) const {
  const auto bytes = static_cast<double>(work_.bytes);
  // Of one call's time: what reading alone takes, and what computing alone takes.
  const double bytes_share = MedianRatio(series[first], series[of]);
  const double operations_share = MedianRatio(series[first + 1], series[of]) * work_.macs / probe_.macs();
  const double median_ns = Median(series[of].calls_ns);
  figure["bytes"] = work_.bytes;
  figure["bytes_per_s"] = bytes / median_ns * kNsPerSecond;
  figure["read_only_bytes_per_s"] = bytes / Median(series[first].calls_ns) * kNsPerSecond;
  figure["macs"] = work_.macs;
  figure["macs_per_s"] = work_.macs / median_ns * kNsPerSecond;
  figure["peak_macs_per_s"] = probe_.macs() / Median(series[first + 1].calls_ns) * kNsPerSecond;
  figure["peak_instruction"] = probe_.instruction();
  figure["share_of_read_only"] = bytes_share;
  figure["share_of_peak"] = operations_share;
  figure["limit"] = bytes_share >= operations_share ? "bytes" : "operations";
  figure["share_of_limit"] = std::max(bytes_share, operations_share);
}

}  // namespace kvant::tools
