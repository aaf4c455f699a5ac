// A daemon's day at speed: random operations on its stores under a clock that the test turns, and the plain maps that say what
// must be there.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <random>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "daemon/snapshot/leased_blocks.h"
#include "tests/daemon/core_support.h"
#include "tests/daemon/shelf.h"

namespace kvant::daemon {

/// What names a block for the model: whose, of what, and all tokens up to its end.
struct BlockName {
  std::string tenant;
  protocol::Digest store{};
  protocol::Digest chain{};
  friend auto operator<=>(const BlockName&, const BlockName&) = default;
};

class DayWorld {
 public:
  static constexpr std::uint64_t kTtlMs = 20 * 60 * 1000;

  DayWorld(std::uint32_t seed, EvictionKind eviction);
  ~DayWorld();
  DayWorld(const DayWorld&) = delete;
  DayWorld& operator=(const DayWorld&) = delete;

  /// One operation, some time, and a look at all invariants. Fails the running test.
  void Step();
  /// Everybody goes; nothing may be left.
  void End();

  [[nodiscard]] std::uint64_t elapsed_ms() const { return now_ms_ - begin_ms_; }
  /// How often each thing happened; a day in which something never did proves little.
  [[nodiscard]] const std::map<std::string, std::uint64_t>& happened() const { return happened_; }

 private:
  struct Live {
    TestSequence held;
    std::vector<std::uint64_t> marks;
    SequenceConfig config;
    bool exact = false;  ///< codes without loss: what it reads is compared
  };
  /// Whatever ends with a daemon process. A killed one is kept aside, untouched, for its memory lives on.
  struct Life {
    Life(EvictionKind eviction, Keeper& keeper);
    ~Life();
    Life(const Life&) = delete;
    Life& operator=(const Life&) = delete;
    TestCore core;
    std::vector<std::shared_ptr<Store>> stores;  // as opened
    std::vector<Live> live;
  };
  struct SavedBlock {
    std::vector<std::uint32_t> tokens;
    std::uint64_t parent = 0;
    std::optional<ElementType> sink_type;
    std::vector<std::vector<std::byte>> payloads;
  };
  struct Saved {
    StoreSpec spec;
    std::string tenant;
    std::vector<SavedBlock> blocks;
  };
  struct PinModel {
    std::set<BlockName> blocks;
    std::uint64_t end_ms = 0;
  };
  struct Kept {
    std::vector<std::byte> payload;  // as it was sealed
    std::size_t bytes = 0;           // of these, there at the last look
    std::uint64_t generation = 0;    // of the slot, then
  };
  using Held = std::map<BlockName, const Block*>;

  // day_world.cc
  void Operate();
  void OpenStores();
  [[nodiscard]] std::shared_ptr<Store> AnyStore();
  void Open();
  void Advance();
  void Trim();
  void Fork();
  void Mark();
  void Rewind();
  void Pin();
  void Unpin();
  void Quota();
  void Demote();
  void Evict();
  void Save();
  void Restore();
  void Restart();

  // day_invariants.cc
  [[nodiscard]] Held Blocks() const;
  void Check();
  void CheckBlocks(const Held& now);
  void CheckSequences();
  void CheckMemory();
  void CheckPinsAndTimes(const Held& now);

  std::size_t Below(std::size_t n) { return n == 0 ? 0 : random_() % n; }
  std::vector<std::uint32_t> Talk(const Store& store, std::size_t length);
  Live* AnyLive();
  void Note(const std::string& what) { ++happened_[what]; }

  std::mt19937 random_;
  const EvictionKind eviction_;
  Shelf shelf_;
  std::uint64_t begin_ms_ = 1'000'000;
  std::uint64_t now_ms_ = begin_ms_;
  std::vector<std::unique_ptr<Life>> dead_;
  std::unique_ptr<Life> life_;
  std::map<std::string, std::uint64_t> happened_;

  // The model.
  std::map<BlockName, Kept> sealed_;         // every block that ever was
  std::set<BlockName> there_;                // at the last look
  std::set<BlockName> held_;                 // of these, leased at the last look
  std::uint64_t gone_ = 0;                   // evicted, as the daemon counted at the last look
  std::map<std::string, std::size_t> used_;  // by tenant, at the last look
  std::map<std::uint64_t, PinModel> pins_;
  std::map<std::string, std::uint64_t> tenant_limits_;
  std::map<std::pair<std::string, protocol::Digest>, std::uint64_t> ttls_;
  std::vector<Saved> saved_;
};

}  // namespace kvant::daemon
