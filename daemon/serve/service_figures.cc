#include "daemon/serve/service_figures.h"

#include <algorithm>
#include <chrono>
#include <set>
#include <string>
#include <utility>

#include "daemon/serve/session.h"
#include "daemon/store/store.h"
#include "daemon/store/store_table.h"

namespace kvant::daemon {

ServiceFigures FiguresOf(const Services& services) {
  const auto uptime = std::chrono::steady_clock::now() - services.started;
  ServiceGauges gauges{
      .uptime_seconds = static_cast<std::uint64_t>(std::chrono::duration_cast<std::chrono::seconds>(uptime).count()),
      .budget_bytes = services.core.budget.limit(),
      .metadata_bytes = services.core.budget.metadata_bytes(),
      .opening_bytes = 0,
      .evicted_record_bytes = services.core.history.evicted.bytes(),
      .tenants = services.stores.tenants().size(),
      .pinned_blocks = services.stores.pins().blocks(),
      .pinned_bytes = services.stores.pins().bytes(),
      .stores = services.stores.stores().size(),
      .sessions = services.sessions.size(),
      .arenas = 0,
      .arena_bytes = 0};
  for (const Session* session : services.sessions) {
    gauges.arenas += session->arenas();
    gauges.arena_bytes += session->arena_bytes();
  }
  const StoreFigures stores = services.stores.Totals();
  gauges.opening_bytes = services.core.budget.used() - stores.used_bytes - gauges.evicted_record_bytes;
  const History& history = services.core.history;
  return {.gauges = gauges,
          .stores = stores,
          .counters = services.counters,
          .refusals = services.refusals,
          .room_refusals = history.room_refusals,
          .lookup_ends = history.lookup_ends,
          .times = history.times};
}

std::vector<NamedStoreFigures> LargestStores(const Services& services, std::size_t most) {
  std::vector<NamedStoreFigures> rows;
  std::set<std::string> names;
  for (const Store* store : services.stores.stores()) {  // by name: the same names of several tenants are neighbours
    std::string name = store->name();
    if (!names.insert(name).second) name += " of " + store->tenant()->name;
    rows.push_back({.name = std::move(name), .figures = store->Figures()});
  }
  if (rows.size() <= most) return rows;
  std::ranges::nth_element(rows, rows.begin() + static_cast<std::ptrdiff_t>(most), std::greater(),
                           [](const NamedStoreFigures& row) { return row.figures.resident_bytes; });
  rows.resize(most);
  std::ranges::sort(rows, {}, &NamedStoreFigures::name);
  return rows;
}

}  // namespace kvant::daemon
