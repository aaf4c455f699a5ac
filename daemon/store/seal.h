// A sequence's blocks on their way from raw rows to codes. Private to the two files of Sequence.
#pragma once

#include <cstdint>
#include <memory>

#include "daemon/store/seal_job.h"
#include "daemon/store/sequence.h"
#include "kernels/raw/rows.h"

namespace kvant::daemon {

struct Sequence::Seal {
  enum class State : std::uint8_t {
    kNoRoom,  // could not begin, or the system had no memory: tried again with the next advance
    kEncoding,
    kEncoded,  // waits for the blocks before it
    kRefused,  // its rows are not finite: stays raw
  };
  std::uint64_t block = 0;  // index in the sequence
  protocol::Digest chain{};
  protocol::Digest parent{};
  State state = State::kNoRoom;
  Error error;                   // in kNoRoom and kRefused
  std::shared_ptr<SealJob> job;  // shared with the worker and the callback that ends it
};

}  // namespace kvant::daemon
