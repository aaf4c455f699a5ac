// What the public handles hold. A handle may be destroyed in any thread (Dispose); everything else is its session's
// thread's.
#pragma once

#include <memory>
#include <utility>

#include <kvant/client.h>

#include "client/sequence.h"
#include "client/session.h"
#include "client/store_state.h"

namespace kvant {

/// Shared because Store and Client handles are equal owners of what they name.
struct Client::Impl {
  std::shared_ptr<client::Session> session;
};

struct Store::Impl {
  std::shared_ptr<client::StoreState> state;
};

struct Sequence::Impl {
  std::shared_ptr<client::Sequence> state;
};

struct Tensor::Impl {
  std::shared_ptr<client::Session> session;  // outlives memory
  client::ArenaMemory memory;
  TensorView view;
};

}  // namespace kvant
