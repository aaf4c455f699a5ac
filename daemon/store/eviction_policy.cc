#include "daemon/store/eviction_policy.h"

#include <algorithm>
#include <cstring>
#include <deque>
#include <unordered_map>

#include "daemon/store/block.h"

namespace kvant::daemon {
namespace {

/// The least recently used first. A priority counts as that many times the whole cache's worth of uses: the block stays as long
/// as if it had been used that much later, and the advantage is gone once others have been.
class Lru : public EvictionPolicy {
 public:
  void Inserted(Block& block, std::size_t blocks) override { Weigh(block, blocks); }
  void Used(Block& block, std::size_t blocks) override { Weigh(block, blocks); }
  Rank RankOf(const Block& block) const override {
    return {block.retention.last_use + block.retention.weight, block.retention.last_use};
  }
  Choice Choose(const Ranking& candidates, std::size_t) override { return {candidates.first(), false}; }
  void Evicted(Block&, std::size_t) override {}

 private:
  static void Weigh(Block& block, std::size_t blocks) { block.retention.weight = block.retention.priority * blocks; }
};

/// The one that was found least often, then the least recently used. A block weighs as often as it was found since it was
/// sealed, plus its priority, plus the weight of the last block that went: so what was popular once falls behind as the cache
/// turns over, and a new block is not below all that ever was (LFU with dynamic ageing: Arlitt et al., 2000).
class Lfu final : public EvictionPolicy {
 public:
  void Inserted(Block& block, std::size_t) override { Weigh(block); }
  void Used(Block& block, std::size_t) override { Weigh(block); }
  Rank RankOf(const Block& block) const override { return {block.retention.weight, block.retention.last_use}; }
  Choice Choose(const Ranking& candidates, std::size_t) override { return {candidates.first(), false}; }
  void Evicted(Block& block, std::size_t) override { age_ = std::max(age_, block.retention.weight); }

 private:
  void Weigh(Block& block) const { block.retention.weight = age_ + block.retention.uses + block.retention.priority; }
  std::uint64_t age_ = 0;
};

/// S3-FIFO. Blocks enter on probation, in a queue that may hold a tenth of the cache. At its end, those that were found again
/// go on to the main queue, others leave and are remembered for a while: if such a block is sealed again it enters the main
/// queue. At the end of that, a block that was found since it was last there goes back to its beginning. A use moves nothing;
/// a block that is leased keeps its place. A priority counts as so many uses.
///
/// A block remembered takes a record: as many are as there are blocks, whose own records pay for it (kBlockRecordBytes).
class S3Fifo final : public EvictionPolicy {
 public:
  void Inserted(Block& block, std::size_t) override {
    Retention& of = block.retention;
    of.uses = of.priority;
    of.weight = ++entered_;
    of.main = remembered_.contains(Fingerprint(block));
    if (!of.main) ++probation_;
  }
  void Used(Block& block, std::size_t) override {
    Retention& of = block.retention;
    of.uses = static_cast<std::uint8_t>(std::min<std::uint32_t>(std::max(of.uses, of.priority), kMostUses));
  }
  Rank RankOf(const Block& block) const override { return {block.retention.main ? kMain : kProbation, block.retention.weight}; }
  Choice Choose(const Ranking& candidates, std::size_t blocks) override {
    Block* const main = candidates.first(kMain);
    Block* const first = candidates.first();
    if (first == nullptr) return {};
    const bool probation = first != main && (main == nullptr || probation_ * kProbationShare > blocks);
    Block& block = probation ? *first : *main;
    Retention& of = block.retention;
    if (of.uses == 0) return {&block, false};
    if (probation) {
      of.main = true;
      --probation_;
      of.uses = 0;
    } else {
      --of.uses;
    }
    of.weight = ++entered_;
    return {&block, true};
  }
  void Evicted(Block& block, std::size_t blocks) override {
    if (!block.retention.main) {
      --probation_;
      const std::uint64_t fingerprint = Fingerprint(block);
      ++remembered_[fingerprint];
      order_.push_back(fingerprint);
    }
    while (order_.size() > blocks) {
      const auto oldest = remembered_.find(order_.front());
      if (--oldest->second == 0) remembered_.erase(oldest);
      order_.pop_front();
    }
  }

 private:
  static constexpr std::uint64_t kProbation = 0;
  static constexpr std::uint64_t kMain = 1;
  static constexpr std::size_t kProbationShare = 10;
  static constexpr std::uint32_t kMostUses = 3;

  /// Of the block in its store: what one tenant had says nothing of what another has.
  static std::uint64_t Fingerprint(const Block& block) {
    std::uint64_t number;
    std::memcpy(&number, block.chain.data(), sizeof number);
    return number ^ (reinterpret_cast<std::uintptr_t>(block.store) * 0x9E3779B97F4A7C15);
  }

  std::uint64_t entered_ = 0;  // counts entries into either queue; a block's weight is the number of its last
  std::size_t probation_ = 0;  // blocks
  std::unordered_map<std::uint64_t, std::uint32_t> remembered_;
  std::deque<std::uint64_t> order_;  // of remembered_, the oldest first
};

/// Nothing goes to make room. Blocks that may go are kept in order all the same, for operators.
class None final : public Lru {
 public:
  Choice Choose(const Ranking&, std::size_t) override { return {}; }
};

}  // namespace

std::unique_ptr<EvictionPolicy> MakeEvictionPolicy(EvictionKind kind) {
  switch (kind) {
    case EvictionKind::kLru: return std::make_unique<Lru>();
    case EvictionKind::kLfu: return std::make_unique<Lfu>();
    case EvictionKind::kS3Fifo: return std::make_unique<S3Fifo>();
    case EvictionKind::kNone: return std::make_unique<None>();
  }
  return std::make_unique<Lru>();
}

}  // namespace kvant::daemon
