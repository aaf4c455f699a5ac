#include "quantizers/safetensors.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <limits>
#include <optional>
#include <utility>

#include <kvant/tensor.h>

#include "kernels/raw/rows.h"
#include "quantizers/bounded_json.h"

namespace kvant::quantizers {
namespace {

using Json = nlohmann::json;
static_assert(std::endian::native == std::endian::little, "safetensors is little-endian");

constexpr std::size_t kLengthBytes = 8;
// One tensor's description: an object of a string and two lists.
constexpr std::size_t kMaxDepth = 3;
constexpr std::string_view kMetadata = "__metadata__";

struct TypeForm {
  std::string_view name;
  std::size_t bytes;
};
/// In the order of TensorType.
constexpr std::array<TypeForm, 15> kTypes = {{{"F64", 8},
                                              {"F32", 4},
                                              {"F16", 2},
                                              {"BF16", 2},
                                              {"F8_E5M2", 1},
                                              {"F8_E4M3", 1},
                                              {"I64", 8},
                                              {"I32", 4},
                                              {"I16", 2},
                                              {"I8", 1},
                                              {"U64", 8},
                                              {"U32", 4},
                                              {"U16", 2},
                                              {"U8", 1},
                                              {"BOOL", 1}}};

/// The start of a text from the image, for an error.
std::string Quoted(std::string_view text) {
  constexpr std::size_t kShown = 64;
  return "\"" + std::string(text.substr(0, kShown)) + (text.size() > kShown ? "...\"" : "\"");
}

/// Reads the description of one tensor. Values of the header are never printed: they may be anything.
class Description {
 public:
  Description(std::string_view what, const std::string& name) : where_(std::string(what) + ": tensor " + Quoted(name)) {}

  Result<StoredTensor> Read(const Json& value, std::span<const std::byte> data) const {
    if (!value.is_object()) return Corrupt("its description is not an object");
    StoredTensor tensor;
    if (auto ok = ReadType(value, tensor); !ok) return ok.error();
    if (auto ok = ReadShape(value, tensor); !ok) return ok.error();
    const auto offsets = value.find("data_offsets");
    if (offsets == value.end() || !offsets->is_array() || offsets->size() != 2) return Corrupt("no data_offsets");
    const auto begin = Size((*offsets)[0]), end = Size((*offsets)[1]);
    if (!begin || !end || *begin > *end || *end > data.size()) {
      return Corrupt("data_offsets lie outside the " + std::to_string(data.size()) + " data bytes");
    }
    const std::size_t bytes = tensor.elements * TensorTypeBytes(tensor.type);
    if (*end - *begin != bytes) {
      return Corrupt("shape " + ShapeText(tensor.shape) + " of " + std::string(TensorTypeName(tensor.type)) + " takes " +
                     std::to_string(bytes) + " bytes, data_offsets give " + std::to_string(*end - *begin));
    }
    tensor.bytes = data.subspan(*begin, bytes);
    return tensor;
  }

  [[nodiscard]] Error Corrupt(const std::string& fault) const { return {ErrorCode::kCorrupt, where_ + ": " + fault}; }

 private:
  static std::optional<std::size_t> Size(const Json& value) {
    if (!value.is_number_unsigned()) return std::nullopt;
    return value.get<std::size_t>();
  }

  Result<void> ReadType(const Json& value, StoredTensor& tensor) const {
    const auto dtype = value.find("dtype");
    if (dtype == value.end() || !dtype->is_string()) return Corrupt("no dtype");
    const auto& name = dtype->get_ref<const std::string&>();
    const auto known = std::ranges::find(kTypes, std::string_view(name), &TypeForm::name);
    if (known == kTypes.end()) return Error{ErrorCode::kUnsupported, where_ + ": dtype " + Quoted(name) + " is unknown"};
    tensor.type = static_cast<TensorType>(known - kTypes.begin());
    return {};
  }

  Result<void> ReadShape(const Json& value, StoredTensor& tensor) const {
    const auto shape = value.find("shape");
    if (shape == value.end() || !shape->is_array()) return Corrupt("no shape");
    if (shape->size() > kMaxTensorRank) {
      return Error{ErrorCode::kOutOfRange,
                   where_ + ": rank " + std::to_string(shape->size()) + ", at most " + std::to_string(kMaxTensorRank)};
    }
    tensor.elements = 1;
    for (const Json& axis : *shape) {
      const auto size = Size(axis);
      if (!size) return Corrupt("axis " + std::to_string(tensor.shape.size()) + " of its shape is not a size");
      if (*size != 0 && tensor.elements > std::numeric_limits<std::size_t>::max() / 8 / *size) {
        return Corrupt("its shape overflows");
      }
      tensor.elements *= *size;
      tensor.shape.push_back(*size);
    }
    return {};
  }

  std::string where_;
};

}  // namespace

std::size_t TensorTypeBytes(TensorType type) noexcept { return kTypes[static_cast<std::size_t>(type)].bytes; }

std::string_view TensorTypeName(TensorType type) noexcept { return kTypes[static_cast<std::size_t>(type)].name; }

std::string ShapeText(std::span<const std::size_t> shape) {
  std::string text = "[";
  for (std::size_t i = 0; i < shape.size(); ++i) text += (i != 0 ? ", " : "") + std::to_string(shape[i]);
  return text + "]";
}

Result<Safetensors> Safetensors::Read(std::span<const std::byte> image, std::string_view what) {
  const std::string prefix = std::string(what) + ": ";
  if (image.size() < kLengthBytes) return Error{ErrorCode::kCorrupt, prefix + "shorter than its 8-byte header length"};
  std::uint64_t header_bytes = 0;
  std::memcpy(&header_bytes, image.data(), kLengthBytes);
  if (header_bytes > kMaxSafetensorsHeader || header_bytes > image.size() - kLengthBytes) {
    return Error{ErrorCode::kCorrupt, prefix + "header length " + std::to_string(header_bytes) + " exceeds the image of " +
                                          std::to_string(image.size()) + " bytes or the limit of " +
                                          std::to_string(kMaxSafetensorsHeader)};
  }
  const std::string_view text(reinterpret_cast<const char*>(image.data()) + kLengthBytes, header_bytes);
  const auto header = ParseJson(text, {.bytes = kMaxSafetensorsHeader, .depth = kMaxDepth}, prefix + "its header");
  if (!header) return header.error();
  if (!header->is_object()) return Error{ErrorCode::kCorrupt, prefix + "its header is not a JSON object"};

  const auto data = image.subspan(kLengthBytes + header_bytes);
  Safetensors file;
  for (const auto& [name, value] : header->items()) {
    if (name == kMetadata) continue;
    const Description description(what, name);
    if (name.size() > kMaxTensorName) return description.Corrupt("its name has more than 256 bytes");
    auto tensor = description.Read(value, data);
    if (!tensor) return tensor.error();
    file.tensors_.emplace(name, *std::move(tensor));
  }
  // Shared bytes would let a small image unfold into a large one.
  std::vector<std::pair<const std::string, StoredTensor>*> by_place;
  for (auto& entry : file.tensors_) {
    if (!entry.second.bytes.empty()) by_place.push_back(&entry);
  }
  std::ranges::sort(by_place, {}, [](const auto* entry) { return entry->second.bytes.data(); });
  for (std::size_t i = 1; i < by_place.size(); ++i) {
    const auto& before = by_place[i - 1]->second.bytes;
    if (before.data() + before.size() > by_place[i]->second.bytes.data()) {
      return Description(what, by_place[i]->first).Corrupt("it overlaps " + Quoted(by_place[i - 1]->first));
    }
  }
  return file;
}

const StoredTensor* Safetensors::Find(std::string_view name) const {
  const auto at = tensors_.find(name);
  return at == tensors_.end() ? nullptr : &at->second;
}

bool WidenTensor(const StoredTensor& tensor, std::span<float> numbers) {
  const auto widen = [&](ElementType type) {
    // Headers have any length, so numbers may lie at any address: they pass through a small aligned buffer.
    alignas(64) std::array<std::byte, 4096> aligned;
    const std::size_t size = TensorTypeBytes(tensor.type);
    for (std::size_t at = 0; at < tensor.bytes.size(); at += aligned.size()) {
      const auto piece = tensor.bytes.subspan(at, std::min(aligned.size(), tensor.bytes.size() - at));
      std::ranges::copy(piece, aligned.begin());
      kernels::LoadRow(aligned.data(), type, piece.size() / size, numbers.data() + at / size);
    }
    return true;
  };
  switch (tensor.type) {
    case TensorType::kF32: return widen(ElementType::kF32);
    case TensorType::kF16: return widen(ElementType::kF16);
    case TensorType::kBF16: return widen(ElementType::kBF16);
    case TensorType::kI8:
      std::ranges::transform(tensor.bytes, numbers.begin(),
                             [](std::byte b) { return static_cast<float>(static_cast<std::int8_t>(b)); });
      return true;
    case TensorType::kU8:
      std::ranges::transform(tensor.bytes, numbers.begin(),
                             [](std::byte b) { return static_cast<float>(std::to_integer<unsigned>(b)); });
      return true;
    default: return false;
  }
}

std::vector<std::byte> WriteSafetensors(std::span<const TensorToWrite> tensors,
                                        const std::map<std::string, std::string>& metadata) {
  Json header = Json::object();
  if (!metadata.empty()) header[std::string(kMetadata)] = metadata;
  std::size_t offset = 0;
  for (const TensorToWrite& tensor : tensors) {
    header[tensor.name] = {{"dtype", TensorTypeName(tensor.type)},
                           {"shape", tensor.shape},
                           {"data_offsets", {offset, offset + tensor.bytes.size()}}};
    offset += tensor.bytes.size();
  }
  std::string text = header.dump(-1, ' ', false, Json::error_handler_t::replace);
  text.resize((text.size() + 7) / 8 * 8, ' ');  // the data begins aligned
  const std::uint64_t header_bytes = text.size();
  std::vector<std::byte> image(kLengthBytes + text.size() + offset);
  std::memcpy(image.data(), &header_bytes, kLengthBytes);
  std::memcpy(image.data() + kLengthBytes, text.data(), text.size());
  auto to = image.begin() + static_cast<std::ptrdiff_t>(kLengthBytes + text.size());
  for (const TensorToWrite& tensor : tensors) to = std::ranges::copy(tensor.bytes, to).out;
  return image;
}

}  // namespace kvant::quantizers
