#include "tools/kvantctl/top/view.h"

#include <algorithm>
#include <cmath>
#include <sstream>
#include <string_view>
#include <utility>

#include "tools/kvantctl/printable.h"
#include "tools/kvantctl/rates.h"
#include "tools/kvantctl/render.h"

namespace kvant::tools {
namespace {

constexpr std::size_t kBarColumns = 20;

std::uint64_t Of(const Figures& figures, std::string_view name) { return figures.Find(name).value_or(0); }

/// Of all figures whose names begin so.
std::uint64_t SumOf(const Figures& figures, std::string_view beginning) {
  std::uint64_t sum = 0;
  for (std::size_t i = 0; i < figures.size(); ++i) sum += figures.info(i).name.starts_with(beginning) ? figures.value(i) : 0;
  return sum;
}

std::string Bar(std::uint64_t part, std::uint64_t whole) {
  const double share = whole == 0 ? 0.0 : std::min(1.0, static_cast<double>(part) / static_cast<double>(whole));
  const auto full = static_cast<std::size_t>(std::lround(share * kBarColumns));
  return "[" + std::string(full, '#') + std::string(kBarColumns - full, '-') + "]";
}

const char* NameOf(StoreOrder order) {
  switch (order) {
    case StoreOrder::kResident: return "memory";
    case StoreOrder::kSealing: return "tokens sealed";
    case StoreOrder::kName: break;
  }
  return "name";
}

struct Row {
  const StoreRow* store;
  Rates change;
  std::uint64_t sealed;
};

std::string StoresTable(const Sample& now, const Sample* before, double seconds, StoreOrder order) {
  std::vector<Row> rows;
  for (const StoreRow& store : now.stores) {
    const Figures* earlier = nullptr;
    if (before != nullptr) {
      const auto same = std::ranges::find(before->stores, store.identity, &StoreRow::identity);
      if (same != before->stores.end()) earlier = &same->figures;
    }
    const Rates change(store.figures, earlier, seconds);
    rows.push_back({.store = &store, .change = change, .sealed = change.Rise("sealed_blocks").value_or(0)});
  }
  std::ranges::stable_sort(rows, [order](const Row& a, const Row& b) {
    if (order == StoreOrder::kName) return a.store->name < b.store->name;
    if (order == StoreOrder::kSealing && a.sealed != b.sealed) return a.sealed > b.sealed;
    return Of(a.store->figures, "resident_bytes") > Of(b.store->figures, "resident_bytes");
  });
  Table table({{"STORE"},
               {"KEYS"},
               {"VALUES"},
               {"SEQUENCES", Align::kRight},
               {"BLOCKS", Align::kRight},
               {"RESIDENT", Align::kRight},
               {"HITS", Align::kRight},
               {"HITS NOW", Align::kRight},
               {"SEALED/S", Align::kRight},
               {"EVICTED/S", Align::kRight}});
  for (const Row& row : rows) {
    const Figures& figures = row.store->figures;
    table.Add({row.store->name, row.store->keys, row.store->values, HumanCount(Of(figures, "sequences")),
               HumanCount(Of(figures, "blocks")), HumanBytes(Of(figures, "resident_bytes")),
               HumanShare(Of(figures, "prefix_hit_tokens"), Of(figures, "prefix_lookup_tokens")), row.change.Hits(),
               row.change.PerSecond("sealed_blocks", row.store->block_tokens), row.change.PerSecond("evicted_blocks")});
  }
  return table.ToString();
}

}  // namespace

StoreOrder After(StoreOrder order) noexcept {
  return order == StoreOrder::kName ? StoreOrder::kResident : static_cast<StoreOrder>(static_cast<int>(order) + 1);
}

std::vector<std::string> TopLines(const Sample& now, const Sample* before, StoreOrder order, std::size_t columns) {
  if (before != nullptr && before->stats.daemon.boot_token != now.stats.daemon.boot_token) before = nullptr;
  const double seconds = before == nullptr ? 0.0 : std::chrono::duration<double>(now.at - before->at).count();
  const Figures& figures = now.stats.figures;
  const Rates all(figures, before == nullptr ? nullptr : &before->stats.figures, seconds);
  const auto count = [&figures](std::string_view name) { return HumanCount(Of(figures, name)); };
  const std::uint64_t used = Of(figures, "resident_bytes") + Of(figures, "metadata_bytes");
  const std::uint64_t budget = Of(figures, "budget_bytes");

  std::ostringstream text;
  text << "kvantd " << now.stats.daemon.version << ", process " << now.stats.daemon.pid << ", up "
       << HumanDuration(std::chrono::seconds(Of(figures, "uptime_seconds"))) << "      s: sort by " << NameOf(After(order))
       << ", q: end\n";
  text << "memory   " << Bar(used, budget) << " " << HumanShare(used, budget) << " of " << HumanBytes(budget) << "; codes "
       << HumanCompressed(figures) << "\n";
  text << "now      " << count("sessions") << " clients, " << count("sequences") << " sequences, " << count("stores")
       << " stores, " << count("blocks") << " blocks (" << count("leased_blocks") << " in use)\n";
  text << "a second " << all.PerSecond("attend_calls") << " attention calls, " << all.PerSecond("sealed_blocks")
       << " blocks sealed, " << all.PerSecond("deduplicated_blocks") << " shared, " << all.PerSecond("evicted_blocks")
       << " evicted; hits " << all.Hits() << " ("
       << HumanShare(Of(figures, "prefix_hit_tokens"), Of(figures, "prefix_lookup_tokens")) << " since start)\n";
  text << "trouble  " << count("store_full_errors") << " without room, " << count("lost_blocks") << " blocks lost, "
       << count("dropped_clients") << " clients hung, " << count("evicted_then_wanted_blocks") << " wanted after eviction, "
       << HumanCount(SumOf(figures, "refusals_")) << " refusals, " << count("unfit_key_heads") << " KV heads unfit\n\n";
  text << StoresTable(now, before, seconds, order);

  std::vector<std::string> lines;
  std::istringstream all_lines(text.str());
  for (std::string line; std::getline(all_lines, line);) lines.push_back(FirstColumns(line, columns));
  return lines;
}

}  // namespace kvant::tools
