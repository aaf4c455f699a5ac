// Writing a snapshot: sealed blocks from their slots, as they are, into one safetensors file (SNAPSHOT.md).
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <kvant/result.h>
#include <kvant/store_spec.h>

#include "protocol/segment_layout.h"
#include "protocol/snapshot/index.h"

namespace kvant::snapshot {

/// A sealed block: whole slots, which nobody writes to while they are saved. Empty: there is none.
struct BlockSlots {
  std::int64_t parent = kNoParent;  ///< index of the block before it
  std::span<const std::byte> codes;
  std::span<const std::byte> sinks;
  std::span<const std::byte> state;
};

struct StoreToSave {
  StoreSpec spec;  ///< artifact included
  std::string plan;
  protocol::Digest identity{};
  std::string tenant;              ///< whose store it is; empty: nobody's
  std::vector<BlockSlots> blocks;  ///< parents before their children
};

/// Called between two pieces of work of a few milliseconds, with bytes done and of all; false: give up.
using Progress = std::function<bool(std::uint64_t done, std::uint64_t all)>;

struct SavedFigures {
  std::uint64_t stores = 0;
  std::uint64_t blocks = 0;
  std::uint64_t bytes = 0;  ///< of the file
};

/// Writes the file to `fd`, which is empty and stands at its beginning. Every slot is held against its checksums on the way:
/// kCorrupt names the store and the block of one that is damaged. kUnavailable if `progress` said so. kSystem names the errno
/// of a write (a full disk). kOutOfRange for more stores than a header holds. Beside the slots it takes the index (some 50
/// bytes per block, and 4 per token) in memory, once; payloads are written from where they lie. Any thread.
Result<SavedFigures> WriteSnapshot(int fd, std::span<const StoreToSave> stores, std::string_view writer,
                                   const Progress& progress);

}  // namespace kvant::snapshot
