#include <kvant/admin.h>

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "client/admin_impl.h"
#include "client/saved_blocks.h"

namespace kvant {
namespace {

using client::Connection;
using client::Guard;
using client::MovedFrom;

std::string Str(capnp::Text::Reader text) { return {text.begin(), text.size()}; }

FigureUnit ReadUnit(wire::FigureUnit from) {
  switch (from) {
    case wire::FigureUnit::COUNT: return FigureUnit::kCount;
    case wire::FigureUnit::TOKENS: return FigureUnit::kTokens;
    case wire::FigureUnit::BYTES: return FigureUnit::kBytes;
    case wire::FigureUnit::SECONDS: return FigureUnit::kSeconds;
    case wire::FigureUnit::PARTS_PER_MILLION: return FigureUnit::kPartsPerMillion;
  }
  return FigureUnit::kCount;  // a newer daemon's: the number is right, if without its unit
}

using Infos = std::shared_ptr<const std::vector<FigureInfo>>;

Infos ReadInfos(capnp::List<wire::FigureInfo>::Reader from) {
  std::vector<FigureInfo> infos;
  for (const auto info : from) {
    infos.push_back({.name = Str(info.getName()),
                     .kind = info.getKind() == wire::FigureKind::COUNTER ? FigureKind::kCounter : FigureKind::kGauge,
                     .unit = ReadUnit(info.getUnit()),
                     .help = Str(info.getHelp())});
  }
  return std::make_shared<const std::vector<FigureInfo>>(std::move(infos));
}

Figures ReadFigures(Infos infos, capnp::List<std::uint64_t>::Reader from) {
  std::vector<std::uint64_t> values(infos->size());
  for (unsigned i = 0; i < values.size() && i < from.size(); ++i) values[i] = from[i];
  return {std::move(infos), std::move(values)};
}

std::vector<Histogram> ReadHistograms(capnp::List<wire::Histogram>::Reader from) {
  std::vector<Histogram> histograms;
  for (const auto each : from) {
    Histogram histogram{
        .name = Str(each.getName()), .help = Str(each.getHelp()), .bounds = {}, .counts = {}, .sum = each.getSum()};
    for (const double bound : each.getBounds()) histogram.bounds.push_back(bound);
    for (const std::uint64_t count : each.getCounts()) histogram.counts.push_back(count);
    histogram.counts.resize(histogram.bounds.size() + 1);
    histograms.push_back(std::move(histogram));
  }
  return histograms;
}

std::vector<KeyHead> ReadKeyHeads(capnp::List<wire::KeyHead>::Reader from) {
  std::vector<KeyHead> heads;
  for (const auto head : from) {
    heads.push_back({.layer = head.getLayer(),
                     .kv_head = head.getKvHead(),
                     .mean_share = head.getMeanShare(),
                     .effective_error = head.getEffectiveError(),
                     .unfit = head.getUnfit()});
  }
  return heads;
}

StoreRow ReadStoreRow(wire::StoreRow::Reader from, const Infos& infos) {
  return {.name = Str(from.getName()),
          .tenant = Str(from.getTenant()),
          .identity = Str(from.getIdentity()),
          .model = Str(from.getModel()),
          .keys = Str(from.getKeys()),
          .values = Str(from.getValues()),
          .key_stage = from.getKeyStage() == wire::KeyStage::BEFORE_ROPE ? KeyStage::kBeforeRope : KeyStage::kAfterRope,
          .layers = from.getLayers(),
          .kv_heads = from.getKvHeads(),
          .head_dim = from.getHeadDim(),
          .block_tokens = from.getBlockTokens(),
          .figures = ReadFigures(infos, from.getFigures()),
          .key_heads = ReadKeyHeads(from.getKeyHeads()),
          .warning = Str(from.getWarning())};
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
          .policy = Str(from.getPolicy()),
          .kept_tokens = from.getKeptTokens(),
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

StoredCodec ReadStoredCodec(wire::StoredCodec::Reader from) {
  CodecForm form{.family = Str(from.getFamily()),
                 .order = Str(from.getOrder()),
                 .bits = from.getBits(),
                 .magnitudes = {},
                 .first_level = from.getFirstLevel(),
                 .level_unit = from.getLevelUnit(),
                 .scale_format = Str(from.getScaleFormat()),
                 .scale_offset = from.getScaleOffset(),
                 .rotated = from.getRotated(),
                 .centered = from.getCentered(),
                 .part_bytes = {}};
  for (const int magnitude : from.getMagnitudes()) form.magnitudes.push_back(magnitude);
  for (const std::uint64_t bytes : from.getPartBytes()) form.part_bytes.push_back(bytes);
  return {.side = Str(from.getSide()), .spec = Str(from.getSpec()), .heads = from.getHeads(), .form = std::move(form)};
}

}  // namespace

Figures::Figures(std::shared_ptr<const std::vector<FigureInfo>> infos, std::vector<std::uint64_t> values)
    : infos_(std::move(infos)), values_(std::move(values)) {}

std::optional<std::uint64_t> Figures::Find(std::string_view name) const noexcept {
  for (std::size_t i = 0; i < values_.size(); ++i) {
    if ((*infos_)[i].name == name) return values_[i];
  }
  return std::nullopt;
}

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
    auto connection = Connection::Connect({.uri = std::string(uri), .options = options, .daemon = nullptr});
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
    const auto stats = answer->getStats();
    return StatsReport{.daemon = client::ReadDaemonInfo(stats.getDaemon()),
                       .figures = ReadFigures(ReadInfos(stats.getFigures()), stats.getValues()),
                       .histograms = ReadHistograms(stats.getHistograms())};
  });
}

Result<std::vector<StoreRow>> Admin::Stores() {
  return Guard("stores", [&]() -> Result<std::vector<StoreRow>> {
    if (!impl_) return MovedFrom("stores");
    if (auto entered = impl_->connection->Enter("stores"); !entered) return entered.error();
    std::vector<StoreRow> rows;
    std::vector<kj::byte> cursor;
    do {
      auto request = impl_->admin.storesRequest();
      request.setCursor({cursor.data(), cursor.size()});
      auto answer = impl_->connection->Call(request, "stores");
      if (!answer) return answer.error();
      const auto page = answer->getPage();
      const Infos infos = ReadInfos(page.getFigures());
      for (const auto row : page.getRows()) rows.push_back(ReadStoreRow(row, infos));
      cursor.assign(page.getNext().begin(), page.getNext().end());
    } while (!cursor.empty());
    return rows;
  });
}

Result<std::vector<SequenceRow>> Admin::Sequences() {
  return Guard("sequences", [&]() -> Result<std::vector<SequenceRow>> {
    if (!impl_) return MovedFrom("sequences");
    if (auto entered = impl_->connection->Enter("sequences"); !entered) return entered.error();
    std::vector<SequenceRow> rows;
    std::uint64_t from = 0;
    do {
      auto request = impl_->admin.sequencesRequest();
      request.setFrom(from);
      auto answer = impl_->connection->Call(request, "sequences");
      if (!answer) return answer.error();
      const auto page = answer->getPage();
      for (const auto row : page.getRows()) rows.push_back(ReadSequenceRow(row));
      from = page.getNext();
    } while (from != 0);
    return rows;
  });
}

Result<SequenceDetail> Admin::Inspect(SequenceId id) {
  return Guard("inspect", [&]() -> Result<SequenceDetail> {
    if (!impl_) return MovedFrom("inspect");
    if (auto entered = impl_->connection->Enter("inspect"); !entered) return entered.error();
    SequenceDetail detail;
    for (std::uint64_t blocks = 0;;) {
      auto request = impl_->admin.inspectRequest();
      request.setSequence(id);
      request.setFirstBlock(blocks);
      auto answer = impl_->connection->Call(request, "inspect");
      if (!answer) return answer.error();
      if (answer->isError()) return wire::ReadError(answer->getError());
      const auto from = answer->getOk();
      detail.row = ReadSequenceRow(from.getRow());
      for (const auto block : from.getBlocks()) detail.blocks.push_back(ReadBlockRow(block));
      detail.tail_first_position = from.getTailFirstPosition();
      detail.tail_capacity_tokens = from.getTailCapacityTokens();
      blocks = detail.blocks.size();
      if (from.getBlocks().size() == 0 || blocks >= from.getSealedBlocks()) return detail;
    }
  });
}

Result<std::vector<StoredCodec>> Admin::Codecs(const std::string& store) {
  return Guard("codecs", [&]() -> Result<std::vector<StoredCodec>> {
    if (!impl_) return MovedFrom("codecs");
    if (auto entered = impl_->connection->Enter("codecs"); !entered) return entered.error();
    auto request = impl_->admin.codecsRequest();
    request.setStore(capnp::Text::Reader(store.c_str(), store.size()));
    auto answer = impl_->connection->Call(request, "codecs");
    if (!answer) return answer.error();
    if (answer->isError()) return wire::ReadError(answer->getError());
    std::vector<StoredCodec> codecs;
    for (const auto codec : answer->getOk()) codecs.push_back(ReadStoredCodec(codec));
    return codecs;
  });
}

Result<DemoteReport> Admin::Demote(const DemoteRequest& what) {
  return Guard("demote", [&]() -> Result<DemoteReport> {
    if (!impl_) return MovedFrom("demote");
    if (auto entered = impl_->connection->Enter("demote"); !entered) return entered.error();
    auto request = impl_->admin.demoteRequest();
    request.setStore(capnp::Text::Reader(what.store.c_str(), what.store.size()));
    request.setTenant(capnp::Text::Reader(what.tenant.c_str(), what.tenant.size()));
    request.setPlanes(what.planes);
    request.setMaxBlocks(what.max_blocks);
    request.setDryRun(what.dry_run);
    auto answer = impl_->connection->Call(request, "demote");
    if (!answer) return answer.error();
    if (answer->isError()) return wire::ReadError(answer->getError());
    const auto ok = answer->getOk();
    return DemoteReport{.blocks = ok.getBlocks(), .bytes = ok.getBytes(), .corrupt = ok.getCorrupt()};
  });
}

Result<EvictReport> Admin::Drop(const std::string& store, const std::string& tenant) {
  return Guard("drop", [&]() -> Result<EvictReport> {
    if (!impl_) return MovedFrom("drop");
    if (auto entered = impl_->connection->Enter("drop"); !entered) return entered.error();
    auto request = impl_->admin.dropRequest();
    request.setStore(capnp::Text::Reader(store.c_str(), store.size()));
    request.setTenant(capnp::Text::Reader(tenant.c_str(), tenant.size()));
    auto answer = impl_->connection->Call(request, "drop");
    if (!answer) return answer.error();
    return ReadEvicted(*answer);
  });
}

Result<SaveReport> Admin::SaveSnapshot(const std::string& path, const SnapshotSelection& selection,
                                       const SnapshotProgress& progress) {
  return Guard("save snapshot", [&]() -> Result<SaveReport> {
    if (!impl_) return MovedFrom("save snapshot");
    Connection& connection = *impl_->connection;
    if (auto entered = connection.Enter("save snapshot"); !entered) return entered.error();
    std::vector<std::pair<std::string, SequenceId>> wanted;
    for (const std::string& store : selection.stores) wanted.emplace_back(store, 0);
    for (const SequenceId sequence : selection.sequences) wanted.emplace_back("", sequence);
    if (wanted.empty()) {
      auto stores = Stores();
      if (!stores) return stores.error();
      for (const StoreRow& store : *stores) wanted.emplace_back(store.identity, 0);
    }
    std::vector<client::SavedBlocks> blocks;
    for (const auto& [store, sequence] : wanted) {
      auto request = impl_->admin.snapshotRequest();
      request.setStore(capnp::Text::Reader(store.c_str(), store.size()));
      request.setSequence(sequence);
      auto answer = connection.Call(request, "save snapshot");
      if (!answer) return answer.error();
      if (answer->isError()) return wire::ReadError(answer->getError());
      auto mapped = client::SavedBlocks::Map(connection, answer->getOk(), impl_->daemon.boot_token);
      if (!mapped) return mapped.error();
      blocks.push_back(*std::move(mapped));
    }
    return client::WriteSaved(connection, blocks, path, progress);
  });
}

Result<void> Admin::Drain() {
  return Guard("drain", [&]() -> Result<void> {
    if (!impl_) return MovedFrom("drain");
    if (auto entered = impl_->connection->Enter("drain"); !entered) return entered.error();
    auto request = impl_->admin.drainRequest();
    if (auto answer = impl_->connection->Call(request, "drain"); !answer) return answer.error();
    return {};
  });
}

}  // namespace kvant
