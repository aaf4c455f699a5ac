// Checks of attention's input: the daemon runs them on what a client asks for, before anything is computed.
#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <utility>

#include "quantizers/attention/attention.h"

namespace kvant::quantizers {
namespace {

Error Invalid(std::string message) { return Error{ErrorCode::kInvalidArgument, "attend: " + std::move(message)}; }

Result<void> CheckTensors(const Query& query, const StoreSpec& spec) {
  const ConstTensorView& q = query.q;
  if (q.dim != spec.head_dim)
    return Invalid("q.dim " + std::to_string(q.dim) + " is not the store's head_dim " + std::to_string(spec.head_dim));
  if (q.heads == 0 || q.heads % spec.kv_heads != 0) {
    return Invalid("q.heads " + std::to_string(q.heads) + " is not a multiple of the store's kv_heads " +
                   std::to_string(spec.kv_heads));
  }
  if (query.out.tokens != q.tokens || query.out.heads != q.heads || query.out.dim != q.dim) {
    return Invalid("out is [" + std::to_string(query.out.tokens) + ", " + std::to_string(query.out.heads) + ", " +
                   std::to_string(query.out.dim) + "], q is [" + std::to_string(q.tokens) + ", " + std::to_string(q.heads) +
                   ", " + std::to_string(q.dim) + "]");
  }
  if (q.tokens != 0 && (q.data == nullptr || query.out.data == nullptr)) return Invalid("q or out has no data");
  return {};
}

/// The list's length; what it says may be anything. And room for votes.
Result<void> CheckTokens(const AttendItem& item, std::uint64_t end) {
  const KeptTokens& kept = item.cache.kept;
  if (kept.bits != nullptr && kept.words < KeptTokens::WordsOf(kept.end)) {
    return Invalid("a list of kept tokens has " + std::to_string(kept.words) + " words per KV head, " +
                   std::to_string(kept.end) + " tokens need " + std::to_string(KeptTokens::WordsOf(kept.end)));
  }
  if (item.query.votes == nullptr) return {};
  if (item.query.lse == nullptr) return Invalid("votes without lse");
  if (item.query.votes_stride < end) {
    return Invalid("votes have room for " + std::to_string(item.query.votes_stride) + " tokens per KV head, " +
                   std::to_string(end) + " get some");
  }
  return {};
}

Result<void> CheckNumbers(const Query& query) {
  if (!std::isfinite(query.scale)) return Invalid("scale " + std::to_string(query.scale) + " is not finite");
  if (!std::isfinite(query.softcap) || query.softcap < 0) {
    return Invalid("softcap " + std::to_string(query.softcap) + " is neither 0 nor positive and finite");
  }
  if (query.sink_logits != nullptr) {
    for (std::size_t h = 0; h < query.q.heads; ++h) {
      if (!std::isfinite(query.sink_logits[h])) return Invalid("sink_logits[" + std::to_string(h) + "] is not finite");
    }
  }
  return {};
}

/// Raw rows in order and disjoint, and with the blocks covering every position before `end`.
Result<void> CheckCoverage(const CachedLayer& cache, const StoreSpec& spec, std::uint64_t end) {
  std::uint64_t raw_end = 0;
  std::uint64_t covered = std::uint64_t{cache.blocks.size()} * spec.block_tokens;
  for (std::size_t i = 0; i < cache.raw.size(); ++i) {
    const RawRows& raw = cache.raw[i];
    const std::string where = "raw[" + std::to_string(i) + "]";
    if (raw.count == 0) continue;
    if (raw.keys == nullptr || raw.values == nullptr) return Invalid(where + " has no data");
    if (raw.count > std::numeric_limits<std::uint64_t>::max() - raw.first_position) return Invalid(where + " overflows");
    if (raw.first_position < raw_end)
      return Invalid(where + " starts at " + std::to_string(raw.first_position) + ", before the end of the piece before");
    raw_end = raw.first_position + raw.count;
    if (raw.first_position <= covered) covered = std::max(covered, raw_end);
  }
  if (covered < end) {
    return Error{ErrorCode::kOutOfRange, "attend: blocks and raw rows cover positions up to " + std::to_string(covered) +
                                             ", the queries need them up to " + std::to_string(end)};
  }
  return {};
}

}  // namespace

Result<void> CheckItem(const AttendItem& item) {
  if (item.cache.plan == nullptr) return Invalid("no plan");
  const Plan& plan = *item.cache.plan;
  if (item.cache.layer >= plan.layers()) {
    return Error{ErrorCode::kOutOfRange,
                 "attend: layer " + std::to_string(item.cache.layer) + " of " + std::to_string(plan.layers())};
  }
  if (auto ok = CheckTensors(item.query, plan.spec()); !ok) return ok;
  if (auto ok = CheckNumbers(item.query); !ok) return ok;
  if (item.query.q.tokens > std::numeric_limits<std::uint64_t>::max() - item.query.first_position) {
    return Invalid("first_position " + std::to_string(item.query.first_position) + " overflows");
  }
  const std::uint64_t end = item.query.first_position + item.query.q.tokens;
  if (auto ok = CheckTokens(item, end); !ok) return ok;
  const bool gap = std::ranges::find(item.cache.blocks, nullptr) != item.cache.blocks.end();
  if (gap) return Invalid("a block has no data");
  return CheckCoverage(item.cache, plan.spec(), end);
}

}  // namespace kvant::quantizers
