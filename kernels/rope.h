// Rotary positions, applied to rows of floats.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include <kvant/rope.h>

namespace kvant::kernels {

/// Rows of several heads at adjacent tokens: row i of head h stands at token `first_position + i` and begins at
/// `rows + h * head_stride + i * head_dim`.
struct RopeRows {
  float* rows = nullptr;
  std::size_t heads = 1;
  std::size_t head_stride = 0;  ///< in floats
  std::size_t count = 0;        ///< of each head
  std::uint64_t first_position = 0;
};

/// The rotary positions of one model, ready to turn rows. Immutable after construction; shared by threads.
class Rope {
 public:
  /// Requires: ComputeRopeFrequencies accepts the spec.
  Rope(const RopeSpec& spec, std::size_t head_dim);

  /// Turns rows in place; does nothing for RopePairing::kNone.
  ///
  /// Each number is within 7 * 2^-24 * a * r of the exact one up to token 2^20, where a is the attention factor and r the norm
  /// of its pair: cosines and sines come from one product of two that were rounded to floats. A run of kRun tokens needs one
  /// cosine and one sine in double per pair, whatever the number of heads; so hand over all heads at once.
  void Rotate(const RopeRows& rows) const;

  /// Tokens whose angles are derived from one exact angle.
  static constexpr std::size_t kRun = 64;

 private:
  RopePairing pairing_;
  std::size_t head_dim_;
  RopeFrequencies frequencies_;
  std::vector<float> cosines_;  ///< [kRun, pairs]: of turns by 0..kRun-1 tokens
  std::vector<float> sines_;
};

}  // namespace kvant::kernels
