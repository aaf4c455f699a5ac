// The safetensors format (huggingface/safetensors, README "Format"): u64 little-endian header length, a JSON header, tensor
// bytes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <kvant/result.h>

namespace kvant::quantizers {

/// The format's element types.
enum class TensorType : std::uint8_t {
  kF64,
  kF32,
  kF16,
  kBF16,
  kF8E5M2,
  kF8E4M3,
  kI64,
  kI32,
  kI16,
  kI8,
  kU64,
  kU32,
  kU16,
  kU8,
  kBool
};

[[nodiscard]] std::size_t TensorTypeBytes(TensorType type) noexcept;
/// As the format spells it: "F32".
[[nodiscard]] std::string_view TensorTypeName(TensorType type) noexcept;

/// Limits of what is read; all of them far above real files.
inline constexpr std::size_t kMaxSafetensorsHeader = std::size_t{1} << 20;
inline constexpr std::size_t kMaxTensorName = 256;
inline constexpr std::size_t kMaxTensorRank = 8;

/// What a header says of a tensor, row-major.
struct TensorPlace {
  TensorType type = TensorType::kF32;
  std::vector<std::size_t> shape;
  std::size_t elements = 0;
  std::uint64_t begin = 0;  ///< bytes [begin, end) from the start of the file
  std::uint64_t end = 0;
};

/// A file's header, for files that are read piece by piece. Immutable after Read.
class SafetensorsHeader {
 public:
  /// Bytes at the start of a file that say how long its header is.
  static constexpr std::size_t kLengthBytes = 8;
  /// Of length and header together, from the first kLengthBytes of a file of `file_bytes` bytes. kCorrupt if they cannot be.
  static Result<std::size_t> Bytes(std::span<const std::byte, kLengthBytes> length, std::uint64_t file_bytes,
                                   std::string_view what);
  /// `head`: as many bytes as Bytes answered. They may be hostile: every length, offset and shape is checked, no two tensors
  /// share bytes, and the work is proportional to the header. kCorrupt, kOutOfRange or kUnsupported (an element type) say what
  /// is wrong and with which tensor; `what` begins every error.
  static Result<SafetensorsHeader> Read(std::span<const std::byte> head, std::uint64_t file_bytes, std::string_view what);

  [[nodiscard]] const std::map<std::string, TensorPlace, std::less<>>& tensors() const noexcept { return tensors_; }
  /// Null if there is none.
  [[nodiscard]] const TensorPlace* Find(std::string_view name) const;
  /// The texts of `__metadata__`; what is no text there is left out.
  [[nodiscard]] const std::map<std::string, std::string, std::less<>>& metadata() const noexcept { return metadata_; }

 private:
  std::map<std::string, TensorPlace, std::less<>> tensors_;
  std::map<std::string, std::string, std::less<>> metadata_;
};

/// A tensor of an image, row-major.
struct StoredTensor {
  TensorType type = TensorType::kF32;
  std::vector<std::size_t> shape;
  std::size_t elements = 0;
  std::span<const std::byte> bytes;  ///< of the image; not necessarily aligned
};

/// The tensors of one image, which the caller keeps alive. Immutable after Read.
class Safetensors {
 public:
  /// The image may be hostile; errors as SafetensorsHeader::Read.
  static Result<Safetensors> Read(std::span<const std::byte> image, std::string_view what);

  [[nodiscard]] const std::map<std::string, StoredTensor, std::less<>>& tensors() const noexcept { return tensors_; }
  /// Null if there is none.
  [[nodiscard]] const StoredTensor* Find(std::string_view name) const;
  /// As SafetensorsHeader::metadata.
  [[nodiscard]] const std::map<std::string, std::string, std::less<>>& metadata() const noexcept { return metadata_; }

 private:
  std::map<std::string, StoredTensor, std::less<>> tensors_;
  std::map<std::string, std::string, std::less<>> metadata_;
};

/// Writes the numbers of a tensor of F32, F16, BF16, I8 or U8 as floats, exactly; false for another type. Requires: as many
/// `numbers` as the tensor has elements.
[[nodiscard]] bool WidenTensor(const StoredTensor& tensor, std::span<float> numbers);

/// "[2, 3]".
[[nodiscard]] std::string ShapeText(std::span<const std::size_t> shape);

/// A tensor to write. Requires: `bytes` are as many as type and shape say.
struct TensorToWrite {
  std::string name;
  TensorType type = TensorType::kF32;
  std::vector<std::size_t> shape;
  std::span<const std::byte> bytes;
};

/// The bytes before the tensors of a file that holds these in the order given, whatever their `bytes` are: a multiple of 8.
[[nodiscard]] std::vector<std::byte> WriteSafetensorsHead(std::span<const TensorToWrite> tensors,
                                                          const std::map<std::string, std::string>& metadata = {});

/// An image of these tensors, their bytes in the order given, beginning at a multiple of 8.
[[nodiscard]] std::vector<std::byte> WriteSafetensors(std::span<const TensorToWrite> tensors,
                                                      const std::map<std::string, std::string>& metadata = {});

}  // namespace kvant::quantizers
