// A sealed block as the daemon knows it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include <kvant/tensor.h>

#include "daemon/memory/block_pool.h"
#include "daemon/memory/budget.h"
#include "daemon/store/retention.h"
#include "protocol/segment_layout.h"

namespace kvant::daemon {

class PrefixIndex;
class StateSlot;
class Store;

/// One piece of a block: its codes, or the raw rows of sinks. Each lies in a slot of its own, as large as it needs.
struct BlockPart {
  protocol::BlockKind kind = protocol::BlockKind::kCodes;
  SlotRef slot{};
  std::uint64_t payload_bytes = 0;
  ElementType element_type = ElementType::kF32;  ///< of sink rows
  std::uint8_t sections = 0;                     ///< of codes: what the payload has of Plan::sections
  const std::byte* payload = nullptr;            ///< in the slot
};

/// Owned by the index of its store; sequences point to it while they lease it. What a lookup needs is here and not in the
/// slots, so that a block can be found wherever its parts are.
struct Block {
  protocol::Digest chain{};
  Block* parent = nullptr;  ///< null for the first block of a chain
  std::uint64_t first_position = 0;
  std::uint64_t generation = 0;
  std::vector<std::uint32_t> tokens;
  std::vector<BlockPart> parts;  ///< the codes first
  /// An engine's state at the block's end; null for none. Shared with sequences that held it before the block was sealed.
  std::shared_ptr<const StateSlot> state = nullptr;
  /// Restored, and its payload's checksum not looked at yet: to be done before anybody is given it (Store::Whole).
  bool unchecked = false;
  bool damaged = false;  ///< turned out not to be whole, or continues one that did, and is held: nobody finds it any more
  Charge charge{};
  Store* store = nullptr;  ///< whose index holds it

  [[nodiscard]] const BlockPart& codes() const { return parts.front(); }
  /// Raw rows [layer][keys, values][kv_head][sink_tokens][head_dim]; null but for the block at position 0 of a store with
  /// sinks.
  [[nodiscard]] const BlockPart* sinks() const { return parts.size() > 1 ? &parts[1] : nullptr; }

  // Kept by the index.
  Block* first_child = nullptr;
  Block* next_sibling = nullptr;
  Block* previous_sibling = nullptr;
  std::uint32_t leases = 0;
  PrefixIndex* index = nullptr;  ///< that it is in
  Retention retention{};
};

}  // namespace kvant::daemon
