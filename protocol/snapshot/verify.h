// All of a snapshot's payloads against their checksums.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include <kvant/result.h>

#include "protocol/snapshot/reader.h"
#include "protocol/snapshot/writer.h"

namespace kvant::snapshot {

struct DamagedBlock {
  std::string store;
  std::string chain;  ///< hex
  std::uint64_t position = 0;
  std::string what;  ///< codes, sinks, state
};

/// Reads everything, in pieces: every block whose bytes differ from its checksum, none for a good file. kSystem if the file
/// cannot be read, kUnavailable if `progress` said so, kOutOfRange for a block that is larger than any store's.
Result<std::vector<DamagedBlock>> VerifyPayloads(const SnapshotReader& reader, const Progress& progress);

/// Payloads of one block that are larger are refused before memory is taken for them.
inline constexpr std::uint64_t kMaxPieceBytes = std::uint64_t{512} << 20;

}  // namespace kvant::snapshot
