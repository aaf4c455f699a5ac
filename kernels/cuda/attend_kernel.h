// The kernel of decode attention and its launch; only .cu files include it. Each pair of bit widths is compiled on its own.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "kernels/cuda/attend_block.h"
#include "kernels/cuda/plan.h"

namespace kvant::kernels::cuda {

/// For a plan of those bits. Requires: its head_dim and rows are served.
template <int kKeyBits, int kValueBits>
cudaError_t LaunchAttend(const AttendPlan& plan, cudaStream_t stream);

extern template cudaError_t LaunchAttend<2, 2>(const AttendPlan&, cudaStream_t);
extern template cudaError_t LaunchAttend<4, 2>(const AttendPlan&, cudaStream_t);
extern template cudaError_t LaunchAttend<4, 4>(const AttendPlan&, cudaStream_t);

#ifdef KVANT_ATTEND_KERNELS

/// Whether this thread block is the last of `splits` that is done; what the others wrote is then visible.
__device__ inline bool IsLast(unsigned* counter, int splits, int* shared) {
  __syncthreads();
  if (threadIdx.x == 0) {
    unsigned before;
    // One thread's acquire and release after the barrier covers what all wrote, and is far cheaper than a fence by each.
    asm volatile("atom.add.acq_rel.gpu.global.u32 %0,[%1],1;" : "=r"(before) : "l"(counter) : "memory");
    *shared = before == static_cast<unsigned>(splits - 1) ? 1 : 0;
    if (*shared != 0) *counter = 0;
  }
  __syncthreads();
  return *shared != 0;
}

template <class Shape>
__global__ void __launch_bounds__(kWarps* kWarpLanes, 2) AttendKernel(const __grid_constant__ AttendPlan plan) {
  extern __shared__ __align__(16) std::uint8_t bytes[];
  auto& memory = *reinterpret_cast<typename Shape::Memory*>(bytes);
  const int warp = static_cast<int>(threadIdx.x) / kWarpLanes, split = static_cast<int>(blockIdx.x),
            index = static_cast<int>(blockIdx.y);
  const AttendBlock<Shape> block(plan, memory, index);
  block.LoadQueries(warp);
  __syncthreads();
  block.PrepareQueries(warp);
  __syncthreads();
  auto work = block.MakeWarp(warp);
  work.Run(memory.prepared, split * kWarps + warp, plan.splits * kWarps, block.Seen());
  __syncthreads();
  work.values.Leave(memory.results[warp]);
  __syncthreads();
  for (int row = warp; row < Shape::kRows; row += kWarps) {
    const auto found = block.MergeWarps(row);
    if (plan.splits == 1) {
      block.Finish(row, found);
    } else {
      block.LeavePartial(block.PartialOf(index, split), row, found);
    }
  }
  if (plan.splits == 1 || !IsLast(plan.counters + index, plan.splits, &memory.last)) return;
  for (int row = warp; row < Shape::kRows; row += kWarps) block.Finish(row, block.MergeSplits(index, row));
}

template <class Shape>
cudaError_t Launch(const AttendPlan& plan, cudaStream_t stream) {
  constexpr int kBytes = sizeof(typename Shape::Memory);
  static_assert(kBytes <= 48 * 1024, "more must be asked for");
  const dim3 grid(static_cast<unsigned>(plan.splits), static_cast<unsigned>(plan.heads()));
  AttendKernel<Shape><<<grid, kWarps * kWarpLanes, kBytes, stream>>>(plan);
  return cudaGetLastError();
}

template <int kKeyBits, int kValueBits>
cudaError_t LaunchAttend(const AttendPlan& plan, cudaStream_t stream) {
  const bool four = plan.tile_rows == 4;
  switch (plan.args.dim) {
    case 64:
      return four ? Launch<AttendShape<kKeyBits, kValueBits, 64, 4>>(plan, stream)
                  : Launch<AttendShape<kKeyBits, kValueBits, 64, 8>>(plan, stream);
    case 128:
      return four ? Launch<AttendShape<kKeyBits, kValueBits, 128, 4>>(plan, stream)
                  : Launch<AttendShape<kKeyBits, kValueBits, 128, 8>>(plan, stream);
    default:
      if constexpr (kKeyBits == kValueBits) return Launch<AttendShape<kKeyBits, kValueBits, 256, 4>>(plan, stream);
      return cudaErrorInvalidValue;
  }
}

#endif  // KVANT_ATTEND_KERNELS

}  // namespace kvant::kernels::cuda
