#include "tools/kvantctl/bench/report.h"

#include <algorithm>
#include <array>
#include <cstdio>
#include <fstream>
#include <thread>
#include <utility>

#include "tools/bench/clock.h"

namespace kvant::tools {
namespace {

constexpr double kLowClock = 0.9;

/// As /proc/cpuinfo calls the processor; "unknown" where it does not.
std::string CpuModel() {
  std::ifstream info("/proc/cpuinfo");
  for (std::string line; std::getline(info, line);) {
    if (line.starts_with("model name")) return line.substr(std::min(line.find(": ") + 2, line.size()));
  }
  return "unknown";
}

std::string Cell(const Json& figure, const FigureColumn& column) {
  const auto found = figure.find(column.key);
  if (found == figure.end() || found->is_null()) return "-";
  if (found->is_string()) return found->get<std::string>();
  if (found->is_boolean()) return found->get<bool>() ? "yes" : "no";
  if (column.format == nullptr) return found->dump();
  std::array<char, 64> text{};
  std::snprintf(text.data(), text.size(), column.format, found->get<double>() / column.unit);
  return text.data();
}

}  // namespace

void PutTimes(Json& figure, const Series& series) {
  figure["calls"] = series.calls_ns.size();
  figure["median_ns"] = Median(series.calls_ns);
  figure["p99_ns"] = Quantile(series.calls_ns, 0.99);
}

FigureReport::FigureReport(std::string name) {
  head_["bench"] = std::move(name);
  head_["cpu"] = CpuModel();
  head_["cores"] = std::thread::hardware_concurrency();
  NoteClock(ClockGhz());
}

void FigureReport::NoteClock(double ghz) { best_clock_ghz_ = std::max(best_clock_ghz_, ghz); }

Json& FigureReport::Begin() {
  Json& figure = figures_.emplace_back();
  figure["clock_before_ghz"] = ClockGhz();
  NoteClock(figure["clock_before_ghz"]);
  return figure;
}

void FigureReport::End() {
  Json& figure = figures_.back();
  figure["clock_after_ghz"] = ClockGhz();
  NoteClock(figure["clock_after_ghz"]);
}

void FigureReport::MarkLowClocks() {
  for (Json& figure : figures_) {
    const double lower = std::min(figure["clock_before_ghz"].get<double>(), figure["clock_after_ghz"].get<double>());
    figure["clock_ghz"] = lower;
    figure["clock_low"] = lower < kLowClock * best_clock_ghz_;
  }
}

void FigureReport::Print(const Globals& globals, const std::vector<FigureColumn>& columns) {
  MarkLowClocks();
  head_["best_clock_ghz"] = best_clock_ghz_;
  if (globals.format == Format::kJson) {
    Json all = head_;
    all["figures"] = figures_;
    tools::Print(all);
    return;
  }
  std::string text;
  for (const auto& [key, value] : head_.items()) {
    text += key + ": " + (value.is_string() ? value.get<std::string>() : value.dump()) + "\n";
  }
  std::vector<Table::Column> titles;
  for (const FigureColumn& column : columns) {
    titles.push_back({column.title, column.format == nullptr ? Align::kLeft : Align::kRight});
  }
  titles.push_back({"CLOCK GHz", Align::kRight});
  titles.push_back({""});
  Table table(titles);
  std::size_t low = 0;
  for (const Json& figure : figures_) {
    std::vector<std::string> cells;
    for (const FigureColumn& column : columns) cells.push_back(Cell(figure, column));
    cells.push_back(Cell(figure, {"", "clock_ghz", "%.2f"}));
    cells.emplace_back(figure["clock_low"].get<bool>() ? "low clock" : "");
    low += figure["clock_low"].get<bool>() ? 1 : 0;
    table.Add(cells);
  }
  text += "\n" + table.ToString();
  tools::Print(text);
  if (low > 0) {
    std::fprintf(stderr, "%s: %zu of %zu figures were taken at less than %.0f %% of the best clock seen: repeat them\n",
                 globals.program, low, figures_.size(), 100 * kLowClock);
  }
}

}  // namespace kvant::tools
