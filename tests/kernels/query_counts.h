// How many queries kernels are tried with, by vectors and by tiles.
#pragma once

#include <cstddef>

#include "kernels/machine/amx.h"

namespace kvant::kernels {

/// Numbers of queries, each with a choice: whether tiles may be used where the machine has them.
struct QueryCount {
  std::size_t queries;
  bool tiles;
};
inline constexpr QueryCount kQueryCounts[] = {{0, true}, {1, true},  {2, true},   {3, true},  {4, false}, {5, true},
                                              {7, true}, {11, true}, {17, false}, {17, true}, {35, true}, {64, true}};

}  // namespace kvant::kernels
