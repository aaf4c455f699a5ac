// wire::Restore: blocks of a client's into the stores of its session.
#pragma once

#include <cstddef>
#include <memory>

#include <kvant/kvant.capnp.h>

#include "daemon/serve/rpc_handler.h"
#include "daemon/serve/session.h"
#include "daemon/snapshot/restoration.h"

namespace kvant::daemon {

/// Loop thread. Calls are answered in order; one that comes while a put is copied waits for it.
class RestoreServer final : public wire::Restore::Server {
 public:
  explicit RestoreServer(std::shared_ptr<Session> session)
      : session_(std::move(session)), restoration_(std::make_shared<Restoration>(session_->services().core)) {}

  kj::Promise<void> offer(OfferContext context) override;
  kj::Promise<void> reserve(ReserveContext context) override;
  kj::Promise<void> put(PutContext context) override;
  kj::Promise<void> commit(CommitContext context) override;

 private:
  const std::shared_ptr<Session> session_;
  std::shared_ptr<Restoration> restoration_;  // null once committed; shared with jobs
  std::size_t putting_ = 0;                   // jobs that run
};

}  // namespace kvant::daemon
