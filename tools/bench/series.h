// Repeated timings of things that are to be compared. On a shared machine only ratios of neighbouring moments mean anything, so
// the contenders take turns and every ratio is taken within one round.
#pragma once

#include <cstddef>
#include <functional>
#include <span>
#include <vector>

namespace kvant::tools {

/// What takes part in a comparison: `run` is one call, `calls` of them are timed per round.
struct Contender {
  std::function<void()> run;
  std::size_t calls = 1;
};

struct Series {
  std::vector<double> calls_ns;   ///< every call of every round
  std::vector<double> rounds_ns;  ///< each round's median call
};

/// Times `contenders` in turn, `rounds` times, after one round that is not counted.
std::vector<Series> TakeTurns(std::span<const Contender> contenders, std::size_t rounds);

/// The value that `share` of `values` lie at or below (0.5: the median). Requires: not empty.
double Quantile(std::vector<double> values, double share);
inline double Median(std::vector<double> values) { return Quantile(std::move(values), 0.5); }

/// Median over rounds of `numerator`'s round divided by `denominator`'s. Requires: as many rounds.
double MedianRatio(const Series& numerator, const Series& denominator);

}  // namespace kvant::tools
