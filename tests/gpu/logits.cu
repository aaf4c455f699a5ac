#include "tests/gpu/logits.h"

#include "kernels/cuda/attend_block.h"

namespace kvant::gpu {
namespace {

using kernels::cuda::AttendBlock;
using kernels::cuda::AttendPlan;
using kernels::cuda::AttendShape;
using kernels::cuda::kWarpLanes;
using kernels::cuda::kWarps;

/// One warp for each KV head and tile of rows.
template <class Shape>
__global__ void LogitsKernel(const __grid_constant__ AttendPlan plan, float* logits, int row_stride) {
  extern __shared__ __align__(16) std::uint8_t bytes[];
  auto& memory = *reinterpret_cast<typename Shape::Memory*>(bytes);
  using Block = AttendBlock<Shape>;
  using Keys = typename Block::Warp::Keys;
  const Block block(plan, memory, static_cast<int>(blockIdx.x));
  for (int part = 0; part < kWarps; ++part) block.LoadQueries(part);
  __syncwarp();
  for (int part = 0; part < kWarps; ++part) block.PrepareQueries(part);
  __syncwarp();
  auto warp = block.MakeWarp(0);
  const int lane = static_cast<int>(threadIdx.x);
  for (int b = 0; b < block.blocks.end_block; ++b) {
    const std::size_t slot = warp.SlotOf(b);
    if (b == 0) {
      warp.keys.Begin(memory.prepared, slot);
    } else if (warp.keys.logits.has_mean) {
      warp.keys.TakeGauge(slot);
    }
    for (int step = 0; step < plan.args.block_tokens / Shape::kStep; ++step) {
      warp.keys.Load(slot, step);
      typename Keys::Logits x;
      warp.keys.Score(false, 0, 0, x);
      const int token = b * plan.args.block_tokens + step * Shape::kStep + warp.keys.first_token;
      for (int q = 0; q < Block::kEach; ++q) {
        const int row = lane % 4 * Block::kEach + q, of_head = block.tile.first_row + row, group = plan.args.group;
        if (row >= block.tile.rows) continue;
        const std::int64_t of_all = (std::int64_t{block.tile.sequence} * plan.args.tokens + of_head / group) * block.Heads() +
                                    block.tile.head * group + of_head % group;
        for (int s = 0; s < Keys::Codes::kFields; ++s) {
          for (int k = 0; k < Keys::kTokensOfLane; ++k) logits[of_all * row_stride + token + 16 * s + k] = x[q][s][k];
        }
      }
    }
  }
}

/// Calls `use` with the kernel of a plan and its shared memory, or not at all.
template <class Use>
void WithKernel(const AttendPlan& plan, const Use& use) {
  const auto with = [&]<int kKeyBits, int kValueBits, int kDim, int kRows>() {
    if (plan.args.key_bits != kKeyBits || plan.args.value_bits != kValueBits || plan.args.dim != kDim ||
        plan.tile_rows != kRows)
      return;
    using Shape = AttendShape<kKeyBits, kValueBits, kDim, kRows>;
    use(LogitsKernel<Shape>, sizeof(typename Shape::Memory));
  };
  // Each way in which keys are laid out, and each way in which rows are columns.
  with.template operator()<2, 2, 64, 8>();
  with.template operator()<2, 2, 128, 4>();
  with.template operator()<2, 2, 128, 8>();
  with.template operator()<2, 2, 256, 4>();
  with.template operator()<4, 4, 64, 8>();
  with.template operator()<4, 4, 128, 4>();
  with.template operator()<4, 4, 128, 8>();
  with.template operator()<4, 4, 256, 4>();
  with.template operator()<4, 2, 128, 4>();
}

}  // namespace

bool HasLogits(const AttendPlan& plan) {
  bool has = false;
  WithKernel(plan, [&](auto, std::size_t) { has = true; });
  return has;
}

cudaError_t FindLogits(const AttendPlan& plan, float* logits, int row_stride, cudaStream_t stream) {
  WithKernel(plan, [&](auto kernel, std::size_t bytes) {
    kernel<<<static_cast<unsigned>(plan.heads()), kWarpLanes, bytes, stream>>>(plan, logits, row_stride);
  });
  return cudaGetLastError();
}

}  // namespace kvant::gpu
