#include "tools/kvantctl/rows/rows_file.h"

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cmath>
#include <cstring>
#include <fstream>
#include <system_error>
#include <utility>

#include "quantizers/bounded_json.h"
#include "quantizers/rope_pairs.h"

namespace kvant::tools {
namespace {

using quantizers::Safetensors;
using quantizers::ShapeText;
using quantizers::StoredTensor;

constexpr std::size_t kMostRopeText = 4096;

std::string TensorName(std::size_t layer, const char* what) { return "layers." + std::to_string(layer) + "." + what; }

std::optional<RopePairing> PairingOf(const std::string& name) {
  if (name == "none") return RopePairing::kNone;
  if (name == "half_split") return RopePairing::kHalfSplit;
  if (name == "adjacent") return RopePairing::kAdjacent;
  return std::nullopt;
}

/// Without the radians; empty if the text does not say it.
std::optional<RowsRope> RopeOf(const std::string& text) {
  const auto parsed = quantizers::ParseJson(text, {.bytes = kMostRopeText}, "rope");
  if (!parsed) return std::nullopt;
  const nlohmann::json& json = *parsed;
  if (!json.is_object() || !json.contains("pairing") || !json["pairing"].is_string()) return std::nullopt;
  const auto pairing = PairingOf(json["pairing"].get<std::string>());
  const auto dims = json.find("rotary_dims"), factor = json.find("attention_factor");
  if (!pairing || dims == json.end() || !dims->is_number_unsigned() || factor == json.end() || !factor->is_number() ||
      dims->get<std::uint64_t>() > 0xFFFFFFFF || !(factor->get<double>() > 0) || !std::isfinite(factor->get<double>())) {
    return std::nullopt;
  }
  RowsRope rope;
  rope.spec.pairing = *pairing;
  rope.spec.rotary_dims = dims->get<std::uint32_t>();
  rope.attention_factor = factor->get<double>();
  return rope;
}

}  // namespace

Result<std::vector<std::byte>> ReadBytes(const std::string& path) {
  errno = 0;
  std::ifstream file(path, std::ios::binary | std::ios::ate);
  if (!file) {
    return Error{errno == ENOENT ? ErrorCode::kNotFound : ErrorCode::kInternal,
                 "read " + path + ": " + std::generic_category().message(errno)};
  }
  const std::streamoff size = file.tellg();
  std::vector<std::byte> bytes(size > 0 ? static_cast<std::size_t>(size) : 0);
  file.seekg(0);
  if (size < 0 || !file.read(reinterpret_cast<char*>(bytes.data()), size)) {
    return Error{ErrorCode::kInternal, "read " + path + ": it cannot be read as a whole"};
  }
  return bytes;
}

Result<RowsFile> RowsFile::Open(const std::string& path) {
  auto bytes = ReadBytes(path);
  if (!bytes) return std::move(bytes).error();
  RowsFile file;
  file.path_ = path;
  file.image_ = std::make_unique<const std::vector<std::byte>>(*std::move(bytes));
  auto tensors = Safetensors::Read(*file.image_, path);
  if (!tensors) return std::move(tensors).error();
  file.tensors_ = *std::move(tensors);

  RowsShape& shape = file.shape_;
  while (file.tensors_.Find(TensorName(shape.layers, "keys")) != nullptr) ++shape.layers;
  const StoredTensor* keys = file.tensors_.Find(TensorName(0, "keys"));
  const StoredTensor* queries = file.tensors_.Find(TensorName(0, "queries"));
  if (keys == nullptr || queries == nullptr || keys->shape.size() != 3 || queries->shape.size() != 3) {
    return Error{ErrorCode::kInvalidArgument,
                 path + ": no rows: layers.0.queries, .keys and .values of shape [heads, tokens, head_dim] are wanted"};
  }
  shape.q_heads = queries->shape[0];
  shape.kv_heads = keys->shape[0];
  shape.tokens = keys->shape[1];
  shape.head_dim = keys->shape[2];
  if (shape.kv_heads == 0 || shape.q_heads == 0 || shape.q_heads % shape.kv_heads != 0) {
    return Error{ErrorCode::kInvalidArgument, path + ": " + std::to_string(shape.q_heads) + " query heads for " +
                                                  std::to_string(shape.kv_heads) + " KV heads"};
  }
  if (auto read = file.ReadMetadata(); !read) return std::move(read).error();
  return file;
}

Result<void> RowsFile::ReadMetadata() {
  const auto invalid = [&](const std::string& what) { return Error{ErrorCode::kInvalidArgument, path_ + ": " + what}; };
  const auto& metadata = tensors_.metadata();
  shape_.window = shape_.tokens;
  if (const auto window = metadata.find("window"); window != metadata.end()) {
    const std::string& text = window->second;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), shape_.window);
    if (error != std::errc() || end != text.data() + text.size() || shape_.window == 0) {
      return invalid("window \"" + text.substr(0, 40) + "\" of its metadata is no number of tokens");
    }
  }
  if (const auto model = metadata.find("model"); model != metadata.end()) model_ = model->second;
  const auto rope = metadata.find("rope");
  if (rope == metadata.end()) return {};
  rope_ = RopeOf(rope->second);
  if (!rope_)
    return invalid("rope \"" + rope->second.substr(0, 80) +
                   "\" of its metadata is not as tools/kvantctl/rows/rows_file.h has it");
  if (rope_->spec.rotary_dims > shape_.head_dim || rope_->spec.rotary_dims % 2 != 0) {
    return invalid("rotary_dims " + std::to_string(rope_->spec.rotary_dims) + " of rows of " + std::to_string(shape_.head_dim));
  }
  const std::size_t pairs = quantizers::TurnedPairs(rope_->spec, shape_.head_dim);
  if (pairs == 0) return {};
  const StoredTensor* radians = tensors_.Find("rope.radians");
  if (radians == nullptr || radians->type != quantizers::TensorType::kF64 || radians->elements != pairs) {
    return invalid("tensor rope.radians, F64 [" + std::to_string(pairs) + "], is missing or another");
  }
  rope_->radians_per_token.resize(pairs);
  std::memcpy(rope_->radians_per_token.data(), radians->bytes.data(), radians->bytes.size());
  for (const double number : rope_->radians_per_token) {
    if (!std::isfinite(number)) return Error{ErrorCode::kNotFinite, path_ + ": rope.radians holds NaN or infinity"};
  }
  return {};
}

Result<std::vector<float>> RowsFile::Numbers(const std::string& name, const std::vector<std::size_t>& shape) const {
  const StoredTensor* tensor = tensors_.Find(name);
  if (tensor == nullptr) return Error{ErrorCode::kInvalidArgument, path_ + ": " + name + " is missing"};
  if (tensor->shape != shape) {
    return Error{ErrorCode::kInvalidArgument,
                 path_ + ": " + name + " is " + ShapeText(tensor->shape) + ", as layer 0 has it " + ShapeText(shape)};
  }
  std::vector<float> numbers(tensor->elements);
  if (!quantizers::WidenTensor(*tensor, numbers)) {
    return Error{ErrorCode::kUnsupported,
                 path_ + ": " + name + " has elements of type " + std::string(quantizers::TensorTypeName(tensor->type))};
  }
  for (const float number : numbers) {
    if (!std::isfinite(number)) return Error{ErrorCode::kNotFinite, path_ + ": " + name + " holds NaN or infinity"};
  }
  return numbers;
}

Result<LayerRows> RowsFile::Read(std::size_t layer) const {
  LayerRows rows;
  for (const auto& [what, to] : {std::pair{"queries", &rows.queries}, {"keys", &rows.keys}, {"values", &rows.values}}) {
    const std::size_t heads = to == &rows.queries ? shape_.q_heads : shape_.kv_heads;
    auto numbers = Numbers(TensorName(layer, what), {heads, shape_.tokens, shape_.head_dim});
    if (!numbers) return std::move(numbers).error();
    *to = *std::move(numbers);
  }
  return rows;
}

Result<std::optional<std::vector<float>>> RowsFile::Projection(std::size_t layer) const {
  const std::string name = TensorName(layer, "projection");
  if (tensors_.Find(name) == nullptr) return std::optional<std::vector<float>>();
  auto numbers = Numbers(name, {shape_.kv_heads, shape_.head_dim, shape_.head_dim});
  if (!numbers) return std::move(numbers).error();
  return std::optional(*std::move(numbers));
}

RowsShape MiddleContext(const RowsShape& shape) {
  RowsShape one = shape;
  one.tokens = one.window = std::min(shape.window, shape.tokens);
  return one;
}

LayerRows MiddleContext(const RowsShape& shape, const LayerRows& rows) {
  const std::size_t tokens = MiddleContext(shape).tokens, first = shape.tokens / tokens / 2 * tokens;
  const auto cut = [&](const std::vector<float>& numbers) {
    std::vector<float> part;
    for (std::size_t at = first * shape.head_dim; at < numbers.size(); at += shape.tokens * shape.head_dim) {
      const float* from = numbers.data() + at;
      part.insert(part.end(), from, from + tokens * shape.head_dim);
    }
    return part;
  };
  return {cut(rows.queries), cut(rows.keys), cut(rows.values)};
}

}  // namespace kvant::tools
