// What the benchmarks print: one JSON object per figure, shown as a table or as it is.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "tools/bench/series.h"
#include "tools/kvantctl/command.h"
#include "tools/kvantctl/render.h"

namespace kvant::tools {

/// A column of the table: the member of that key of each figure. What a figure lacks is shown as "-".
struct FigureColumn {
  std::string title;
  std::string key;
  const char* format = nullptr;  ///< printf format of a number; null: as it stands
  double unit = 1.0;             ///< numbers are divided by this
};

/// Writes median and 99th percentile of the calls.
void PutTimes(Json& figure, const Series& series);

/// Collects the figures of one sub-command.
class FigureReport {
 public:
  /// `name` is the sub-command.
  explicit FigureReport(std::string name);

  /// Describes the machine or the run, above the figures.
  Json& head() noexcept { return head_; }

  /// Starts a figure: measures the clock. The object is valid until the next Begin.
  Json& Begin();
  /// Ends it: the clock again.
  void End();

  /// Prints everything; figures whose clock fell under nine tenths of the best one seen are marked.
  void Print(const Globals& globals, const std::vector<FigureColumn>& columns);

 private:
  void MarkLowClocks();
  void NoteClock(double ghz);

  Json head_;
  std::vector<Json> figures_;
  double best_clock_ghz_ = 0.0;
};

}  // namespace kvant::tools
