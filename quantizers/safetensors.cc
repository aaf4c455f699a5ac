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

  /// `data_begin`: where the file's tensor bytes begin; there are `data_bytes` of them.
  Result<TensorPlace> Read(const Json& value, std::uint64_t data_begin, std::uint64_t data_bytes) const {
    if (!value.is_object()) return Corrupt("its description is not an object");
    TensorPlace tensor;
    if (auto ok = ReadType(value, tensor); !ok) return ok.error();
    if (auto ok = ReadShape(value, tensor); !ok) return ok.error();
    const auto offsets = value.find("data_offsets");
    if (offsets == value.end() || !offsets->is_array() || offsets->size() != 2) return Corrupt("no data_offsets");
    const auto begin = Size((*offsets)[0]), end = Size((*offsets)[1]);
    if (!begin || !end || *begin > *end || *end > data_bytes) {
      return Corrupt("data_offsets lie outside the " + std::to_string(data_bytes) + " data bytes");
    }
    const std::size_t bytes = tensor.elements * TensorTypeBytes(tensor.type);
    if (*end - *begin != bytes) {
      return Corrupt("shape " + ShapeText(tensor.shape) + " of " + std::string(TensorTypeName(tensor.type)) + " takes " +
                     std::to_string(bytes) + " bytes, data_offsets give " + std::to_string(*end - *begin));
    }
    tensor.begin = data_begin + *begin;
    tensor.end = data_begin + *end;
    return tensor;
  }

  [[nodiscard]] Error Corrupt(const std::string& fault) const { return {ErrorCode::kCorrupt, where_ + ": " + fault}; }

 private:
  static std::optional<std::size_t> Size(const Json& value) {
    if (!value.is_number_unsigned()) return std::nullopt;
    return value.get<std::size_t>();
  }

  Result<void> ReadType(const Json& value, TensorPlace& tensor) const {
    const auto dtype = value.find("dtype");
    if (dtype == value.end() || !dtype->is_string()) return Corrupt("no dtype");
    const auto& name = dtype->get_ref<const std::string&>();
    const auto known = std::ranges::find(kTypes, std::string_view(name), &TypeForm::name);
    if (known == kTypes.end()) return Error{ErrorCode::kUnsupported, where_ + ": dtype " + Quoted(name) + " is unknown"};
    tensor.type = static_cast<TensorType>(known - kTypes.begin());
    return {};
  }

  Result<void> ReadShape(const Json& value, TensorPlace& tensor) const {
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

Result<std::size_t> SafetensorsHeader::Bytes(std::span<const std::byte, kLengthBytes> length, std::uint64_t file_bytes,
                                             std::string_view what) {
  std::uint64_t header_bytes = 0;
  std::memcpy(&header_bytes, length.data(), kLengthBytes);
  if (file_bytes < kLengthBytes || header_bytes > kMaxSafetensorsHeader || header_bytes > file_bytes - kLengthBytes) {
    return Error{ErrorCode::kCorrupt, std::string(what) + ": header length " + std::to_string(header_bytes) +
                                          " exceeds the image of " + std::to_string(file_bytes) + " bytes or the limit of " +
                                          std::to_string(kMaxSafetensorsHeader)};
  }
  return kLengthBytes + static_cast<std::size_t>(header_bytes);
}

Result<SafetensorsHeader> SafetensorsHeader::Read(std::span<const std::byte> head, std::uint64_t file_bytes,
                                                  std::string_view what) {
  const std::string prefix = std::string(what) + ": ";
  const std::string_view text(reinterpret_cast<const char*>(head.data()) + kLengthBytes, head.size() - kLengthBytes);
  const auto json = ParseJson(text, {.bytes = kMaxSafetensorsHeader, .depth = kMaxDepth}, prefix + "its header");
  if (!json) return json.error();
  if (!json->is_object()) return Error{ErrorCode::kCorrupt, prefix + "its header is not a JSON object"};

  SafetensorsHeader header;
  for (const auto& [name, value] : json->items()) {
    if (name == kMetadata) {
      if (!value.is_object()) continue;
      for (const auto& [key, entry] : value.items()) {
        if (entry.is_string()) header.metadata_.emplace(key, entry.get_ref<const std::string&>());
      }
      continue;
    }
    const Description description(what, name);
    if (name.size() > kMaxTensorName) return description.Corrupt("its name has more than 256 bytes");
    auto tensor = description.Read(value, head.size(), file_bytes - head.size());
    if (!tensor) return tensor.error();
    header.tensors_.emplace(name, *std::move(tensor));
  }
  // Shared bytes would let a small image unfold into a large one.
  std::vector<std::pair<const std::string, TensorPlace>*> by_place;
  for (auto& entry : header.tensors_) {
    if (entry.second.begin != entry.second.end) by_place.push_back(&entry);
  }
  std::ranges::sort(by_place, {}, [](const auto* entry) { return entry->second.begin; });
  for (std::size_t i = 1; i < by_place.size(); ++i) {
    if (by_place[i - 1]->second.end > by_place[i]->second.begin) {
      return Description(what, by_place[i]->first).Corrupt("it overlaps " + Quoted(by_place[i - 1]->first));
    }
  }
  return header;
}

const TensorPlace* SafetensorsHeader::Find(std::string_view name) const {
  const auto at = tensors_.find(name);
  return at == tensors_.end() ? nullptr : &at->second;
}

Result<Safetensors> Safetensors::Read(std::span<const std::byte> image, std::string_view what) {
  constexpr std::size_t kLengthBytes = SafetensorsHeader::kLengthBytes;
  if (image.size() < kLengthBytes) {
    return Error{ErrorCode::kCorrupt, std::string(what) + ": shorter than its 8-byte header length"};
  }
  auto head = SafetensorsHeader::Bytes(image.first<kLengthBytes>(), image.size(), what);
  if (!head) return head.error();
  auto header = SafetensorsHeader::Read(image.first(*head), image.size(), what);
  if (!header) return header.error();
  Safetensors file;
  file.metadata_ = header->metadata();
  for (const auto& [name, place] : header->tensors()) {
    file.tensors_.emplace(name, StoredTensor{.type = place.type,
                                             .shape = place.shape,
                                             .elements = place.elements,
                                             .bytes = image.subspan(place.begin, place.end - place.begin)});
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

std::vector<std::byte> WriteSafetensorsHead(std::span<const TensorToWrite> tensors,
                                            const std::map<std::string, std::string>& metadata) {
  Json header = Json::object();
  if (!metadata.empty()) header[std::string(kMetadata)] = metadata;
  std::size_t offset = 0;
  for (const TensorToWrite& tensor : tensors) {
    std::size_t bytes = TensorTypeBytes(tensor.type);
    for (const std::size_t axis : tensor.shape) bytes *= axis;
    header[tensor.name] = {
        {"dtype", TensorTypeName(tensor.type)}, {"shape", tensor.shape}, {"data_offsets", {offset, offset + bytes}}};
    offset += bytes;
  }
  std::string text = header.dump(-1, ' ', false, Json::error_handler_t::replace);
  text.resize((text.size() + 7) / 8 * 8, ' ');  // the data begins aligned
  const std::uint64_t header_bytes = text.size();
  std::vector<std::byte> head(SafetensorsHeader::kLengthBytes + text.size());
  std::memcpy(head.data(), &header_bytes, SafetensorsHeader::kLengthBytes);
  std::memcpy(head.data() + SafetensorsHeader::kLengthBytes, text.data(), text.size());
  return head;
}

std::vector<std::byte> WriteSafetensors(std::span<const TensorToWrite> tensors,
                                        const std::map<std::string, std::string>& metadata) {
  std::vector<std::byte> image = WriteSafetensorsHead(tensors, metadata);
  std::size_t bytes = image.size();
  for (const TensorToWrite& tensor : tensors) bytes += tensor.bytes.size();
  image.reserve(bytes);
  for (const TensorToWrite& tensor : tensors) image.insert(image.end(), tensor.bytes.begin(), tensor.bytes.end());
  return image;
}

}  // namespace kvant::quantizers
