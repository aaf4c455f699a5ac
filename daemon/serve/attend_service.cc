#include "daemon/serve/attend_service.h"

#include <algorithm>
#include <string>

namespace kvant::daemon {
namespace {

/// Multiplications of q.k in a short call: one token of 32 heads of 128 over 64 k tokens takes so many, and some milliseconds.
constexpr double kShortMultiplications = 1u << 28;

Error Invalid(const std::string& what) { return {ErrorCode::kInvalidArgument, "attend: " + what}; }

}  // namespace

Result<quantizers::AttendRequest> RequestOf(const AttendCall& call) {
  const std::uint64_t rows = std::uint64_t{call.q.tokens} * call.q.heads;
  if (call.lse != nullptr && call.lse_floats != rows) {
    return Invalid("lse has room for " + std::to_string(call.lse_floats) + " numbers, [tokens, q_heads] are " +
                   std::to_string(rows));
  }
  if (call.sink_logits != nullptr && call.sink_floats != call.q.heads) {
    return Invalid("sink logits: " + std::to_string(call.sink_floats) + " numbers for " + std::to_string(call.q.heads) +
                   " query heads");
  }
  const std::uint32_t kv_heads = call.sequence->store().spec().kv_heads;
  if (call.votes_floats % kv_heads != 0 || call.kept.words % kv_heads != 0) {
    return Invalid("votes of " + std::to_string(call.votes_floats) + " numbers or a list of kept tokens of " +
                   std::to_string(call.kept.words) + " words for " + std::to_string(kv_heads) + " KV heads");
  }
  quantizers::KeptTokens kept = call.kept.tokens;
  kept.words = static_cast<std::size_t>(call.kept.words / kv_heads);
  return quantizers::AttendRequest{.layer = call.layer,
                                   .new_rows = call.new_tokens,
                                   .q = call.q,
                                   .out = call.out,
                                   .lse = call.lse,
                                   .sink_logits = call.sink_logits,
                                   .scale = call.scale,
                                   .softcap = call.softcap,
                                   .window = call.window,
                                   .kept = kept,
                                   .from_end = call.from_end,
                                   .votes = call.votes,
                                   .votes_stride = static_cast<std::size_t>(call.votes_floats / kv_heads)};
}

AttendBatch& AttendService::Begin(std::size_t items) {
  batch_.calls.clear();
  batch_.outcomes.assign(items, {});
  return batch_;
}

bool AttendService::Long(std::span<const AttendCall> calls) noexcept {
  double multiplications = 0;  // shapes come from a message: integers might overflow
  for (const AttendCall& call : calls) {
    const auto queries = static_cast<double>(call.q.tokens);
    double tokens = static_cast<double>(call.sequence->length()) + call.unnamed + call.new_tokens;
    if (call.window != 0) tokens = std::min(tokens, call.window + queries);
    if (const auto& kept = call.kept.tokens; kept.window != 0 && kept.whole_below <= tokens) {
      tokens = std::min(tokens, kept.window + static_cast<double>(kept.sinks) + queries);
    }
    if (call.votes != nullptr) tokens *= 2;  // keys are scored twice
    multiplications += tokens * queries * static_cast<double>(call.q.heads) * static_cast<double>(call.q.dim);
  }
  return multiplications > kShortMultiplications;
}

void AttendService::Run(std::span<const AttendCall> calls) {
  views_.resize(calls.size());
  items_.clear();
  for (std::size_t i = 0; i < calls.size(); ++i) {
    const AttendCall& call = calls[i];
    const auto request = RequestOf(call);
    if (!request) {
      *call.outcome = request.error();
      continue;
    }
    const auto item =
        quantizers::MakeItem(*call.sequence->store().plan(), call.sequence->Cache(call.unnamed), *request, views_[i]);
    if (item) {
      items_.push_back(*item);
    } else {
      *call.outcome = item.error();
    }
  }
  if (items_.empty()) return;
  attention_.Run(items_);
  std::size_t next = 0;
  for (const AttendCall& call : calls) {
    if (*call.outcome) *call.outcome = quantizers::CheckResult(items_[next++]);
  }
}

}  // namespace kvant::daemon
