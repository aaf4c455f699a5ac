// What operators are told of the daemon as a whole; daemon/store/stats.h has the figures of stores.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "daemon/store/figure.h"
#include "daemon/store/stats.h"

namespace kvant::daemon {

/// As they are at the moment of the question.
struct ServiceGauges {
  std::uint64_t uptime_seconds = 0;
  std::uint64_t budget_bytes = 0;
  std::uint64_t metadata_bytes = 0;
  std::uint64_t stores = 0;
  std::uint64_t sessions = 0;
  std::uint64_t arenas = 0;
  std::uint64_t arena_bytes = 0;
};

inline constexpr auto kServiceGauges = DescribeFigures<ServiceGauges>({
    {&ServiceGauges::uptime_seconds, {"uptime_seconds", FigureKind::kGauge, FigureUnit::kSeconds, "since the daemon began"}},
    {&ServiceGauges::budget_bytes,
     {"budget_bytes", FigureKind::kGauge, FigureUnit::kBytes, "most that blocks and metadata may take together"}},
    {&ServiceGauges::metadata_bytes,
     {"metadata_bytes", FigureKind::kGauge, FigureUnit::kBytes, "records of stores, blocks and sequences"}},
    {&ServiceGauges::stores, {"stores", FigureKind::kGauge, FigureUnit::kCount, "model identities with blocks or users"}},
    {&ServiceGauges::sessions, {"sessions", FigureKind::kGauge, FigureUnit::kCount, "connected clients"}},
    {&ServiceGauges::arenas, {"arenas", FigureKind::kGauge, FigureUnit::kCount, "memory segments that clients write in"}},
    {&ServiceGauges::arena_bytes,
     {"arena_bytes", FigureKind::kGauge, FigureUnit::kBytes, "size of these segments, touched or not"}},
});

/// Counted over all sessions since the daemon began.
struct ServiceCounters {
  std::uint64_t attend_calls = 0;
  std::uint64_t dropped_clients = 0;
  std::uint64_t refused_connections = 0;
};

inline constexpr auto kServiceCounters = DescribeFigures<ServiceCounters>({
    {&ServiceCounters::attend_calls,
     {"attend_calls", FigureKind::kCounter, FigureUnit::kCount, "attention over one layer of one sequence, computed here"}},
    {&ServiceCounters::dropped_clients,
     {"dropped_clients", FigureKind::kCounter, FigureUnit::kCount, "clients that hung until their lease ran out"}},
    {&ServiceCounters::refused_connections,
     {"refused_connections", FigureKind::kCounter, FigureUnit::kCount,
      "connections beyond the limit, or for which descriptors or memory lacked"}},
});

struct Services;

/// Everything that is told of the daemon as a whole. Plain values.
struct ServiceFigures {
  ServiceGauges gauges;
  StoreFigures stores;  ///< summed
  ServiceCounters counters;
};

struct NamedStoreFigures {
  std::string name;
  StoreFigures figures;
};

/// As they are now. Loop thread.
ServiceFigures FiguresOf(const Services& services);
/// Of the `most` stores that occupy most memory, by name. Loop thread.
std::vector<NamedStoreFigures> LargestStores(const Services& services, std::size_t most);

}  // namespace kvant::daemon
