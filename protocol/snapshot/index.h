// What a snapshot file holds beside payloads. SNAPSHOT.md has the format; writer and reader share the names and rows here.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include <kvant/store_spec.h>

#include "protocol/segment_layout.h"
#include "quantizers/safetensors.h"

namespace kvant::snapshot {

/// Of files that this code writes, and the newest that it reads.
inline constexpr unsigned kFormatVersion = 1;
/// The oldest reader that understands what this code writes.
inline constexpr unsigned kMinimumReader = 1;
inline constexpr std::string_view kFormatName = "kvant-snapshot";

/// The parent of a block at position 0.
inline constexpr std::int64_t kNoParent = -1;

/// Most bytes before the payloads that a reader takes into memory.
inline constexpr std::uint64_t kMaxIndexBytes = std::uint64_t{1} << 30;

/// A row of `parts`: bytes that belong to a block beside its codes, in the order in which they stand in `extra`.
struct PartRow {
  std::uint64_t block;  ///< its row
  std::uint64_t kind;   ///< protocol::BlockKind: sinks or state
  std::uint64_t element_type;
  std::uint64_t bytes;
  std::uint64_t checksum;  ///< XXH3-64
};
static_assert(sizeof(PartRow) == 40);
inline constexpr std::size_t kPartColumns = 5;

/// One store's tables, as the writer gathers them.
struct StoreTables {
  StoreSpec spec;  ///< artifact included
  std::string plan;
  protocol::Digest identity{};
  std::string tenant;  ///< whose store it was; empty: nobody's

  std::vector<std::byte> spec_message;
  std::vector<std::uint64_t> positions;  // one each per block
  std::vector<std::int64_t> parents;
  std::vector<std::uint64_t> checksums;
  std::vector<std::uint64_t> bytes;  // of the block's codes: fewer than the plan's if it was demoted
  std::vector<protocol::Digest> chains;
  std::vector<std::uint32_t> tokens;  // block_tokens per block
  std::vector<PartRow> parts;
  std::uint64_t codes_bytes = 0;
  std::uint64_t extra_bytes = 0;
};

/// "store.3.codes".
[[nodiscard]] std::string TensorName(std::size_t store, std::string_view column);

/// Every tensor of the file in its order; those of the index have their bytes, which point into `stores`.
[[nodiscard]] std::vector<quantizers::TensorToWrite> Tensors(const std::vector<StoreTables>& stores);

/// For people; readers take it from the tensors.
[[nodiscard]] std::map<std::string, std::string> Metadata(const std::vector<StoreTables>& stores, std::string_view writer);

}  // namespace kvant::snapshot
