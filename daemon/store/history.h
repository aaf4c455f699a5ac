// What has happened to blocks and to those who asked for them: what tells an operator whether the budget is large enough.
// Of all stores together.
#pragma once

#include <cstdint>

#include "daemon/store/evicted_blocks.h"
#include "daemon/store/figure.h"
#include "daemon/store/time_histogram.h"

namespace kvant::daemon {

/// Why looking for a prefix ended where it did.
struct LookupEnds {
  std::uint64_t complete = 0;
  std::uint64_t unknown = 0;
  std::uint64_t evicted = 0;
  std::uint64_t corrupt = 0;
  std::uint64_t no_state = 0;
};

inline constexpr FigureFamily kLookupEndFamily{"lookup_ends", "reason",
                                               "searches for a prefix, by why they ended where they did"};
inline constexpr auto kLookupEnds = DescribeFigures<LookupEnds>({
    {&LookupEnds::complete,
     {"complete", FigureKind::kCounter, FigureUnit::kCount, "searches that found every whole block of their tokens"}},
    {&LookupEnds::unknown,
     {"unknown", FigureKind::kCounter, FigureUnit::kCount,
      "searches that ended at a block that never was, or is gone so long that nobody remembers it"}},
    {&LookupEnds::evicted,
     {"evicted", FigureKind::kCounter, FigureUnit::kCount, "searches that ended at a block that was there and was evicted"}},
    {&LookupEnds::corrupt,
     {"corrupt", FigureKind::kCounter, FigureUnit::kCount, "searches that ended at a block that failed its checksum"}},
    {&LookupEnds::no_state,
     {"no_state", FigureKind::kCounter, FigureUnit::kCount,
      "searches that gave up found blocks because the engine wants a state and none stands at their end"}},
});

/// Whose limit left no room for something that was asked for, after all that could go had gone.
struct RoomRefusals {
  std::uint64_t store_quota = 0;
  std::uint64_t tenant_quota = 0;
  std::uint64_t budget = 0;
};

inline constexpr FigureFamily kRoomRefusalFamily{"room_refusals", "limit",
                                                 "requests for room that were refused, by whose limit"};
inline constexpr auto kRoomRefusals = DescribeFigures<RoomRefusals>({
    {&RoomRefusals::store_quota,
     {"store_quota", FigureKind::kCounter, FigureUnit::kCount, "requests for room that a store's quota refused"}},
    {&RoomRefusals::tenant_quota,
     {"tenant_quota", FigureKind::kCounter, FigureUnit::kCount, "requests for room that a tenant's quota refused"}},
    {&RoomRefusals::budget,
     {"budget", FigureKind::kCounter, FigureUnit::kCount, "requests for room that the daemon's budget refused"}},
});

struct BlockTimes {
  TimeHistogram lifetime;
  TimeHistogram idle;
  TimeHistogram reuse;
  TimeHistogram missed;
};

inline constexpr auto kBlockTimes = DescribeHistograms<BlockTimes>({
    {&BlockTimes::lifetime, "block_lifetime_seconds", "from a block's sealing, or the daemon's start, to its eviction"},
    {&BlockTimes::idle, "block_idle_before_evict_seconds", "from a block's last use to its eviction"},
    {&BlockTimes::reuse, "block_reuse_gap_seconds", "from a block's last use to the next sequence that found it"},
    {&BlockTimes::missed, "block_evict_to_wanted_seconds", "from a block's eviction to the sequence that wanted it again"},
});

/// Loop thread.
struct History {
  LookupEnds lookup_ends;
  RoomRefusals room_refusals;
  BlockTimes times;
  EvictedBlocks evicted;
};

}  // namespace kvant::daemon
