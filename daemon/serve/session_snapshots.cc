// The calls of wire::Session that copy blocks out of a store and into one.
#include <utility>

#include "daemon/serve/refusals.h"
#include "daemon/serve/restore_server.h"
#include "daemon/serve/session_server.h"
#include "daemon/serve/snapshot_server.h"
#include "protocol/wire.h"

namespace kvant::daemon {

kj::Promise<void> SessionServer::snapshot(SnapshotContext context) {
  return RunHandler([&]() -> kj::Promise<void> {
    auto store = session_->FindStore(context.getParams().getStore());
    auto blocks = store ? LeaseForSnapshot(session_->services(), *store, context.getParams().getSequence())
                        : Result<std::unique_ptr<const LeasedBlocks>>(store.error());
    if (blocks) {
      session_->services().core.events.Tell("snapshot_begun",
                                            {{"store", (*store)->name()}, {"sequence", context.getParams().getSequence()}});
    }
    if (!blocks) {
      WriteRefusal(*session_, blocks.error(), context.getResults().initError());
    } else {
      context.getResults().setOk(kj::heap<SnapshotServer>(*std::move(blocks), session_->messages()));
    }
    return kj::READY_NOW;
  });
}

kj::Promise<void> SessionServer::restore(RestoreContext context) {
  return RunHandler([&]() -> kj::Promise<void> {
    if (session_->services().draining) {
      WriteRefusal(*session_, EndingError("restore"), context.getResults().initError());
    } else {
      context.getResults().setOk(kj::heap<RestoreServer>(session_));
    }
    return kj::READY_NOW;
  });
}

}  // namespace kvant::daemon
