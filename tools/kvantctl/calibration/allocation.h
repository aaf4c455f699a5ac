// Which of many units get how many bits.
#pragma once

#include <cstddef>
#include <vector>

#include <kvant/result.h>

namespace kvant::tools {

/// Units that have the same choices.
struct Units {
  std::vector<std::vector<double>> costs;  ///< [unit][choice]: what it loses
  std::vector<double> bits;                ///< [choice]: what that takes of a unit, ascending
};

/// The choice of each unit of each group, so that all bits together stay within `budget`. Greedy on the lower convex hull of
/// each unit's costs: the step that saves most per bit is taken as long as it fits, ties to the first unit. That is the least
/// possible loss for the bits it spends (Shoham and Gersho, 1988). kOutOfRange below what the least choices take.
[[nodiscard]] Result<std::vector<std::vector<std::size_t>>> Allocate(const std::vector<Units>& groups, double budget);

}  // namespace kvant::tools
