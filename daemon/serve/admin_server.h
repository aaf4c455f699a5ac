// wire::Admin: figures for operators, eviction, dropping stores.
#pragma once

#include <kvant/kvant.capnp.h>

#include "daemon/serve/session.h"

namespace kvant::daemon {

/// What a daemon says of itself at hello.
struct DaemonFacts {
  std::uint64_t boot_token = 0;
  std::uint64_t budget_bytes = 0;
  std::uint32_t lease_ms = 0;
};

void WriteDaemonInfo(const DaemonFacts& facts, wire::DaemonInfo::Builder to);
void WriteEvicted(Services& services, const Result<EvictFigures>& evicted, wire::Outcome<wire::EvictReport>::Builder to);

/// Given to peers that may administer only (connection.cc). Loop thread; `services` outlives it.
class AdminServer final : public wire::Admin::Server {
 public:
  AdminServer(Services& services, const DaemonFacts& facts) : services_(services), facts_(facts) {}

  kj::Promise<void> ping(PingContext context) override;
  kj::Promise<void> stats(StatsContext context) override;
  kj::Promise<void> stores(StoresContext context) override;
  kj::Promise<void> sequences(SequencesContext context) override;
  kj::Promise<void> inspect(InspectContext context) override;
  kj::Promise<void> demote(DemoteContext context) override;
  kj::Promise<void> drop(DropContext context) override;
  kj::Promise<void> codecs(CodecsContext context) override;
  // admin_retention.cc
  kj::Promise<void> evictBlocks(EvictBlocksContext context) override;
  kj::Promise<void> pin(PinContext context) override;
  kj::Promise<void> unpin(UnpinContext context) override;
  kj::Promise<void> pins(PinsContext context) override;
  kj::Promise<void> setQuota(SetQuotaContext context) override;
  kj::Promise<void> quotas(QuotasContext context) override;
  kj::Promise<void> snapshot(SnapshotContext context) override;
  kj::Promise<void> drain(DrainContext context) override;
  kj::Promise<void> upgrade(UpgradeContext context) override;
  // admin_watching.cc
  kj::Promise<void> clients(ClientsContext context) override;
  kj::Promise<void> watch(WatchContext context) override;

 private:
  Services& services_;
  const DaemonFacts facts_;
};

}  // namespace kvant::daemon
