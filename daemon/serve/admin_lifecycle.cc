// The calls of wire::Admin on what outlives a daemon: snapshots, and its end.
#include <memory>
#include <string>
#include <utility>

#include "daemon/serve/admin_server.h"
#include "daemon/serve/refusals.h"
#include "daemon/serve/rpc_handler.h"
#include "daemon/serve/snapshot_server.h"
#include "protocol/wire.h"

namespace kvant::daemon {
namespace {

Result<std::unique_ptr<const LeasedBlocks>> Lease(Services& services, const std::string& store, std::uint64_t sequence) {
  if (!store.empty()) {
    auto found = services.stores.Find(store);
    if (!found) return found.error();
    return LeaseForSnapshot(services, (*found)->shared_from_this(), sequence);
  }
  if (sequence == 0) return Error{ErrorCode::kInvalidArgument, "snapshot: neither a store nor a sequence is named"};
  auto found = services.core.sequences.Find(sequence);
  if (!found) return found.error();
  return LeaseForSnapshot(services, (*found)->store().shared_from_this(), sequence);
}

}  // namespace

kj::Promise<void> AdminServer::snapshot(SnapshotContext context) {
  return RunHandler([&]() -> kj::Promise<void> {
    const auto params = context.getParams();
    auto blocks = Lease(services_, StringOf(params.getStore(), wire::MAX_IDENTITY_TEXT), params.getSequence());
    if (blocks) {
      services_.core.events.Tell("snapshot_begun", {{"store", (*blocks)->store().name()}, {"sequence", params.getSequence()}});
    }
    if (!blocks) {
      WriteRefusal(services_, blocks.error(), context.getResults().initError());
    } else {
      context.getResults().setOk(kj::heap<SnapshotServer>(*std::move(blocks), nullptr));
    }
    return kj::READY_NOW;
  });
}

kj::Promise<void> AdminServer::drain(DrainContext) {
  return RunHandler([&]() -> kj::Promise<void> {
    if (services_.drain) services_.drain();
    return kj::READY_NOW;
  });
}

kj::Promise<void> AdminServer::upgrade(UpgradeContext context) {
  return RunHandler([&]() -> kj::Promise<void> {
    Result<void> outcome;
    if (services_.draining) {
      outcome = EndingError("upgrade");
    } else if (services_.upgrade) {
      services_.upgrade();
    } else {
      outcome = Error{ErrorCode::kUnsupported,
                      "upgrade: nothing holds this daemon's memory while another takes over (kvantd --holder)"};
    }
    WriteOutcome(services_, outcome, context.getResults());
    return kj::READY_NOW;
  });
}

}  // namespace kvant::daemon
