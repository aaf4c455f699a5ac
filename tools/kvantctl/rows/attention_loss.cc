#include "tools/kvantctl/rows/attention_loss.h"

#include <algorithm>
#include <cmath>
#include <span>
#include <string>
#include <vector>

#include "quantizers/sequence/schedule.h"
#include "tools/codec_calls.h"

namespace kvant::tools {
namespace {

using quantizers::BlockCodec;
using quantizers::KeyCodec;
using quantizers::Plan;

constexpr std::uint32_t kRecentTokens = 64;  // as sequences have it by default

double Dot(const float* a, const float* b, std::size_t n) {
  double sum = 0;
  for (std::size_t i = 0; i < n; ++i) sum += static_cast<double>(a[i]) * static_cast<double>(b[i]);
  return sum;
}

/// One side of one KV head: its encoded blocks, and what they decode to.
class CodedRows {
 public:
  static Result<CodedRows> Make(const BlockCodec& codec, std::size_t head, const float* rows, std::size_t blocks,
                                std::size_t block_tokens, std::size_t dim) {
    CodedRows coded(codec, rows, blocks, block_tokens, dim);
    for (std::size_t b = 0; b < blocks; ++b) {
      const std::size_t first = b * block_tokens;
      const RowsView view{rows + first * dim, ElementType::kF32, block_tokens, dim, dim};
      const auto block = AdjacentParts(codec, coded.bytes_.data() + b * coded.block_bytes_);
      if (auto done = EncodeBlock(codec, head, first, view, block); !done) return done.error();
      DecodeBlock(codec, head, first, quantizers::AsConst(block), 0, block_tokens, coded.decoded_.data() + first * dim, dim);
    }
    return coded;
  }

  [[nodiscard]] quantizers::ConstBlockView block(std::size_t b) {
    return quantizers::AsConst(AdjacentParts(*codec_, bytes_.data() + b * block_bytes_));
  }
  [[nodiscard]] const float* decoded(std::size_t token) const { return decoded_.data() + token * dim_; }

  /// Mean over rows from `first` on; a row of zeros that stays so counts as 1.
  [[nodiscard]] double Cosine(std::size_t first) const {
    double sum = 0;
    const std::size_t count = decoded_.size() / dim_;
    for (std::size_t t = first; t < count; ++t) {
      const float* exact = rows_ + t * dim_;
      const double product = Dot(exact, decoded(t), dim_);
      const double sizes = std::sqrt(Dot(exact, exact, dim_) * Dot(decoded(t), decoded(t), dim_));
      sum += sizes > 0 ? product / sizes : Dot(exact, exact, dim_) == Dot(decoded(t), decoded(t), dim_) ? 1.0 : 0.0;
    }
    return sum / static_cast<double>(count - first);
  }

 private:
  CodedRows(const BlockCodec& codec, const float* rows, std::size_t blocks, std::size_t block_tokens, std::size_t dim)
      : codec_(&codec),
        rows_(rows),
        dim_(dim),
        block_bytes_(AdjacentBytes(codec)),
        bytes_(blocks * block_bytes_),
        decoded_(blocks * block_tokens * dim) {}

  const BlockCodec* codec_;
  const float* rows_;
  std::size_t dim_;
  std::size_t block_bytes_;
  AlignedBytes bytes_;
  std::vector<float> decoded_;
};

/// Softmax in place; returns the log of the denominator.
double Softmax(std::span<double> logits) {
  const double most = *std::ranges::max_element(logits);
  double sum = 0;
  for (double& logit : logits) sum += logit = std::exp(logit - most);
  for (double& logit : logits) logit /= sum;
  return most + std::log(sum);
}

/// Sums over the queries of a layer.
struct Sums {
  double logit_squares = 0;
  double logits = 0;
  double kl = 0;
  double queries = 0;
  double output_wrong = 0;
  double output_squares = 0;
  double keys_wrong = 0;    ///< of the outputs with exact values
  double values_wrong = 0;  ///< of the outputs with exact weights
};

/// The rows of one KV head.
struct HeadRows {
  const float* queries;  ///< of the group's first head; the next one's stand tokens * dim further
  const float* keys;
  const float* values;
};

/// The queries of one KV head's group at one position.
void AddPosition(const Plan& plan, const KeyCodec& codec, std::size_t head, const RowsShape& shape, const HeadRows& rows,
                 std::size_t position, CodedRows& keys, const CodedRows& values, Sums& sums) {
  const std::size_t dim = shape.head_dim, group = shape.q_heads / shape.kv_heads, seen = position + 1;
  const std::size_t block_tokens = plan.spec().block_tokens, sinks = plan.spec().sink_tokens;
  const std::size_t blocks = quantizers::ScheduledSeals(position, plan.spec().block_tokens, kRecentTokens).switched;
  const std::size_t coded = blocks * block_tokens;
  const float scale = 1.0f / std::sqrt(static_cast<float>(dim));
  std::vector<float> queries(group * dim), scores(group * std::max<std::size_t>(coded, 1));
  for (std::size_t g = 0; g < group; ++g) {
    const float* from = rows.queries + (g * shape.tokens + position) * dim;
    for (std::size_t i = 0; i < dim; ++i) queries[g * dim + i] = scale * from[i];
  }
  const quantizers::Needs needs = codec.needs(group);
  AlignedBytes prepared(needs.prepared), scratch(needs.scratch);
  codec.Prepare({.head = head,
                 .queries = queries.data(),
                 .query_stride = dim,
                 .n = group,
                 .prepared = prepared.data(),
                 .scratch = scratch.data()});
  for (std::size_t b = 0; b < blocks; ++b) {
    codec.Score({.head = head,
                 .first_position = b * block_tokens,
                 .queries = queries.data(),
                 .query_stride = dim,
                 .prepared = prepared.data(),
                 .n = group,
                 .block = keys.block(b),
                 .logits = scores.data() + b * block_tokens,
                 .stride = coded,
                 .scratch = scratch.data()});
  }
  std::vector<double> exact(seen), ours(seen), exact_out(dim), our_out(dim), keys_out(dim), values_out(dim);
  for (std::size_t g = 0; g < group; ++g) {
    for (std::size_t t = 0; t < seen; ++t) {
      exact[t] = Dot(queries.data() + g * dim, rows.keys + t * dim, dim);
      const bool code = t >= sinks && t < coded;
      ours[t] = code ? static_cast<double>(scores[g * coded + t]) : exact[t];
      if (!code) continue;
      sums.logit_squares += (ours[t] - exact[t]) * (ours[t] - exact[t]);
      sums.logits += 1;
    }
    const std::vector<double> exact_logits = exact, our_logits = ours;
    const double exact_log = Softmax(exact), our_log = Softmax(ours);
    std::ranges::fill(exact_out, 0.0);
    for (std::vector<double>* out : {&our_out, &keys_out, &values_out}) std::ranges::fill(*out, 0.0);
    for (std::size_t t = 0; t < seen; ++t) {
      sums.kl += exact[t] * (exact_logits[t] - exact_log - our_logits[t] + our_log);
      const float* row = rows.values + t * dim;
      const float* back = t >= sinks && t < coded ? values.decoded(t) : row;
      for (std::size_t i = 0; i < dim; ++i) {
        exact_out[i] += exact[t] * static_cast<double>(row[i]);
        our_out[i] += ours[t] * static_cast<double>(back[i]);
        keys_out[i] += ours[t] * static_cast<double>(row[i]);
        values_out[i] += exact[t] * static_cast<double>(back[i]);
      }
    }
    sums.queries += 1;
    for (std::size_t i = 0; i < dim; ++i) {
      sums.output_wrong += (our_out[i] - exact_out[i]) * (our_out[i] - exact_out[i]);
      sums.output_squares += exact_out[i] * exact_out[i];
      sums.keys_wrong += (keys_out[i] - exact_out[i]) * (keys_out[i] - exact_out[i]);
      sums.values_wrong += (values_out[i] - exact_out[i]) * (values_out[i] - exact_out[i]);
    }
  }
}

}  // namespace

Result<LayerLoss> MeasureLayer(const Plan& plan, std::size_t layer, const RowsShape& shape, const LayerRows& rows,
                               std::size_t positions) {
  const std::size_t dim = shape.head_dim, block_tokens = plan.spec().block_tokens;
  const std::size_t blocks = shape.tokens / block_tokens, first = shape.tokens / 4;
  Sums sums;
  LayerLoss loss;
  for (std::size_t head = 0; head < shape.kv_heads; ++head) {
    const quantizers::HeadCodecs& codecs = plan.codecs(layer, head);
    const std::size_t group = shape.q_heads / shape.kv_heads;
    const HeadRows of_head{rows.queries.data() + head * group * shape.tokens * dim,
                           rows.keys.data() + head * shape.tokens * dim, rows.values.data() + head * shape.tokens * dim};
    auto keys = CodedRows::Make(*codecs.keys, head, of_head.keys, blocks, block_tokens, dim);
    if (!keys) return std::move(keys).error();
    auto values = CodedRows::Make(*codecs.values, head, of_head.values, blocks, block_tokens, dim);
    if (!values) return std::move(values).error();
    const std::size_t sinks = plan.spec().sink_tokens;
    const double keys_before = sums.keys_wrong, values_before = sums.values_wrong;
    loss.key_cosine += keys->Cosine(sinks) / static_cast<double>(shape.kv_heads);
    loss.value_cosine += values->Cosine(sinks) / static_cast<double>(shape.kv_heads);
    for (std::size_t i = 0; i < positions; ++i) {
      const std::size_t position = first + (i + 1) * (shape.tokens - first) / positions - 1;
      AddPosition(plan, *codecs.keys, head, shape, of_head, position, *keys, *values, sums);
    }
    loss.heads.push_back({sums.keys_wrong - keys_before, sums.values_wrong - values_before});
  }
  loss.logit_error = sums.logits > 0 ? std::sqrt(sums.logit_squares / sums.logits) : 0.0;
  loss.attention_kl = sums.kl / sums.queries;
  loss.output_error = sums.output_squares > 0 ? sums.output_wrong / sums.output_squares : 0.0;
  for (HeadLoss& head : loss.heads) {
    head.keys = sums.output_squares > 0 ? head.keys / sums.output_squares : 0.0;
    head.values = sums.output_squares > 0 ? head.values / sums.output_squares : 0.0;
  }
  return loss;
}

}  // namespace kvant::tools
