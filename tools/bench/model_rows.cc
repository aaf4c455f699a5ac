// ModelSample: the reference engine reads a text with exact attention, and its rows are kept.
#include <algorithm>
#include <memory>

#include "client/examples/llama/exact_attention.h"
#include "client/examples/llama/files.h"
#include "client/examples/llama/model.h"
#include "tools/bench/rows.h"

namespace kvant::tools {
namespace {

using examples::Config;

/// Exact attention that remembers the queries of each step.
class Recorder final : public examples::Attention {
 public:
  explicit Recorder(const Config& config) : exact_(config, kStepTokens), width_(config.q_width()), queries_(config.layers) {}

  [[nodiscard]] std::size_t length() const override { return exact_.length(); }
  Result<std::size_t> Begin(std::size_t tokens) override {
    auto begun = exact_.Begin(tokens);
    step_ = begun ? *begun : 0;
    return begun;
  }
  [[nodiscard]] TensorView Keys(std::size_t layer) override { return exact_.Keys(layer); }
  [[nodiscard]] TensorView Values(std::size_t layer) override { return exact_.Values(layer); }
  [[nodiscard]] float* queries() override { return exact_.queries(); }
  [[nodiscard]] const float* outputs() const override { return exact_.outputs(); }
  Result<void> Attend(std::size_t layer, float scale) override {
    std::vector<float>& kept = queries_[layer];
    kept.insert(kept.end(), exact_.queries(), exact_.queries() + step_ * width_);
    return exact_.Attend(layer, scale);
  }
  Result<void> Commit(std::span<const TokenId> tokens) override { return exact_.Commit(tokens); }

  [[nodiscard]] const examples::ExactAttention& exact() const noexcept { return exact_; }
  /// [dim] of one query.
  [[nodiscard]] const float* Query(std::size_t layer, std::size_t position, std::size_t head) const {
    return &queries_[layer][position * width_ + head * kHeadDim];
  }

 private:
  static constexpr std::size_t kStepTokens = 256;
  examples::ExactAttention exact_;
  std::size_t width_;
  std::size_t step_ = 0;
  std::vector<std::vector<float>> queries_;  ///< per layer: [tokens, q_heads, dim]
};

void CopyRows(const RowsView& rows, std::size_t first, std::size_t count, float* to) {
  const auto* from = static_cast<const float*>(rows.data) + first * rows.stride;
  for (std::size_t t = 0; t < count; ++t) std::copy_n(from + t * rows.stride, rows.dim, to + t * rows.dim);
}

SampleRows Deal(const Recorder& recorder, const Config& config, std::size_t tokens, std::size_t query_tokens) {
  SampleRows rows;
  rows.tokens = tokens;
  rows.query_tokens = query_tokens;
  rows.keys.resize(SampleRows::kLanes * tokens * kHeadDim);
  rows.values.resize(rows.keys.size());
  rows.queries.resize(query_tokens * SampleRows::kLanes * kGroup * kHeadDim);
  const std::size_t end = kBlockTokens + tokens;
  const std::size_t group = config.q_heads / config.kv_heads;
  for (std::size_t lane = 0; lane < SampleRows::kLanes; ++lane) {
    const std::size_t head = lane % config.kv_heads;
    const std::size_t layer = lane / config.kv_heads % config.layers;
    CopyRows(recorder.exact().CachedKeys(layer).Head(head), kBlockTokens, tokens, &rows.keys[lane * tokens * kHeadDim]);
    CopyRows(recorder.exact().CachedValues(layer).Head(head), kBlockTokens, tokens, &rows.values[lane * tokens * kHeadDim]);
    for (std::size_t q = 0; q < query_tokens; ++q) {
      for (std::size_t i = 0; i < kGroup; ++i) {
        const std::size_t position = end - query_tokens + q - i / group;
        std::copy_n(recorder.Query(layer, position, head * group + i % group), kHeadDim,
                    &rows.queries[((q * SampleRows::kLanes + lane) * kGroup + i) * kHeadDim]);
      }
    }
  }
  return rows;
}

}  // namespace

Result<SampleRows> ModelSample(const std::string& model_folder, const std::string& text_file, std::size_t tokens,
                               std::size_t query_tokens) {
  auto model = examples::Model::Load(model_folder);
  if (!model) return model.error();
  if (model->config().head_dim != kHeadDim) {
    return Error{ErrorCode::kUnsupported, model_folder + ": heads of " + std::to_string(model->config().head_dim) +
                                              " numbers; the benchmarks have " + std::to_string(kHeadDim)};
  }
  auto text = examples::ReadText(text_file);
  if (!text) return text.error();
  std::vector<TokenId> ids = model->tokenizer().Encode(*text);
  const std::size_t wanted = kBlockTokens + tokens;
  if (ids.size() < wanted) {
    return Error{ErrorCode::kInvalidArgument,
                 text_file + ": " + std::to_string(ids.size()) + " tokens; " + std::to_string(wanted) + " are wanted"};
  }
  ids.resize(wanted);
  Recorder recorder(model->config());
  examples::Matrix logits;
  for (std::size_t done = 0; done < wanted;) {
    auto step = model->Forward(std::span(ids).subspan(done), recorder, examples::LogitsOf::kNone, logits);
    if (!step) return step.error();
    done += *step;
  }
  SampleRows rows = Deal(recorder, model->config(), tokens, query_tokens);
  rows.name = model->name();
  return rows;
}

}  // namespace kvant::tools
