#include <kvant/admin.h>

#include <memory>
#include <string>
#include <utility>

#include "client/connection.h"
#include "client/guard.h"
#include "client/session.h"
#include "protocol/wire.h"

namespace kvant {
namespace {

using client::Connection;
using client::Guard;
using client::MovedFrom;

std::string Str(capnp::Text::Reader text) { return {text.begin(), text.size()}; }

ByteFigures ReadFigures(wire::ByteFigures::Reader from) {
  return {.logical_f16_bytes = from.getLogicalF16Bytes(),
          .compressed_bytes = from.getCompressedBytes(),
          .resident_bytes = from.getResidentBytes()};
}

StoreRow ReadStoreRow(wire::StoreRow::Reader from) {
  return {.name = Str(from.getName()),
          .identity = Str(from.getIdentity()),
          .model = Str(from.getModel()),
          .keys = Str(from.getKeys()),
          .values = Str(from.getValues()),
          .key_stage = from.getKeyStage() == wire::KeyStage::BEFORE_ROPE ? KeyStage::kBeforeRope : KeyStage::kAfterRope,
          .layers = from.getLayers(),
          .kv_heads = from.getKvHeads(),
          .head_dim = from.getHeadDim(),
          .block_tokens = from.getBlockTokens(),
          .blocks = from.getBlocks(),
          .leased_blocks = from.getLeasedBlocks(),
          .sequences = from.getSequences(),
          .bytes = ReadFigures(from.getBytes()),
          .prefix_lookup_tokens = from.getPrefixLookupTokens(),
          .prefix_hit_tokens = from.getPrefixHitTokens(),
          .evicted_blocks = from.getEvictedBlocks(),
          .deduplicated_blocks = from.getDeduplicatedBlocks()};
}

SequenceRow ReadSequenceRow(wire::SequenceRow::Reader from) {
  return {.id = from.getSequence(),
          .store = Str(from.getStore()),
          .client = Str(from.getClient()),
          .label = Str(from.getLabel()),
          .length = from.getLength(),
          .sealed_tokens = from.getSealedTokens(),
          .prefix_hit_tokens = from.getPrefixHitTokens(),
          .marks = from.getMarks(),
          .read_only = from.getReadOnly()};
}

BlockRow ReadBlockRow(wire::BlockRow::Reader from) {
  return {.first_position = from.getFirstPosition(),
          .chain = Str(from.getChain()),
          .slab = from.getSlab(),
          .slot = from.getSlot(),
          .generation = from.getGeneration(),
          .leases = from.getLeases(),
          .checksum_ok = from.getChecksumOk()};
}

StatsReport ReadStats(wire::StatsReport::Reader from) {
  return {.daemon = client::ReadDaemonInfo(from.getDaemon()),
          .uptime = std::chrono::seconds(from.getUptimeSeconds()),
          .bytes = ReadFigures(from.getBytes()),
          .metadata_bytes = from.getMetadataBytes(),
          .stores = from.getStores(),
          .sequences = from.getSequences(),
          .sessions = from.getSessions(),
          .leases = from.getLeases(),
          .arenas = from.getArenas(),
          .arena_bytes = from.getArenaBytes(),
          .prefix_lookup_tokens = from.getPrefixLookupTokens(),
          .prefix_hit_tokens = from.getPrefixHitTokens(),
          .sealed_blocks = from.getSealedBlocks(),
          .deduplicated_blocks = from.getDeduplicatedBlocks(),
          .evicted_blocks = from.getEvictedBlocks(),
          .attend_calls = from.getAttendCalls(),
          .bytes_copied = from.getBytesCopied(),
          .store_full_errors = from.getStoreFullErrors(),
          .dropped_clients = from.getDroppedClients()};
}

}  // namespace

struct Admin::Impl {
  std::unique_ptr<Connection> connection;
  wire::Admin::Client admin;
  DaemonInfo daemon;
};

Admin::Admin(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Admin::Admin(Admin&&) noexcept = default;

Admin& Admin::operator=(Admin&& other) noexcept {
  std::swap(impl_, other.impl_);
  return *this;
}

Admin::~Admin() {
  if (!impl_) return;
  Connection& connection = *impl_->connection;
  client::Dispose(connection, std::shared_ptr<void>(std::move(impl_)));
}

Result<Admin> Admin::Connect(std::string_view uri, const ClientOptions& options) {
  return Guard("connect", [&]() -> Result<Admin> {
    auto connection = Connection::Connect(uri, options);
    if (!connection) return connection.error();
    auto daemon = (*connection)->Bootstrap();
    auto request = daemon.adminRequest();
    client::WriteHello((*connection)->client_name(), request.initHello());
    auto answer = (*connection)->Call(request, "connect");
    if (!answer) return answer.error();
    if (answer->isError()) return wire::ReadError(answer->getError());
    const auto welcome = answer->getOk();
    return Admin(std::unique_ptr<Impl>(
        new Impl{std::move(*connection), welcome.getAdmin(), client::ReadDaemonInfo(welcome.getDaemon())}));
  });
}

const DaemonInfo& Admin::daemon() const noexcept {
  static const DaemonInfo kNone;
  return impl_ ? impl_->daemon : kNone;
}

Result<std::chrono::nanoseconds> Admin::Ping() {
  return Guard("ping", [&]() -> Result<std::chrono::nanoseconds> {
    if (!impl_) return MovedFrom("ping");
    if (auto entered = impl_->connection->Enter("ping"); !entered) return entered.error();
    const auto begin = std::chrono::steady_clock::now();
    auto request = impl_->admin.pingRequest();
    if (auto answer = impl_->connection->Call(request, "ping"); !answer) return answer.error();
    return std::chrono::steady_clock::now() - begin;
  });
}

Result<StatsReport> Admin::Stats() {
  return Guard("stats", [&]() -> Result<StatsReport> {
    if (!impl_) return MovedFrom("stats");
    if (auto entered = impl_->connection->Enter("stats"); !entered) return entered.error();
    auto request = impl_->admin.statsRequest();
    auto answer = impl_->connection->Call(request, "stats");
    if (!answer) return answer.error();
    return ReadStats(answer->getStats());
  });
}

Result<std::vector<StoreRow>> Admin::Stores() {
  return Guard("stores", [&]() -> Result<std::vector<StoreRow>> {
    if (!impl_) return MovedFrom("stores");
    if (auto entered = impl_->connection->Enter("stores"); !entered) return entered.error();
    auto request = impl_->admin.storesRequest();
    auto answer = impl_->connection->Call(request, "stores");
    if (!answer) return answer.error();
    std::vector<StoreRow> rows;
    for (const auto row : answer->getStores()) rows.push_back(ReadStoreRow(row));
    return rows;
  });
}

Result<std::vector<SequenceRow>> Admin::Sequences() {
  return Guard("sequences", [&]() -> Result<std::vector<SequenceRow>> {
    if (!impl_) return MovedFrom("sequences");
    if (auto entered = impl_->connection->Enter("sequences"); !entered) return entered.error();
    auto request = impl_->admin.sequencesRequest();
    auto answer = impl_->connection->Call(request, "sequences");
    if (!answer) return answer.error();
    std::vector<SequenceRow> rows;
    for (const auto row : answer->getSequences()) rows.push_back(ReadSequenceRow(row));
    return rows;
  });
}

Result<SequenceDetail> Admin::Inspect(SequenceId id) {
  return Guard("inspect", [&]() -> Result<SequenceDetail> {
    if (!impl_) return MovedFrom("inspect");
    if (auto entered = impl_->connection->Enter("inspect"); !entered) return entered.error();
    auto request = impl_->admin.inspectRequest();
    request.setSequence(id);
    auto answer = impl_->connection->Call(request, "inspect");
    if (!answer) return answer.error();
    if (answer->isError()) return wire::ReadError(answer->getError());
    const auto from = answer->getOk();
    SequenceDetail detail;
    detail.row = ReadSequenceRow(from.getRow());
    for (const auto block : from.getBlocks()) detail.blocks.push_back(ReadBlockRow(block));
    detail.tail_first_position = from.getTailFirstPosition();
    detail.tail_capacity_tokens = from.getTailCapacityTokens();
    return detail;
  });
}

Result<EvictReport> Admin::Evict(const EvictRequest& what) {
  return Guard("evict", [&]() -> Result<EvictReport> {
    if (!impl_) return MovedFrom("evict");
    if (auto entered = impl_->connection->Enter("evict"); !entered) return entered.error();
    auto request = impl_->admin.evictRequest();
    request.setStore(capnp::Text::Reader(what.store.c_str(), what.store.size()));
    request.setMaxBlocks(what.max_blocks);
    request.setDryRun(what.dry_run);
    auto answer = impl_->connection->Call(request, "evict");
    if (!answer) return answer.error();
    if (answer->isError()) return wire::ReadError(answer->getError());
    return EvictReport{.blocks = answer->getOk().getBlocks(), .bytes = answer->getOk().getBytes()};
  });
}

}  // namespace kvant
