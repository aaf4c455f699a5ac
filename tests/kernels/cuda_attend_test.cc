// The arithmetic of kernels/cuda/ on an emulated GPU: the kernels' own source, lane by lane.
#include "kernels/cuda/attend.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstdint>
#include <functional>
#include <limits>
#include <string>
#include <vector>

#include "kernels/cuda/attend_block.h"
#include "kernels/lloyd/table.h"
#include "tests/kernels/cuda_inputs.h"

namespace kvant::kernels::cuda {
namespace {

/// The multiprocessors of the emulated GPU.
constexpr int kMultiprocessors = 6;

/// What the kernel of attend.cu does, thread block after thread block.
template <class Shape>
void Emulate(const AttendPlan& plan) {
  for (int index = 0; index < plan.heads(); ++index) {
    for (int split = 0; split < plan.splits; ++split) {
      typename Shape::Memory memory;
      std::memset(static_cast<void*>(&memory), 0xFF, sizeof(memory));  // what is read before it is written shows as NaN
      AttendBlock<Shape> block(plan, memory, index);
      for (int warp = 0; warp < kWarps; ++warp) block.LoadQueries(warp);
      for (int warp = 0; warp < kWarps; ++warp) block.PrepareQueries(warp);
      std::vector<typename AttendBlock<Shape>::Warp> warps;
      for (int warp = 0; warp < kWarps; ++warp) {
        warps.push_back(block.MakeWarp(warp));
        warps.back().Run(memory.prepared, split * kWarps + warp, plan.splits * kWarps, block.Seen());
      }
      for (int warp = 0; warp < kWarps; ++warp) warps[static_cast<std::size_t>(warp)].values.Leave(memory.results[warp]);
      for (int row = 0; row < Shape::kRows; ++row) {
        const auto found = block.MergeWarps(row);
        if (plan.splits == 1) {
          block.Finish(row, found);
        } else {
          block.LeavePartial(block.PartialOf(index, split), row, found);
        }
      }
      if (plan.splits == 1 || split + 1 < plan.splits) continue;
      for (int row = 0; row < Shape::kRows; ++row) block.Finish(row, block.MergeSplits(index, row));
    }
  }
}

/// Calls `use` with the shape of a plan.
template <class Use>
void WithShape(const AttendPlan& plan, const Use& use) {
  const auto with_dim = [&]<int kKeyBits, int kValueBits>() {
    if (plan.args.dim == 64 && plan.tile_rows == 4) use.template operator()<AttendShape<kKeyBits, kValueBits, 64, 4>>();
    if (plan.args.dim == 64 && plan.tile_rows == 8) use.template operator()<AttendShape<kKeyBits, kValueBits, 64, 8>>();
    if (plan.args.dim == 128 && plan.tile_rows == 4) use.template operator()<AttendShape<kKeyBits, kValueBits, 128, 4>>();
    if (plan.args.dim == 128 && plan.tile_rows == 8) use.template operator()<AttendShape<kKeyBits, kValueBits, 128, 8>>();
    if constexpr (kKeyBits == kValueBits) {
      if (plan.args.dim == 256) use.template operator()<AttendShape<kKeyBits, kValueBits, 256, 4>>();
    }
  };
  if (plan.args.key_bits == 2 && plan.args.value_bits == 2) with_dim.template operator()<2, 2>();
  if (plan.args.key_bits == 4 && plan.args.value_bits == 4) with_dim.template operator()<4, 4>();
  if (plan.args.key_bits == 4 && plan.args.value_bits == 2) with_dim.template operator()<4, 2>();
}

/// Attends on the emulated GPU and compares every row with float64. `change`: what is asked for beyond the batch.
void Check(const BatchShape& shape, const std::function<void(AttendArgs&, const Batch&)>& change = {}) {
  SCOPED_TRACE(Name(shape));
  constexpr std::uint32_t kSeed = 31;
  const Batch batch(shape, kSeed);
  AttendArgs args = batch.Args();
  const auto dim = static_cast<std::size_t>(shape.dim);
  std::vector<float> out(batch.rows() * dim, std::numeric_limits<float>::quiet_NaN()), lse(batch.rows(), NAN);
  args.out = {out.data(), ElementType::kF32, args.q.sequence_stride, args.q.token_stride, args.q.head_stride};
  args.lse = lse.data();
  if (change) change(args, batch);
  const auto bytes = AttendWorkspaceBytes(args, kMultiprocessors);
  ASSERT_TRUE(bytes) << bytes.error().message;
  std::vector<std::uint64_t> workspace(*bytes / 8 + 2);
  args.workspace = reinterpret_cast<std::byte*>((reinterpret_cast<std::uintptr_t>(workspace.data()) + 15) / 16 * 16);
  args.workspace_bytes = *bytes;
  const auto plan = PlaceAttend(args, kMultiprocessors);
  ASSERT_TRUE(plan) << plan.error().message;
  WithShape(*plan, [&]<class Shape>() { Emulate<Shape>(*plan); });
  EXPECT_EQ(batch.Judge(args, out.data(), lse.data()).wrong, "");
}

TEST(CudaFragmentsTest, LevelsAreTheStoredTables) {
  const auto byte = [](std::uint32_t word, int i) {
    return static_cast<int>(static_cast<std::int8_t>(word >> (8 * i) & 255u));
  };
  for (int i = 0; i < 4; ++i) EXPECT_EQ(byte(kLevelsOfTwoBits, i), FindLloydTable(2)->Centroid(static_cast<std::uint32_t>(i)));
  for (int i = 0; i < 16; ++i) {
    EXPECT_EQ(byte(kLevelsOfFourBits[i / 4], i % 4), FindLloydTable(4)->Centroid(static_cast<std::uint32_t>(i)));
  }
}

/// Logits of every token of a batch, bit by bit.
template <class Shape>
void CheckLogits(const Batch& batch, const AttendPlan& plan) {
  using Block = AttendBlock<Shape>;
  typename Shape::Memory memory;
  const std::vector<std::int32_t>& table = batch.table();
  for (int index = 0; index < plan.heads(); ++index) {
    Block block(plan, memory, index);
    for (int warp = 0; warp < kWarps; ++warp) block.LoadQueries(warp);
    for (int warp = 0; warp < kWarps; ++warp) block.PrepareQueries(warp);
    auto warp = block.MakeWarp(0);
    for (int b = 0; b < block.blocks.end_block; ++b) {
      const std::size_t slot =
          static_cast<std::size_t>(table[static_cast<std::size_t>(block.tile.sequence * plan.args.table_stride + b)]) *
          plan.args.slot_bytes;
      if (b == 0) {
        warp.keys.Begin(memory.prepared, slot);
      } else if (plan.args.gauge != Gauge::kNone) {
        warp.keys.TakeGauge(slot);
      }
      for (int step = 0; step < plan.args.block_tokens / Shape::kStep; ++step) {
        warp.keys.Load(slot, step);
        typename Block::Warp::Keys::Logits x;
        warp.keys.Score(false, 0, 0, x);
        const int token = b * plan.args.block_tokens + step * Shape::kStep;
        for (int q = 0; q < Block::kEach; ++q) {
          for (int s = 0; s < Block::Warp::Keys::Codes::kFields; ++s) {
            for (int k = 0; k < Block::Warp::Keys::kTokensOfLane; ++k) {
              for (int lane = 0; lane < kWarpLanes; ++lane) {
                const int row = lane % 4 * Block::kEach + q;
                if (row >= block.tile.rows) continue;
                const int of_head = block.tile.first_row + row, group = plan.args.group;
                const auto of_all =
                    static_cast<std::size_t>((block.tile.sequence * plan.args.tokens + of_head / group) * batch.heads() +
                                             block.tile.head * group + of_head % group);
                const int at = token + warp.keys.first_token.lane[lane] + 16 * s + k;
                const float expected = batch.Logit(of_all, at, plan.args.scale);
                ASSERT_EQ(std::bit_cast<std::uint32_t>(x[q][s][k].lane[lane]), std::bit_cast<std::uint32_t>(expected))
                    << "row " << of_all << ", token " << at << ": " << x[q][s][k].lane[lane] << " and " << expected;
              }
            }
          }
        }
      }
    }
  }
}

TEST(CudaAttendTest, LogitsHaveTheProcessorsBits) {
  for (const int dim : {64, 128, 256}) {
    for (const int key_bits : {2, 4}) {
      for (const int value_bits : {2, key_bits}) {
        if (dim == 256 && key_bits != value_bits) continue;
        for (const int group : {3, 8}) {
          for (const Gauge gauge : {Gauge::kNone, Gauge::kMean, Gauge::kGains}) {
            BatchShape shape{.key_bits = key_bits, .value_bits = value_bits, .dim = dim, .gauge = gauge, .group = group};
            shape.cached = {384};
            SCOPED_TRACE(Name(shape));
            Batch batch(shape, 17);
            auto& queries = batch.queries();
            std::fill_n(queries.begin(), dim, 0.0f);  // no norm, and norms whose squares are too small or too large
            for (int d = 0; d < dim; ++d) queries[static_cast<std::size_t>(dim + d)] *= 1e-25f;
            for (int d = 0; d < dim; ++d) queries[static_cast<std::size_t>(2 * dim + d)] *= 1e25f;
            AttendArgs args = batch.Args();
            float out = 0;
            args.out.data = &out;
            alignas(16) std::byte none[16];
            args.workspace = none;
            args.workspace_bytes = SIZE_MAX;
            const auto plan = PlaceAttend(args, kMultiprocessors);
            ASSERT_TRUE(plan) << plan.error().message;
            WithShape(*plan, [&]<class Shape>() { CheckLogits<Shape>(batch, *plan); });
            if (HasFatalFailure()) return;
          }
        }
      }
    }
  }
}

TEST(CudaAttendTest, OutputsAreThoseOfFloat64WithinTheRoundingOfWeights) {
  for (const int dim : {64, 128, 256}) {
    for (const auto& [key_bits, value_bits] : {std::pair{2, 2}, {4, 4}, {4, 2}}) {
      if (dim == 256 && key_bits != value_bits) continue;
      for (const int group : {1, 4, 7, 16}) {
        BatchShape shape{.key_bits = key_bits, .value_bits = value_bits, .dim = dim, .kv_heads = 1, .group = group};
        shape.cached = {1000, 130, 1, 2048};
        Check(shape);
      }
    }
  }
}

TEST(CudaAttendTest, BlocksMayHaveManySteps) {
  Check({.block_tokens = 256, .cached = {1100}});
  Check({.key_bits = 2, .value_bits = 2, .block_tokens = 384, .cached = {1100}});
  Check({.block_tokens = 64, .cached = {700}});  // one step each
}

TEST(CudaAttendTest, ANewTokenSeesNoTokenBehindIt) {
  for (const int tokens : {1, 3, 9}) {
    Check({.group = 4, .tokens = tokens, .cached = {300, 7}, .ahead = true});
    Check({.key_bits = 2, .value_bits = 2, .group = 3, .tokens = tokens, .cached = {300, 7}, .ahead = true});
  }
}

TEST(CudaAttendTest, WindowsHideWhatIsBeforeThem) {
  for (const std::uint32_t window : {1u, 64u, 200u, 5000u}) {
    const auto change = [&](AttendArgs& args, const Batch&) { args.window = window; };
    Check({.tokens = 3, .cached = {900, 150}}, change);
    Check({.key_bits = 2, .value_bits = 2, .group = 2, .cached = {900, 150}, .ahead = true}, change);
  }
}

TEST(CudaAttendTest, SoftCapsAndSinksAreApplied) {
  Check({.cached = {300, 0}}, [](AttendArgs& args, const Batch& batch) { args.sink_logits = batch.sinks().data(); });
  Check({.cached = {300}}, [](AttendArgs& args, const Batch&) { args.softcap = 2.0f; });
}

TEST(CudaAttendTest, GaugesOfBlocksAreUndone) {
  for (const Gauge gauge : {Gauge::kMean, Gauge::kGains}) {
    for (const int group : {4, 8}) {
      Check({.gauge = gauge, .group = group, .cached = {1500, 200}});
      Check({.key_bits = 2, .value_bits = 2, .dim = 64, .gauge = gauge, .group = group, .cached = {1500, 200}});
    }
  }
}

TEST(CudaAttendTest, ASequenceWithoutTokensGivesZeros) { Check({.cached = {0, 5}}); }

TEST(CudaAttendTest, PartialResultsNeverLieWhereAnotherShapeCounts) {
  const Batch small({.kv_heads = 1, .cached = {5000}}, 1), large({.kv_heads = 3, .cached = {5000, 5000}}, 1);
  std::vector<std::size_t> partials;
  for (const Batch* batch : {&small, &large}) {
    AttendArgs args = batch->Args();
    float out = 0;
    alignas(16) std::byte workspace[16];
    args.out.data = &out;
    args.workspace = workspace;
    args.workspace_bytes = SIZE_MAX;
    const auto plan = PlaceAttend(args, kMultiprocessors);
    ASSERT_TRUE(plan) << plan.error().message;
    ASSERT_GT(plan->splits, 1);
    partials.push_back(reinterpret_cast<std::uintptr_t>(plan->partials) - reinterpret_cast<std::uintptr_t>(plan->counters));
    EXPECT_GE(partials.back(), static_cast<std::size_t>(plan->heads()) * sizeof(unsigned));
  }
  EXPECT_EQ(partials[0], partials[1]);
}

TEST(CudaAttendTest, WhatIsNotServedIsNamed) {
  const auto refusal = [](const std::function<void(AttendArgs&)>& change) {
    const Batch batch({.cached = {128}}, 1);
    AttendArgs args = batch.Args();
    float out = 0;
    args.out.data = &out;
    change(args);
    const auto plan = PlaceAttend(args, kMultiprocessors);
    return plan ? std::string() : plan.error().message;
  };
  EXPECT_EQ(refusal([](AttendArgs&) {}), "");
  EXPECT_EQ(refusal([](AttendArgs& a) { a.key_bits = 3; }),
            "attend on a GPU: codes of 3 and 4 bits; 2 and 4 are served, of values no more than of keys");
  EXPECT_EQ(refusal([](AttendArgs& a) { a.dim = 80; }), "attend on a GPU: head_dim 80; 64, 128 and 256 are served");
  EXPECT_EQ(refusal([](AttendArgs& a) { a.dim = 256, a.value_bits = 2; }),
            "attend on a GPU: head_dim 256 with codes of 4 and 2 bits; as many for keys as for values are served");
  EXPECT_EQ(refusal([](AttendArgs& a) { a.block_tokens = 32; }),
            "attend on a GPU: block_tokens 32 is not a multiple of 64, which codes of 4 and 4 bits need");
  EXPECT_EQ(refusal([](AttendArgs& a) { a.group = 17; }), "attend on a GPU: group 17 is not in 1..16");
  EXPECT_EQ(refusal([](AttendArgs& a) { a.tokens = 0; }), "attend on a GPU: tokens 0 is not in 1..512");
  EXPECT_EQ(refusal([](AttendArgs& a) { a.scale = NAN; }), "attend on a GPU: scale or softcap is not finite");
  EXPECT_EQ(refusal([](AttendArgs& a) { a.head_bytes += 8; }),
            "attend on a GPU: an offset within slots, 16904, is not a multiple of 16");
  EXPECT_EQ(refusal([](AttendArgs& a) { a.out.data = nullptr; }),
            "attend on a GPU: q or out is null or not aligned to its elements");
  EXPECT_EQ(refusal([](AttendArgs& a) { a.table_stride = 64; }).substr(0, 38), "attend on a GPU: workspace of 0 bytes;");
}

}  // namespace
}  // namespace kvant::kernels::cuda
