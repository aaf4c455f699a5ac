#include "quantizers/water_filling.h"

#include <algorithm>
#include <numeric>

namespace kvant::quantizers {

std::span<const double> LloydErrors() noexcept {
  static constexpr double kErrors[] = {1.0,         .3633802276, .1174818478, .0345477608, .0095010080,
                                       .0025046684, .0006442397, .0001634782, .0000411851};
  return kErrors;
}

std::vector<std::uint32_t> FillBits(const WaterFilling& what) {
  std::vector<std::uint32_t> all(what.errors.size());
  std::iota(all.begin(), all.end(), 0U);
  const std::span<const std::uint32_t> allowed = what.allowed.empty() ? std::span<const std::uint32_t>(all) : what.allowed;
  // Runs of the parts by weight: one choice for each.
  std::vector<std::size_t> order(what.weights.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  if (what.run > 1) std::ranges::stable_sort(order, std::ranges::greater(), [&](std::size_t i) { return what.weights[i]; });
  struct Run {
    double weight = 0;
    std::size_t parts = 0;
    std::size_t step = 0;  ///< index into `allowed`
  };
  std::vector<Run> runs((order.size() + what.run - 1) / what.run);
  for (std::size_t i = 0; i < order.size(); ++i) {
    runs[i / what.run].weight += what.weights[order[i]];
    ++runs[i / what.run].parts;
  }
  std::size_t left = what.bits;
  while (true) {
    Run* best = nullptr;
    double most = 0;
    for (Run& run : runs) {
      if (run.step + 1 >= allowed.size()) continue;
      const std::uint32_t from = allowed[run.step], to = allowed[run.step + 1];
      const std::size_t cost = (to - from) * run.parts;
      if (cost > left) continue;
      const double saved = run.weight * (what.errors[from] - what.errors[to]) / static_cast<double>(cost);
      if (saved > most) {
        most = saved;
        best = &run;
      }
    }
    if (best == nullptr) break;
    left -= (allowed[best->step + 1] - allowed[best->step]) * best->parts;
    ++best->step;
  }
  std::vector<std::uint32_t> bits(what.weights.size());
  for (std::size_t i = 0; i < order.size(); ++i) bits[order[i]] = allowed[runs[i / what.run].step];
  return bits;
}

}  // namespace kvant::quantizers
