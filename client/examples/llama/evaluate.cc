#include "client/examples/llama/evaluate.h"

#include <algorithm>
#include <cmath>
#include <string>

#include "client/examples/llama/exact_attention.h"
#include "client/examples/llama/sampler.h"
#include "quantizers/safetensors.h"

namespace kvant::examples {
namespace {

std::span<const float> Row(const Matrix& matrix, std::size_t row) {
  return {matrix.data() + row * static_cast<std::size_t>(matrix.cols()), static_cast<std::size_t>(matrix.cols())};
}

std::ptrdiff_t Choice(const std::vector<double>& logs) { return std::max_element(logs.begin(), logs.end()) - logs.begin(); }

/// Adds the rows of a layer to the sums [kv_heads, head_dim].
void AddRows(const ConstTensorView& rows, std::vector<double>& sums) {
  const auto* data = static_cast<const float*>(rows.data);
  for (std::size_t head = 0; head < rows.heads; ++head) {
    for (std::size_t token = 0; token < rows.tokens; ++token) {
      const float* row = data + head * rows.head_stride + token * rows.token_stride;
      for (std::size_t i = 0; i < rows.dim; ++i) sums[head * rows.dim + i] += row[i];
    }
  }
}

}  // namespace

Result<Loss> ScoreTokens(const Model& model, Attention& attention, std::span<const TokenId> tokens, std::size_t skip,
                         std::size_t step_tokens) {
  Loss loss;
  Matrix logits;
  for (std::size_t at = 0; at < tokens.size();) {
    const auto count =
        model.Forward(tokens.subspan(at, std::min(step_tokens, tokens.size() - at)), attention, LogitsOf::kAll, logits);
    if (!count) return count.error();
    for (std::size_t row = 0; row < *count; ++row) {
      const std::size_t predicted = at + row + 1;
      if (predicted >= tokens.size() || predicted < skip) continue;
      loss.nll -= LogSoftmax(Row(logits, row))[static_cast<std::size_t>(tokens[predicted])];
      ++loss.tokens;
    }
    at += *count;
  }
  return loss;
}

Comparison& Comparison::operator+=(const Comparison& other) {
  kl += other.kl;
  reference_nll += other.reference_nll;
  candidate_nll += other.candidate_nll;
  same_choice += other.same_choice;
  tokens += other.tokens;
  return *this;
}

Result<Comparison> CompareTokens(const Model& model, Attention& reference, Attention& candidate,
                                 std::span<const TokenId> tokens, std::size_t skip, std::size_t step_tokens) {
  Comparison sum;
  Matrix candidate_logits;
  Matrix reference_logits;
  for (std::size_t at = 0; at < tokens.size();) {
    const std::size_t wanted = std::min(step_tokens, tokens.size() - at);
    const auto count = model.Forward(tokens.subspan(at, wanted), candidate, LogitsOf::kAll, candidate_logits);
    if (!count) return count.error();
    const auto same = model.Forward(tokens.subspan(at, *count), reference, LogitsOf::kAll, reference_logits);
    if (!same) return same.error();
    if (*same != *count) return Error{ErrorCode::kInternal, "compare: the two caches take different steps"};
    for (std::size_t row = 0; row < *count; ++row) {
      const std::size_t predicted = at + row + 1;
      if (predicted >= tokens.size() || predicted < skip) continue;
      const std::vector<double> p = LogSoftmax(Row(reference_logits, row));
      const std::vector<double> q = LogSoftmax(Row(candidate_logits, row));
      for (std::size_t i = 0; i < p.size(); ++i) sum.kl += std::exp(p[i]) * (p[i] - q[i]);
      sum.reference_nll -= p[static_cast<std::size_t>(tokens[predicted])];
      sum.candidate_nll -= q[static_cast<std::size_t>(tokens[predicted])];
      sum.same_choice += Choice(p) == Choice(q) ? 1 : 0;
      ++sum.tokens;
    }
    const std::size_t before = at;
    at += *count;
    if (before >= skip || at < skip) continue;
    if (const auto ended = candidate.EndPrompt(); !ended) return ended.error();
  }
  return sum;
}

Result<std::vector<std::byte>> Calibrate(const Model& model, std::span<const TokenId> tokens, std::size_t window_tokens) {
  const Config& config = model.config();
  if (tokens.empty()) return Error{ErrorCode::kInvalidArgument, "calibrate: the text is empty"};
  std::vector<std::vector<double>> key_sums(config.layers, std::vector<double>(config.kv_width()));
  std::vector<std::vector<double>> value_sums = key_sums;
  Matrix logits;
  for (std::size_t begin = 0; begin < tokens.size(); begin += window_tokens) {
    const std::size_t end = std::min(tokens.size(), begin + window_tokens);
    ExactAttention attention(config);
    for (std::size_t at = begin; at < end;) {
      const auto count = model.Forward(tokens.subspan(at, end - at), attention, LogitsOf::kNone, logits);
      if (!count) return count.error();
      at += *count;
    }
    for (std::size_t layer = 0; layer < config.layers; ++layer) {
      AddRows(attention.CachedKeys(layer), key_sums[layer]);
      AddRows(attention.CachedValues(layer), value_sums[layer]);
    }
  }
  std::vector<std::vector<float>> means;  // keys and values of each layer
  std::vector<quantizers::TensorToWrite> tensors;
  means.reserve(2 * config.layers);
  const auto add = [&](const std::string& name, const std::vector<double>& sums) {
    std::vector<float>& mean = means.emplace_back();
    for (const double sum : sums) mean.push_back(static_cast<float>(sum / static_cast<double>(tokens.size())));
    tensors.push_back({name, quantizers::TensorType::kF32, {config.kv_heads, config.head_dim}, std::as_bytes(std::span(mean))});
  };
  for (std::size_t layer = 0; layer < config.layers; ++layer) {
    add("layers." + std::to_string(layer) + ".keys.mean", key_sums[layer]);
    add("layers." + std::to_string(layer) + ".values.mean", value_sums[layer]);
  }
  return quantizers::WriteSafetensors(tensors, {{"format", "pt"},
                                                {"model", model.identity()},
                                                {"tokens", std::to_string(tokens.size())},
                                                {"window_tokens", std::to_string(window_tokens)}});
}

}  // namespace kvant::examples
