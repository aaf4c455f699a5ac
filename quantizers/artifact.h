// What codecs were calibrated on: named float matrices, carried by the plan as a safetensors image.
#pragma once

#include <cstddef>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <kvant/result.h>

namespace kvant::quantizers {

/// A parsed artifact: tensors of F32, F16 or BF16 widened to f32. Immutable after Make; shared by threads; spans live as long
/// as it does.
class Artifact {
 public:
  /// Parses a safetensors image. The image is hostile: every length and offset is checked. kCorrupt or kUnsupported if it
  /// cannot be served.
  static Result<std::unique_ptr<const Artifact>> Make(std::span<const std::byte> image);

  [[nodiscard]] bool Has(std::string_view name) const;

  /// The numbers of `name`, row after row. kNotFound if there is none, kInvalidArgument if its shape is not [rows, cols]
  /// (or [cols] where rows is 1), kNotFinite if it holds NaN or infinity.
  [[nodiscard]] Result<std::span<const float>> Find(std::string_view name, std::size_t rows, std::size_t cols) const;

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

}  // namespace kvant::quantizers
