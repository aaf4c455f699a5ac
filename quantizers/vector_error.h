// The error that vector codes have on rotated rows, from their codebook. Slow: milliseconds.
#pragma once

#include "kernels/vector/codebook.h"

namespace kvant::quantizers {

/// E|z - s c|^2 / E|z|^2 of normal numbers z in the codebook's unit and their nearest words c, s the best common scale; within
/// a few in a thousand, except for the last bits the same on every machine.
[[nodiscard]] double NormalWordsError(const kernels::VectorCodebook& codebook);

}  // namespace kvant::quantizers
