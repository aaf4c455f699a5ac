// Snapshots in the public interface: saving, restoring, and looking into files.
#include <kvant/admin.h>
#include <kvant/client.h>
#include <kvant/snapshot.h>

#include <string>
#include <utility>
#include <vector>

#include "client/guard.h"
#include "client/restored_blocks.h"
#include "client/saved_blocks.h"
#include "client/session.h"
#include "client/store.h"
#include "protocol/digest.h"
#include "protocol/snapshot/reader.h"
#include "protocol/snapshot/verify.h"

namespace kvant {

using client::Guard;
using client::MovedFrom;

namespace {

Result<void> CheckPlan(const snapshot::StoredStore& stored, const client::Store& opened) {
  if (stored.identity == opened.identity() && stored.plan == opened.daemon_plan()) return {};
  return Error{ErrorCode::kIdentityMismatch, "restore store " + stored.spec.name + ": the snapshot has identity " +
                                                 protocol::DigestHex(stored.identity) + " and the plan\n" + stored.plan +
                                                 "\nthe daemon makes identity " + protocol::DigestHex(opened.identity()) +
                                                 " of it and the plan\n" + opened.daemon_plan()};
}

}  // namespace

Result<SaveReport> Store::Save(const std::string& path, std::optional<SequenceId> sequence, const SnapshotProgress& progress) {
  return Guard("save snapshot", [&]() -> Result<SaveReport> {
    if (!state_) return MovedFrom("save snapshot");
    client::Connection& connection = state_->session().connection();
    if (auto entered = connection.Enter("save snapshot"); !entered) return entered.error();
    auto blocks = client::SavedBlocks::Of(*state_, sequence);
    if (!blocks) return blocks.error();
    return client::WriteSaved(connection, {&*blocks, 1}, path, progress);
  });
}

Result<RestoreReport> Store::Load(const std::string& path, const SnapshotProgress& progress) {
  return Guard("restore snapshot", [&]() -> Result<RestoreReport> {
    if (!state_) return MovedFrom("restore snapshot");
    if (auto entered = state_->session().connection().Enter("restore snapshot"); !entered) return entered.error();
    auto reader = snapshot::SnapshotReader::Open(path);
    if (!reader) return reader.error();
    for (const snapshot::StoredStore& stored : reader->stores()) {
      if (stored.identity != state_->identity()) continue;
      if (auto same = CheckPlan(stored, *state_); !same) return same.error();
      const client::StoreToRestore store{.from = &stored, .to = state_};
      return client::RestoreBlocks(state_->session(), *reader, {&store, 1}, progress);
    }
    return Error{ErrorCode::kIdentityMismatch, path + ": it holds no store of identity " + info().identity};
  });
}

Result<RestoreReport> Client::RestoreSnapshot(const std::string& path, const std::string& name,
                                              const SnapshotProgress& progress) {
  return Guard("restore snapshot", [&]() -> Result<RestoreReport> {
    if (!session_) return MovedFrom("restore snapshot");
    if (auto entered = session_->connection().Enter("restore snapshot"); !entered) return entered.error();
    auto reader = snapshot::SnapshotReader::Open(path);
    if (!reader) return reader.error();
    if (!name.empty() && reader->stores().size() != 1) {
      return Error{ErrorCode::kInvalidArgument,
                   path + ": it holds " + std::to_string(reader->stores().size()) + " stores, a name can be given to one only"};
    }
    std::vector<client::StoreToRestore> stores;
    for (const snapshot::StoredStore& stored : reader->stores()) {
      StoreSpec spec = stored.spec;
      if (!name.empty()) spec.name = name;
      auto opened = client::Store::Open(session_, spec);
      if (!opened) return opened.error();
      if (auto same = CheckPlan(stored, **opened); !same) return same.error();
      stores.push_back({.from = &stored, .to = *std::move(opened)});
    }
    return client::RestoreBlocks(*session_, *reader, stores, progress);
  });
}

Result<SnapshotInfo> ReadSnapshotInfo(const std::string& path) {
  return Guard("read snapshot", [&]() -> Result<SnapshotInfo> {
    auto reader = snapshot::SnapshotReader::Open(path);
    if (!reader) return reader.error();
    SnapshotInfo info{.bytes = reader->bytes(), .format = reader->version(), .writer = reader->writer(), .stores = {}};
    for (const snapshot::StoredStore& store : reader->stores()) {
      const StoreSpec& spec = store.spec;
      SnapshotStore row{
          .name = spec.name,
          .identity = protocol::DigestHex(store.identity),
          .model = spec.model,
          .keys = spec.plan.keys,
          .values = spec.plan.values,
          .layers = spec.layers,
          .kv_heads = spec.kv_heads,
          .head_dim = spec.head_dim,
          .block_tokens = spec.block_tokens,
          .blocks = store.blocks(),
          .tokens = store.tokens.size(),
          .states = 0,
          .compressed_bytes = store.codes_bytes,
          .logical_f16_bytes = std::uint64_t{4} * store.tokens.size() * spec.layers * spec.kv_heads * spec.head_dim};
      for (const snapshot::PartRow& part : store.parts) {
        if (part.kind == static_cast<std::uint64_t>(protocol::BlockKind::kState)) ++row.states;
      }
      info.stores.push_back(std::move(row));
    }
    return info;
  });
}

Result<std::vector<DamagedBlock>> VerifySnapshot(const std::string& path, const SnapshotProgress& progress) {
  return Guard("verify snapshot", [&]() -> Result<std::vector<DamagedBlock>> {
    auto reader = snapshot::SnapshotReader::Open(path);
    if (!reader) return reader.error();
    auto found = snapshot::VerifyPayloads(*reader, progress);
    if (!found) return found.error();
    std::vector<DamagedBlock> damaged;
    for (snapshot::DamagedBlock& block : *found) {
      damaged.push_back({.store = std::move(block.store),
                         .chain = std::move(block.chain),
                         .position = block.position,
                         .what = std::move(block.what)});
    }
    return damaged;
  });
}

}  // namespace kvant
