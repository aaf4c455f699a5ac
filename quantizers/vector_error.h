// The error that vector codes have on rotated rows, from their codebook. Slow: milliseconds.
#pragma once

#include "kernels/vector/codebook.h"

namespace kvant::quantizers {

/// How the words of a codebook serve rows whose root mean square is 1.
struct WordsFit {
  double error = 1;  ///< E|z - s c|^2 / E|z|^2 of normal numbers z and their nearest words c
  double scale = 0;  ///< s, the best common scale: near 1 if the words were made for such rows
};

/// Within a few in a thousand; except for the last bits the same on every machine.
[[nodiscard]] WordsFit FitToNormal(const kernels::VectorCodebook& codebook);

}  // namespace kvant::quantizers
