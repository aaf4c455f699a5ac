#include "quantizers/attention.h"

#include <algorithm>
#include <utility>

#include "quantizers/attention_tile.h"

namespace kvant::quantizers {
namespace {

// A run is what one thread takes of one KV head's context. The number of runs of an item is bounded by its queries, so that the
// partial results of a large prompt (which has tiles enough to keep every thread busy) stay small.
constexpr std::size_t kRunTokens = 4096;
constexpr std::size_t kMaxPartialQueries = 2048;
// Below this many (query, token) pairs a hand-off to another thread costs more than it saves.
constexpr std::size_t kInlineWork = 1u << 15;

}  // namespace

class AttentionScratch {
 public:
  std::vector<TileRun> units;
  std::vector<std::pair<std::size_t, std::size_t>> split;  ///< [first, last) units of tiles with several runs
  std::vector<ThreadBuffers> threads;
  AlignedBuffer partials;
};

namespace {

/// Cuts one item into units: KV heads, tiles of queries, runs of blocks. Depends on the item's shapes alone, never on the
/// threads or on the rest of the batch.
class UnitList {
 public:
  explicit UnitList(AttentionScratch& scratch) : scratch_(scratch) {
    scratch_.units.clear();
    scratch_.split.clear();
  }

  void Add(const AttendItem& item, std::size_t index) {
    const StoreSpec& spec = item.cache.plan->spec();
    const std::size_t group_queries = item.query.q.tokens * GroupSize(item);
    const std::size_t most_runs =
        std::max<std::size_t>(1, kMaxPartialQueries / std::max<std::size_t>(1, item.query.q.tokens * item.query.q.heads));
    for (std::size_t head = 0; head < spec.kv_heads; ++head) {
      for (std::size_t first = 0; first < group_queries; first += kMaxQueries) {
        TileRun unit;
        unit.item = index;
        unit.head = head;
        unit.first = first;
        unit.count = std::min(kMaxQueries, group_queries - first);
        AddTile(item, unit, most_runs);
      }
    }
  }

  [[nodiscard]] std::size_t partial_floats() const noexcept { return partial_floats_; }
  [[nodiscard]] std::size_t work() const noexcept { return work_; }
  [[nodiscard]] const Sizes& sizes() const noexcept { return sizes_; }

 private:
  void AddTile(const AttendItem& item, TileRun unit, std::size_t most_runs) {
    const StoreSpec& spec = item.cache.plan->spec();
    const std::size_t group = GroupSize(item);
    const std::uint64_t begin = Visible(item.query, unit.first / group).begin;
    const std::uint64_t end = Visible(item.query, (unit.first + unit.count - 1) / group).end;
    const std::size_t tokens = spec.block_tokens;
    const std::size_t block_end =
        std::min<std::size_t>(item.cache.blocks.size(), static_cast<std::size_t>((end + tokens - 1) / tokens));
    const std::size_t block_begin = std::min<std::size_t>(block_end, static_cast<std::size_t>(begin / tokens));
    const std::size_t blocks = block_end - block_begin;
    const std::size_t run_blocks = std::max<std::size_t>(1, kRunTokens / tokens);
    unit.runs = std::clamp<std::size_t>((blocks + run_blocks - 1) / run_blocks, 1, most_runs);
    const Sizes sizes = SizesOf(item, unit.count);
    sizes_.Cover(sizes);
    work_ += unit.count * static_cast<std::size_t>(end - begin);
    const std::size_t first_unit = scratch_.units.size();
    for (unit.run = 0; unit.run < unit.runs; ++unit.run) {
      unit.block_begin = block_begin + blocks * unit.run / unit.runs;
      unit.block_end = block_begin + blocks * (unit.run + 1) / unit.runs;
      unit.raw = unit.run == 0;
      unit.partial = partial_floats_;
      if (unit.runs > 1) partial_floats_ += (sizes.partial / sizeof(float) + 15) / 16 * 16;
      scratch_.units.push_back(unit);
    }
    if (unit.runs > 1) scratch_.split.emplace_back(first_unit, scratch_.units.size());
  }

  AttentionScratch& scratch_;
  Sizes sizes_;
  std::size_t partial_floats_ = 0;
  std::size_t work_ = 0;
};

/// What the tasks of one call share.
struct Call {
  std::span<const AttendItem> items;
  AttentionScratch* scratch = nullptr;

  void AttendUnit(std::size_t index, std::size_t thread) {
    const TileRun& unit = scratch->units[index];
    const AttendItem& item = items[unit.item];
    ThreadBuffers& buffers = scratch->threads[thread];
    const bool whole = unit.runs == 1;
    Partial partial = View(item, unit, whole ? buffers.partial.Floats() : scratch->partials.Floats() + unit.partial);
    Attend(item, unit, buffers, partial);
    if (whole) Finish(item, unit, buffers, partial);
  }

  void MergeTile(std::size_t index, std::size_t thread) {
    const auto [first, last] = scratch->split[index];
    const TileRun& unit = scratch->units[first];
    const AttendItem& item = items[unit.item];
    Partial sum = View(item, unit, scratch->partials.Floats() + unit.partial);
    for (std::size_t i = first + 1; i < last; ++i) {
      const Partial part = View(item, unit, scratch->partials.Floats() + scratch->units[i].partial);
      Merge(part, sum, unit.count, AccFloats(item), item.cache.plan->spec().head_dim);
    }
    Finish(item, unit, scratch->threads[thread], sum);
  }

  static std::size_t AccFloats(const AttendItem& item) {
    return item.cache.plan->layer(item.cache.layer).values->accumulator_floats();
  }
  static Partial View(const AttendItem& item, const TileRun& unit, float* memory) {
    return {memory, unit.count, AccFloats(item), item.cache.plan->spec().head_dim};
  }
};

}  // namespace

Attention::Attention(Executor& executor) : executor_(executor), scratch_(std::make_unique<AttentionScratch>()) {}

Attention::~Attention() = default;

void Attention::Run(std::span<const AttendItem> items) {
  UnitList list(*scratch_);
  for (std::size_t i = 0; i < items.size(); ++i) list.Add(items[i], i);
  scratch_->threads.resize(executor_.threads());
  for (ThreadBuffers& buffers : scratch_->threads) buffers.Reserve(list.sizes());
  scratch_->partials.Reserve(list.partial_floats() * sizeof(float));

  Call call{items, scratch_.get()};
  const auto attend = [](void* context, std::size_t i, std::size_t thread) {
    static_cast<Call*>(context)->AttendUnit(i, thread);
  };
  const auto merge = [](void* context, std::size_t i, std::size_t thread) {
    static_cast<Call*>(context)->MergeTile(i, thread);
  };
  if (list.work() < kInlineWork) {
    for (std::size_t i = 0; i < scratch_->units.size(); ++i) call.AttendUnit(i, 0);
    for (std::size_t i = 0; i < scratch_->split.size(); ++i) call.MergeTile(i, 0);
    return;
  }
  executor_.ForEach(scratch_->units.size(), attend, &call);
  if (!scratch_->split.empty()) executor_.ForEach(scratch_->split.size(), merge, &call);
}

}  // namespace kvant::quantizers
