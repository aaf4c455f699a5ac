// What a codec must compute at the least: the multiply-accumulates that its scores or sums consist of, by the kind of numbers.
#pragma once

#include "quantizers/codec.h"

namespace kvant::tools {

/// Multiply-accumulates of one row and one query.
struct Operations {
  double bytes = 0;
  double words = 0;  ///< 16-bit numbers
  double floats = 0;
};

/// Of rows of `head_dim` numbers. Turning codes into numbers, look-ups and preparation per block are not counted: they are what
/// a kernel may lose.
[[nodiscard]] Operations OperationsOf(const quantizers::ParsedSpec& spec, double head_dim);

}  // namespace kvant::tools
