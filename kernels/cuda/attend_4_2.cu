#define KVANT_ATTEND_KERNELS
#include "kernels/cuda/attend_kernel.h"

template cudaError_t kvant::kernels::cuda::LaunchAttend<4, 2>(const AttendPlan&, cudaStream_t);
