// What a spectral code of one KV head is made of: a basis, its directions in the order of their codes, and groups of equal
// bits.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "kernels/lloyd/table.h"
#include "quantizers/codec.h"
#include "quantizers/rotation.h"

namespace kvant::quantizers {

/// Directions with codes of equal bits, rotated among themselves so that none stands out.
struct SpectralGroup {
  const kernels::LloydTable* table = nullptr;
  std::size_t begin = 0;  ///< in SpectralHead::order
  std::size_t count = 0;  ///< a multiple of 8
  float unshrink = 1;     ///< what its centroids are multiplied with: 1 / (1 - error) for keys, 1 for values
  Rotation rotation;
};

/// One KV head. Its spans are the artifact's.
struct SpectralHead {
  std::span<const float> mean;       ///< [dim]
  std::span<const float> basis;      ///< [dim, dim], orthonormal rows
  std::vector<std::uint16_t> order;  ///< rows of the basis that have codes
  std::vector<float> deviations;     ///< of these
  std::vector<SpectralGroup> groups;

  [[nodiscard]] std::size_t code_bytes(std::size_t tokens) const noexcept;
  [[nodiscard]] std::size_t memory_bytes() const noexcept;
};

/// How the bits of a head's directions are chosen.
struct SpectralBits {
  bool from_map = false;     ///< the artifact's bits of each direction
  std::uint32_t signal = 4;  ///< without a map: of the directions that matter, and of the others
  std::uint32_t noise = 1;
};

/// The heads [head_begin, head_end) of a layer, from the tensors "layers.<layer>.keys.<what>" (or values): mean and deviation
/// [kv_heads, dim], basis [kv_heads, dim, dim], and of the bits either bits [kv_heads, dim] or, if there is one, signal
/// [kv_heads]. Errors name what is missing or wrong.
[[nodiscard]] Result<std::vector<SpectralHead>> MakeSpectralHeads(const CodecConfig& config, std::string_view codec,
                                                                  std::uint32_t version, const SpectralBits& bits);

/// Tensors with which both ways can be made, for rows of N(mean, 1).
[[nodiscard]] Example ExampleSpectral(const CodecConfig& config);

}  // namespace kvant::quantizers
