#include "quantizers/attention/attention.h"

#include <atomic>

#include "kernels/machine/amx.h"
#include "quantizers/attention/tile.h"
#include "quantizers/attention/turned_keys.h"
#include "quantizers/attention/units.h"

namespace kvant::quantizers {
namespace {

// Below this many (query, token) pairs a hand-off to another thread costs more than it saves.
constexpr std::size_t kInlineWork = 1u << 14;

}  // namespace

class AttentionScratch {
 public:
  Units units;
  TurnedKeys keys;
  std::vector<ThreadBuffers> threads;
  AlignedBuffer partials;
};

namespace {

/// What the tasks of one call share.
struct Call {
  std::span<const AttendItem> items;
  AttentionScratch* scratch = nullptr;
  std::atomic<std::size_t> claimed{0};

  /// Works until no unit is left. A unit is claimed one ahead, so that its first keys can be fetched meanwhile.
  void Drain(std::size_t thread) {
    const Units& units = scratch->units;
    const auto claim = [&]() -> const TileRun* {
      const std::size_t i = claimed.fetch_add(1, std::memory_order_relaxed);
      return i < units.units.size() ? &units.units[i] : nullptr;
    };
    const kernels::TileScope tiles;
    bool warm = false;
    for (const TileRun* unit = claim(); unit != nullptr;) {
      const TileRun* next = claim();
      AttendUnit(*unit, thread, warm, next);
      warm = unit->block_begin < unit->block_end;
      unit = next;
    }
  }

  void TurnKeys(std::size_t index) { scratch->keys.Turn(index); }

  void AttendRaw(std::size_t index, std::size_t thread) {
    const TileRun& unit = scratch->units.raw_units[index];
    const AttendItem& item = ItemOf(unit);
    Partial partial = View(item, unit, scratch->partials.Floats() + unit.partial);
    Tile(items, scratch->units, scratch->keys, unit, scratch->threads[thread], nullptr, false).Attend(partial, false, nullptr);
  }

  void AttendUnit(const TileRun& unit, std::size_t thread, bool warm, const TileRun* next) {
    const AttendItem& item = ItemOf(unit);
    ThreadBuffers& buffers = scratch->threads[thread];
    Partial partial = View(item, unit, unit.whole ? buffers.partial.Floats() : scratch->partials.Floats() + unit.partial);
    Tile(items, scratch->units, scratch->keys, unit, buffers, scratch->partials.Floats(), true).Attend(partial, warm, next);
    if (unit.whole) Finish(item, unit, buffers, partial);
  }

  void MergeTile(std::size_t index, std::size_t thread) {
    const Units& units = scratch->units;
    const SplitTile& split = units.split[index];
    const AttendItem& item = ItemOf(split.tile);
    const std::size_t dim = item.cache.plan->spec().head_dim, acc_floats = AccFloats(item, split.tile.head);
    const auto part = [&](std::size_t i) {
      const Part& at = units.parts[i];
      return Partial(scratch->partials.Floats() + at.partial, at.unit_count, acc_floats, dim).From(at.first, acc_floats, dim);
    };
    Partial sum = part(split.parts_begin);
    for (std::size_t i = split.parts_begin + 1; i < split.parts_end; ++i) {
      Merge(part(i), sum, split.tile.count, acc_floats, dim);
    }
    Finish(item, split.tile, scratch->threads[thread], sum);
  }

  [[nodiscard]] const AttendItem& ItemOf(const TileRun& unit) const { return items[scratch->units.members[unit.members].item]; }
  static Partial View(const AttendItem& item, const TileRun& unit, float* memory) {
    return {memory, unit.count, AccFloats(item, unit.head), item.cache.plan->spec().head_dim};
  }
};

}  // namespace

Attention::Attention(Executor& executor) : executor_(executor), scratch_(std::make_unique<AttentionScratch>()) {}

Attention::~Attention() = default;

void Attention::Run(std::span<const AttendItem> items) {
  Units& units = scratch_->units;
  units.Cut(items);
  scratch_->keys.Lay(items);
  Sizes sizes;
  for (const AttendItem& item : items) sizes.Cover(SizesOf(item, units.largest_tile));
  scratch_->threads.resize(executor_.threads());
  for (ThreadBuffers& buffers : scratch_->threads) buffers.Reserve(sizes);
  scratch_->partials.Reserve(units.partial_floats * sizeof(float));

  Call call{items, scratch_.get()};
  if (units.work < kInlineWork || executor_.threads() == 1) {
    for (std::size_t i = 0; i < scratch_->keys.jobs(); ++i) call.TurnKeys(i);
    for (std::size_t i = 0; i < units.raw_units.size(); ++i) call.AttendRaw(i, 0);
    call.Drain(0);
    for (std::size_t i = 0; i < units.split.size(); ++i) call.MergeTile(i, 0);
    return;
  }
  const auto raw = [](void* context, std::size_t i, std::size_t thread) { static_cast<Call*>(context)->AttendRaw(i, thread); };
  const auto drain = [](void* context, std::size_t, std::size_t thread) { static_cast<Call*>(context)->Drain(thread); };
  const auto merge = [](void* context, std::size_t i, std::size_t thread) {
    static_cast<Call*>(context)->MergeTile(i, thread);
  };
  const auto turn = [](void* context, std::size_t i, std::size_t) { static_cast<Call*>(context)->TurnKeys(i); };
  if (scratch_->keys.jobs() > 0) executor_.ForEach(scratch_->keys.jobs(), turn, &call);
  executor_.ForEach(units.raw_units.size(), raw, &call);
  executor_.ForEach(executor_.threads(), drain, &call);
  executor_.ForEach(units.split.size(), merge, &call);
}

}  // namespace kvant::quantizers
