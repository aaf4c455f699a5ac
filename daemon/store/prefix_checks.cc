#include "daemon/store/prefix_checks.h"

#include <algorithm>
#include <span>
#include <utility>

#include "protocol/block_format.h"

namespace kvant::daemon {
namespace {

/// Blocks that one job looks at, and what it found.
struct Piece {
  struct Slot {
    std::shared_ptr<Slab> slab;
    std::uint32_t number = 0;
  };
  struct Item {
    Block* block = nullptr;
    std::vector<Slot> slots;
    bool whole = false;
  };
  std::uint32_t block_tokens = 0;
  std::uint64_t bytes = 0;
  std::vector<Item> items;

  void Look() {
    for (Item& item : items) {
      item.whole = std::ranges::all_of(item.slots, [this](const Slot& slot) {
        return protocol::VerifySlot(slot.slab->slot_bytes(slot.number), block_tokens).has_value();
      });
    }
  }
};

void AddTo(Piece& piece, const Store& store, Block& block) {
  Piece::Item item{.block = &block, .slots = {}};
  const auto add = [&](SlotRef slot) { item.slots.push_back({store.pool().slab(slot.slab), slot.slot}); };
  for (const BlockPart& part : block.parts) add(part.slot);
  if (block.state != nullptr) add(block.state->slot());
  piece.bytes += store.SlotBytesOf(block);
  piece.items.push_back(std::move(item));
}

}  // namespace

/// One prefix: leased from its beginning to its end.
struct PrefixChecks::Run {
  Run(std::shared_ptr<Store> of, Block& last_block) : store(std::move(of)), last(last_block) { store->index().AddLease(last); }
  ~Run() { store->index().DropLease(last); }
  Run(const Run&) = delete;
  Run& operator=(const Run&) = delete;

  const std::shared_ptr<Store> store;
  Block& last;
  std::function<void()> done;
};

void PrefixChecks::Check(std::shared_ptr<Store> store, Tokens tokens, std::function<void()> done) {
  if (store->unchecked_blocks() == 0) return done();
  waiting_.push_back({std::move(store), std::move(tokens), std::move(done)});
  GoOn();
}

void PrefixChecks::GoOn() {
  if (std::exchange(going_on_, true)) return;  // `done` of a request asks for another
  while (running_jobs_ == 0 && !waiting_.empty()) {
    Request request = std::move(waiting_.front());
    waiting_.pop_front();
    if (!Begin(request)) request.done();
  }
  going_on_ = false;
}

/// False if there is nothing to wait for.
bool PrefixChecks::Begin(Request& request) {
  Store& store = *request.store;
  const std::vector<std::uint32_t> tokens = request.tokens();
  const std::uint32_t block_tokens = store.spec().block_tokens;
  const std::vector<Block*> prefix = store.index().LongestPrefix(store.identity(), tokens, block_tokens);
  std::vector<std::shared_ptr<Piece>> pieces;
  std::uint64_t bytes = 0;
  for (Block* const block : prefix) {
    if (!block->unchecked) continue;
    if (pieces.empty() || pieces.back()->bytes >= kJobBytes) {
      pieces.push_back(std::make_shared<Piece>(Piece{.block_tokens = block_tokens, .items = {}}));
    }
    AddTo(*pieces.back(), store, *block);
    bytes += store.SlotBytesOf(*block);
  }
  if (bytes <= kAtOnceBytes) return false;
  const auto run = std::make_shared<Run>(request.store, *prefix.back());
  run->done = std::move(request.done);
  running_jobs_ = pieces.size();
  for (const std::shared_ptr<Piece>& piece : pieces) {
    runner_.Submit([piece] { piece->Look(); },
                   [this, piece, run] {
                     for (const Piece::Item& item : piece->items) {
                       if (item.whole) run->store->NoteWhole(*item.block);
                     }
                     if (--running_jobs_ != 0) return;
                     run->done();
                     GoOn();
                   });
  }
  return true;
}

}  // namespace kvant::daemon
