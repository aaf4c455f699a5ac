#include "kernels/cuda/attend.h"

#include <string>

#include "kernels/cuda/attend_kernel.h"

namespace kvant::kernels::cuda {
namespace {

Error Failed(const char* call, cudaError_t error) {
  return Error{ErrorCode::kUnavailable, std::string(call) + ": " + cudaGetErrorName(error) + ", " + cudaGetErrorString(error)};
}

}  // namespace

Result<int> Multiprocessors() {
  int device = 0, count = 0;
  cudaError_t error = cudaGetDevice(&device);
  if (error != cudaSuccess) return Failed("cudaGetDevice", error);
  error = cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device);
  if (error != cudaSuccess) return Failed("cudaDeviceGetAttribute of multiprocessors", error);
  return count;
}

Result<void> Attend(const AttendArgs& args, int multiprocessors, Stream stream) {
  const auto plan = PlaceAttend(args, multiprocessors);
  if (!plan) return plan.error();
  const cudaError_t error = args.value_bits == 4 ? LaunchAttend<4, 4>(*plan, stream)
                            : args.key_bits == 4 ? LaunchAttend<4, 2>(*plan, stream)
                                                 : LaunchAttend<2, 2>(*plan, stream);
  if (error != cudaSuccess) return Failed("attend on a GPU: launch", error);
  return {};
}

}  // namespace kvant::kernels::cuda
