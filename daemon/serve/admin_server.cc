#include "daemon/serve/admin_server.h"

#include <array>
#include <chrono>
#include <cstddef>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <unistd.h>

#include "daemon/serve/refusals.h"
#include "daemon/serve/rpc_handler.h"
#include "protocol/digest.h"
#include "protocol/segment_layout.h"
#include "protocol/wire.h"

namespace kvant::daemon {
namespace {

/// A page ends with the row that reaches this. A single row is bounded by what its client could send to open it.
constexpr std::size_t kPageBytes = std::size_t{256} << 10;
/// What inspect reads of sealed blocks in one call, a few milliseconds' worth.
constexpr std::uint64_t kInspectBytes = std::uint64_t{32} << 20;
/// KV heads that a store's row lists.
constexpr std::size_t kMostKeyHeads = 8;
/// Numbers and pointers of a row, without its texts.
constexpr std::size_t kRowBytes = 160;
constexpr std::size_t kStoreRowBytes = 1024;

wire::FigureUnit UnitOf(FigureUnit unit) {
  switch (unit) {
    case FigureUnit::kCount: return wire::FigureUnit::COUNT;
    case FigureUnit::kTokens: return wire::FigureUnit::TOKENS;
    case FigureUnit::kBytes: return wire::FigureUnit::BYTES;
    case FigureUnit::kSeconds: return wire::FigureUnit::SECONDS;
    case FigureUnit::kPartsPerMillion: return wire::FigureUnit::PARTS_PER_MILLION;
  }
  return wire::FigureUnit::COUNT;
}

/// Figures of several groups in a row, as a message wants them.
class FigureRow {
 public:
  template <typename Group, std::size_t n>
  void Add(const Group& group, const std::array<Figure<Group>, n>& figures) {
    for (const Figure<Group>& figure : figures) Add(std::string(figure.info.name), figure.info, group.*figure.value);
  }
  template <typename Group, std::size_t n>
  void Add(const Group& group, const FigureFamily& family, const std::array<Figure<Group>, n>& figures) {
    for (const Figure<Group>& figure : figures) {
      Add(std::string(family.name) + "_" + std::string(figure.info.name), figure.info, group.*figure.value);
    }
  }
  void Add(const StoreFigures& store) {
    Add<StoreGauges>(store, kStoreGauges);
    Add(store.counters, kCounters);
  }

  void WriteInfos(capnp::List<wire::FigureInfo>::Builder to) const {
    for (unsigned i = 0; i < to.size(); ++i) {
      const FigureInfo& info = *rows_[i].info;
      to[i].setName(TextOf(rows_[i].name));
      to[i].setKind(info.kind == FigureKind::kCounter ? wire::FigureKind::COUNTER : wire::FigureKind::GAUGE);
      to[i].setUnit(UnitOf(info.unit));
      to[i].setHelp({info.help.data(), info.help.size()});  // a literal: it ends with a 0
    }
  }
  void WriteValues(capnp::List<std::uint64_t>::Builder to) const {
    for (unsigned i = 0; i < to.size(); ++i) to.set(i, rows_[i].value);
  }
  [[nodiscard]] unsigned size() const { return static_cast<unsigned>(rows_.size()); }

 private:
  struct Row {
    std::string name;
    const FigureInfo* info;
    std::uint64_t value;
  };
  void Add(std::string name, const FigureInfo& info, std::uint64_t value) { rows_.push_back({std::move(name), &info, value}); }
  std::vector<Row> rows_;
};

void WriteHistogram(const TimeHistogram& from, std::string_view name, std::string_view help, wire::Histogram::Builder to) {
  to.setName({name.data(), name.size()});  // literals
  to.setHelp({help.data(), help.size()});
  auto bounds = to.initBounds(static_cast<unsigned>(TimeHistogram::kBounds.size()));
  for (unsigned i = 0; i < bounds.size(); ++i) bounds.set(i, static_cast<double>(TimeHistogram::kBounds[i]));
  auto counts = to.initCounts(static_cast<unsigned>(from.counts.size()));
  for (unsigned i = 0; i < counts.size(); ++i) counts.set(i, from.counts[i]);
  to.setSum(static_cast<double>(from.sum_ms) / 1000.0);
}

std::size_t RowBytes(const StoreSpec& spec) {
  return kStoreRowBytes + spec.name.size() + spec.model.size() + spec.plan.keys.size() + spec.plan.values.size();
}

std::size_t RowBytes(const SequenceFigures& row) {
  return kRowBytes + row.store.size() + row.client.size() + row.label.size() + row.policy.size();
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
  to.setPolicy(TextOf(from.policy));
  to.setKeptTokens(from.kept_tokens);
}

/// Where a row stands in the order of StoreTable::stores.
std::string CursorOf(const Store& store) { return store.name() + '\0' + store.tenant()->name; }

void WriteStore(const Store& store, wire::StoreRow::Builder to) {
  const StoreSpec& spec = store.spec();
  to.setName(TextOf(store.name()));
  to.setIdentity(TextOf(protocol::DigestHex(store.identity())));
  to.setModel(TextOf(spec.model));
  to.setKeys(TextOf(spec.plan.keys));
  to.setValues(TextOf(spec.plan.values));
  to.setLayers(spec.layers);
  to.setKvHeads(spec.kv_heads);
  to.setHeadDim(spec.head_dim);
  to.setBlockTokens(spec.block_tokens);
  FigureRow figures;
  figures.Add(store.Figures());
  figures.WriteValues(to.initFigures(figures.size()));
  const std::vector<KeyHead> heads = store.key_means().Worst(kMostKeyHeads);
  auto list = to.initKeyHeads(static_cast<unsigned>(heads.size()));
  for (unsigned i = 0; i < list.size(); ++i) {
    list[i].setLayer(heads[i].layer);
    list[i].setKvHead(heads[i].kv_head);
    list[i].setMeanShare(static_cast<float>(heads[i].mean_share));
    list[i].setEffectiveError(static_cast<float>(heads[i].effective_error));
    list[i].setUnfit(heads[i].unfit);
  }
  to.setWarning(TextOf(store.key_means().Warning()));
  to.setKeyStage(wire::WriteKeyStage(spec.key_stage));
  to.setTenant(TextOf(store.tenant()->name));
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
  to.setSealedBlocks(from.sealed_blocks);
  to.setTailFirstPosition(from.tail_first_position);
  to.setTailCapacityTokens(from.tail_capacity_tokens);
}

void WriteCodec(const quantizers::UsedCodec& from, wire::StoredCodec::Builder to) {
  const quantizers::CodeForm form = from.codec->form();
  to.setSide(from.side == quantizers::Side::kKeys ? "keys" : "values");
  to.setSpec(TextOf(from.spec));
  to.setHeads(from.heads);
  to.setFamily(TextOf(std::string(CodeFamilyName(form.family))));
  to.setOrder(TextOf(std::string(CodeOrderName(form.order))));
  to.setBits(form.bits);
  if (form.magnitudes != nullptr) {
    auto magnitudes = to.initMagnitudes(1U << (form.bits - 1U));
    for (unsigned i = 0; i < magnitudes.size(); ++i) magnitudes.set(i, form.magnitudes[i]);
  }
  to.setFirstLevel(form.first_level);
  to.setLevelUnit(form.level_unit);
  to.setScaleFormat(TextOf(std::string(ScaleFormatName(form.scale_format))));
  to.setScaleOffset(form.scale_offset);
  to.setRotated(form.rotated);
  to.setCentered(form.centered);
  auto parts = to.initPartBytes(static_cast<unsigned>(from.codec->parts()));
  for (unsigned p = 0; p < parts.size(); ++p) parts.set(p, from.codec->part_bytes(p));
}

}  // namespace

void WriteEvicted(Services& services, const Result<EvictFigures>& evicted, wire::Outcome<wire::EvictReport>::Builder to) {
  if (!evicted) return WriteRefusal(services, evicted.error(), to.initError());
  auto ok = to.initOk();
  ok.setBlocks(evicted->blocks);
  ok.setBytes(evicted->bytes);
  ok.setHeld(evicted->held);
}

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
    WriteDaemonInfo(facts_, to.initDaemon());
    const ServiceFigures now = FiguresOf(services_);
    FigureRow figures;
    figures.Add(now.gauges, kServiceGauges);
    figures.Add(now.stores);
    figures.Add(now.counters, kServiceCounters);
    figures.Add(now.refusals, kRefusalFamily, kRefusals);
    figures.Add(now.room_refusals, kRoomRefusalFamily, kRoomRefusals);
    figures.Add(now.lookup_ends, kLookupEndFamily, kLookupEnds);
    figures.WriteInfos(to.initFigures(figures.size()));
    figures.WriteValues(to.initValues(figures.size()));
    auto histograms = to.initHistograms(static_cast<unsigned>(kBlockTimes.size()));
    for (unsigned i = 0; i < histograms.size(); ++i) {
      const auto& row = kBlockTimes[i];
      WriteHistogram(now.times.*row.value, row.name, row.help, histograms[i]);
    }
    return kj::READY_NOW;
  });
}

kj::Promise<void> AdminServer::stores(StoresContext context) {
  return RunHandler([&]() -> kj::Promise<void> {
    const auto cursor = context.getParams().getCursor();
    const std::string_view after(reinterpret_cast<const char*>(cursor.begin()), cursor.size());
    std::vector<const Store*> rows;
    std::size_t bytes = 0;
    bool more = false;
    for (const Store* store : services_.stores.stores()) {  // by name, then by tenant
      if (!after.empty() && CursorOf(*store) <= after) continue;
      if (bytes >= kPageBytes) {
        more = true;
        break;
      }
      rows.push_back(store);
      bytes += RowBytes(store->spec());
    }
    auto page = context.getResults().initPage();
    FigureRow figures;
    figures.Add(StoreFigures{});
    figures.WriteInfos(page.initFigures(figures.size()));
    auto list = page.initRows(static_cast<unsigned>(rows.size()));
    for (unsigned i = 0; i < list.size(); ++i) WriteStore(*rows[i], list[i]);
    if (more) {
      const std::string last = CursorOf(*rows.back());
      page.setNext({reinterpret_cast<const kj::byte*>(last.data()), last.size()});
    }
    return kj::READY_NOW;
  });
}

kj::Promise<void> AdminServer::sequences(SequencesContext context) {
  return RunHandler([&]() -> kj::Promise<void> {
    std::vector<SequenceFigures> rows;
    std::size_t bytes = 0;
    std::uint64_t next = 0;
    services_.core.sequences.ForEach(context.getParams().getFrom(),
                                     [&](std::uint64_t id, const Sequence* sequence, const Reader* reader) {
                                       if (bytes >= kPageBytes) {
                                         next = id;
                                         return false;
                                       }
                                       rows.push_back(sequence != nullptr ? sequence->Figures() : reader->Figures());
                                       bytes += RowBytes(rows.back());
                                       return true;
                                     });
    auto page = context.getResults().initPage();
    auto list = page.initRows(static_cast<unsigned>(rows.size()));
    for (unsigned i = 0; i < list.size(); ++i) WriteSequence(rows[i], list[i]);
    page.setNext(next);
    return kj::READY_NOW;
  });
}

kj::Promise<void> AdminServer::inspect(InspectContext context) {
  return RunHandler([&]() -> kj::Promise<void> {
    const auto params = context.getParams();
    auto sequence = services_.core.sequences.Find(params.getSequence());
    if (!sequence) {
      WriteRefusal(services_, sequence.error(), context.getResults().initError());
    } else {
      WriteDetail((*sequence)->Inspect(params.getFirstBlock(), kInspectBytes), context.getResults().initOk());
    }
    return kj::READY_NOW;
  });
}

kj::Promise<void> AdminServer::demote(DemoteContext context) {
  return RunHandler([&]() -> kj::Promise<void> {
    const auto params = context.getParams();
    const auto store = services_.stores.Find(StringOf(params.getStore(), wire::MAX_IDENTITY_TEXT),
                                             StringOf(params.getTenant(), wire::MAX_IDENTITY_TEXT));
    const auto demoted =
        store ? (*store)->Demote(
                    {.sections = params.getPlanes(), .max_blocks = params.getMaxBlocks(), .dry_run = params.getDryRun()})
              : Result<DemoteFigures>(store.error());
    if (!demoted) {
      WriteRefusal(services_, demoted.error(), context.getResults().initError());
    } else {
      auto ok = context.getResults().initOk();
      ok.setBlocks(demoted->blocks);
      ok.setBytes(demoted->bytes);
      ok.setCorrupt(demoted->corrupt);
    }
    return kj::READY_NOW;
  });
}

kj::Promise<void> AdminServer::codecs(CodecsContext context) {
  return RunHandler([&]() -> kj::Promise<void> {
    const auto store = services_.stores.Find(StringOf(context.getParams().getStore(), wire::MAX_IDENTITY_TEXT));
    if (!store) {
      WriteRefusal(services_, store.error(), context.getResults().initError());
      return kj::READY_NOW;
    }
    const std::vector<quantizers::UsedCodec>& used = (*store)->plan()->used_codecs();
    auto list = context.getResults().initOk(static_cast<unsigned>(used.size()));
    for (unsigned i = 0; i < list.size(); ++i) WriteCodec(used[i], list[i]);
    return kj::READY_NOW;
  });
}

kj::Promise<void> AdminServer::drop(DropContext context) {
  return RunHandler([&]() -> kj::Promise<void> {
    const auto params = context.getParams();
    WriteEvicted(services_,
                 services_.stores.Drop(StringOf(params.getStore(), wire::MAX_IDENTITY_TEXT),
                                       StringOf(params.getTenant(), wire::MAX_IDENTITY_TEXT)),
                 context.getResults());
    return kj::READY_NOW;
  });
}

}  // namespace kvant::daemon
