// Each policy against a plain model of it that looks at every block for every choice, on random trees of blocks.
#include "daemon/store/eviction_policy.h"

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <deque>
#include <map>
#include <memory>
#include <random>
#include <vector>

#include <gtest/gtest.h>

#include "daemon/store/prefix_index.h"
#include "protocol/digest.h"

namespace kvant::daemon {
namespace {

/// What the model knows of a block; no pointers, no orders.
struct Known {
  std::uint64_t id = 0;  // of the tokens that lead to it: the same when it is sealed again
  int parent = -1;
  int leases = 0;
  std::uint64_t used = 0;  // time
  int uses = 0;
  int priority = 0;
  std::size_t blocks_then = 0;  // lru: at its last use
  std::uint64_t weight = 0;     // lfu
  bool main = false;            // s3fifo
  std::uint64_t entered = 0;    // s3fifo: time
};

/// The definition of a policy in the words of its header, with loops over all blocks.
class Model {
 public:
  explicit Model(EvictionKind kind) : kind_(kind) {}

  int Insert(std::uint64_t id, int parent, int priority) {
    const int number = next_++;
    Known block{.id = id, .parent = parent, .used = ++time_, .priority = priority};
    block.weight = age_ + static_cast<std::uint64_t>(priority);
    block.entered = ++entered_;
    if (kind_ == EvictionKind::kS3Fifo) {
      block.uses = priority;
      block.main = std::ranges::find(ghosts_, id) != ghosts_.end();
    }
    blocks_.emplace(number, block);
    blocks_[number].blocks_then = blocks_.size();
    return number;
  }
  void Use(int number, int priority) {
    Known& block = blocks_.at(number);
    block.used = ++time_;
    block.priority = std::max(priority, block.priority - 1);
    ++block.uses;
    if (kind_ == EvictionKind::kS3Fifo) block.uses = std::min(3, std::max(block.uses, block.priority));
    block.weight = age_ + static_cast<std::uint64_t>(block.uses + block.priority);
    block.blocks_then = blocks_.size();
  }
  void Lease(int number) { ++blocks_.at(number).leases; }
  void Drop(int number) {
    if (--blocks_.at(number).leases == 0) blocks_.at(number).used = ++time_;
  }

  /// -1: none may go. It is gone then.
  int Evict() {
    int victim = -1;
    while (victim < 0) {
      const std::vector<int> may_go = MayGo();
      if (may_go.empty() || kind_ == EvictionKind::kNone) return -1;
      victim = kind_ == EvictionKind::kS3Fifo ? ChooseS3(may_go) : *std::ranges::min_element(may_go, {}, [&](int number) {
        const Known& block = blocks_.at(number);
        if (kind_ == EvictionKind::kLfu) return std::pair(block.weight, block.used);
        return std::pair(block.used + static_cast<std::uint64_t>(block.priority) * block.blocks_then, block.used);
      });
    }
    const Known gone = blocks_.at(victim);
    blocks_.erase(victim);
    age_ = std::max(age_, gone.weight);
    if (kind_ == EvictionKind::kS3Fifo) {
      if (!gone.main) ghosts_.push_back(gone.id);
      while (ghosts_.size() > blocks_.size()) ghosts_.pop_front();
    }
    return victim;
  }
  [[nodiscard]] std::vector<int> MayGo() const {
    std::vector<int> list;
    for (const auto& [number, block] : blocks_) {
      const bool parent = std::ranges::any_of(blocks_, [n = number](const auto& other) { return other.second.parent == n; });
      if (block.leases == 0 && !parent) list.push_back(number);
    }
    return list;
  }
  [[nodiscard]] const std::map<int, Known>& blocks() const { return blocks_; }

 private:
  /// -1: a second chance was given.
  int ChooseS3(const std::vector<int>& may_go) {
    int oldest[2] = {-1, -1};
    for (const int number : may_go) {
      int& first = oldest[blocks_.at(number).main ? 1 : 0];
      if (first < 0 || blocks_.at(number).entered < blocks_.at(first).entered) first = number;
    }
    const auto on_probation =
        static_cast<std::size_t>(std::ranges::count_if(blocks_, [](const auto& entry) { return !entry.second.main; }));
    const bool probation = oldest[0] >= 0 && (oldest[1] < 0 || on_probation * 10 > blocks_.size());
    const int number = oldest[probation ? 0 : 1];
    Known& block = blocks_.at(number);
    if (block.uses == 0) return number;
    block.uses = probation ? 0 : block.uses - 1;
    block.main = true;
    block.entered = ++entered_;
    return -1;
  }

  const EvictionKind kind_;
  std::map<int, Known> blocks_;
  std::deque<std::uint64_t> ghosts_;
  std::uint64_t time_ = 0;
  std::uint64_t age_ = 0;
  std::uint64_t entered_ = 0;
  int next_ = 0;
};

class EvictionPolicyTest : public testing::TestWithParam<EvictionKind> {};

TEST_P(EvictionPolicyTest, ChoosesAsItsDefinitionDoes) {
  for (const std::uint32_t seed : {1U, 2U, 3U, 4U}) {
    SCOPED_TRACE(seed);
    std::mt19937 random(seed);
    EvictionOrder order(GetParam());
    PrefixIndex index(order);
    Model model(GetParam());
    std::map<int, Block*> real;
    std::vector<int> leased;
    const auto number_of = [&](const Block* block) {
      return std::ranges::find_if(real, [&](const auto& entry) { return entry.second == block; })->first;
    };
    for (int step = 0; step < 3000; ++step) {
      const auto pick = [&] { return std::next(real.begin(), static_cast<std::ptrdiff_t>(random() % real.size()))->first; };
      const auto what = random() % 10;
      if (what < 4 || real.empty()) {
        Block* const parent = real.empty() || random() % 3 == 0 ? nullptr : real.at(pick());
        const std::vector<std::uint32_t> tokens = {static_cast<std::uint32_t>(random() % 40)};  // few: evicted ones come again
        const auto chain = protocol::ChainDigest(parent != nullptr ? parent->chain : protocol::DigestOf("root"), tokens);
        if (index.Find(parent, chain, tokens) != nullptr) continue;
        auto block = std::make_unique<Block>();
        block->parent = parent;
        block->chain = chain;
        block->tokens = tokens;
        block->retention.priority = static_cast<std::uint8_t>(random() % 8 == 0 ? random() % 4 : 0);
        std::uint64_t id = 0;
        std::memcpy(&id, chain.data(), sizeof id);
        const int number = model.Insert(id, parent != nullptr ? number_of(parent) : -1, block->retention.priority);
        real[number] = index.Insert(std::move(block));
      } else if (what < 6) {
        const int number = pick();
        const auto priority = static_cast<int>(random() % 8 == 0 ? random() % 4 : 0);
        index.NoteUse(*real.at(number), static_cast<std::uint32_t>(priority));
        model.Use(number, priority);
      } else if (what == 6) {
        // A lease on a block is one on all before it, as sequences hold them.
        for (int number = pick(); number >= 0; number = model.blocks().at(number).parent) {
          index.AddLease(*real.at(number));
          model.Lease(number);
          leased.push_back(number);
        }
      } else if (what == 7) {
        // The last taken first: a chain loses its ancestors' leases last here, too, when all are gone.
        for (int i = 0; i < 6 && !leased.empty(); ++i) {
          const auto at = random() % leased.size();
          const int number = leased[at];
          leased.erase(leased.begin() + static_cast<std::ptrdiff_t>(at));
          index.DropLease(*real.at(number));
          model.Drop(number);
        }
      } else {
        Block* const chosen = order.Victim(order.all.blocks);
        const int expected = model.Evict();
        ASSERT_EQ(chosen == nullptr ? -1 : number_of(chosen), expected) << "step " << step;
        ASSERT_EQ(order.all.blocks.size(), index.evictable().size());
        if (chosen == nullptr) continue;
        ASSERT_EQ(chosen->leases, 0u);
        ASSERT_EQ(chosen->first_child, nullptr);
        index.TakeOut(*chosen);
        real.erase(expected);
      }
    }
    for (const int number : leased) index.DropLease(*real.at(number));
  }
}

INSTANTIATE_TEST_SUITE_P(All, EvictionPolicyTest,
                         testing::Values(EvictionKind::kLru, EvictionKind::kLfu, EvictionKind::kS3Fifo, EvictionKind::kNone),
                         [](const auto& of) { return std::string(kEvictionKinds[static_cast<std::size_t>(of.param)].first); });

/// One root block per token, in the order of the tokens.
struct Flat {
  explicit Flat(EvictionKind kind) : order(kind) {}
  Block* Add(std::uint32_t token, std::uint32_t priority = 0) {
    auto block = std::make_unique<Block>();
    block->tokens = {token};
    block->chain = protocol::ChainDigest(protocol::DigestOf("root"), block->tokens);
    block->retention.priority = static_cast<std::uint8_t>(priority);
    return index.Insert(std::move(block));
  }
  std::uint32_t Evict() {
    Block* const block = order.Victim(order.all.blocks);
    const std::uint32_t token = block->tokens[0];
    index.TakeOut(*block);
    return token;
  }
  EvictionOrder order;
  PrefixIndex index{order};
};

TEST(EvictionPriorityTest, APriorityIsWorthAWholeCacheOfUsesAndIsUsedUp) {
  // Ten blocks; each that comes drives one out. The block used last would be the tenth to go. Where a later block comes to rank
  // as high, the one that was used longer ago goes first.
  for (const std::uint32_t priority : {0U, 1U, 3U}) {
    Flat cache(EvictionKind::kLru);
    std::vector<Block*> blocks;
    for (std::uint32_t token = 0; token < 10; ++token) blocks.push_back(cache.Add(token));
    cache.index.NoteUse(*blocks[0], priority);
    std::uint32_t evictions = 1;
    for (std::uint32_t token = 10; cache.Evict() != 0; ++token, ++evictions) cache.Add(token);
    EXPECT_EQ(evictions, 10 + 10 * priority - (priority == 0 ? 0 : 1));
  }
}

TEST(EvictionPriorityTest, UsesByOthersTakeAPriorityOff) {
  Retention block;
  block.Use(3);
  EXPECT_EQ(block.priority, 3);
  block.Use(0);
  EXPECT_EQ(block.priority, 2);
  block.Use(2);
  EXPECT_EQ(block.priority, 2);
  block.Use(0);
  block.Use(0);
  block.Use(0);
  EXPECT_EQ(block.priority, 0);
  for (int i = 0; i < 300; ++i) block.Use(0);
  EXPECT_EQ(block.uses, 255);
}

TEST(EvictionPolicyScanTest, AScanDoesNotSweepOutWhatIsUsedAgain) {
  Flat cache(EvictionKind::kS3Fifo);
  std::vector<Block*> used;
  for (std::uint32_t token = 0; token < 50; ++token) used.push_back(cache.Add(token));
  for (Block* const block : used) cache.index.NoteUse(*block, 0);
  for (std::uint32_t token = 1000; token < 1500; ++token) {
    cache.Add(token);
    if (cache.index.size() <= 100) continue;
    EXPECT_GE(cache.Evict(), 1000u);
  }
  EXPECT_EQ(cache.index.size(), 100u);
}

}  // namespace
}  // namespace kvant::daemon
