// What every codec must hold, whoever wrote it: the conformance suite. Each check is a function that reports through gtest. It
// knows no codec's name: what a codec may differ in, it says itself (CodecTraits, expected_error, Codec::example).
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include <kvant/store_spec.h>

#include "quantizers/artifact.h"
#include "quantizers/codec.h"
#include "quantizers/registry.h"

namespace kvant::quantizers::test {

/// A codec of the registry with everything it needs to work.
class ConformanceCase {
 public:
  /// `spec` as users write it. The artifact is the codec's own example.
  ConformanceCase(const Registry& registry, const std::string& spec, std::size_t head_dim, const RopeSpec& rope);

  /// False if the codec declines this head size with a clear error; nothing to check then.
  [[nodiscard]] bool supported() const noexcept { return keys_ != nullptr || values_ != nullptr; }
  [[nodiscard]] const KeyCodec* keys() const noexcept { return keys_.get(); }
  [[nodiscard]] const ValueCodec* values() const noexcept { return values_.get(); }

  /// All of the below.
  void CheckAll() const;

  void CheckRoundTrip(Side side) const;       ///< the error is what expected_error says, for every number of parts
  void CheckDecodeOfRanges(Side side) const;  ///< any range of rows decodes to the same bits, with strides, added or not
  void CheckInputForms(Side side) const;      ///< strides, element types and SIMD targets do not change the bytes
  void CheckRefusals(Side side) const;        ///< NaN and infinity in any place, naming the row
  void CheckSpecialRows(Side side) const;     ///< zeros, denormals, equal rows, the largest numbers
  void CheckFewerParts(Side side) const;      ///< encoding into the first parts writes what dropping the others leaves
  void CheckRowsAlone(Side side) const;       ///< if the codec says so, a row reads back the same whatever the others are
  void CheckScores() const;                   ///< Score = decode, RoPE where the codec wants it, dot product
  void CheckSums() const;                     ///< Accumulate and Finish = weighted sum of decoded rows

 private:
  [[nodiscard]] const BlockCodec& codec(Side side) const;
  [[nodiscard]] std::vector<float> NormalRows(Side side, std::uint64_t seed) const;
  [[nodiscard]] std::vector<float> Decode(Side side, std::uint64_t position, const ConstBlockView& block) const;

  std::string spec_;
  std::size_t dim_;
  std::size_t tokens_ = 16;
  RopeSpec rope_;
  std::unique_ptr<const Artifact> artifact_;
  std::vector<float> means_[2];  ///< of the tested head, keys and values; zeros where the codec is not calibrated
  std::unique_ptr<KeyCodec> keys_;
  std::unique_ptr<ValueCodec> values_;
};

/// Specs that cover each codec of a registry: the defaults, and every parameter at its allowed values, its choices or its ends.
std::vector<std::string> CoveringSpecs(const Registry& registry);

/// The artifact that holds the examples of a spec's keys and values (those that it offers), for layer 0 of this shape; empty if
/// it needs none.
std::vector<std::byte> ExampleArtifact(const Registry& registry, const std::string& spec, std::uint32_t kv_heads,
                                       std::size_t head_dim);

}  // namespace kvant::quantizers::test
