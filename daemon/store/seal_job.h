// Encoding of one block from a tail into its slots, on a worker thread.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include <kvant/result.h>

#include "daemon/memory/slab.h"
#include "daemon/memory/tail.h"
#include "daemon/store/key_mean.h"
#include "daemon/store/store.h"
#include "protocol/block_format.h"
#include "quantizers/plan.h"

namespace kvant::daemon {

/// Everything an encoding needs, so that it can outlive the sequence, the session and the arena's owner. Made on the loop
/// thread; Run on any; read again on the loop thread. The last reference must go on the loop thread: `place` gives its slots
/// back.
struct SealJob {
  std::shared_ptr<const quantizers::Plan> plan;
  TailView tail;  ///< hostile memory, kept mapped
  std::vector<std::uint32_t> tokens;
  protocol::BlockInfo info;  ///< of the codes; sinks differ in kind and element type
  /// Where a part of the block goes; as the parts of `place`, the codes first.
  struct Target {
    std::shared_ptr<Slab> slab;
    std::uint32_t slot = 0;
    std::uint64_t payload_bytes = 0;
  };
  Target codes;
  std::optional<Target> sinks;
  std::optional<PendingBlock> place;  ///< not touched by Run

  std::vector<KeyMean> key_means;  ///< by Run: of each layer and KV head, [layer][kv_head]

  std::atomic<bool> cancelled{false};  ///< Run ends soon after; the outcome is then meaningless

  /// kNotFinite naming layer, side, head and row; kSystem if there is no memory. On success the slots are complete, checksums
  /// included.
  Result<void> Run();

 private:
  Result<void> EncodeCodes(std::byte* payload);
  Result<void> CopySinks(std::byte* payload);
};

}  // namespace kvant::daemon
