#include "client/examples/llama/safetensors.h"

#include <bit>
#include <cstring>
#include <optional>

#include <Eigen/Core>
#include <nlohmann/json.hpp>

#include "client/examples/llama/json_text.h"

namespace kvant::examples {
namespace {

using Json = nlohmann::json;
static_assert(std::endian::native == std::endian::little, "safetensors are little-endian");

constexpr std::size_t kMaxHeaderBytes = 100'000'000;  // the format's own limit

Error Corrupt(const std::string& what) { return {ErrorCode::kCorrupt, "safetensors: " + what}; }

std::size_t BytesPerElement(const std::string& type) {
  if (type == "F64" || type == "I64" || type == "U64") return 8;
  if (type == "F32" || type == "I32" || type == "U32") return 4;
  if (type == "F16" || type == "BF16" || type == "I16" || type == "U16") return 2;
  if (type == "I8" || type == "U8" || type == "BOOL" || type == "F8_E4M3" || type == "F8_E5M2") return 1;
  return 0;
}

std::string ShapeText(std::span<const std::size_t> shape) {
  std::string text = "[";
  for (const std::size_t extent : shape) text += (text.size() > 1 ? ", " : "") + std::to_string(extent);
  return text + "]";
}

/// Bytes of a tensor; nothing on overflow.
std::optional<std::size_t> TensorBytes(std::span<const std::size_t> shape, std::size_t element_bytes) {
  std::size_t bytes = element_bytes;
  for (const std::size_t extent : shape) {
    if (__builtin_mul_overflow(bytes, extent, &bytes)) return std::nullopt;
  }
  return bytes;
}

std::optional<std::vector<std::size_t>> Sizes(const Json& list) {
  if (!list.is_array()) return std::nullopt;
  std::vector<std::size_t> sizes;
  for (const Json& item : list) {
    if (!item.is_number_unsigned()) return std::nullopt;
    sizes.push_back(item.get<std::size_t>());
  }
  return sizes;
}

}  // namespace

Result<SafeTensors> SafeTensors::Parse(std::vector<std::byte> image) {
  std::uint64_t header_bytes = 0;
  if (image.size() < sizeof(header_bytes)) return Corrupt("file of " + std::to_string(image.size()) + " bytes is too short");
  std::memcpy(&header_bytes, image.data(), sizeof(header_bytes));
  if (header_bytes > kMaxHeaderBytes || header_bytes > image.size() - sizeof(header_bytes)) {
    return Corrupt("header of " + std::to_string(header_bytes) + " bytes does not fit the file of " +
                   std::to_string(image.size()));
  }
  const auto* text = reinterpret_cast<const char*>(image.data()) + sizeof(header_bytes);
  const Result<Json> parsed = ParseJson({text, static_cast<std::size_t>(header_bytes)}, "header");
  if (!parsed) return Corrupt(parsed.error().message);
  const Json& header = *parsed;
  if (!header.is_object()) return Corrupt("the header is not a JSON object");

  const std::size_t data_begin = sizeof(header_bytes) + static_cast<std::size_t>(header_bytes);
  const std::size_t data_bytes = image.size() - data_begin;
  SafeTensors file;
  for (const auto& [name, value] : header.items()) {
    if (name == "__metadata__") continue;
    if (!value.is_object() || !value.contains("dtype") || !value["dtype"].is_string() || !value.contains("shape") ||
        !value.contains("data_offsets")) {
      return Corrupt("tensor '" + name + "' lacks dtype, shape or data_offsets");
    }
    const auto shape = Sizes(value["shape"]);
    const auto offsets = Sizes(value["data_offsets"]);
    const std::string type = value["dtype"].get<std::string>();
    if (!shape || !offsets || offsets->size() != 2) return Corrupt("tensor '" + name + "' has a malformed shape or offsets");
    const std::size_t begin = (*offsets)[0];
    const std::size_t end = (*offsets)[1];
    if (begin > end || end > data_bytes) {
      return Corrupt("tensor '" + name + "' at " + std::to_string(begin) + ".." + std::to_string(end) + " lies outside the " +
                     std::to_string(data_bytes) + " data bytes");
    }
    const std::size_t element_bytes = BytesPerElement(type);
    if (element_bytes != 0 && TensorBytes(*shape, element_bytes) != end - begin) {
      return Corrupt("tensor '" + name + "' of " + type + " " + ShapeText(*shape) + " does not take the " +
                     std::to_string(end - begin) + " bytes it is given");
    }
    file.entries_[name] = {type, *shape, data_begin + begin, end - begin};
  }
  file.image_ = std::move(image);
  return file;
}

Result<std::vector<float>> SafeTensors::Floats(const std::string& name, std::span<const std::size_t> shape) const {
  const auto it = entries_.find(name);
  if (it == entries_.end()) return Error{ErrorCode::kNotFound, "safetensors: no tensor '" + name + "'"};
  const Entry& entry = it->second;
  if (!std::equal(shape.begin(), shape.end(), entry.shape.begin(), entry.shape.end())) {
    return Error{ErrorCode::kInvalidArgument, "safetensors: tensor '" + name + "' is " + ShapeText(entry.shape) +
                                                  ", the config asks for " + ShapeText(shape)};
  }
  const std::byte* source = image_.data() + entry.begin;  // not necessarily aligned
  std::vector<float> floats(entry.bytes / std::max<std::size_t>(BytesPerElement(entry.type), 1));
  const auto convert = [&](auto element) {
    for (float& number : floats) {
      std::memcpy(&element, source, sizeof(element));
      number = static_cast<float>(element);
      source += sizeof(element);
    }
  };
  if (entry.type == "F32") {
    convert(float{});
  } else if (entry.type == "F16") {
    convert(Eigen::half{});
  } else if (entry.type == "BF16") {
    convert(Eigen::bfloat16{});
  } else {
    return Error{ErrorCode::kUnsupported,
                 "safetensors: tensor '" + name + "' is " + entry.type + "; F32, F16 and BF16 are read"};
  }
  return floats;
}

std::vector<std::byte> WriteSafeTensors(std::span<const FloatTensor> tensors,
                                        const std::map<std::string, std::string>& metadata) {
  Json header = Json::object();
  if (!metadata.empty()) header["__metadata__"] = metadata;
  std::size_t offset = 0;
  for (const FloatTensor& tensor : tensors) {
    const std::size_t bytes = tensor.data.size() * sizeof(float);
    header[tensor.name] = {{"dtype", "F32"}, {"shape", tensor.shape}, {"data_offsets", {offset, offset + bytes}}};
    offset += bytes;
  }
  std::string text = header.dump();
  text.resize((text.size() + 7) / 8 * 8, ' ');  // the data begins aligned
  const std::uint64_t header_bytes = text.size();
  std::vector<std::byte> image(sizeof(header_bytes) + text.size() + offset);
  std::memcpy(image.data(), &header_bytes, sizeof(header_bytes));
  std::memcpy(image.data() + sizeof(header_bytes), text.data(), text.size());
  std::byte* data = image.data() + sizeof(header_bytes) + text.size();
  for (const FloatTensor& tensor : tensors) {
    std::memcpy(data, tensor.data.data(), tensor.data.size() * sizeof(float));
    data += tensor.data.size() * sizeof(float);
  }
  return image;
}

}  // namespace kvant::examples
