#include "client/examples/llama/kvant_attention.h"

#include <algorithm>
#include <utility>

namespace kvant::examples {

Result<std::unique_ptr<KvantAttention>> KvantAttention::Make(Client& client, Sequence sequence, const Config& config,
                                                             std::size_t max_step_tokens) {
  Result<Tensor> queries = client.Allocate(max_step_tokens, config.q_heads, config.head_dim);
  if (!queries) return queries.error();
  Result<Tensor> outputs = client.Allocate(max_step_tokens, config.q_heads, config.head_dim);
  if (!outputs) return outputs.error();
  return std::unique_ptr<KvantAttention>(
      new KvantAttention(std::move(sequence), std::move(queries).value(), std::move(outputs).value()));
}

Result<std::size_t> KvantAttention::Begin(std::size_t tokens) {
  // A full tail shall say why: ask for one row at least.
  const std::size_t most = std::max<std::size_t>(sequence_.reservable(), 1);
  Result<NewRows> rows = sequence_.Reserve(std::min({tokens, queries_.view().tokens, most}));
  if (!rows) return rows.error();
  rows_ = *rows;
  return rows_->tokens();
}

Result<void> KvantAttention::Attend(std::size_t layer, float scale) {
  AttendArgs args;
  args.q = AsConst(queries_.view());
  args.out = outputs_.view();
  args.q.tokens = rows_->tokens();
  args.out.tokens = rows_->tokens();
  args.scale = scale;
  return sequence_.Attend(layer, args);
}

Result<void> KvantAttention::Commit(std::span<const TokenId> tokens) {
  rows_.reset();
  Result<void> advanced = sequence_.Advance(tokens);
  if (!advanced && advanced.error().code == ErrorCode::kStoreFull) {
    warning_ = advanced.error().message;
    return {};
  }
  return advanced;
}

}  // namespace kvant::examples
