// What the blocks, sinks and states of a store take.
#pragma once

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>

#include <kvant/store_spec.h>
#include <kvant/tensor.h>

#include "daemon/memory/budget.h"
#include "protocol/block_format.h"

namespace kvant::daemon {

/// A slot with its header and token list, in whole cache lines.
[[nodiscard]] inline std::uint64_t SlotBytesFor(std::uint32_t block_tokens, std::uint64_t payload_bytes) {
  return (protocol::PayloadOffset(block_tokens) + payload_bytes + 63) / 64 * 64;
}

[[nodiscard]] inline std::uint64_t SinkBytesFor(const StoreSpec& spec, ElementType type) {
  return std::uint64_t{spec.sink_tokens} * spec.layers * 2 * spec.kv_heads * spec.head_dim * ElementBytes(type);
}

/// A state's slot is larger than it needs to be by an eighth at most, so that states of many sizes share slabs.
[[nodiscard]] inline std::uint64_t StateSlotBytes(std::uint32_t block_tokens, std::uint64_t bytes) {
  const std::uint64_t unit = std::max<std::uint64_t>(64, std::bit_floor(bytes) / 8);
  return SlotBytesFor(block_tokens, (bytes + unit - 1) / unit * unit);
}

/// Of the daemon's own memory.
[[nodiscard]] inline std::size_t BlockRecordBytes(const StoreSpec& spec) {
  return kBlockRecordBytes + spec.block_tokens * sizeof(std::uint32_t);
}

}  // namespace kvant::daemon
