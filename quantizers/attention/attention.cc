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

/// The buffers, and where a call stands: what its tasks share.
class AttentionScratch {
 public:
  Units units;
  TurnedKeys keys;
  std::vector<ThreadBuffers> threads;
  AlignedBuffer partials;

  std::span<const AttendItem> items;
  std::size_t wave = 0;  ///< of units.waves, that is being computed
  /// Units of each kind that threads have taken. They take one after another, and finish what they have taken.
  std::atomic<std::size_t> turns_taken{0};
  std::atomic<std::size_t> raw_taken{0};
  std::atomic<std::size_t> taken{0};
  std::atomic<std::size_t> merges_taken{0};
  std::atomic<std::size_t> votes_taken{0};
};

namespace {

/// The tasks of one call, as far as `pause` lets them come.
struct Call {
  AttentionScratch* scratch = nullptr;
  const std::function<bool()>* pause = nullptr;  // null: never
  std::span<const AttendItem> items = scratch->items;

  [[nodiscard]] const Wave& wave() const { return scratch->units.waves[scratch->wave]; }
  [[nodiscard]] bool Pause() const { return pause != nullptr && (*pause)(); }

  void AttendRaws(std::size_t thread) {
    while (!Pause()) {
      const std::size_t i = scratch->raw_taken.fetch_add(1, std::memory_order_relaxed);
      if (i >= wave().raw_units_end) return;
      AttendRaw(i, thread);
    }
  }

  /// A unit is taken one ahead, so that its first keys can be fetched meanwhile.
  void AttendUnits(std::size_t thread) {
    const Units& units = scratch->units;
    const auto take = [&]() -> const TileRun* {
      if (Pause()) return nullptr;
      const std::size_t i = scratch->taken.fetch_add(1, std::memory_order_relaxed);
      return i < wave().units_end ? &units.units[i] : nullptr;
    };
    const kernels::TileScope tiles;
    bool warm = false;
    for (const TileRun* unit = take(); unit != nullptr;) {
      const TileRun* next = take();
      AttendUnit(*unit, thread, warm, next);
      warm = unit->block_begin < unit->block_end;
      unit = next;
    }
  }

  void MergeTiles(std::size_t thread) {
    while (!Pause()) {
      const std::size_t i = scratch->merges_taken.fetch_add(1, std::memory_order_relaxed);
      if (i >= wave().split_end) return;
      MergeTile(i, thread);
    }
  }

  void Vote(std::size_t thread) {
    const kernels::TileScope tiles;
    while (!Pause()) {
      const std::size_t i = scratch->votes_taken.fetch_add(1, std::memory_order_relaxed);
      if (i >= scratch->units.votes.size()) return;
      Vote(scratch->units.votes[i], thread);
    }
  }

  void TurnKeys() {
    while (!Pause()) {
      const std::size_t i = scratch->turns_taken.fetch_add(1, std::memory_order_relaxed);
      if (i >= scratch->keys.jobs()) return;
      scratch->keys.Turn(i);
    }
  }

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

  /// Tile after tile, so that additions have one order.
  void Vote(const VoteUnit& vote, std::size_t thread) {
    ThreadBuffers& buffers = scratch->threads[thread];
    TileRun unit{.members = vote.member,
                 .head = vote.head,
                 .block_begin = vote.block_begin,
                 .block_end = vote.block_end,
                 .raw = vote.raw};
    const AttendItem& item = ItemOf(unit);
    const std::size_t queries = item.query.q.tokens * GroupSize(item);
    unit.per_item = static_cast<std::uint32_t>(queries);
    for (; unit.first < queries; unit.first += kMaxQueries) {
      unit.count = std::min(kMaxQueries, queries - unit.first);
      Partial partial = View(item, unit, buffers.partial.Floats());
      Tile(items, scratch->units, scratch->keys, unit, buffers, nullptr, false).Vote(partial);
    }
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

Attention::Attention(Executor& executor, std::size_t partial_bytes)
    : executor_(executor), partial_bytes_(partial_bytes), scratch_(std::make_unique<AttentionScratch>()) {}

Attention::~Attention() = default;

void Attention::Run(std::span<const AttendItem> items) {
  Begin(items);
  Work(nullptr);
}

void Attention::Begin(std::span<const AttendItem> items) {
  Units& units = scratch_->units;
  units.Cut(items, partial_bytes_ / sizeof(float));
  scratch_->keys.Lay(items);
  Sizes sizes;
  for (const AttendItem& item : items) sizes.Cover(SizesOf(item, units.largest_tile));
  scratch_->threads.resize(executor_.threads());
  for (ThreadBuffers& buffers : scratch_->threads) buffers.Reserve(sizes);
  scratch_->partials.Reserve(units.partial_floats * sizeof(float));
  scratch_->items = items;
  scratch_->wave = 0;
  for (auto* taken :
       {&scratch_->turns_taken, &scratch_->raw_taken, &scratch_->taken, &scratch_->merges_taken, &scratch_->votes_taken})
    *taken = 0;
}

bool Attention::Continue(const std::function<bool()>& pause) { return Work(&pause); }

/// Keys before RoPE are turned first. Then wave after wave: raw rows, from which the other units learn what is negligible,
/// those, and merges last. Votes need all weights' sums.
bool Attention::Work(const std::function<bool()>* pause) {
  const Units& units = scratch_->units;
  Call call{scratch_.get(), pause};
  const bool alone = units.work < kInlineWork || executor_.threads() == 1;
  // True once all `count` units of a kind are done.
  const auto all = [&](std::size_t count, const std::atomic<std::size_t>& taken, auto task) {
    const std::size_t before = taken.load(std::memory_order_relaxed);
    if (before >= count) return true;
    if (alone || count - before == 1) {
      task(&call, 0, 0);
    } else {
      executor_.ForEach(executor_.threads(), task, &call);
    }
    return taken.load(std::memory_order_relaxed) >= count;
  };
  using Task = void (*)(void*, std::size_t, std::size_t);
  const Task turns = [](void* context, std::size_t, std::size_t) { static_cast<Call*>(context)->TurnKeys(); };
  const Task raws = [](void* context, std::size_t, std::size_t thread) { static_cast<Call*>(context)->AttendRaws(thread); };
  const Task blocks = [](void* context, std::size_t, std::size_t thread) { static_cast<Call*>(context)->AttendUnits(thread); };
  const Task merges = [](void* context, std::size_t, std::size_t thread) { static_cast<Call*>(context)->MergeTiles(thread); };
  const Task votes = [](void* context, std::size_t, std::size_t thread) { static_cast<Call*>(context)->Vote(thread); };
  if (!all(scratch_->keys.jobs(), scratch_->turns_taken, turns)) return false;
  for (; scratch_->wave < units.waves.size(); ++scratch_->wave) {
    const Wave& wave = call.wave();
    if (!all(wave.raw_units_end, scratch_->raw_taken, raws) || !all(wave.units_end, scratch_->taken, blocks) ||
        !all(wave.split_end, scratch_->merges_taken, merges)) {
      return false;
    }
    // Threads have asked beyond the end.
    scratch_->raw_taken = wave.raw_units_end;
    scratch_->taken = wave.units_end;
    scratch_->merges_taken = wave.split_end;
  }
  return all(units.votes.size(), scratch_->votes_taken, votes);
}

}  // namespace kvant::quantizers
