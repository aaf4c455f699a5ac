// The limit that arithmetic on cached rows runs against: multiply-accumulates in registers and nothing else.
#pragma once

#include <string>

#include "quantizers/attention.h"

namespace kvant::tools {

struct Peak {
  std::string instruction;  ///< what was run, for the reader
  double macs_per_second = 0.0;
};

/// Bytes times bytes into 32-bit sums: the widest instruction that this project's kernels use for it on this machine.
Peak IntegerPeak(quantizers::Executor& executor);
/// f32 fused multiply-adds.
Peak FloatPeak(quantizers::Executor& executor);

}  // namespace kvant::tools
