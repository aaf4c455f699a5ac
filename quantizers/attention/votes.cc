// Votes: what each token got of the softmax weights of a call's queries, once those are known.
#include <cmath>

#include "kernels/softmax.h"
#include "quantizers/attention/tile.h"

namespace kvant::quantizers {

void Tile::Vote(Partial& partial) {
  partial.Clear(unit_.count, acc_floats_, spec_.head_dim);
  LoadQueries(partial);
  if (unit_.raw) {
    for (std::size_t i = 0; i < cache_.raw.size(); ++i) VoteRaw(i);
  }
  Chunk chunk = seen_.Next(unit_.block_begin);
  if (chunk.count == 0) return;
  Prepare();
  prefetch_.Clear();
  const std::uint64_t tokens = spec_.block_tokens;
  for (; chunk.count != 0; chunk = seen_.Next(chunk.end)) {
    Score(chunk);
    for (std::size_t i = 0; i < unit_.count; ++i) {
      float* const logits = buffers_.logits.Floats() + i * chunk.count * tokens;
      Cap(i, logits, chunk.count * tokens);
      MaskBlocks(i, chunk, logits);
      for (std::size_t b = 0; b < chunk.count; ++b) AddVotes(i, chunk.blocks[b] * tokens, tokens, logits + b * tokens);
    }
  }
}

void Tile::VoteRaw(std::size_t index) {
  const RawRows& raw = cache_.raw[index];
  const Range& seen = seen_.positions();
  const Range rows{std::max(raw.first_position, seen.begin), std::min(raw.first_position + raw.count, seen.end)};
  for (std::uint64_t begin = rows.begin; begin < rows.end; begin += kChunkTokens) {
    const Range chunk{begin, std::min<std::uint64_t>(rows.end, begin + kChunkTokens)};
    const auto length = static_cast<std::size_t>(chunk.end - chunk.begin);
    ScoreRaw(keys_[index], chunk);
    for (std::size_t i = 0; i < unit_.count; ++i) {
      float* const logits = buffers_.logits.Floats() + i * kChunkTokens;
      Cap(i, logits, length);
      Mask(i, chunk, /*mask_raw=*/false, logits);
      AddVotes(i, chunk.begin, length, logits);
    }
  }
}

/// Rounding may put a logit above the log-sum-exp by a little. Positions beyond those that any query sees have no room in
/// votes, and no weight.
void Tile::AddVotes(std::size_t i, std::uint64_t position, std::size_t length, float* logits) const {
  const Query& query = ItemOf(i).query;
  const float lse = query.lse[Token(i) * query.q.heads + unit_.head * group_ + (unit_.first + i) % group_];
  const std::uint64_t end = Visible(query, Token(i)).end;
  if (!std::isfinite(lse) || position >= end) return;
  length = static_cast<std::size_t>(std::min<std::uint64_t>(length, end - position));
  const float largest = kernels::MaxOf(logits, length);
  if (!std::isfinite(largest)) return;
  kernels::ExpShifted(logits, length, std::max(lse, largest));
  float* const votes = query.votes + unit_.head * query.votes_stride + position;
  for (std::size_t t = 0; t < length; ++t) votes[t] += logits[t];
}

}  // namespace kvant::quantizers
