// kvantctl stats: what the daemon holds and what it has done.
#include <CLI/CLI.hpp>

#include "tools/kvantctl/command.h"
#include "tools/kvantctl/render.h"

namespace kvant::tools {
namespace {

std::string Text(const StatsReport& stats) {
  Listing listing;
  listing.Heading("memory");
  listing.Add("logical (as f16)", HumanBytes(stats.bytes.logical_f16_bytes));
  listing.Add("compressed", HumanCompressed(stats.bytes));
  listing.Add("resident", HumanBytes(stats.bytes.resident_bytes));
  listing.Add("metadata", HumanBytes(stats.metadata_bytes));
  listing.Add("budget", HumanBytes(stats.daemon.budget_bytes) + "  (" +
                            HumanShare(stats.bytes.resident_bytes + stats.metadata_bytes, stats.daemon.budget_bytes) +
                            " used)");
  listing.Add("arenas", HumanCount(stats.arenas) + "  (" + HumanBytes(stats.arena_bytes) + " of address space)");
  listing.Heading("in use");
  listing.Add("sessions", HumanCount(stats.sessions));
  listing.Add("stores", HumanCount(stats.stores));
  listing.Add("sequences", HumanCount(stats.sequences));
  listing.Add("block leases", HumanCount(stats.leases));
  listing.Heading("since start");
  listing.Add("uptime", HumanDuration(stats.uptime));
  listing.Add("prefix hit tokens", HumanCount(stats.prefix_hit_tokens) + " of " + HumanCount(stats.prefix_lookup_tokens) +
                                       "  (" + HumanShare(stats.prefix_hit_tokens, stats.prefix_lookup_tokens) + ")");
  listing.Add("blocks sealed", HumanCount(stats.sealed_blocks));
  listing.Add("blocks deduplicated", HumanCount(stats.deduplicated_blocks));
  listing.Add("blocks evicted", HumanCount(stats.evicted_blocks));
  listing.Add("attend calls", HumanCount(stats.attend_calls));
  listing.Add("tensor bytes copied", HumanBytes(stats.bytes_copied));
  listing.Add("store full errors", HumanCount(stats.store_full_errors));
  listing.Add("dropped clients", HumanCount(stats.dropped_clients));
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
