#include "daemon/snapshot/state_dir.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <functional>
#include <utility>

#include "daemon/snapshot/restoration.h"
#include "protocol/digest.h"
#include "protocol/snapshot/durable_file.h"
#include "protocol/snapshot/reader.h"
#include "protocol/system_error.h"

namespace kvant::daemon {
namespace {

/// Stores that are open while their blocks come in.
class OpenStores {
 public:
  explicit OpenStores(StoreTable& table) : table_(table) {}
  ~OpenStores() {
    for (auto& store : stores_) table_.Close(std::move(store));
  }
  OpenStores(const OpenStores&) = delete;
  OpenStores& operator=(const OpenStores&) = delete;

  Result<std::shared_ptr<Store>> Open(const snapshot::StoredStore& stored) {
    auto opened = table_.Open(stored.spec, stored.tenant.empty() ? StoreTable::kNobody : stored.tenant);
    if (!opened) return opened.error();
    stores_.push_back(opened->store);
    const Store& store = *opened->store;
    if (store.identity() == stored.identity && store.plan()->canonical() == stored.plan) return opened->store;
    return Error{ErrorCode::kIdentityMismatch, "store " + stored.spec.name + ": this daemon makes the plan\n" +
                                                   store.plan()->canonical() + "\nand the file says\n" + stored.plan};
  }

 private:
  StoreTable& table_;
  std::vector<std::shared_ptr<Store>> stores_;
};

/// A block of the file that is wanted.
struct Wanted {
  const snapshot::StoredStore* store = nullptr;
  std::size_t block = 0;
  std::size_t first_part = 0;
  std::uint64_t number = 0;
};

/// Offers blocks in their order until one does not fit. Returns how many were offered.
Result<std::size_t> OfferWhatFits(Restoration& restoration, const snapshot::StoredStore& stored,
                                  const std::shared_ptr<Store>& store, std::uint64_t first_number,
                                  std::vector<Wanted>& wanted) {
  std::size_t part = 0;
  for (std::size_t i = 0; i < stored.blocks(); ++i) {
    const std::int64_t parent = stored.parents[i];
    Restoration::Offered block{.tokens = stored.TokensOf(i),
                               .parent = Restoration::kNoParent,
                               .sink_type = {},
                               .state_bytes = 0,
                               .codes_bytes = stored.bytes[i]};
    if (parent != snapshot::kNoParent) block.parent = first_number + static_cast<std::uint64_t>(parent);
    const std::size_t first_part = part;
    for (; part < stored.parts.size() && stored.parts[part].block == i; ++part) {
      const snapshot::PartRow& row = stored.parts[part];
      if (row.kind == static_cast<std::uint64_t>(protocol::BlockKind::kSinks)) {
        block.sink_type = static_cast<ElementType>(row.element_type);
      } else {
        block.state_bytes = row.bytes;
      }
    }
    if (!restoration.Fits(store, block)) return i;
    auto offered = restoration.Offer(store, block);
    if (!offered) return offered.error();
    if (*offered) wanted.push_back({.store = &stored, .block = i, .first_part = first_part, .number = first_number + i});
  }
  return stored.blocks();
}

Result<void> Fill(Restoration& restoration, const snapshot::SnapshotReader& reader, const Wanted& wanted) {
  auto slots = restoration.Begin(wanted.number);
  if (!slots) return slots.error();
  const snapshot::StoredStore& from = *wanted.store;
  std::size_t part = wanted.first_part;
  for (SlotToFill& slot : *slots) {
    const bool codes = slot.info.kind == protocol::BlockKind::kCodes;
    slot.checksum = codes ? from.checksums[wanted.block] : from.parts[part].checksum;
    if (slot.bytes != (codes ? from.bytes[wanted.block] : from.parts[part].bytes)) {
      return Error{ErrorCode::kCorrupt, from.NameOf(wanted.block) + ": its size is not that of this store's blocks"};
    }
    if (auto ready = slot.Populate(); !ready) return ready;
    const std::span<std::byte> to(slot.payload, slot.bytes);
    auto read = codes ? reader.ReadCodes(from, wanted.block, to) : reader.ReadPart(from, part++, to);
    if (!read) return read;
    if (auto whole = slot.Finish(); !whole) return whole;
  }
  restoration.Filled(wanted.number);
  return {};
}

snapshot::StoreToSave SlotsOf(Store& store, const LeasedBlocks& leased) {
  snapshot::StoreToSave to{.spec = store.spec(),
                           .plan = store.plan()->canonical(),
                           .identity = store.identity(),
                           .tenant = store.tenant() != nullptr ? store.tenant()->name : std::string(),
                           .blocks = {}};
  to.spec.name = store.name();
  const auto slot = [&store](SlotRef at) { return store.pool().slab(at.slab)->slot_bytes(at.slot); };
  std::vector<std::int64_t> rows;  // of the entries; what is damaged has none
  for (const LeasedBlocks::Entry& entry : leased.entries()) {
    // The first question marks what follows a damaged block, too.
    if (!store.Whole(*entry.block) || entry.block->damaged) {
      rows.push_back(snapshot::kNoParent);
      continue;
    }
    rows.push_back(static_cast<std::int64_t>(to.blocks.size()));
    snapshot::BlockSlots slots;
    if (entry.parent != LeasedBlocks::kNoParent) slots.parent = rows[entry.parent];
    slots.codes = slot(entry.block->codes().slot);
    if (entry.block->sinks() != nullptr) slots.sinks = slot(entry.block->sinks()->slot);
    if (entry.block->state != nullptr) slots.state = slot(entry.block->state->slot());
    to.blocks.push_back(slots);
  }
  return to;
}

}  // namespace

StateToSave StateToSave::Of(StoreTable& table) {
  StateToSave state;
  std::vector<Store*> stores = table.stores();
  std::ranges::sort(stores, std::ranges::greater{}, &Store::last_use);
  for (Store* store : stores) {
    auto leased = LeasedBlocks::AtTheEnd(store->shared_from_this());
    snapshot::StoreToSave slots = SlotsOf(*store, *leased);
    if (slots.blocks.empty()) continue;
    state.stores.push_back(std::move(slots));
    state.leased.push_back(std::move(leased));
  }
  return state;
}

Result<StateDir> StateDir::Open(const std::string& path) {
  protocol::UniqueFd folder(::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!folder.valid()) return protocol::SystemError("open state directory " + path, errno);
  if (::flock(folder.get(), LOCK_EX | LOCK_NB) != 0) {
    if (errno != EWOULDBLOCK) return protocol::SystemError("lock state directory " + path, errno);
    return Error{ErrorCode::kUnavailable, "open state directory " + path + ": another daemon uses it"};
  }
  return StateDir(path, std::move(folder));
}

Result<std::optional<StateDir::Restored>> StateDir::Restore(Core& core, StoreTable& stores) const {
  auto reader = snapshot::SnapshotReader::Open(file());
  if (!reader && reader.error().code == ErrorCode::kNotFound) return std::optional<Restored>();
  if (!reader) return reader.error();
  OpenStores open(stores);
  Restoration restoration(core);
  std::vector<Wanted> wanted;
  std::uint64_t offered = 0;
  Restored restored;
  for (const snapshot::StoredStore& stored : reader->stores()) {
    auto store = open.Open(stored);
    if (!store) return store.error();
    auto fitted = OfferWhatFits(restoration, stored, *store, offered, wanted);
    if (!fitted) return fitted.error();
    offered += *fitted;
    restored.left_out += stored.blocks() - *fitted;
  }
  if (auto reserved = restoration.Reserve(); !reserved) return reserved.error();
  for (const Wanted& block : wanted) {
    if (auto filled = Fill(restoration, *reader, block); !filled) return filled.error();
  }
  auto figures = restoration.Commit();
  if (!figures) return figures.error();
  restored.blocks = figures->restored;
  return std::optional(restored);
}

Result<std::string> StateDir::SetAside() const {
  constexpr int kMost = 1000;
  for (int i = 1; i <= kMost; ++i) {
    const std::string aside = path_ + "/state.aside-" + std::to_string(i) + ".safetensors";
    if (::renameat2(AT_FDCWD, file().c_str(), AT_FDCWD, aside.c_str(), RENAME_NOREPLACE) == 0) return aside;
    if (errno != EEXIST) return protocol::SystemError("rename " + file() + " to " + aside, errno);
  }
  return Error{ErrorCode::kSystem, "rename " + file() + ": " + std::to_string(kMost) + " files were set aside already"};
}

Result<snapshot::SavedFigures> StateDir::Save(const std::vector<snapshot::StoreToSave>& stores,
                                              const snapshot::Progress& progress) const {
  auto partial = snapshot::DurableFile::Create(file());
  if (!partial) return partial.error();
  auto written = snapshot::WriteSnapshot(partial->fd(), stores, "kvantd", progress);
  if (!written) return written;
  if (auto done = partial->Commit(); !done) return done.error();
  return written;
}

}  // namespace kvant::daemon
