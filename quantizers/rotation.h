// The random rotations of a codec: which signs stand before which Hadamard mixing. Stored codes depend on every bit of this.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>
#include <vector>

#include "kernels/rotation/hadamard.h"
#include "quantizers/codec.h"

namespace kvant::quantizers {

/// Rounds of {signs, mixing} of stored codes. One is not safe for sparse rows; three leave below 1 % of the worst bias. Of
/// fewer than 128 dims three rounds still leave a one-hot row on a visible lattice (ADR 0007).
constexpr std::size_t RotationRounds(std::uint32_t head_dim) noexcept { return head_dim < 128 ? 4 : 3; }

/// What a rotation may depend on: nothing per token or per request, or blocks could not be shared.
struct RotationKey {
  std::string_view codec;  ///< name
  std::uint32_t version = 1;
  std::string_view model;  ///< the identity's model digest
  std::uint32_t layer = 0;
  std::uint32_t kv_head = 0;
  Side side = Side::kKeys;
  std::uint32_t stream = 0;  ///< CodecConfig::stream
};

/// XXH3-64 of: "kvant.rotation", codec and model (each with its length before it), then version, layer, kv_head, side and,
/// unless it is 0, stream; all numbers u32 little-endian.
[[nodiscard]] std::uint64_t RotationSeed(const RotationKey& key);

/// An orthogonal map of rows. Immutable.
class Rotation {
 public:
  /// The signs are the bits of the splitmix64 sequence (Steele, Lea, Flood 2014) of `seed`, lowest first; 1 means -1.
  Rotation(std::uint32_t head_dim, std::size_t rounds, std::uint64_t seed);

  [[nodiscard]] const kernels::HadamardShape& shape() const noexcept { return shape_; }
  [[nodiscard]] std::size_t rounds() const noexcept { return rounds_; }
  [[nodiscard]] const std::uint32_t* signs() const noexcept { return signs_.data(); }
  /// Beside the object itself, what the allocator adds included.
  [[nodiscard]] std::size_t memory_bytes() const noexcept {
    constexpr std::size_t kOfAllocator = 24;
    return (signs_.capacity() + quarter_signs_.capacity()) * sizeof(std::uint32_t) +
           query_turns_.capacity() * sizeof(std::int16_t) + 3 * kOfAllocator;
  }
  /// Lives as long as this.
  [[nodiscard]] kernels::HadamardMap map() const noexcept {
    return {shape_, rounds_, signs_.data(), quarter_signs_.empty() ? nullptr : quarter_signs_.data(),
            query_turns_.empty() ? nullptr : query_turns_.data()};
  }

 private:
  kernels::HadamardShape shape_;
  std::size_t rounds_;
  std::vector<std::uint32_t> signs_;
  std::vector<std::uint32_t> quarter_signs_;  ///< empty where the shape has none
  std::vector<std::int16_t> query_turns_;     ///< empty where the shape has none
};

/// The rotations of the KV heads that a configuration names, RotationRounds each. Immutable.
class HeadRotations {
 public:
  HeadRotations() = default;
  HeadRotations(std::string_view codec, std::uint32_t version, const CodecConfig& config);

  /// `head` is numbered within the layer.
  [[nodiscard]] const Rotation& of(std::size_t head) const { return rotations_[head - first_head_]; }
  [[nodiscard]] std::size_t count() const noexcept { return rotations_.size(); }
  [[nodiscard]] std::size_t memory_bytes() const noexcept;

 private:
  std::size_t first_head_ = 0;
  std::vector<Rotation> rotations_;
};

}  // namespace kvant::quantizers
