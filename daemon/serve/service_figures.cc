#include "daemon/serve/service_figures.h"

#include <algorithm>
#include <chrono>
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
      .stores = services.stores.stores().size(),
      .sessions = services.sessions.size(),
      .arenas = 0,
      .arena_bytes = 0};
  for (const Session* session : services.sessions) {
    gauges.arenas += session->arenas();
    gauges.arena_bytes += session->arena_bytes();
  }
  return {.gauges = gauges, .stores = services.stores.Totals(), .counters = services.counters};
}

std::vector<NamedStoreFigures> LargestStores(const Services& services, std::size_t most) {
  std::vector<NamedStoreFigures> rows;
  for (const Store* store : services.stores.stores()) rows.push_back({.name = store->name(), .figures = store->Figures()});
  if (rows.size() <= most) return rows;
  std::ranges::nth_element(rows, rows.begin() + static_cast<std::ptrdiff_t>(most), std::greater(),
                           [](const NamedStoreFigures& row) { return row.figures.resident_bytes; });
  rows.resize(most);
  std::ranges::sort(rows, {}, &NamedStoreFigures::name);
  return rows;
}

}  // namespace kvant::daemon
