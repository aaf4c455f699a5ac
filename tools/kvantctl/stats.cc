// kvantctl stats: what the daemon holds and what it has done.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <memory>
#include <optional>
#include <string_view>
#include <thread>
#include <utility>

#include "tools/kvantctl/command.h"
#include "tools/kvantctl/rates.h"
#include "tools/kvantctl/render.h"

namespace kvant::tools {
namespace {

std::string Text(const StatsReport& stats) {
  const Figures& figures = stats.figures;
  const auto of = [&figures](std::string_view name) { return figures.Find(name).value_or(0); };
  Listing listing;
  listing.Heading("summary");
  listing.Add("compressed", HumanCompressed(figures));
  listing.Add("budget used", HumanShare(of("resident_bytes") + of("metadata_bytes"), of("budget_bytes")));
  listing.Add("prefix hit tokens", HumanPrefixHits(figures));
  listing.Heading("now");
  listing.Add(figures, FigureKind::kGauge);
  listing.Heading("since start");
  listing.Add(figures, FigureKind::kCounter);
  if (!stats.histograms.empty()) listing.Heading("how long");
  for (const Histogram& histogram : stats.histograms) {
    listing.Add(histogram.name, HumanHistogram(histogram), histogram.help);
  }
  return listing.ToString();
}

int Stats(const Globals& globals) {
  return WithAdmin(globals, [&](Admin& admin) -> int {
    const auto stats = admin.Stats();
    if (!stats) return Report(globals, stats.error());
    if (globals.format == Format::kJson) {
      Print(ToJson(*stats));
    } else {
      Print(Text(*stats));
    }
    return kOk;
  });
}

/// How wide the columns of --watch are; the figures in them are short.
constexpr std::size_t kWatchColumn = 11;
constexpr std::uint64_t kLinesPerHeading = 20;

std::string WatchLine(const std::vector<std::string>& cells) {
  std::string line;
  for (const std::string& cell : cells) {
    line += std::string(kWatchColumn - std::min(kWatchColumn, cell.size() + 1) + 1, ' ') + cell;
  }
  return line + "\n";
}

std::string WatchLine(const StatsReport& now, const StatsReport* before, double seconds) {
  if (before != nullptr && before->daemon.boot_token != now.daemon.boot_token) before = nullptr;
  const Rates rates(now.figures, before == nullptr ? nullptr : &before->figures, seconds);
  const auto of = [&now](std::string_view name) { return now.figures.Find(name).value_or(0); };
  return WatchLine({HumanCount(of("sessions")), HumanCount(of("sequences")), HumanCount(of("blocks")),
                    HumanCount(of("leased_blocks")), HumanBytes(of("resident_bytes")), rates.Hits(),
                    rates.PerSecond("attend_calls"), rates.PerSecond("sealed_blocks"), rates.PerSecond("evicted_blocks")});
}

/// A line every `interval` seconds, as JSON or as a row of figures; `count` of them, 0: until it is ended.
int Watch(const Globals& globals, double interval, std::uint64_t count) {
  using Clock = std::chrono::steady_clock;
  return WithAdmin(globals, [&](Admin& admin) -> int {
    std::optional<StatsReport> before;
    auto at = Clock::now();
    for (std::uint64_t line = 0; count == 0 || line < count; ++line) {
      if (line > 0)
        std::this_thread::sleep_until(at +
                                      std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(interval)));
      const auto last = std::exchange(at, Clock::now());
      auto stats = admin.Stats();
      if (!stats) return Report(globals, stats.error());
      if (globals.format == Format::kJson) {
        PrintLine(ToJson(*stats));
      } else {
        if (line % kLinesPerHeading == 0) {
          Print(WatchLine(
              {"CLIENTS", "SEQUENCES", "BLOCKS", "LEASED", "RESIDENT", "HITS", "ATTENDS/S", "SEALED/S", "EVICTED/S"}));
        }
        Print(WatchLine(*stats, before ? &*before : nullptr, std::chrono::duration<double>(at - last).count()));
        std::fflush(stdout);
      }
      before = *std::move(stats);
    }
    return kOk;
  });
}

}  // namespace

void AddStats(CLI::App& app, Invocation& invocation) {
  CLI::App* const stats = app.add_subcommand("stats", "Show memory, leases, prefix hits and counters");
  auto interval = std::make_shared<double>(0);
  auto count = std::make_shared<std::uint64_t>(0);
  auto* const watch = stats->add_option("--watch", *interval, "A line every so many seconds, until it is ended");
  watch->check(CLI::Range(0.01, 86400.0));
  stats->add_option("--count", *count, "Lines of --watch; 0: no end")->check(CLI::Range(0U, 1000000000U))->needs(watch);
  stats->callback([&invocation, interval, count] {
    invocation.exit_code = *interval > 0 ? Watch(invocation.globals, *interval, *count) : Stats(invocation.globals);
  });
}

}  // namespace kvant::tools
