// Attention for several sequences of one session, in either placement.
#pragma once

#include <cstddef>
#include <span>

#include <kvant/client.h>

#include "client/sequence.h"

namespace kvant::client {

struct AttendCall {
  Sequence* sequence = nullptr;
  const AttendArgs* args = nullptr;
  /// As in quantizers::AttendRequest: queries that were asked before, and their votes, in the arena.
  std::uint64_t from_end = 0;
  float* votes = nullptr;
  std::size_t votes_stride = 0;
};

/// One layer of every sequence. All or nothing is not promised: on an error other outputs may have been written.
[[nodiscard]] Result<void> Attend(std::size_t layer, std::span<const AttendCall> requests);

}  // namespace kvant::client
