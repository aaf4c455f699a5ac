// Blocks that come from elsewhere into stores, all of them or none.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include <kvant/result.h>
#include <kvant/tensor.h>

#include "daemon/memory/slab.h"
#include "daemon/store/core.h"
#include "daemon/store/store.h"
#include "protocol/block_format.h"

namespace kvant::daemon {

/// A slot that bytes from elsewhere are to fill. Populate, then `bytes` bytes at `payload`, then Finish. Any thread.
struct SlotToFill {
  std::shared_ptr<Slab> slab;
  std::uint32_t slot = 0;
  std::byte* payload = nullptr;
  std::uint64_t bytes = 0;
  std::uint64_t checksum = 0;  ///< XXH3-64 that the bytes must have; the caller's to set
  protocol::BlockInfo info;
  std::uint32_t block_tokens = 0;
  std::span<const std::uint32_t> tokens;

  Result<void> Populate() const { return slab->Populate(slot); }
  /// Writes the header, but for the magic, which Commit writes. kCorrupt, naming the position, if the bytes are not those of
  /// the checksum.
  Result<void> Finish() const;
};

/// Offer every block, Reserve, fill those that are wanted, Commit. Destruction before Commit leaves the stores as they were,
/// and so does kill -9: until then the slots count as free. Loop thread; slots may be filled on others while it lives.
class Restoration {
 public:
  static constexpr std::uint64_t kNoParent = ~std::uint64_t{0};

  struct Offered {
    std::span<const std::uint32_t> tokens;
    std::uint64_t parent = kNoParent;  ///< number of an earlier offer to the same store
    std::optional<ElementType> sink_type;
    std::uint64_t state_bytes = 0;
    std::uint64_t codes_bytes = 0;  ///< 0: as many as the plan's
  };
  struct Figures {
    std::uint64_t restored = 0;  ///< blocks that came in
    std::uint64_t present = 0;   ///< blocks that were there already
  };

  explicit Restoration(Core& core) : core_(core) {}
  ~Restoration();
  Restoration(const Restoration&) = delete;
  Restoration& operator=(const Restoration&) = delete;

  /// Offers are numbered from 0 on. True if the block's bytes are wanted; false if the store has it, which keeps it from now
  /// on. kInvalidArgument for what cannot be a block of this store. When the budget has no room for all of it the rest is only
  /// counted, and Reserve refuses.
  Result<bool> Offer(const std::shared_ptr<Store>& store, const Offered& block);

  /// Whether Reserve would find room for this block, too.
  [[nodiscard]] bool Fits(const std::shared_ptr<Store>& store, const Offered& block) const;

  /// Takes room for what is wanted, about a hundredth more than the bytes need, from the stores' budgets and so from those of
  /// their tenants and of the daemon. Evicts nothing: kStoreFull says where how many bytes are missing. No offers afterwards.
  Result<void> Reserve();

  /// Slots for a wanted block: its codes, its sinks if it has any, its state if it has one. Once for each. kInvalidArgument
  /// if it is not wanted or has begun already. Errors as Store::Reserve.
  Result<std::vector<SlotToFill>> Begin(std::uint64_t number);
  /// All slots of that block are finished.
  void Filled(std::uint64_t number);

  /// Links all blocks; cannot fail half-way. kInvalidArgument if one is not filled, kUnavailable if a store was dropped.
  Result<Figures> Commit();

  [[nodiscard]] std::uint64_t wanted() const noexcept { return wanted_; }
  [[nodiscard]] std::uint64_t present() const noexcept { return entries_.size() - wanted_; }

 private:
  enum class Step : std::uint8_t { kPresent, kWanted, kBegun, kFilled };
  struct Entry {
    std::shared_ptr<Store> store;
    std::uint64_t parent = kNoParent;
    protocol::Digest chain{};
    protocol::Digest before{};
    std::uint64_t position = 0;
    std::vector<std::uint32_t> tokens;
    std::optional<ElementType> sink_type;
    std::uint64_t state_bytes = 0;
    std::size_t sections = 0;
    Step step = Step::kWanted;
    Block* block = nullptr;  // once it is in the index
    std::optional<PendingBlock> pending;
    std::shared_ptr<StateSlot> state;
    std::vector<std::byte*> hidden;     // slots of `pending` and then of `block`, to be revealed
    std::byte* hidden_state = nullptr;  // the slot of `state`
  };
  /// What one store needs.
  struct Room {
    std::uint64_t bytes = 0;  // of slots and block records
    Charge records;           // of entries_
    Charge reserved;          // of slots to come
  };
  [[nodiscard]] static std::uint64_t RecordBytes(const Offered& block);
  [[nodiscard]] static std::uint64_t SlackOf(const Store& store, std::uint64_t bytes);
  [[nodiscard]] Result<void> Take(Store& store, Room& room) const;
  [[nodiscard]] Error NoRoom(Store& store);

  Core& core_;
  std::vector<Entry> entries_;
  std::map<Store*, Room> rooms_;
  std::uint64_t offers_ = 0;
  std::uint64_t wanted_ = 0;
  Store* overflowed_ = nullptr;  // has no room for the record of an offer: there are offers that are not in entries_
  bool closed_ = false;          // Reserve has been called
};

}  // namespace kvant::daemon
