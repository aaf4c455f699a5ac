// Figures that operators see. Plain values.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace kvant::daemon {

/// Three figures that are never mixed.
struct ByteFigures {
  std::uint64_t logical_f16_bytes = 0;  ///< what the sealed tokens take as f16
  std::uint64_t compressed_bytes = 0;   ///< what their codes and side data take
  std::uint64_t resident_bytes = 0;     ///< pages of slabs that are populated
};

/// Counted since the daemon (or the store) began.
struct Counters {
  std::uint64_t prefix_lookup_tokens = 0;
  std::uint64_t prefix_hit_tokens = 0;
  std::uint64_t sealed_blocks = 0;        ///< encoded and kept
  std::uint64_t deduplicated_blocks = 0;  ///< seals that found the block already there
  std::uint64_t evicted_blocks = 0;
  std::uint64_t bytes_copied = 0;       ///< tensor bytes of forks and trims
  std::uint64_t store_full_errors = 0;  ///< seals that found no room
  std::uint64_t lost_blocks = 0;        ///< due, and not sealed when their sequence ended
  std::uint64_t not_finite_errors = 0;  ///< seals refused for NaN, infinity or a norm out of range
};

struct StoreFigures {
  std::string name;
  std::string identity;
  std::uint64_t blocks = 0;         ///< sealed
  std::uint64_t leased_blocks = 0;  ///< of those, held by at least one sequence
  std::uint64_t leases = 0;         ///< held by sequences; a block held by two counts twice
  std::uint64_t sequences = 0;      ///< readers included
  std::uint64_t slabs = 0;
  std::uint64_t slab_bytes = 0;
  ByteFigures bytes;
  Counters counters;
};

struct SequenceFigures {
  std::uint64_t id = 0;
  std::string store;
  std::string client;
  std::string label;
  std::uint64_t length = 0;
  std::uint64_t sealed_tokens = 0;  ///< that attention reads as codes
  std::uint64_t prefix_hit_tokens = 0;
  std::uint64_t marks = 0;
  bool read_only = false;
};

/// One sealed block of a sequence, its checksums verified while it was listed.
struct BlockFigures {
  std::uint64_t first_position = 0;
  std::string chain;
  std::uint32_t slab = 0;
  std::uint32_t slot = 0;
  std::uint64_t generation = 0;
  std::uint32_t leases = 0;
  bool checksum_ok = false;
};

struct SequenceDetail {
  SequenceFigures figures;
  std::vector<BlockFigures> blocks;
  std::uint64_t tail_first_position = 0;
  std::uint64_t tail_capacity_tokens = 0;
};

struct EvictFigures {
  std::uint64_t blocks = 0;
  std::uint64_t bytes = 0;  ///< of their slots
};

}  // namespace kvant::daemon
