// Codebooks and blocks for the tests of vector codes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <random>
#include <vector>

#include "kernels/vector/codebook.h"
#include "kernels/vector/layout.h"
#include "tests/kernels/lloyd_inputs.h"

namespace kvant::kernels {

/// Any words, the largest number among them.
inline VectorCodebook RandomCodebook(std::mt19937& random) {
  auto words = RandomNormal(kVectorWords * kVectorDims, random);
  words[random() % words.size()] = -5.0f;
  return RoundCodebook(words.data());
}

/// Any bytes are codes; scales are `lowest` and up to `range` units of the last place more.
inline void FillVectorBlock(std::size_t dim, std::size_t tokens, std::uint16_t lowest, std::uint32_t range, GuardedBytes& block,
                            std::mt19937& random) {
  const std::size_t codes = VectorCodesBytes(dim, tokens);
  for (std::size_t i = 0; i < codes; ++i) block.data()[i] = static_cast<std::uint8_t>(random());
  for (std::size_t t = 0; t < tokens; ++t) {
    const auto scale = static_cast<std::uint16_t>(lowest + random() % range);
    std::memcpy(block.data() + codes + t * sizeof(scale), &scale, sizeof(scale));
  }
}

inline constexpr std::uint32_t kVectorTestDims[] = {16, 48, 64, 80, 96, 128, 256};

}  // namespace kvant::kernels
