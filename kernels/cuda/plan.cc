#include "kernels/cuda/plan.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <string>

#include "kernels/lloyd/query.h"
#include "kernels/lloyd/table.h"
#include "kernels/rotation/hadamard.h"

namespace kvant::kernels::cuda {
namespace {

Error Refused(ErrorCode code, const std::string& what) { return Error{code, "attend on a GPU: " + what}; }

Result<void> CheckRange(const char* name, std::int64_t value, std::int64_t least, std::int64_t most) {
  if (value >= least && value <= most) return {};
  return Refused(ErrorCode::kInvalidArgument, std::string(name) + " " + std::to_string(value) + " is not in " +
                                                  std::to_string(least) + ".." + std::to_string(most));
}

Result<void> CheckCodes(const AttendArgs& args) {
  const auto served = [](int bits) { return bits == 2 || bits == 4; };
  if (!served(args.key_bits) || !served(args.value_bits) || args.key_bits < args.value_bits) {
    return Refused(ErrorCode::kUnsupported, "codes of " + std::to_string(args.key_bits) + " and " +
                                                std::to_string(args.value_bits) +
                                                " bits; 2 and 4 are served, of values no more than of keys");
  }
  if (args.dim != 64 && args.dim != 128 && args.dim != 256) {
    return Refused(ErrorCode::kUnsupported, "head_dim " + std::to_string(args.dim) + "; 64, 128 and 256 are served");
  }
  if (args.dim == 256 && args.key_bits != args.value_bits) {
    return Refused(ErrorCode::kUnsupported,
                   "head_dim 256 with codes of 4 and 2 bits; as many for keys as for values are served");
  }
  if (auto ok = CheckRange("rounds", args.rounds, 2, 4); !ok) return ok;
  const int step = StepTokens(args.key_bits, args.value_bits, args.dim);
  if (args.block_tokens <= 0 || args.block_tokens % step != 0) {
    return Refused(ErrorCode::kUnsupported, "block_tokens " + std::to_string(args.block_tokens) + " is not a multiple of " +
                                                std::to_string(step) + ", which codes of " + std::to_string(args.key_bits) +
                                                " and " + std::to_string(args.value_bits) + " bits need");
  }
  return {};
}

Result<void> CheckCounts(const AttendArgs& args) {
  if (auto ok = CheckRange("sequences", args.sequences, 1, kMaxSequences); !ok) return ok;
  if (auto ok = CheckRange("tokens", args.tokens, 1, kMaxTokens); !ok) return ok;
  if (auto ok = CheckRange("group", args.group, 1, kMaxGroup); !ok) return ok;
  if (auto ok = CheckRange("kv_heads", args.kv_heads, 1, 1024); !ok) return ok;
  // Positions are 32-bit integers, and so is the one behind the last.
  if (auto ok = CheckRange("table_stride", args.table_stride, 1, INT32_MAX / 2 / args.block_tokens); !ok) return ok;
  if (auto ok = CheckRange("window", args.window, 0, INT32_MAX / 2); !ok) return ok;
  for (const float number : {args.scale, args.softcap}) {
    if (!std::isfinite(number)) return Refused(ErrorCode::kInvalidArgument, "scale or softcap is not finite");
  }
  if (args.softcap < 0) return Refused(ErrorCode::kInvalidArgument, "softcap " + std::to_string(args.softcap) + " is negative");
  return {};
}

Result<void> CheckPointers(const AttendArgs& args) {
  const auto aligned = [](const void* pointer, std::size_t to) {
    return pointer != nullptr && reinterpret_cast<std::uintptr_t>(pointer) % to == 0;
  };
  for (const std::size_t offset : {args.slot_bytes, args.key_offset, args.value_offset, args.head_bytes}) {
    if (offset % 16 != 0) {
      return Refused(ErrorCode::kInvalidArgument,
                     "an offset within slots, " + std::to_string(offset) + ", is not a multiple of 16");
    }
  }
  if (!aligned(args.slots, 16)) return Refused(ErrorCode::kInvalidArgument, "slots are null or not aligned to 16 bytes");
  if (!aligned(args.table, 4) || !aligned(args.cached, 4) || !aligned(args.key_signs, 4) || !aligned(args.value_signs, 4)) {
    return Refused(ErrorCode::kInvalidArgument, "table, cached or signs are null or not aligned");
  }
  if (!aligned(args.q.data, ElementBytes(args.q.type)) || !aligned(args.out.data, ElementBytes(args.out.type))) {
    return Refused(ErrorCode::kInvalidArgument, "q or out is null or not aligned to its elements");
  }
  return {};
}

/// As many as fill the GPU twice, which is how many thread blocks fit, but each warp with two blocks at least.
int SplitsOf(const AttendPlan& plan, int multiprocessors) {
  const int per_head = 2 * multiprocessors / std::max(1, plan.heads());
  const int by_work = plan.args.table_stride / kWarps;
  return std::clamp(std::min(per_head, by_work), 1, 64);
}

}  // namespace

void PackSigns(const std::uint32_t* signs, int rounds, int dim, std::uint32_t* packed) noexcept {
  for (int i = 0; i < rounds * dim; ++i) {
    if (i % 32 == 0) packed[i / 32] = 0;
    packed[i / 32] |= (signs[i] != 0 ? 1u : 0u) << (i % 32);
  }
}

Result<AttendPlan> PlanAttend(const AttendArgs& args, int multiprocessors) {
  if (auto ok = CheckCodes(args); !ok) return std::move(ok).error();
  if (auto ok = CheckCounts(args); !ok) return std::move(ok).error();
  if (auto ok = CheckRange("multiprocessors", multiprocessors, 1, 4096); !ok) return std::move(ok).error();
  AttendPlan plan;
  plan.args = args;
  plan.tile_rows = TileRows(args.tokens * args.group, args.dim);
  plan.tiles = (args.tokens * args.group + plan.tile_rows - 1) / plan.tile_rows;
  // Thread blocks are counted in 16 bits.
  if (auto ok =
          CheckRange("sequences * kv_heads * tiles", std::int64_t{plan.args.sequences} * args.kv_heads * plan.tiles, 1, 65535);
      !ok) {
    return std::move(ok).error();
  }
  plan.splits = SplitsOf(plan, multiprocessors);
  plan.most_counters = multiprocessors;
  const auto dim = static_cast<std::uint32_t>(args.dim);
  const auto rounds = static_cast<std::size_t>(args.rounds);
  const QueryRotation& rotation = QueryRotation::Of(dim);
  const HadamardShape shape = HadamardShape::For(dim);
  const LloydTable* keys = FindLloydTable(static_cast<std::uint32_t>(args.key_bits));
  const LloydTable* values = FindLloydTable(static_cast<std::uint32_t>(args.value_bits));
  plan.map = {.rounds = args.rounds,
              .limit = rotation.limit,
              .turn = rotation.turn,
              .to_logit = QueryToLogit({.table = keys, .map = {.shape = shape, .rounds = rounds}})};
  plan.out_factor = static_cast<float>(1.0 / (shape.gain(rounds) * values->unit * std::sqrt(static_cast<double>(dim))));
  return plan;
}

Result<AttendPlan> PlaceAttend(const AttendArgs& args, int multiprocessors) {
  auto plan = PlanAttend(args, multiprocessors);
  if (!plan) return plan;
  if (auto ok = CheckPointers(args); !ok) return std::move(ok).error();
  if (plan->splits == 1) return plan;
  if (args.workspace == nullptr || reinterpret_cast<std::uintptr_t>(args.workspace) % 16 != 0 ||
      args.workspace_bytes < plan->workspace_bytes()) {
    return Refused(ErrorCode::kInvalidArgument, "workspace of " + std::to_string(args.workspace_bytes) + " bytes; " +
                                                    std::to_string(plan->workspace_bytes()) + " are needed, aligned to 16");
  }
  plan->counters = reinterpret_cast<unsigned*>(args.workspace);
  plan->partials = reinterpret_cast<float*>(args.workspace + plan->counter_bytes());
  return plan;
}

Result<std::size_t> AttendWorkspaceBytes(const AttendArgs& args, int multiprocessors) {
  auto plan = PlanAttend(args, multiprocessors);
  if (!plan) return std::move(plan).error();
  return plan->workspace_bytes();
}

}  // namespace kvant::kernels::cuda
