// The limit that arithmetic on cached rows runs against: multiply-accumulates in registers and nothing else.
#pragma once

#include <cstddef>
#include <string>

#include "quantizers/attention/attention.h"

namespace kvant::tools {

enum class Arithmetic {
  kBytes,   ///< bytes times bytes into 32-bit sums: the best vector instruction that this project's kernels use here
  kTiles,   ///< the same in tiles; nothing is done, and macs() is 0, where there are none
  kWords,   ///< 16-bit numbers likewise
  kFloats,  ///< f32 fused multiply-adds
};

/// Multiply-accumulates on all of an executor's threads, a fixed number per call (some hundred microseconds).
class PeakProbe {
 public:
  /// `executor` (at most 64 threads) outlives this.
  PeakProbe(quantizers::Executor& executor, Arithmetic arithmetic) : executor_(executor), arithmetic_(arithmetic) {}
  [[nodiscard]] Arithmetic arithmetic() const noexcept { return arithmetic_; }
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
