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
};

/// One layer of every sequence. All or nothing is not promised: on an error other outputs may have been written.
[[nodiscard]] Result<void> Attend(std::size_t layer, std::span<const AttendCall> requests);

}  // namespace kvant::client
