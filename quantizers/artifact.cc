#include "quantizers/artifact.h"

#include <algorithm>
#include <bit>
#include <cfloat>
#include <cstdint>
#include <cstring>
#include <limits>
#include <optional>
#include <utility>

#include <xxhash.h>
#include <nlohmann/json.hpp>

#include <kvant/tensor.h>

#include "kernels/raw/rows.h"

namespace kvant::quantizers {
namespace {

// The safetensors format (huggingface/safetensors, README "Format"): u64 little-endian N, N bytes of JSON, tensor bytes.
constexpr std::size_t kLengthBytes = 8;
constexpr std::uint64_t kMaxHeaderBytes = 16u << 20;

Error Corrupt(std::string what) { return Error{ErrorCode::kCorrupt, "codec plan artifact: " + std::move(what)}; }

std::string ShapeText(std::span<const std::size_t> shape) {
  std::string text = "[";
  for (std::size_t i = 0; i < shape.size(); ++i) text += (i ? ", " : "") + std::to_string(shape[i]);
  return text + "]";
}

std::optional<ElementType> ParseType(std::string_view dtype) {
  if (dtype == "F32") return ElementType::kF32;
  if (dtype == "F16") return ElementType::kF16;
  if (dtype == "BF16") return ElementType::kBF16;
  return std::nullopt;
}

/// A non-negative integer that fits std::size_t.
std::optional<std::size_t> AsSize(const nlohmann::json& value) {
  if (!value.is_number_unsigned()) return std::nullopt;
  return static_cast<std::size_t>(value.get<std::uint64_t>());
}

struct Entry {
  ElementType type = ElementType::kF32;
  std::vector<std::size_t> shape;
  std::size_t elements = 0;
  std::size_t begin = 0;
};

Result<Entry> ParseEntry(const std::string& name, const nlohmann::json& value, std::size_t data_bytes) {
  const std::string tensor = "tensor \"" + name + "\"";
  if (!value.is_object()) return Corrupt(tensor + ": its description is not an object");
  const auto dtype = value.find("dtype");
  const auto shape = value.find("shape");
  const auto offsets = value.find("data_offsets");
  if (dtype == value.end() || !dtype->is_string()) return Corrupt(tensor + ": no dtype");
  if (shape == value.end() || !shape->is_array()) return Corrupt(tensor + ": no shape");
  if (offsets == value.end() || !offsets->is_array() || offsets->size() != 2) return Corrupt(tensor + ": no data_offsets");

  Entry entry;
  const auto type = ParseType(dtype->get_ref<const std::string&>());
  if (!type) {
    return Error{ErrorCode::kUnsupported, "codec plan artifact: " + tensor + " has dtype " +
                                              dtype->get_ref<const std::string&>() + "; use F32, F16 or BF16"};
  }
  entry.type = *type;
  entry.elements = 1;
  for (const auto& axis : *shape) {
    const auto size = AsSize(axis);
    if (!size) return Corrupt(tensor + ": shape holds " + axis.dump() + ", which is not a size");
    if (*size != 0 && entry.elements > std::numeric_limits<std::size_t>::max() / 4 / *size) {
      return Corrupt(tensor + ": its shape overflows");
    }
    entry.elements *= *size;
    entry.shape.push_back(*size);
  }
  const auto begin = AsSize((*offsets)[0]);
  const auto end = AsSize((*offsets)[1]);
  if (!begin || !end || *begin > *end || *end > data_bytes) {
    return Corrupt(tensor + ": data_offsets " + offsets->dump() + " lie outside the " + std::to_string(data_bytes) +
                   " data bytes");
  }
  const std::size_t bytes = entry.elements * ElementBytes(entry.type);
  if (*end - *begin != bytes) {
    return Corrupt(tensor + ": shape " + ShapeText(entry.shape) + " of " + ElementTypeName(entry.type) + " takes " +
                   std::to_string(bytes) + " bytes, data_offsets give " + std::to_string(*end - *begin));
  }
  entry.begin = *begin;
  return entry;
}

std::string HexDigest(std::span<const std::byte> image) {
  const XXH128_hash_t hash = XXH3_128bits(image.data(), image.size());
  XXH128_canonical_t canonical;
  XXH128_canonicalFromHash(&canonical, hash);
  constexpr char kDigits[] = "0123456789abcdef";
  std::string text;
  for (const unsigned char byte : canonical.digest) {
    text += kDigits[byte >> 4];
    text += kDigits[byte & 15];
  }
  return text;
}

}  // namespace

Result<std::unique_ptr<const Artifact>> Artifact::Make(std::span<const std::byte> image) {
  static_assert(std::endian::native == std::endian::little, "safetensors is little-endian");
  if (image.size() < kLengthBytes) return Corrupt("shorter than its 8-byte header length");
  std::uint64_t header_bytes = 0;
  std::memcpy(&header_bytes, image.data(), kLengthBytes);
  if (header_bytes > kMaxHeaderBytes || header_bytes > image.size() - kLengthBytes) {
    return Corrupt("header length " + std::to_string(header_bytes) + " exceeds the image of " + std::to_string(image.size()) +
                   " bytes");
  }
  const auto* text = reinterpret_cast<const char*>(image.data()) + kLengthBytes;
  const auto header = nlohmann::json::parse(text, text + header_bytes, nullptr, /*allow_exceptions=*/false);
  if (header.is_discarded() || !header.is_object()) return Corrupt("its header is not a JSON object");

  const auto data = image.subspan(kLengthBytes + static_cast<std::size_t>(header_bytes));
  std::unique_ptr<Artifact> artifact(new Artifact);
  // Aliased ranges must not let a small image unfold into a large one.
  std::size_t bytes_left = data.size();
  for (const auto& [name, value] : header.items()) {
    if (name == "__metadata__") continue;
    auto entry = ParseEntry(name, value, data.size());
    if (!entry) return std::move(entry).error();
    const std::size_t bytes = entry->elements * ElementBytes(entry->type);
    if (bytes > bytes_left) return Corrupt("tensor \"" + name + "\" overlaps another");
    bytes_left -= bytes;
    Tensor tensor{std::move(entry->shape), std::vector<float>(entry->elements), true};
    const auto unaligned = data.subspan(entry->begin, bytes);  // headers have any length
    const std::vector<std::byte> aligned(unaligned.begin(), unaligned.end());
    const float largest = kernels::LoadRow(aligned.data(), entry->type, entry->elements, tensor.values.data());
    tensor.finite = largest <= FLT_MAX;
    artifact->tensors_.emplace(name, std::move(tensor));
  }
  artifact->digest_ = HexDigest(image);
  return std::unique_ptr<const Artifact>(std::move(artifact));
}

bool Artifact::Has(std::string_view name) const { return tensors_.find(name) != tensors_.end(); }

Result<std::span<const float>> Artifact::Find(std::string_view name, std::size_t rows, std::size_t cols) const {
  const std::string text = "codec plan artifact: tensor \"" + std::string(name) + "\"";
  const auto it = tensors_.find(name);
  if (it == tensors_.end()) return Error{ErrorCode::kNotFound, text + " is missing"};
  const Tensor& tensor = it->second;
  const std::size_t wanted[] = {rows, cols};
  const bool fits =
      std::ranges::equal(tensor.shape, wanted) || (rows == 1 && tensor.shape.size() == 1 && tensor.shape[0] == cols);
  if (!fits) {
    return Error{ErrorCode::kInvalidArgument, text + " has shape " + ShapeText(tensor.shape) + ", want " + ShapeText(wanted)};
  }
  if (!tensor.finite) return Error{ErrorCode::kNotFinite, text + " holds NaN or infinity"};
  return std::span<const float>(tensor.values);
}

}  // namespace kvant::quantizers
