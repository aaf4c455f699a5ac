// Slots full of made-up codes, and how fast they can be read at all: for benchmarks.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

namespace kvant::gpu {

/// Where things are within a head's part of a slot: bytes from its start.
struct HeadLayout {
  std::size_t bytes = 0;         ///< of the part
  std::size_t key_scales = 0;    ///< [block_tokens] ufloat16
  std::size_t mean = 0;          ///< [dim] f16; 0: none
  std::size_t gains = 0;         ///< [dim] bytes; 0: none
  std::size_t value_scales = 0;  ///< [block_tokens] ufloat16
  std::size_t block_tokens = 0;
  std::size_t dim = 0;
};

/// Fills `heads` parts, one behind the other: any bytes for codes, scales around `scale` (ufloat16), small means, gains of
/// `gain_of_one` but for channel 3, which has `gain_of_loud`.
cudaError_t FillHeads(std::uint8_t* parts, std::size_t heads, const HeadLayout& layout, std::uint16_t scale,
                      std::uint8_t gain_of_one, std::uint8_t gain_of_loud, cudaStream_t stream);

/// Reads `bytes` (a multiple of 16) at `data` and does nothing else with them, by `blocks` thread blocks.
cudaError_t ReadOnly(const std::uint8_t* data, std::size_t bytes, int blocks, std::uint32_t* sink, cudaStream_t stream);

}  // namespace kvant::gpu
