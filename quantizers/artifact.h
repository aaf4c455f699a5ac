// What codecs were calibrated on: named tensors, carried by the plan as a safetensors image.
#pragma once

#include <cstddef>
#include <initializer_list>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <kvant/result.h>

#include "quantizers/codec.h"

namespace kvant::quantizers {

/// A parsed artifact: tensors of any rank, F32, F16 and BF16 (and I8 and U8) widened to f32. Immutable after Make; shared by
/// threads; spans live as long as it does.
class Artifact {
 public:
  /// Parses a safetensors image, which may be hostile (quantizers/safetensors.h). Errors are those of Safetensors::Read, and
  /// kUnsupported for an element type that is not widened.
  static Result<std::unique_ptr<const Artifact>> Make(std::span<const std::byte> image);

  [[nodiscard]] bool Has(std::string_view name) const;

  /// The numbers of `name`, row-major. kNotFound if there is none, kInvalidArgument if its shape is another, kNotFinite if it
  /// holds NaN or infinity.
  [[nodiscard]] Result<std::span<const float>> Find(std::string_view name, std::initializer_list<std::size_t> shape) const;

  /// XXH3-128 of the image, 32 hexadecimal digits; part of a store's identity.
  [[nodiscard]] const std::string& digest() const noexcept { return digest_; }

 private:
  struct Tensor {
    std::vector<std::size_t> shape;
    std::vector<float> values;
    bool finite = true;
  };
  Artifact() = default;
  std::map<std::string, Tensor, std::less<>> tensors_;
  std::string digest_;
};

/// An image of f32 tensors that Artifact::Make reads.
[[nodiscard]] std::vector<std::byte> ArtifactImage(std::span<const ExampleTensor> tensors);

}  // namespace kvant::quantizers
