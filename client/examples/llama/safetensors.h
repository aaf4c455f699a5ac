// A checked reader and a small writer of safetensors files: u64 header length, JSON header, tensor bytes.
#pragma once

#include <cstddef>
#include <map>
#include <span>
#include <string>
#include <vector>

#include <kvant/result.h>

namespace kvant::examples {

/// The tensors of one file, in memory. Every offset was checked when the file was opened.
class SafeTensors {
 public:
  /// kCorrupt says what is wrong with the image and where.
  static Result<SafeTensors> Parse(std::vector<std::byte> image);

  /// The tensor as f32, row-major; stored as F32, F16 or BF16. kNotFound, kUnsupported (type) or kInvalidArgument (shape) name
  /// it.
  [[nodiscard]] Result<std::vector<float>> Floats(const std::string& name, std::span<const std::size_t> shape) const;
  [[nodiscard]] bool Has(const std::string& name) const { return entries_.contains(name); }
  [[nodiscard]] const std::vector<std::byte>& image() const noexcept { return image_; }

 private:
  struct Entry {
    std::string type;
    std::vector<std::size_t> shape;
    std::size_t begin = 0;  ///< bytes from the start of the image
    std::size_t bytes = 0;
  };
  SafeTensors() = default;
  std::vector<std::byte> image_;
  std::map<std::string, Entry> entries_;
};

/// One tensor to write.
struct FloatTensor {
  std::string name;
  std::vector<std::size_t> shape;
  std::vector<float> data;  ///< row-major, as many as the shape says
};

/// A safetensors image of F32 tensors, in the order given.
std::vector<std::byte> WriteSafeTensors(std::span<const FloatTensor> tensors,
                                        const std::map<std::string, std::string>& metadata);

}  // namespace kvant::examples
