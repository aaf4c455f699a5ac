// The logits that an attention kernel works with, laid open: for tests.
#pragma once

#include <cuda_runtime_api.h>

#include "kernels/cuda/plan.h"

namespace kvant::gpu {

/// Whether logits of the plan's shape can be had here.
[[nodiscard]] bool HasLogits(const kernels::cuda::AttendPlan& plan);

/// Logits of all query rows ([sequences, tokens, heads], the GPU's `logits` [rows, row_stride]) and all tokens of their blocks,
/// with no mask and no soft-cap. Requires: HasLogits.
cudaError_t FindLogits(const kernels::cuda::AttendPlan& plan, float* logits, int row_stride, cudaStream_t stream);

}  // namespace kvant::gpu
