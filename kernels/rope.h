// Rotary positions, applied to rows of floats.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include <kvant/rope.h>

namespace kvant::kernels {

/// The angles of one model's RoPE. Immutable after construction; shared by threads.
class Rope {
 public:
  /// Requires: ComputeRopeFrequencies accepts the spec.
  Rope(const RopeSpec& spec, std::size_t head_dim);

  /// Turns `count` adjacent rows of head_dim floats: row i stands at token `first_position + i`. Angles are computed in double
  /// and are exact to 1e-9 radians up to 2^20 tokens. Does nothing for RopePairing::kNone.
  void Rotate(float* rows, std::size_t count, std::uint64_t first_position) const;

 private:
  RopePairing pairing_;
  std::size_t head_dim_;
  RopeFrequencies frequencies_;
};

}  // namespace kvant::kernels
