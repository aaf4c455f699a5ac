// The daemon's view of a sequence's raw rows, which lie in a client's arena.
#pragma once

#include <memory>

#include "quantizers/sequence/ring.h"

namespace kvant::daemon {

/// A checked place in a mapped arena. The client writes there at any time: every element is read once, and what is read is not
/// trusted.
struct TailView : quantizers::Tail {
  std::shared_ptr<const void> mapping;  ///< keeps the memory mapped: encoding jobs outlive the session that made them
};

}  // namespace kvant::daemon
