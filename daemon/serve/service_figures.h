// What operators are told of the daemon as a whole; daemon/store/stats.h has the figures of stores.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "daemon/serve/refusals.h"
#include "daemon/store/figure.h"
#include "daemon/store/history.h"
#include "daemon/store/stats.h"

namespace kvant::daemon {

/// As they are at the moment of the question.
struct ServiceGauges {
  std::uint64_t uptime_seconds = 0;
  std::uint64_t budget_bytes = 0;
  std::uint64_t metadata_bytes = 0;
  std::uint64_t opening_bytes = 0;
  std::uint64_t evicted_record_bytes = 0;
  std::uint64_t tenants = 0;
  std::uint64_t pinned_blocks = 0;
  std::uint64_t pinned_bytes = 0;
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
    {&ServiceGauges::opening_bytes,
     {"opening_bytes", FigureKind::kGauge, FigureUnit::kBytes,
      "charged to the budget beside used_bytes: specs and records of stores that are being opened"}},
    {&ServiceGauges::evicted_record_bytes,
     {"evicted_record_bytes", FigureKind::kGauge, FigureUnit::kBytes,
      "charged to the budget, too: what remembers blocks that were evicted"}},
    {&ServiceGauges::tenants,
     {"tenants", FigureKind::kGauge, FigureUnit::kCount, "parties that have connected or have a quota"}},
    {&ServiceGauges::pinned_blocks,
     {"pinned_blocks", FigureKind::kGauge, FigureUnit::kCount, "blocks that operators keep (kvantctl pin)"}},
    {&ServiceGauges::pinned_bytes, {"pinned_bytes", FigureKind::kGauge, FigureUnit::kBytes, "size of their slots"}},
    {&ServiceGauges::stores, {"stores", FigureKind::kGauge, FigureUnit::kCount, "model identities with blocks or users"}},
    {&ServiceGauges::sessions, {"sessions", FigureKind::kGauge, FigureUnit::kCount, "connected clients"}},
    {&ServiceGauges::arenas, {"arenas", FigureKind::kGauge, FigureUnit::kCount, "memory segments that clients write in"}},
    {&ServiceGauges::arena_bytes,
     {"arena_bytes", FigureKind::kGauge, FigureUnit::kBytes, "size of these segments, touched or not"}},
});

/// Counted over all sessions since the daemon began.
struct ServiceCounters {
  std::uint64_t attend_calls = 0;
  std::uint64_t accepted_connections = 0;
  std::uint64_t broken_connections = 0;
  std::uint64_t dropped_clients = 0;
  std::uint64_t refused_foreign_sequences = 0;
  std::uint64_t room_steps = 0;
  std::uint64_t room_failures = 0;
  std::uint64_t evicted_ahead_blocks = 0;
};

inline constexpr auto kServiceCounters = DescribeFigures<ServiceCounters>({
    {&ServiceCounters::attend_calls,
     {"attend_calls", FigureKind::kCounter, FigureUnit::kCount, "attention over one layer of one sequence, computed here"}},
    {&ServiceCounters::accepted_connections,
     {"accepted_connections", FigureKind::kCounter, FigureUnit::kCount, "clients and operators that have connected"}},
    {&ServiceCounters::broken_connections,
     {"broken_connections", FigureKind::kCounter, FigureUnit::kCount,
      "of those, connections that ended over a damaged message, or one that no client sends"}},
    {&ServiceCounters::dropped_clients,
     {"dropped_clients", FigureKind::kCounter, FigureUnit::kCount, "clients that hung until their lease ran out"}},
    {&ServiceCounters::refused_foreign_sequences,
     {"refused_foreign_sequences", FigureKind::kCounter, FigureUnit::kCount,
      "calls that named a live sequence of another tenant; they are told that it is not there"}},
    {&ServiceCounters::room_steps,
     {"room_steps", FigureKind::kCounter, FigureUnit::kCount,
      "looks at expired blocks, pins and free room; one that stands still is a fault"}},
    {&ServiceCounters::room_failures,
     {"room_failures", FigureKind::kCounter, FigureUnit::kCount, "of those, looks that failed and were followed by the next"}},
    {&ServiceCounters::evicted_ahead_blocks,
     {"evicted_ahead_blocks", FigureKind::kCounter, FigureUnit::kCount,
      "blocks evicted before somebody waited for their room"}},
});

struct Services;

/// Everything that is told of the daemon as a whole. Plain values.
struct ServiceFigures {
  ServiceGauges gauges;
  StoreFigures stores;  ///< summed
  ServiceCounters counters;
  Refusals refusals;
  RoomRefusals room_refusals;
  LookupEnds lookup_ends;
  BlockTimes times;
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
