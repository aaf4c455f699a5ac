#include "daemon/serve/admin_server.h"

#include <chrono>
#include <cstddef>
#include <vector>

#include <unistd.h>

#include "daemon/serve/rpc_handler.h"
#include "protocol/segment_layout.h"
#include "protocol/wire.h"

namespace kvant::daemon {
namespace {

void WriteBytes(const ByteFigures& from, wire::ByteFigures::Builder to) {
  to.setLogicalF16Bytes(from.logical_f16_bytes);
  to.setCompressedBytes(from.compressed_bytes);
  to.setResidentBytes(from.resident_bytes);
}

void WriteSequence(const SequenceFigures& from, wire::SequenceRow::Builder to) {
  to.setSequence(from.id);
  to.setStore(TextOf(from.store));
  to.setClient(TextOf(from.client));
  to.setLabel(TextOf(from.label));
  to.setLength(from.length);
  to.setSealedTokens(from.sealed_tokens);
  to.setPrefixHitTokens(from.prefix_hit_tokens);
  to.setMarks(from.marks);
  to.setReadOnly(from.read_only);
}

void WriteStore(const Store& store, wire::StoreRow::Builder to) {
  const StoreFigures figures = store.Figures();
  const StoreSpec& spec = store.spec();
  to.setName(TextOf(figures.name));
  to.setIdentity(TextOf(figures.identity));
  to.setModel(TextOf(spec.model));
  to.setKeys(TextOf(spec.plan.keys));
  to.setValues(TextOf(spec.plan.values));
  to.setLayers(spec.layers);
  to.setKvHeads(spec.kv_heads);
  to.setHeadDim(spec.head_dim);
  to.setBlockTokens(spec.block_tokens);
  to.setBlocks(figures.blocks);
  to.setLeasedBlocks(figures.leased_blocks);
  to.setSequences(figures.sequences);
  WriteBytes(figures.bytes, to.initBytes());
  to.setPrefixLookupTokens(figures.counters.prefix_lookup_tokens);
  to.setPrefixHitTokens(figures.counters.prefix_hit_tokens);
  to.setEvictedBlocks(figures.counters.evicted_blocks);
  to.setDeduplicatedBlocks(figures.counters.deduplicated_blocks);
  to.setKeyStage(wire::WriteKeyStage(spec.key_stage));
}

void WriteDetail(const SequenceDetail& from, wire::SequenceDetail::Builder to) {
  WriteSequence(from.figures, to.initRow());
  auto blocks = to.initBlocks(static_cast<unsigned>(from.blocks.size()));
  for (unsigned i = 0; i < blocks.size(); ++i) {
    const BlockFigures& block = from.blocks[i];
    blocks[i].setFirstPosition(block.first_position);
    blocks[i].setChain(TextOf(block.chain));
    blocks[i].setSlab(block.slab);
    blocks[i].setSlot(block.slot);
    blocks[i].setGeneration(block.generation);
    blocks[i].setLeases(block.leases);
    blocks[i].setChecksumOk(block.checksum_ok);
  }
  to.setTailFirstPosition(from.tail_first_position);
  to.setTailCapacityTokens(from.tail_capacity_tokens);
}

}  // namespace

void WriteDaemonInfo(const DaemonFacts& facts, wire::DaemonInfo::Builder to) {
  to.setVersion(KVANT_VERSION);
  to.setBootToken(facts.boot_token);
  to.setPid(static_cast<std::uint64_t>(::getpid()));
  to.setBudgetBytes(facts.budget_bytes);
  to.setProtocolVersion(wire::kProtocolVersion);
  to.setSegmentLayoutVersion(protocol::kSegmentLayoutVersion);
  to.setLeaseMs(facts.lease_ms);
}

kj::Promise<void> AdminServer::ping(PingContext) { return kj::READY_NOW; }

kj::Promise<void> AdminServer::stats(StatsContext context) {
  return RunHandler([&]() -> kj::Promise<void> {
    auto to = context.getResults().initStats();
    const StoreFigures totals = services_.stores.Totals();
    const auto uptime = std::chrono::steady_clock::now() - services_.started;
    WriteDaemonInfo(facts_, to.initDaemon());
    to.setUptimeSeconds(static_cast<std::uint64_t>(std::chrono::duration_cast<std::chrono::seconds>(uptime).count()));
    WriteBytes(totals.bytes, to.initBytes());
    to.setMetadataBytes(services_.core.budget.metadata_bytes());
    to.setStores(services_.stores.stores().size());
    to.setSequences(services_.core.sequences.size());
    to.setSessions(services_.sessions.size());
    to.setLeases(totals.leases);
    std::uint64_t arenas = 0;
    std::uint64_t arena_bytes = 0;
    for (const Session* session : services_.sessions) {
      arenas += session->arenas();
      arena_bytes += session->arena_bytes();
    }
    to.setArenas(arenas);
    to.setArenaBytes(arena_bytes);
    to.setPrefixLookupTokens(totals.counters.prefix_lookup_tokens);
    to.setPrefixHitTokens(totals.counters.prefix_hit_tokens);
    to.setSealedBlocks(totals.counters.sealed_blocks);
    to.setDeduplicatedBlocks(totals.counters.deduplicated_blocks);
    to.setEvictedBlocks(totals.counters.evicted_blocks);
    to.setAttendCalls(services_.counters.attend_calls);
    to.setBytesCopied(totals.counters.bytes_copied);
    to.setStoreFullErrors(totals.counters.store_full_errors);
    to.setDroppedClients(services_.counters.dropped_clients);
    return kj::READY_NOW;
  });
}

kj::Promise<void> AdminServer::stores(StoresContext context) {
  return RunHandler([&]() -> kj::Promise<void> {
    const std::vector<Store*> stores = services_.stores.stores();
    auto list = context.getResults().initStores(static_cast<unsigned>(stores.size()));
    for (unsigned i = 0; i < list.size(); ++i) WriteStore(*stores[i], list[i]);
    return kj::READY_NOW;
  });
}

kj::Promise<void> AdminServer::sequences(SequencesContext context) {
  return RunHandler([&]() -> kj::Promise<void> {
    std::vector<SequenceFigures> rows;
    services_.core.sequences.ForEach([&rows](std::uint64_t, const Sequence* sequence, const Reader* reader) {
      rows.push_back(sequence != nullptr ? sequence->Figures() : reader->Figures());
    });
    auto list = context.getResults().initSequences(static_cast<unsigned>(rows.size()));
    for (unsigned i = 0; i < list.size(); ++i) WriteSequence(rows[i], list[i]);
    return kj::READY_NOW;
  });
}

kj::Promise<void> AdminServer::inspect(InspectContext context) {
  return RunHandler([&]() -> kj::Promise<void> {
    auto sequence = services_.core.sequences.Find(context.getParams().getSequence());
    if (!sequence) {
      wire::WriteError(sequence.error(), context.getResults().initError());
    } else {
      WriteDetail((*sequence)->Inspect(), context.getResults().initOk());
    }
    return kj::READY_NOW;
  });
}

kj::Promise<void> AdminServer::evict(EvictContext context) {
  return RunHandler([&]() -> kj::Promise<void> {
    const auto params = context.getParams();
    auto evicted = services_.stores.Evict(StringOf(params.getStore()), params.getMaxBlocks(), params.getDryRun());
    if (!evicted) {
      wire::WriteError(evicted.error(), context.getResults().initError());
      return kj::READY_NOW;
    }
    auto ok = context.getResults().initOk();
    ok.setBlocks(evicted->blocks);
    ok.setBytes(evicted->bytes);
    return kj::READY_NOW;
  });
}

}  // namespace kvant::daemon
