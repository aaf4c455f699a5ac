#include "client/examples/llama/exact_attention.h"

#include <algorithm>

#include <Eigen/Core>

#include "client/examples/llama/matmul.h"

namespace kvant::examples {
namespace {

using Eigen::Index;
using Matrix = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

constexpr std::size_t kTileQueries = 64;  // logits of a tile stay in the cache: 64 x 4096 x 4 B = 1 MiB

}  // namespace

ExactAttention::ExactAttention(const Config& config, std::size_t max_step_tokens)
    : q_heads_(config.q_heads),
      kv_heads_(config.kv_heads),
      head_dim_(config.head_dim),
      max_step_tokens_(max_step_tokens),
      keys_(config.layers),
      values_(config.layers),
      queries_(max_step_tokens * config.q_width()),
      outputs_(max_step_tokens * config.q_width()) {}

Result<std::size_t> ExactAttention::Begin(std::size_t tokens) {
  step_ = std::min(tokens, max_step_tokens_);
  if (length_ + step_ > capacity_) Grow(std::max(2 * capacity_, length_ + step_));
  return step_;
}

void ExactAttention::Grow(std::size_t capacity) {
  for (std::vector<Rows>* layers : {&keys_, &values_}) {
    for (Rows& rows : *layers) {
      Rows grown(kv_heads_ * capacity * head_dim_);
      for (std::size_t h = 0; h < kv_heads_; ++h) {
        std::copy_n(rows.data() + h * capacity_ * head_dim_, length_ * head_dim_, grown.data() + h * capacity * head_dim_);
      }
      rows = std::move(grown);
    }
  }
  capacity_ = capacity;
}

TensorView ExactAttention::NewRows(Rows& rows) const {
  return {.data = rows.data() + length_ * head_dim_,
          .type = ElementType::kF32,
          .tokens = step_,
          .heads = kv_heads_,
          .dim = head_dim_,
          .token_stride = head_dim_,
          .head_stride = capacity_ * head_dim_};
}

ConstTensorView ExactAttention::Cached(const Rows& rows) const {
  return {.data = rows.data(),
          .type = ElementType::kF32,
          .tokens = length_,
          .heads = kv_heads_,
          .dim = head_dim_,
          .token_stride = head_dim_,
          .head_stride = capacity_ * head_dim_};
}

Result<void> ExactAttention::Attend(std::size_t layer, float scale) {
  const MatrixProducts& products = Products();
  const std::size_t row_stride = q_heads_ * head_dim_;
  std::vector<float> tile(std::min(kTileQueries, step_) * (length_ + step_));
  for (std::size_t head = 0; head < q_heads_; ++head) {
    const std::size_t kv_offset = head / (q_heads_ / kv_heads_) * capacity_ * head_dim_;
    for (std::size_t first = 0; first < step_; first += kTileQueries) {
      const std::size_t count = std::min(kTileQueries, step_ - first);
      const std::size_t seen = length_ + first + count;  // by the last query of the tile
      const std::size_t at = (first * q_heads_ + head) * head_dim_;
      const ConstMatrixRef keys{keys_[layer].data() + kv_offset, seen, head_dim_, head_dim_};
      const ConstMatrixRef values{values_[layer].data() + kv_offset, seen, head_dim_, head_dim_};
      products.multiply_transposed({queries_.data() + at, count, head_dim_, row_stride}, keys,
                                   {tile.data(), count, seen, seen});
      Eigen::Map<Matrix> logits(tile.data(), static_cast<Index>(count), static_cast<Index>(seen));
      for (Index t = 0; t < logits.rows(); ++t) {
        const Index visible = static_cast<Index>(length_ + first) + t + 1;
        auto row = logits.row(t).head(visible).array();
        row = ((row - row.maxCoeff()) * scale).exp();
        row /= row.sum();
        logits.row(t).tail(logits.cols() - visible).setZero();
      }
      products.multiply({tile.data(), count, seen, seen}, values, {outputs_.data() + at, count, head_dim_, row_stride});
    }
  }
  return {};
}

Result<void> ExactAttention::Commit(std::span<const TokenId> tokens) {
  if (tokens.size() != step_) {
    return Error{ErrorCode::kInvalidArgument,
                 "commit: " + std::to_string(tokens.size()) + " tokens after a step of " + std::to_string(step_)};
  }
  length_ += step_;
  step_ = 0;
  return {};
}

}  // namespace kvant::examples
