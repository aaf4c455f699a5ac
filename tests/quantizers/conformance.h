// What every codec must hold, whoever wrote it: the conformance suite. Each check is a function that reports through gtest.
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
  /// `spec` as users write it. The artifact, if any, is offered to every codec.
  ConformanceCase(const Registry& registry, const std::string& spec, std::size_t head_dim, const RopeSpec& rope,
                  const std::vector<std::byte>& artifact);

  /// False if the codec declines this head size with a clear error; nothing to check then.
  [[nodiscard]] bool supported() const noexcept { return keys_ != nullptr || values_ != nullptr; }
  [[nodiscard]] const KeyCodec* keys() const noexcept { return keys_.get(); }
  [[nodiscard]] const ValueCodec* values() const noexcept { return values_.get(); }

  /// All of the below.
  void CheckAll() const;

  void CheckRoundTrip(Side side) const;       ///< decode error is what gaussian_error declares
  void CheckDecodeOfRanges(Side side) const;  ///< any range of rows decodes to the same bits
  void CheckInputForms(Side side) const;      ///< strides, element types and SIMD targets do not change the bytes
  void CheckRefusals(Side side) const;        ///< NaN and infinity in any place, naming the row
  void CheckSpecialRows(Side side) const;     ///< zeros, denormals, equal rows, the largest numbers
  void CheckScores() const;                   ///< Score = decode, RoPE where the codec wants it, dot product
  void CheckSums() const;                     ///< Accumulate and Finish = weighted sum of decoded rows

 private:
  [[nodiscard]] const BlockCodec& Side_(Side side) const;
  [[nodiscard]] bool centred() const;

  std::string spec_;
  ParsedSpec parsed_;
  std::size_t dim_;
  std::size_t tokens_;
  RopeSpec rope_;
  std::unique_ptr<const Artifact> artifact_;
  std::unique_ptr<KeyCodec> keys_;
  std::unique_ptr<ValueCodec> values_;
};

/// Specs that cover each codec of a registry: the defaults, and every parameter at its allowed values (or its ends).
std::vector<std::string> CoveringSpecs(const Registry& registry);

}  // namespace kvant::quantizers::test
