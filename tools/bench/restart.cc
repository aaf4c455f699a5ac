// kvant_bench restart: how long a daemon that was killed takes to serve its stores again, over what they hold.
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "daemon/memory/keeper.h"
#include "daemon/store/held_stores.h"
#include "protocol/block_format.h"
#include "protocol/digest.h"
#include "tools/bench/parts.h"

namespace kvant::tools {
namespace {

using Clock = std::chrono::steady_clock;

constexpr double kTarget = 5e9;  // bytes of codes a second

const std::vector<FigureColumn> kColumns = {{"TOKENS", "tokens", "%.0f"},
                                            {"BLOCKS", "blocks", "%.0f"},
                                            {"GB", "bytes", "%.3f", 1e9},
                                            {"READY ms", "ready_ns", "%.2f", 1e6},
                                            {"GB/s", "bytes_per_s", "%.1f", 1e9},
                                            {"us/BLOCK", "block_ns", "%.2f", 1e3},
                                            {"FIRST USE ms", "first_use_ns", "%.1f", 1e6},
                                            {"GB/s", "first_use_bytes_per_s", "%.2f", 1e9},
                                            {"TARGET", "target"}};

/// Nothing is sealed or populated by jobs here.
class NoJobs final : public daemon::JobRunner {
 public:
  void Submit(std::function<void()>, std::function<void()>) override {}
};

struct Instance {
  explicit Instance(std::size_t budget_bytes) : budget(budget_bytes) {}
  daemon::Budget budget;
  NoJobs jobs;
  quantizers::Registry codecs = quantizers::Registry::Builtin();
  daemon::Core core{.budget = budget, .encode = jobs, .populate = jobs, .codecs = codecs, .boot_token = 1};
  daemon::StoreTable stores{core};
};

StoreSpec Spec(const BenchOptions& options) {
  StoreSpec spec;
  spec.name = spec.model = spec.tokenizer = "bench";
  spec.layers = 28;
  spec.kv_heads = 8;
  spec.head_dim = 128;
  spec.block_tokens = 64;
  spec.sink_tokens = 0;
  spec.plan.keys = options.keys.empty() ? "turboquant_mse:bits=4" : options.keys;
  spec.plan.values = options.values.empty() ? "turboquant_mse:bits=4" : options.values;
  return spec;
}

/// One chain of blocks whose codes are any bytes.
Result<void> Fill(daemon::Store& store, std::size_t tokens) {
  const std::uint32_t block_tokens = store.spec().block_tokens;
  daemon::Block* parent = nullptr;
  protocol::Digest chain = store.identity();
  for (std::size_t first = 0; first + block_tokens <= tokens; first += block_tokens) {
    std::vector<std::uint32_t> ids(block_tokens);
    for (std::size_t i = 0; i < ids.size(); ++i) ids[i] = static_cast<std::uint32_t>(first + i);
    auto pending = store.Reserve(std::nullopt);
    if (!pending) return pending.error();
    const daemon::BlockPart& codes = pending->parts().front();
    if (auto ready = store.pool().slab(codes.slot.slab)->Populate(codes.slot.slot); !ready) return ready;
    std::byte* const slot = store.pool().Address(codes.slot);
    std::memset(slot + protocol::PayloadOffset(block_tokens), static_cast<int>(first / block_tokens), codes.payload_bytes);
    const protocol::Digest before = chain;
    chain = protocol::ChainDigest(before, ids);
    protocol::FinishSlot(slot, block_tokens,
                         {.identity = store.identity(),
                          .chain = chain,
                          .parent = before,
                          .first_position = first,
                          .generation = pending->generation()},
                         ids, codes.payload_bytes);
    parent = std::move(*pending).Link(chain, parent, first, std::move(ids), 0);
  }
  return {};
}

double Nanoseconds(Clock::duration duration) { return std::chrono::duration<double, std::nano>(duration).count(); }

Result<void> Measure(const BenchOptions& options, std::size_t tokens, FigureReport& report) {
  const StoreSpec spec = Spec(options);
  constexpr std::size_t kBudget = std::size_t{1} << 40;
  Instance dead(kBudget);
  auto opened = dead.stores.Open(spec);
  if (!opened) return opened.error();
  daemon::Store& store = *opened->store;
  if (auto filled = Fill(store, tokens); !filled) return filled;
  const daemon::StoreFigures before = store.Figures();
  std::vector<double> ready, first_use;
  const std::size_t rounds = options.length == BenchOptions::Length::kFull ? std::min<std::size_t>(options.rounds, 7) : 2;
  for (std::size_t round = 0; round < rounds; ++round) {
    std::vector<protocol::UniqueFd> held;
    held.emplace_back(::dup(store.manifest_fd()));
    for (const auto& slab : store.slabs(0)) held.emplace_back(::dup(slab->read_only_fd()));
    // Never ended: its slabs are those of `dead`, which go when that ends. A daemon that is killed ends nothing either.
    auto* const next = new Instance(kBudget);
    const auto begin = Clock::now();
    const daemon::HeldFigures figures = daemon::RestoreHeld(next->core, next->stores, std::move(held));
    ready.push_back(Nanoseconds(Clock::now() - begin));
    if (figures.blocks != before.blocks || figures.bytes != before.compressed_bytes) {
      return Error{ErrorCode::kInternal,
                   "restart: " + std::to_string(figures.blocks) + " blocks came back of " + std::to_string(before.blocks)};
    }
    const std::vector<daemon::Block*> blocks = next->stores.stores().front()->index().blocks();
    const auto used = Clock::now();
    for (daemon::Block* block : blocks) {
      if (!block->store->Whole(*block)) return Error{ErrorCode::kCorrupt, "restart: a block came back damaged"};
    }
    first_use.push_back(Nanoseconds(Clock::now() - used));
  }
  const auto median = [](std::vector<double>& times) {
    std::ranges::sort(times);
    return times[times.size() / 2];
  };
  const double ready_ns = median(ready), first_use_ns = median(first_use);
  const auto bytes = static_cast<double>(before.compressed_bytes);
  Json& figure = report.Begin();
  figure["tokens"] = tokens;
  figure["blocks"] = before.blocks;
  figure["bytes"] = bytes;
  figure["ready_ns"] = ready_ns;
  figure["bytes_per_s"] = bytes / ready_ns * 1e9;
  figure["block_ns"] = ready_ns / static_cast<double>(before.blocks);
  figure["first_use_ns"] = first_use_ns;
  figure["first_use_bytes_per_s"] = bytes / first_use_ns * 1e9;
  figure["target"] = ">= 5 GB/s";
  figure["target_met"] = bytes / ready_ns * 1e9 >= kTarget;
  report.End();
  return {};
}

}  // namespace

int BenchRestart(const Globals& globals, const BenchOptions& options) {
  FigureReport report("restart");
  std::vector<std::size_t> tokens = options.tokens;
  if (tokens.empty()) {
    tokens = options.length == BenchOptions::Length::kFull ? std::vector<std::size_t>{2048, 16384, 65536}
                                                           : std::vector<std::size_t>{512};
  }
  const StoreSpec spec = Spec(options);
  report.head()["keys"] = spec.plan.keys;
  report.head()["values"] = spec.plan.values;
  for (const std::size_t each : tokens) {
    if (auto done = Measure(options, each, report); !done) return Report(globals, done.error());
  }
  report.Print(globals, kColumns);
  return kOk;
}

}  // namespace kvant::tools
