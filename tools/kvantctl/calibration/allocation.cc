#include "tools/kvantctl/calibration/allocation.h"

#include <string>

namespace kvant::tools {
namespace {

constexpr double kRounding = 1 + 1e-12;

/// The best step up from a choice.
struct Step {
  double rate = 0;  ///< what is saved per bit; 0: no step saves
  std::size_t to = 0;
};

Step BestStep(const Units& units, std::size_t unit, std::size_t at) {
  Step best{0, at};
  for (std::size_t to = at + 1; to < units.bits.size(); ++to) {
    const double rate = (units.costs[unit][at] - units.costs[unit][to]) / (units.bits[to] - units.bits[at]);
    if (rate > best.rate) best = {rate, to};
  }
  return best;
}

}  // namespace

Result<std::vector<std::vector<std::size_t>>> Allocate(const std::vector<Units>& groups, double budget) {
  std::vector<std::vector<std::size_t>> chosen;
  std::vector<std::vector<Step>> steps;
  double spent = 0;
  for (const Units& group : groups) {
    chosen.emplace_back(group.costs.size(), 0);
    steps.emplace_back();
    for (std::size_t unit = 0; unit < group.costs.size(); ++unit) steps.back().push_back(BestStep(group, unit, 0));
    spent += static_cast<double>(group.costs.size()) * group.bits.front();
  }
  if (spent > budget * kRounding) {
    return Error{ErrorCode::kOutOfRange,
                 "allocate " + std::to_string(budget) + " bits in all: the least choices need " + std::to_string(spent)};
  }
  const auto price = [&](std::size_t group, std::size_t unit) {
    return groups[group].bits[steps[group][unit].to] - groups[group].bits[chosen[group][unit]];
  };
  for (;;) {
    std::size_t best_group = groups.size(), best_unit = 0;
    double rate = 0;
    for (std::size_t group = 0; group < groups.size(); ++group) {
      for (std::size_t unit = 0; unit < steps[group].size(); ++unit) {
        if (steps[group][unit].rate <= rate || spent + price(group, unit) > budget * kRounding) continue;
        rate = steps[group][unit].rate;
        best_group = group;
        best_unit = unit;
      }
    }
    if (best_group == groups.size()) return chosen;
    spent += price(best_group, best_unit);
    std::size_t& at = chosen[best_group][best_unit];
    at = steps[best_group][best_unit].to;
    steps[best_group][best_unit] = BestStep(groups[best_group], best_unit, at);
  }
}

}  // namespace kvant::tools
