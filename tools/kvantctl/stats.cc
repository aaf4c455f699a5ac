// kvantctl stats: what the daemon holds and what it has done.
#include <CLI/CLI.hpp>
#include <string_view>

#include "tools/kvantctl/command.h"
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

}  // namespace

void AddStats(CLI::App& app, Invocation& invocation) {
  app.add_subcommand("stats", "Show memory, leases, prefix hits and counters")->callback([&invocation] {
    invocation.exit_code = Stats(invocation.globals);
  });
}

}  // namespace kvant::tools
