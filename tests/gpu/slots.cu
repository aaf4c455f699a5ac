#include "tests/gpu/slots.h"

namespace kvant::gpu {
namespace {

constexpr int kThreads = 256;

__device__ std::uint32_t Mix(std::uint64_t x) {
  x = (x + 0x9E3779B97F4A7C15ull) * 0xBF58476D1CE4E5B9ull;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBull;
  return static_cast<std::uint32_t>(x >> 32);
}

__global__ void FillKernel(std::uint8_t* parts, std::size_t heads, HeadLayout layout, std::uint16_t scale,
                           std::uint8_t gain_of_one, std::uint8_t gain_of_loud) {
  for (std::size_t head = blockIdx.x; head < heads; head += gridDim.x) {
    std::uint8_t* part = parts + head * layout.bytes;
    for (std::size_t i = threadIdx.x; i < layout.bytes / 4; i += kThreads) {
      reinterpret_cast<std::uint32_t*>(part)[i] = Mix(head * layout.bytes + i * 4);
    }
    __syncthreads();
    for (std::size_t t = threadIdx.x; t < layout.block_tokens; t += kThreads) {
      const std::uint32_t bits = Mix(~(head * layout.block_tokens + t));
      reinterpret_cast<std::uint16_t*>(part + layout.key_scales)[t] = static_cast<std::uint16_t>(scale + (bits & 0x3FFu));
      reinterpret_cast<std::uint16_t*>(part + layout.value_scales)[t] = static_cast<std::uint16_t>(scale + (bits >> 22));
    }
    for (std::size_t d = threadIdx.x; d < layout.dim; d += kThreads) {
      const auto mean = static_cast<std::uint16_t>((Mix(head * layout.dim + d) & 0x83FFu) | 0x3000u);
      if (layout.mean != 0) reinterpret_cast<std::uint16_t*>(part + layout.mean)[d] = mean;
      if (layout.gains != 0) part[layout.gains + d] = d == 3 ? gain_of_loud : gain_of_one;
    }
  }
}

__global__ void ReadKernel(const uint4* data, std::size_t count, std::uint32_t* sink) {
  const std::size_t stride = static_cast<std::size_t>(gridDim.x) * kThreads;
  std::uint32_t all = 0;
  std::size_t i = static_cast<std::size_t>(blockIdx.x) * kThreads + threadIdx.x;
  for (; i + 7 * stride < count; i += 8 * stride) {
    uint4 v[8];
#pragma unroll
    for (int j = 0; j < 8; ++j) v[j] = __ldcs(data + i + j * stride);
#pragma unroll
    for (int j = 0; j < 8; ++j) all ^= v[j].x ^ v[j].y ^ v[j].z ^ v[j].w;
  }
  for (; i < count; i += stride) {
    const uint4 v = __ldcs(data + i);
    all ^= v.x ^ v.y ^ v.z ^ v.w;
  }
  if (all == 0x12345678u) *sink = all;  // or the loads would be left out
}

}  // namespace

cudaError_t FillHeads(std::uint8_t* parts, std::size_t heads, const HeadLayout& layout, std::uint16_t scale,
                      std::uint8_t gain_of_one, std::uint8_t gain_of_loud, cudaStream_t stream) {
  FillKernel<<<4096, kThreads, 0, stream>>>(parts, heads, layout, scale, gain_of_one, gain_of_loud);
  return cudaGetLastError();
}

cudaError_t ReadOnly(const std::uint8_t* data, std::size_t bytes, int blocks, std::uint32_t* sink, cudaStream_t stream) {
  ReadKernel<<<static_cast<unsigned>(blocks), kThreads, 0, stream>>>(reinterpret_cast<const uint4*>(data), bytes / 16, sink);
  return cudaGetLastError();
}

}  // namespace kvant::gpu
