#include "tools/kvantctl/rows/rows_file.h"

#include <cerrno>
#include <cmath>
#include <cstring>
#include <fstream>
#include <system_error>
#include <utility>

namespace kvant::tools {
namespace {

using quantizers::Safetensors;
using quantizers::ShapeText;
using quantizers::StoredTensor;

std::string TensorName(std::size_t layer, const char* what) { return "layers." + std::to_string(layer) + "." + what; }

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
  return file;
}

Result<std::vector<float>> RowsFile::Numbers(std::size_t layer, const char* what) const {
  const std::string name = TensorName(layer, what);
  const StoredTensor* tensor = tensors_.Find(name);
  if (tensor == nullptr) return Error{ErrorCode::kInvalidArgument, path_ + ": " + name + " is missing"};
  const std::vector<std::size_t> wanted{what[0] == 'q' ? shape_.q_heads : shape_.kv_heads, shape_.tokens, shape_.head_dim};
  if (tensor->shape != wanted) {
    return Error{ErrorCode::kInvalidArgument,
                 path_ + ": " + name + " is " + ShapeText(tensor->shape) + ", as layer 0 has it " + ShapeText(wanted)};
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
    auto numbers = Numbers(layer, what);
    if (!numbers) return std::move(numbers).error();
    *to = *std::move(numbers);
  }
  return rows;
}

}  // namespace kvant::tools
