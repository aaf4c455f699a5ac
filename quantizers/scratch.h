// Memory that is cut into aligned pieces: scratch of codecs that make others, and blocks of several parts.
#pragma once

#include <cstddef>

#include "quantizers/codec.h"

namespace kvant::quantizers {

/// Bytes of a piece of `bytes` bytes and what keeps the next one aligned.
constexpr std::size_t Aligned(std::size_t bytes) noexcept { return (bytes + 63) / 64 * 64; }
constexpr std::size_t FloatBytes(std::size_t floats) noexcept { return Aligned(floats * sizeof(float)); }

/// Memory handed out piece by piece.
class Pieces {
 public:
  explicit Pieces(std::byte* memory) noexcept : next_(memory) {}
  std::byte* Bytes(std::size_t bytes) noexcept {
    std::byte* piece = next_;
    next_ += Aligned(bytes);
    return piece;
  }
  float* Floats(std::size_t floats) noexcept { return reinterpret_cast<float*>(Bytes(floats * sizeof(float))); }
  [[nodiscard]] std::byte* rest() const noexcept { return next_; }

 private:
  std::byte* next_;
};

/// All parts of a codec's block one after the other in adjacent memory, each aligned.
inline std::size_t AdjacentBytes(const BlockCodec& codec) noexcept {
  std::size_t bytes = 0;
  for (std::size_t p = 0; p < codec.parts(); ++p) bytes += Aligned(codec.part_bytes(p));
  return bytes;
}

/// The block that lies so at `bytes`. Requires of a codec of several parts: AdjacentBytes(codec) of them.
template <typename Byte>
BasicBlockView<Byte> AdjacentParts(const BlockCodec& codec, Byte* bytes) noexcept {
  BasicBlockView<Byte> block;
  block.parts = codec.parts();
  for (std::size_t p = 0; p < block.parts; ++p) {
    block.part[p] = bytes;
    bytes += Aligned(codec.part_bytes(p));
  }
  return block;
}

}  // namespace kvant::quantizers
