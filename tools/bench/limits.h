// What a figure is held against: the same bytes read and nothing else, the same multiply-accumulates and nothing else, in turn
// with the figure itself.
#pragma once

#include <string>
#include <vector>

#include "tools/bench/bandwidth.h"
#include "tools/bench/peak.h"
#include "tools/bench/series.h"
#include "tools/kvantctl/bench/report.h"

namespace kvant::tools {

/// Raw rows are multiplied as floats, all other codecs' codes as integers.
Arithmetic ArithmeticOf(const std::string& key_spec);

/// What one call moves and computes.
struct Work {
  std::size_t bytes = 0;
  double macs = 0.0;
};

/// The two limits of calls on one executor, as contenders beside them.
class Limits {
 public:
  /// All outlive this. `memory` is what the calls read.
  Limits(quantizers::Executor& executor, std::span<const std::byte> memory, const Work& work, Arithmetic arithmetic)
      : work_(work), sum_(executor, memory, work.bytes), probe_(executor, arithmetic) {}
  [[nodiscard]] Arithmetic arithmetic() const noexcept { return probe_.arithmetic(); }

  /// Appends the sum and the probe; `calls` of the sum per round.
  void AddTo(std::vector<Contender>& contenders, std::size_t calls);
  /// Writes bytes, speed, both limits and the share of the one that takes longer. `first` is the index that AddTo filled.
  void Put(Json& figure, const std::vector<Series>& series, std::size_t of, std::size_t first) const;

 private:
  Work work_;
  ReadOnlySum sum_;
  PeakProbe probe_;
};

}  // namespace kvant::tools
