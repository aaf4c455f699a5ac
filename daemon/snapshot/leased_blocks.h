// Sealed blocks of a store, kept as they are while somebody copies them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include <kvant/result.h>

#include "daemon/store/block.h"
#include "daemon/store/sequence.h"
#include "daemon/store/store.h"

namespace kvant::daemon {

/// Leases the last block of every chain, which keeps those before it, and the states. Made and destroyed on the loop thread;
/// what the blocks' slots hold may be read on any.
class LeasedBlocks {
 public:
  static constexpr std::uint64_t kNoParent = ~std::uint64_t{0};
  struct Entry {
    Block* block = nullptr;
    std::uint64_t parent = kNoParent;  ///< index of the block before it, which is smaller
    std::shared_ptr<const StateSlot> state = nullptr;
  };

  /// All blocks that `store` has now, or those that `sequence` holds if it is not null. kStoreFull if the budget has no room
  /// for the list.
  static Result<std::unique_ptr<LeasedBlocks>> Of(std::shared_ptr<Store> store, const Sequence* sequence);
  /// All blocks, whether or not the budget has room for the list: for a daemon that is about to end.
  static std::unique_ptr<LeasedBlocks> AtTheEnd(std::shared_ptr<Store> store);
  ~LeasedBlocks();
  LeasedBlocks(const LeasedBlocks&) = delete;
  LeasedBlocks& operator=(const LeasedBlocks&) = delete;

  [[nodiscard]] Store& store() const noexcept { return *store_; }
  /// Those used last stand first, parents before their children.
  [[nodiscard]] std::span<const Entry> entries() const noexcept { return entries_; }

 private:
  explicit LeasedBlocks(std::shared_ptr<Store> store) : store_(std::move(store)) {}
  void Lease(Block& block);
  std::vector<Block*> LeaseAll();
  void List(const std::vector<Block*>& blocks);

  const std::shared_ptr<Store> store_;  // before the states, whose slots go back to it
  Charge charge_;
  std::vector<Entry> entries_;
  std::vector<Block*> leased_;
};

}  // namespace kvant::daemon
