// The KV of one identity: its plan, its slots, its prefix index.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <kvant/result.h>
#include <kvant/store_spec.h>

#include "daemon/memory/block_pool.h"
#include "daemon/store/core.h"
#include "daemon/store/identity.h"
#include "daemon/store/key_mean.h"
#include "daemon/store/prefix_index.h"
#include "daemon/store/state_slot.h"
#include "daemon/store/stats.h"
#include "daemon/store/tenant.h"
#include "protocol/memfd.h"
#include "quantizers/plan.h"

namespace kvant::daemon {

/// A place for a block that is being encoded: slots and charges, all given back on destruction unless they became a Block.
/// Movable. Keeps the store alive.
class PendingBlock;

/// Owned (shared) by the store table, by its sequences and by encodings under way; sessions that have it open only refer to it.
/// The table drops a store that has neither sequences nor blocks when the budget needs the room, and its memory is free then.
/// Loop thread only.
class Store : public std::enable_shared_from_this<Store> {
 public:
  /// `charge`, of the tenant's budget, pays for the store's record and plan (RecordBytes of the spec); what is too much of it
  /// is given back. kStoreFull if the budget can never hold one block of this shape. The manifest is written here. Without a
  /// tenant the store is the daemon's own, and so is the charge.
  static Result<std::shared_ptr<Store>> Create(Core& core, std::shared_ptr<const quantizers::Plan> plan, Charge charge,
                                               std::shared_ptr<Tenant> tenant = nullptr);
  /// What the record of such a store with an artifact of so many bytes is charged with. Requires: CheckStoreSpec.
  static std::size_t RecordBytes(const quantizers::Registry& codecs, const StoreSpec& spec, std::size_t artifact_bytes);
  /// The same once its plan is there: no more.
  static std::size_t RecordBytes(const quantizers::Plan& plan);
  ~Store();
  Store(const Store&) = delete;
  Store& operator=(const Store&) = delete;

  [[nodiscard]] Core& core() const noexcept { return core_; }
  /// The name it was last opened under; its identity in hexadecimal if that name means another store now.
  [[nodiscard]] const std::string& name() const noexcept { return names_.empty() ? hex_ : names_.back(); }
  [[nodiscard]] const StoreSpec& spec() const noexcept { return plan_->spec(); }
  /// Shared with encoding jobs, which outlive sequences.
  [[nodiscard]] const std::shared_ptr<const quantizers::Plan>& plan() const noexcept { return plan_; }
  [[nodiscard]] const std::vector<IdentityField>& identity_fields() const noexcept { return fields_; }
  [[nodiscard]] const protocol::Digest& identity() const noexcept { return identity_; }
  /// Of the slot that holds a block's codes.
  [[nodiscard]] std::uint64_t slot_bytes() const noexcept { return SlotBytes(plan_->payload_bytes()); }
  /// Of a slot for a part with so many bytes of payload: header and token ids before it, all a multiple of 64.
  [[nodiscard]] std::uint64_t SlotBytes(std::uint64_t payload_bytes) const noexcept;
  /// Bytes of all sink rows of that element type; 0 if the store keeps none.
  [[nodiscard]] std::uint64_t SinkBytes(ElementType type) const noexcept;

  /// For clients with local placement: slabs with index >= from, ascending.
  [[nodiscard]] std::vector<std::shared_ptr<Slab>> slabs(std::uint32_t from_index) const { return pool_.slabs(from_index); }

  /// Whose it is; null: the daemon's own.
  [[nodiscard]] Tenant* tenant() const noexcept { return tenant_.get(); }
  /// What the store holds of its tenant's budget; limited by its quota.
  [[nodiscard]] Budget& budget() noexcept { return *budget_; }
  [[nodiscard]] const Budget& budget() const noexcept { return *budget_; }
  /// Of restored blocks, those that Whole has not looked at yet.
  [[nodiscard]] std::uint64_t unchecked_blocks() const noexcept { return unchecked_; }
  /// Sets the store's quota (Budget::kUnlimited: none) and evicts what of it nobody holds until it is within.
  void Limit(std::size_t bytes);
  /// Blocks that nobody uses so long go; 0: they stay.
  [[nodiscard]] std::uint64_t ttl_ms() const noexcept { return ttl_ms_.value_or(core_.ttl_ms); }
  [[nodiscard]] std::optional<std::uint64_t> own_ttl_ms() const noexcept { return ttl_ms_; }
  /// Nothing: the daemon's.
  void set_ttl_ms(std::optional<std::uint64_t> ttl) noexcept { ttl_ms_ = ttl; }
  /// Evicts blocks that nobody has used for ttl_ms, `most` at most; returns how many. A block goes after those that follow it.
  std::uint64_t Expire(std::uint64_t most);

  /// All blocks that nobody holds. Their memory is given back.
  EvictFigures EvictAll();

  /// Drops the last parts of a block's codes in place, so that `sections` of Plan::sections are left: nothing is encoded again,
  /// and scores get coarser by what the codecs say of so many parts. Returns the bytes of pages that this gives back. 0 if the
  /// block has no more sections than that. kInvalidArgument for 0 sections, kUnavailable if the block is leased or a block
  /// behind it is, for somebody may be reading it; kCorrupt if its checksum differs.
  Result<std::uint64_t> Demote(Block& block, std::size_t sections);
  struct DemoteRequest {
    std::size_t sections = 0;
    std::uint64_t max_blocks = 0;  ///< 0: no limit
    bool dry_run = false;          ///< counts only; bytes are then those of payloads
  };
  /// The same of all blocks that nobody holds, least recently used first. kInvalidArgument for 0 sections.
  Result<DemoteFigures> Demote(const DemoteRequest& request);

  [[nodiscard]] StoreFigures Figures() const;
  /// Verifies the block's checksums: reads all of it.
  [[nodiscard]] BlockFigures Inspect(const Block& block) const;

  // ---- for sequences and the store table

  [[nodiscard]] PrefixIndex& index() noexcept { return index_; }
  [[nodiscard]] const PrefixIndex& index() const noexcept { return index_; }
  [[nodiscard]] BlockPool& pool() noexcept { return pool_; }
  [[nodiscard]] const BlockPool& pool() const noexcept { return pool_; }
  [[nodiscard]] Counters& counters() noexcept { return counters_; }

  /// Takes `bytes` for records from the budget, making room if need be. kStoreFull if there is none.
  Result<Charge> TakeRecord(ChargeKind kind, std::size_t bytes, std::string_view what);

  /// Of slot uses; never repeats in this store, whose clients see it.
  std::uint64_t NextGeneration() noexcept { return next_generation_++; }
  void NoteGeneration(std::uint64_t used) noexcept { next_generation_ = std::max(next_generation_, used + 1); }

  /// Slots for the parts of a block, sinks of `sink_type` among them if it is given, making room if need be; kStoreFull if
  /// there is none. The slots are cleared.
  Result<PendingBlock> Reserve(std::optional<ElementType> sink_type);
  /// The same for codes of which the first `sections` are left, as Demote leaves them. Requires: 1 to Plan::sections.
  Result<PendingBlock> Reserve(std::optional<ElementType> sink_type, std::size_t sections);

  /// A slot for a state of so many bytes, making room if need be; kStoreFull if there is none. The slot is cleared.
  Result<std::shared_ptr<StateSlot>> ReserveState(std::uint64_t bytes);
  /// The state that a slot holds already; uses it. kStoreFull if the budget has no room, nothing is evicted. Requires: the slot
  /// is cold.
  Result<std::shared_ptr<StateSlot>> AdoptState(SlotRef slot, std::uint64_t bytes, std::uint64_t generation);
  void StateHeld(std::uint64_t bytes) noexcept;
  void StateFreed(std::uint64_t bytes) noexcept;

  /// Makes a block of slots that hold it already; uses them. kStoreFull if the budget has no room, nothing is evicted.
  /// Requires: the slots are cold, parent in the index.
  Result<Block*> Adopt(Block block);
  /// True if what lies in the block's slots is what was sealed there: looked at once, if the block was restored unchecked, and
  /// counted. Otherwise nobody finds the block and what follows it any more, and its memory is free, or will be when pins and
  /// snapshots that hold it let go. A state that is not whole goes alone.
  bool Whole(Block& block);
  /// The blocks that a new sequence of these tokens begins with: the longest prefix that is whole, or with `want_state` the
  /// longest at whose end a state stands. How it ended is counted.
  [[nodiscard]] std::vector<Block*> LookUp(std::span<const std::uint32_t> tokens, bool want_state);
  /// PrefixIndex::NoteUse, for whoever found the block so.
  void NoteUse(Block& block, std::uint32_t priority);
  /// What Whole answers true to from now on: somebody else has looked.
  void NoteWhole(Block& block) noexcept;
  /// PrefixIndex::Find, for whoever takes the block.
  [[nodiscard]] Block* FindWhole(const Block* parent, const protocol::Digest& chain, std::span<const std::uint32_t> tokens);
  /// A read-only descriptor of the manifest (protocol/SEGMENT.md).
  [[nodiscard]] int manifest_fd() const noexcept { return manifest_fd_.get(); }

  /// Of all its parts, and of its state.
  [[nodiscard]] std::uint64_t SlotBytesOf(const Block& block) const noexcept;
  /// Frees the block's slots. Requires: one of this store's, without leases and children.
  void Evict(Block& block);
  /// A step towards room: what NextDemotion says of `fine` is made smaller or, where that is nothing, the block of `blocks`
  /// that goes first goes. False if there is none.
  static bool MakeWay(EvictionOrder& order, const Ranking& blocks, const Ranking& fine);

  /// Gives back pages of warm slots: see BlockPool::GiveBack.
  bool GiveBack(std::size_t bytes);
  /// Holds no sequence, no block, and none is on its way.
  [[nodiscard]] bool empty() const noexcept { return sequences_ == 0 && index_.size() == 0 && pool_.used_slots() == 0; }

  /// Takes note of the keys of a block that was sealed now; warns (Core::notify) once when their codec turns out unfit for
  /// them.
  void NoteKeys(std::span<const KeyMean> block);
  [[nodiscard]] const KeyMeans& key_means() const noexcept { return key_means_; }

  void SequenceOpened();
  void SequenceClosed();
  [[nodiscard]] std::uint64_t sequences() const noexcept { return sequences_; }  ///< readers included

  // ---- for the store table

  /// Tells those who watch.
  void TellOfStore(std::string_view kind) const;
  static constexpr std::size_t kMaxNames = 16;
  /// The last one last.
  [[nodiscard]] const std::vector<std::string>& names() const noexcept { return names_; }
  /// Makes it the last one; returns those that are forgotten, so that there are at most kMaxNames.
  std::vector<std::string> AddName(const std::string& name);
  void RemoveName(const std::string& name);
  static constexpr std::size_t kMaxSpellings = 16;
  /// As SpellingDigest: of the specs that it was opened by, the last one last.
  [[nodiscard]] const std::vector<protocol::Digest>& spellings() const noexcept { return spellings_; }
  /// Makes it the last one; returns those that are forgotten, so that there are at most kMaxSpellings.
  std::vector<protocol::Digest> AddSpelling(const protocol::Digest& spelling);
  /// Sessions that have the store open.
  void Opened();
  void Closed();
  [[nodiscard]] std::uint64_t openers() const noexcept { return openers_; }
  [[nodiscard]] std::uint64_t last_use() const noexcept { return last_use_; }
  /// The store has left the table: whoever has it open must open it again.
  void MarkDropped();
  [[nodiscard]] bool dropped() const noexcept { return dropped_; }

 private:
  friend class PendingBlock;
  Store(Core& core, std::shared_ptr<const quantizers::Plan> plan, Charge charge, std::shared_ptr<Tenant> tenant);
  Result<void> WriteManifest();
  /// A step towards `bytes` of room wherever they lack: of the store's own if its quota is what lacks, of its tenant's, of
  /// anybody's. False if there is nothing to give.
  bool MakeRoom(std::size_t bytes);
  bool MakeOwnRoom(std::size_t bytes);
  std::uint64_t NoteMissed(std::span<Block* const> found, std::span<const std::uint32_t> tokens);
  void NoteEviction(const Block& block);
  void TellOfBlock(std::string_view kind, const Block& block) const;
  void NoteNoRoom(std::size_t bytes);
  Result<SlotRef> AllocateSlot(std::uint64_t slot_bytes);
  void FreeSlots(const std::vector<BlockPart>& parts);
  void TakeOut(Block& block);
  void CountLost(const Block& block, bool comes) noexcept;
  /// To be called after whatever changes last_use_, empty() or whether there are warm slots.
  void UpdateOrder();
  void MoveInScopes(std::uint64_t empty_since, std::uint64_t warm_since);

  Core& core_;
  const std::shared_ptr<const quantizers::Plan> plan_;
  const std::vector<IdentityField> fields_;
  const protocol::Digest identity_;
  const std::shared_ptr<Tenant> tenant_;
  const std::shared_ptr<Budget> budget_;
  std::optional<std::uint64_t> ttl_ms_;
  std::uint64_t next_generation_ = 1;
  const Charge charge_;
  Charge manifest_charge_;
  protocol::UniqueFd manifest_fd_;
  std::uint64_t states_ = 0;  // before the index, whose blocks hold some
  std::uint64_t state_bytes_ = 0;
  BlockPool pool_;
  PrefixIndex index_;
  Counters counters_;
  KeyMeans key_means_;
  std::uint64_t demoted_bytes_ = 0;  // what payloads of blocks have lost
  std::uint64_t unchecked_ = 0;
  std::uint64_t coarse_ = 0;  // blocks that have lost parts of their payloads
  bool warned_ = false;
  std::uint64_t sequences_ = 0;
  const std::string hex_;  // of the identity
  std::vector<std::string> names_;
  std::vector<protocol::Digest> spellings_;
  std::uint64_t openers_ = 0;
  std::uint64_t last_use_ = 0;     // as EvictionOrder counts; 0 until it is opened
  std::uint64_t empty_since_ = 0;  // where it stands in the scopes, 0: nowhere
  std::uint64_t warm_since_ = 0;
  bool dropped_ = false;
};

class PendingBlock {
 public:
  PendingBlock(PendingBlock&&) noexcept = default;
  PendingBlock& operator=(PendingBlock&&) = delete;
  ~PendingBlock();

  /// The codes first.
  [[nodiscard]] const std::vector<BlockPart>& parts() const noexcept { return parts_; }
  [[nodiscard]] std::uint64_t generation() const noexcept { return generation_; }

  /// Makes the encoded slots a block of the index, without leases. Requires: the slots are finished, parent in the index.
  Block* Link(const protocol::Digest& chain, Block* parent, std::uint64_t first_position, std::vector<std::uint32_t> tokens,
              std::uint32_t priority) &&;

 private:
  friend class Store;
  PendingBlock(std::shared_ptr<Store> store, Charge charge) noexcept;
  std::shared_ptr<Store> store_;
  Charge charge_;
  std::vector<BlockPart> parts_;
  std::uint64_t generation_ = 0;
};

}  // namespace kvant::daemon
