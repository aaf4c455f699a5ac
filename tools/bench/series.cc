#include "tools/bench/series.h"

#include <algorithm>
#include <chrono>
#include <cmath>

namespace kvant::tools {

std::vector<Series> TakeTurns(std::span<const Contender> contenders, std::size_t rounds) {
  std::vector<Series> all(contenders.size());
  std::vector<double> round_ns;
  for (std::size_t round = 0; round <= rounds; ++round) {
    for (std::size_t c = 0; c < contenders.size(); ++c) {
      round_ns.clear();
      for (std::size_t call = 0; call < contenders[c].calls; ++call) {
        const auto start = std::chrono::steady_clock::now();
        contenders[c].run();
        const std::chrono::duration<double, std::nano> time = std::chrono::steady_clock::now() - start;
        round_ns.push_back(time.count());
      }
      if (round == 0) continue;  // first touch of code, buffers and branch predictors
      all[c].calls_ns.insert(all[c].calls_ns.end(), round_ns.begin(), round_ns.end());
      all[c].rounds_ns.push_back(Median(round_ns));
    }
  }
  return all;
}

double Quantile(std::vector<double> values, double share) {
  const auto last = static_cast<double>(values.size() - 1);
  const auto at = static_cast<std::ptrdiff_t>(std::lround(share * last));
  std::nth_element(values.begin(), values.begin() + at, values.end());
  return values[static_cast<std::size_t>(at)];
}

double MedianRatio(const Series& numerator, const Series& denominator) {
  std::vector<double> ratios;
  for (std::size_t i = 0; i < numerator.rounds_ns.size(); ++i) {
    ratios.push_back(numerator.rounds_ns[i] / denominator.rounds_ns[i]);
  }
  return Median(std::move(ratios));
}

}  // namespace kvant::tools
