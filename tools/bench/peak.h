// The limit that arithmetic on cached rows runs against: multiply-accumulates in registers and nothing else.
#pragma once

#include <cstddef>
#include <string>

#include "quantizers/attention.h"

namespace kvant::tools {

enum class Arithmetic {
  kBytes,   ///< bytes times bytes into 32-bit sums: the best instruction that this project's kernels use here
  kFloats,  ///< f32 fused multiply-adds
};

/// Multiply-accumulates on all of an executor's threads, a fixed number per call (some hundred microseconds).
class PeakProbe {
 public:
  /// `executor` (at most 64 threads) outlives this.
  PeakProbe(quantizers::Executor& executor, Arithmetic arithmetic) : executor_(executor), arithmetic_(arithmetic) {}
  void Run();
  /// Of the last Run.
  [[nodiscard]] double macs() const noexcept { return macs_; }
  /// What is run, for the reader.
  [[nodiscard]] std::string instruction() const;

 private:
  quantizers::Executor& executor_;
  Arithmetic arithmetic_;
  double macs_ = 0.0;
};

}  // namespace kvant::tools
