// Logits straight from the codes of keys: integer sums of centroids and integer queries, exact on every target.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/lloyd/table.h"

namespace kvant::kernels {

struct LloydScoreArgs {
  const LloydTable* table = nullptr;
  std::size_t dim = 0;
  std::size_t tokens = 0;               ///< of the block
  const std::uint8_t* block = nullptr;  ///< LloydLayout::kKeys
  const std::byte* prepared = nullptr;  ///< lloyd/query.h
  std::size_t queries = 0;
  float* logits = nullptr;  ///< query i, token t: logits[i * stride + t]
  std::size_t stride = 0;
  const std::byte* next = nullptr;  ///< memory to prefetch, or null
  std::size_t next_bytes = 0;
};

void LloydScore(const LloydScoreArgs& args) noexcept;

}  // namespace kvant::kernels
