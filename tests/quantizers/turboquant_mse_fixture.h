// Working turboquant_mse codecs and what their tests do with them.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "quantizers/artifact.h"
#include "quantizers/codec.h"
#include "quantizers/registry.h"
#include "tools/codec_calls.h"

namespace kvant::quantizers {

using tools::AlignedBytes;
using tools::DecodeBlock;
using tools::EncodeBlock;

struct TurboQuant {
  std::string spec = "turboquant_mse:bits=4";
  std::uint32_t head_dim = 128;
  std::uint32_t block_tokens = 128;
  std::uint32_t kv_heads = 1;
  std::uint32_t layer = 0;
  std::string model = "test";
  const Artifact* artifact = nullptr;

  /// Refers to `model`.
  CodecConfig Config() const&& = delete;
  [[nodiscard]] CodecConfig Config() const& {
    return {.layer = layer,
            .kv_heads = kv_heads,
            .head_begin = 0,
            .head_end = kv_heads,
            .head_dim = head_dim,
            .block_tokens = block_tokens,
            .model = model,
            .artifact = artifact};
  }
  [[nodiscard]] Result<std::unique_ptr<KeyCodec>> TryKeys() const {
    return MakeKeys(Registry::Builtin().Parse(spec).value(), Config());
  }
  [[nodiscard]] Result<std::unique_ptr<ValueCodec>> TryValues() const {
    return MakeValues(Registry::Builtin().Parse(spec).value(), Config());
  }
  [[nodiscard]] std::unique_ptr<KeyCodec> Keys() const { return std::move(TryKeys()).value(); }
  [[nodiscard]] std::unique_ptr<ValueCodec> Values() const { return std::move(TryValues()).value(); }
  /// What the codec declares.
  [[nodiscard]] double Declared(Side side) const {
    return (side == Side::kKeys ? Keys()->expected_error(1) : Values()->expected_error(1)).value();
  }
};

/// The code alone, without a gauge before it.
inline std::string TurboSpec(std::uint32_t bits, const std::string& more = "") {
  return "turboquant_mse:bits=" + std::to_string(bits) + ",gauge=none" + more;
}

inline RowsView RowsOf(const std::vector<float>& rows, std::size_t dim) {
  return {rows.data(), ElementType::kF32, rows.size() / dim, dim, dim};
}

inline std::vector<float> NormalNumbers(std::size_t n, std::mt19937& random) {
  std::normal_distribution<float> normal;
  std::vector<float> values(n);
  for (auto& value : values) value = normal(random);
  return values;
}

/// Encodes and decodes one block.
inline std::vector<float> RoundTrip(const BlockCodec& codec, std::size_t head, const std::vector<float>& rows,
                                    std::size_t dim) {
  AlignedBytes block(codec.block_bytes());
  EncodeBlock(codec, head, 0, RowsOf(rows, dim), block.data()).value();
  std::vector<float> out(rows.size());
  DecodeBlock(codec, head, 0, block.data(), 0, rows.size() / dim, out.data(), dim);
  return out;
}

/// Logits [n, tokens] of adjacent queries.
inline std::vector<float> ScoreBlock(const KeyCodec& codec, std::size_t head, const std::vector<float>& queries, std::size_t n,
                                     const std::byte* block, std::size_t tokens) {
  AlignedBytes prepared(codec.needs(n).prepared), scratch(codec.needs(n).scratch);
  const std::size_t dim = queries.size() / n;
  codec.Prepare({.head = head,
                 .queries = queries.data(),
                 .query_stride = dim,
                 .n = n,
                 .prepared = prepared.data(),
                 .scratch = scratch.data()});
  std::vector<float> logits(n * tokens);
  codec.Score({.head = head,
               .queries = queries.data(),
               .query_stride = dim,
               .prepared = prepared.data(),
               .n = n,
               .block = block,
               .logits = logits.data(),
               .stride = tokens,
               .scratch = scratch.data()});
  return logits;
}

/// Weighted sums [n, dim] of a block's rows, weights [n, tokens].
inline std::vector<float> SumBlock(const ValueCodec& codec, std::size_t head, const std::vector<float>& weights, std::size_t n,
                                   const std::byte* block, const float* weight_sums, std::size_t dim) {
  AlignedBytes scratch(codec.needs(n).scratch);
  const std::size_t floats = codec.accumulator_floats(n);
  std::vector<float> acc(n * floats, 0.0f), rows(n * dim);
  codec.Accumulate({.head = head,
                    .weights = weights.data(),
                    .stride = weights.size() / n,
                    .n = n,
                    .block = block,
                    .acc = acc.data(),
                    .acc_stride = floats,
                    .acc_floats = floats,
                    .scratch = scratch.data()});
  codec.Finish({.head = head,
                .acc = acc.data(),
                .acc_stride = floats,
                .acc_floats = floats,
                .weight_sums = weight_sums,
                .n = n,
                .rows = rows.data(),
                .row_stride = dim,
                .scratch = scratch.data()});
  return rows;
}

inline double Dot(const float* a, const float* b, std::size_t n) {
  double sum = 0.0;
  for (std::size_t i = 0; i < n; ++i) sum += static_cast<double>(a[i]) * b[i];
  return sum;
}

/// |a - b|^2 / |a|^2.
inline double RelativeError(const std::vector<float>& a, const std::vector<float>& b) {
  double error = 0.0, square = 0.0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    error += (static_cast<double>(a[i]) - b[i]) * (static_cast<double>(a[i]) - b[i]);
    square += static_cast<double>(a[i]) * a[i];
  }
  return error / square;
}

}  // namespace kvant::quantizers
