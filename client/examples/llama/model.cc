#include "client/examples/llama/model.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <utility>

#include <nlohmann/json.hpp>

#include "client/examples/llama/files.h"
#include "client/examples/llama/matmul.h"
#include "client/examples/llama/model_identity.h"
#include "client/examples/llama/rope.h"
#include "quantizers/bounded_json.h"
#include "quantizers/safetensors.h"

namespace kvant::examples {
namespace {

using Eigen::Index;

constexpr std::size_t kMaxConfigBytes = std::size_t{1} << 20;

Matrix RmsNorm(const Matrix& x, const Eigen::RowVectorXf& weight, double eps) {
  const Eigen::VectorXf scale =
      (x.rowwise().squaredNorm().array() / static_cast<float>(x.cols()) + static_cast<float>(eps)).rsqrt();
  return (x.array().colwise() * scale.array()).rowwise() * weight.array();
}

ConstMatrixRef Ref(const Matrix& m) {
  const auto cols = static_cast<std::size_t>(m.cols());
  return {m.data(), static_cast<std::size_t>(m.rows()), cols, cols};
}
MatrixRef Ref(Matrix& m) {
  const auto cols = static_cast<std::size_t>(m.cols());
  return {m.data(), static_cast<std::size_t>(m.rows()), cols, cols};
}

/// Writes one row of `dim` numbers in the view's element type.
void StoreRow(const TensorView& view, std::size_t token, std::size_t head, const float* row) {
  const std::size_t offset = token * view.token_stride + head * view.head_stride;
  const Eigen::Map<const Eigen::RowVectorXf> source(row, static_cast<Index>(view.dim));
  const auto n = static_cast<Index>(view.dim);
  switch (view.type) {
    case ElementType::kF32: std::memcpy(static_cast<float*>(view.data) + offset, row, view.dim * sizeof(float)); break;
    case ElementType::kF16:
      Eigen::Map<Eigen::RowVector<Eigen::half, Eigen::Dynamic>>(static_cast<Eigen::half*>(view.data) + offset, n) =
          source.cast<Eigen::half>();
      break;
    case ElementType::kBF16:
      Eigen::Map<Eigen::RowVector<Eigen::bfloat16, Eigen::Dynamic>>(static_cast<Eigen::bfloat16*>(view.data) + offset, n) =
          source.cast<Eigen::bfloat16>();
      break;
  }
}

/// Takes the weights out of a file by name and keeps the first complaint.
class WeightReader {
 public:
  explicit WeightReader(const quantizers::Safetensors& file) : file_(file) {}

  /// Rows of several [rows_i, columns] tensors below one another.
  Matrix Stack(std::initializer_list<std::pair<std::string, std::size_t>> parts, std::size_t columns) {
    std::size_t rows = 0;
    for (const auto& part : parts) rows += part.second;
    Matrix matrix(rows, columns);
    float* next = matrix.data();
    for (const auto& [name, part_rows] : parts) {
      const std::size_t shape[] = {part_rows, columns};
      next = Copy(name, shape, next);
    }
    return matrix;
  }
  Eigen::RowVectorXf Vector(const std::string& name, std::size_t size) {
    Eigen::RowVectorXf vector(size);
    const std::size_t shape[] = {size};
    Copy(name, shape, vector.data());
    return vector;
  }
  [[nodiscard]] Result<void> status() const { return status_; }

 private:
  /// Widens a tensor to `to`; answers where the next one goes.
  float* Copy(const std::string& name, std::span<const std::size_t> shape, float* to) {
    using quantizers::TensorType;
    if (!status_) return to;
    const auto refuse = [&](ErrorCode code, const std::string& what) {
      status_ = Error{code, "tensor '" + name + "' " + what};
      return to;
    };
    const quantizers::StoredTensor* tensor = file_.Find(name);
    if (tensor == nullptr) return refuse(ErrorCode::kNotFound, "is missing");
    if (!std::ranges::equal(tensor->shape, shape)) {
      return refuse(ErrorCode::kInvalidArgument,
                    "is " + quantizers::ShapeText(tensor->shape) + ", the config asks for " + quantizers::ShapeText(shape));
    }
    // Integers would be codes of some quantization, and their scales elsewhere.
    const bool floats =
        tensor->type == TensorType::kF32 || tensor->type == TensorType::kF16 || tensor->type == TensorType::kBF16;
    if (!floats || !quantizers::WidenTensor(*tensor, std::span(to, tensor->elements))) {
      return refuse(ErrorCode::kUnsupported,
                    "is " + std::string(quantizers::TensorTypeName(tensor->type)) + "; F32, F16 and BF16 are read");
    }
    return to + tensor->elements;
  }
  const quantizers::Safetensors& file_;
  Result<void> status_;
};

}  // namespace

Result<Model> Model::Load(const std::string& folder) {
  namespace fs = std::filesystem;
  const fs::path path(folder);
  const Result<std::string> config_text = ReadText((path / "config.json").string(), kMaxConfigBytes);
  if (!config_text) return config_text.error();
  const Result<nlohmann::json> config_json =
      quantizers::ParseJson(*config_text, {.bytes = kMaxConfigBytes, .depth = 64}, "config.json");
  if (!config_json) return config_json.error();
  const Result<Config> config = ParseConfig(*config_json);
  if (!config) return config.error();
  Result<RopeFrequencies> rope = ComputeRopeFrequencies(config->rope, static_cast<std::uint32_t>(config->head_dim));
  if (!rope) return rope.error();
  const Result<std::string> tokenizer_text = ReadText((path / "tokenizer.json").string(), kMaxTokenizerBytes);
  if (!tokenizer_text) return tokenizer_text.error();
  const Result<Tokenizer> tokenizer = Tokenizer::Parse(*tokenizer_text);
  if (!tokenizer) return tokenizer.error();
  if (config->vocab < 259) {
    return Error{ErrorCode::kInvalidArgument,
                 "config.json: 'vocab_size' " + std::to_string(config->vocab) + " is smaller than the tokenizer's 259 tokens"};
  }
  std::error_code error;
  if (!fs::exists(path / "model.safetensors", error) && fs::exists(path / "model.safetensors.index.json", error)) {
    return Error{ErrorCode::kUnsupported,
                 "model '" + folder + "': checkpoints in several files are not read; one model.safetensors is"};
  }
  Model model(*config, *std::move(rope), *tokenizer);
  const fs::path absolute = fs::absolute(path, error).lexically_normal();
  model.name_ = (absolute.has_filename() ? absolute : absolute.parent_path()).filename().string();
  const Result<std::string> weights = model.LoadWeights((path / "model.safetensors").string());
  if (!weights) return weights.error();
  const WeightsFile file{"model.safetensors", *weights};
  Result<std::string> identity = ModelIdentity(*config_json, std::span(&file, 1));
  if (!identity) return identity.error();
  model.identity_ = *std::move(identity);
  return model;
}

Result<std::string> Model::LoadWeights(const std::string& path) {
  const Result<std::vector<std::byte>> image = ReadWholeFile(path);
  if (!image) return image.error();
  std::string digest = Digest(*image);
  const auto file = quantizers::Safetensors::Read(*image, path);
  if (!file) return file.error();

  const Config& c = config_;
  WeightReader read(*file);
  embedding_ = read.Stack({{"model.embed_tokens.weight", c.vocab}}, c.hidden);
  if (!c.tied_embeddings) head_ = read.Stack({{"lm_head.weight", c.vocab}}, c.hidden);
  final_norm_ = read.Vector("model.norm.weight", c.hidden);
  for (std::size_t i = 0; i < c.layers && read.status(); ++i) {
    const std::string layer = "model.layers." + std::to_string(i) + ".";
    const std::string attention = layer + "self_attn.";
    const std::string mlp = layer + "mlp.";
    layers_.push_back({
        .attention_norm = read.Vector(layer + "input_layernorm.weight", c.hidden),
        .mlp_norm = read.Vector(layer + "post_attention_layernorm.weight", c.hidden),
        .qkv = read.Stack({{attention + "q_proj.weight", c.q_width()},
                           {attention + "k_proj.weight", c.kv_width()},
                           {attention + "v_proj.weight", c.kv_width()}},
                          c.hidden),
        .output = read.Stack({{attention + "o_proj.weight", c.hidden}}, c.q_width()),
        .gate_up = read.Stack({{mlp + "gate_proj.weight", c.intermediate}, {mlp + "up_proj.weight", c.intermediate}}, c.hidden),
        .down = read.Stack({{mlp + "down_proj.weight", c.hidden}}, c.intermediate),
    });
  }
  if (const auto status = read.status(); !status) return Error{status.error().code, path + ": " + status.error().message};
  return digest;
}

Result<std::size_t> Model::Forward(std::span<const TokenId> tokens, Attention& attention, LogitsOf which,
                                   Matrix& logits) const {
  const Config& c = config_;
  const std::size_t position = attention.length();
  if (tokens.empty()) return Error{ErrorCode::kInvalidArgument, "forward: no tokens"};
  if (position + tokens.size() > c.max_positions) {
    return Error{ErrorCode::kOutOfRange, "forward: position " + std::to_string(position + tokens.size() - 1) +
                                             " lies beyond the model's " + std::to_string(c.max_positions)};
  }
  const Result<std::size_t> begun = attention.Begin(tokens.size());
  if (!begun) return begun.error();
  const std::size_t count = *begun;
  tokens = tokens.first(count);

  Matrix x(count, c.hidden);
  for (std::size_t t = 0; t < count; ++t) {
    if (tokens[t] < 0 || static_cast<std::size_t>(tokens[t]) >= c.vocab) {
      return Error{ErrorCode::kOutOfRange, "forward: token " + std::to_string(tokens[t]) + " is not among the " +
                                               std::to_string(c.vocab) + " of the vocabulary"};
    }
    x.row(static_cast<Index>(t)) = embedding_.row(tokens[t]);
  }

  const RopeTable rope(position, count, rope_);
  const float scale = 1.0f / std::sqrt(static_cast<float>(c.head_dim));
  const auto inner = static_cast<Index>(c.intermediate);
  std::vector<float> row(c.head_dim);
  const MatrixProducts& products = Products();
  Matrix qkv(count, c.q_width() + 2 * c.kv_width());
  Matrix gate_up(count, 2 * c.intermediate);
  const ConstMatrixRef gated{gate_up.data(), count, c.intermediate, 2 * c.intermediate};  // the gate half is overwritten
  for (std::size_t l = 0; l < c.layers; ++l) {
    const Layer& layer = layers_[l];
    products.multiply_transposed(Ref(RmsNorm(x, layer.attention_norm, c.rms_eps)), Ref(layer.qkv), Ref(qkv));
    // Queries, keys and values go straight to where attention reads them: with kvant, into shared memory.
    const TensorView keys = attention.Keys(l);
    const TensorView values = attention.Values(l);
    for (std::size_t t = 0; t < count; ++t) {
      const float* q = qkv.row(static_cast<Index>(t)).data();
      const float* k = q + c.q_width();
      const float* v = k + c.kv_width();
      for (std::size_t h = 0; h < c.q_heads; ++h) {
        rope.Rotate(t, q + h * c.head_dim, c.head_dim, attention.queries() + (t * c.q_heads + h) * c.head_dim);
      }
      for (std::size_t h = 0; h < c.kv_heads; ++h) {
        rope.Rotate(t, k + h * c.head_dim, c.head_dim, row.data());
        StoreRow(keys, t, h, row.data());
        StoreRow(values, t, h, v + h * c.head_dim);
      }
    }
    if (const auto attended = attention.Attend(l, scale); !attended) return attended.error();
    const ConstMatrixRef heads{attention.outputs(), count, c.q_width(), c.q_width()};
    products.add_multiply_transposed(heads, Ref(layer.output), Ref(x));

    products.multiply_transposed(Ref(RmsNorm(x, layer.mlp_norm, c.rms_eps)), Ref(layer.gate_up), Ref(gate_up));
    auto gate = gate_up.leftCols(inner).array();
    gate = gate / (1.0f + (-gate).exp()) * gate_up.rightCols(inner).array();
    products.add_multiply_transposed(gated, Ref(layer.down), Ref(x));
  }
  if (const auto committed = attention.Commit(tokens); !committed) return committed.error();

  if (which != LogitsOf::kNone) {
    const Matrix last =
        which == LogitsOf::kAll ? RmsNorm(x, final_norm_, c.rms_eps) : RmsNorm(x.bottomRows<1>(), final_norm_, c.rms_eps);
    logits.resize(last.rows(), static_cast<Index>(c.vocab));
    products.multiply_transposed(Ref(last), Ref(c.tied_embeddings ? embedding_ : head_), Ref(logits));
  } else {
    logits.resize(0, static_cast<Index>(c.vocab));
  }
  return count;
}

}  // namespace kvant::examples
