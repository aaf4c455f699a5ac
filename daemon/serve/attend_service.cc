#include "daemon/serve/attend_service.h"

#include <algorithm>
#include <array>
#include <cfloat>
#include <string>

#include "kernels/raw/rows.h"

namespace kvant::daemon {
namespace {

constexpr std::size_t kMaxHeadDim = 1024;  // quantizers::Plan refuses more
/// Multiplications of q.k in a short call: one token of 32 heads of 128 over 64 k tokens takes so many, and some milliseconds.
constexpr double kShortMultiplications = 1u << 28;

Error Invalid(const std::string& what) { return {ErrorCode::kInvalidArgument, "attend: " + what}; }

/// What CheckItem cannot know: which rows are new.
Result<void> CheckTokens(const AttendCall& call) {
  if (call.new_tokens == 0 && call.q.tokens != 1) {
    return Invalid(std::to_string(call.q.tokens) + " queries without new rows; a probe of what is cached has one");
  }
  if (call.new_tokens == 0 && (call.sequence->length() == 0 || call.window == 1)) {
    return Invalid("a query without new rows sees nothing: " +
                   (call.window == 1 ? std::string("its window holds itself only") : std::string("the sequence is empty")));
  }
  if (call.new_tokens > 0 && call.q.tokens > call.new_tokens) {
    return Invalid(std::to_string(call.q.tokens) + " queries for " + std::to_string(call.new_tokens) + " new rows");
  }
  const std::uint64_t rows = std::uint64_t{call.q.tokens} * call.q.heads;
  if (call.lse != nullptr && call.lse_floats != rows) {
    return Invalid("lse has room for " + std::to_string(call.lse_floats) + " numbers, [tokens, q_heads] are " +
                   std::to_string(rows));
  }
  if (call.sink_logits != nullptr && call.sink_floats != call.q.heads) {
    return Invalid("sink logits: " + std::to_string(call.sink_floats) + " numbers for " + std::to_string(call.q.heads) +
                   " query heads");
  }
  return {};
}

}  // namespace

Result<void> CheckNewRowsFinite(const TailView& tail, std::uint64_t sequence, std::uint64_t length, std::uint32_t layer,
                                std::uint32_t new_rows) {
  std::array<quantizers::RawRows, 2> pieces;
  const std::size_t count = TailPieces(tail, layer, length, new_rows, pieces);
  const quantizers::TailLayout& layout = tail.layout;
  std::array<float, kMaxHeadDim> row_floats;
  for (std::size_t p = 0; p < count; ++p) {
    const quantizers::RawRows& piece = pieces[p];
    const std::size_t element = ElementBytes(piece.type);
    for (std::size_t side = 0; side < 2; ++side) {
      const auto* base = static_cast<const std::byte*>(side == 0 ? piece.keys : piece.values);
      for (std::size_t head = 0; head < layout.kv_heads; ++head) {
        for (std::size_t row = 0; row < piece.count; ++row) {
          const std::byte* at = base + (head * piece.head_stride + row * piece.row_stride) * element;
          if (kernels::LoadRow(at, piece.type, layout.head_dim, row_floats.data()) <= FLT_MAX) continue;
          return Error{ErrorCode::kNotFinite, "attend: sequence " + std::to_string(sequence) + ", layer " +
                                                  std::to_string(layer) + ", KV head " + std::to_string(head) + ": the " +
                                                  (side == 0 ? "key" : "value") + " row of position " +
                                                  std::to_string(piece.first_position + row) + " holds NaN or infinity"};
        }
      }
    }
  }
  return {};
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
    double tokens = static_cast<double>(call.sequence->length()) + call.new_tokens;
    if (call.window != 0) tokens = std::min(tokens, call.window + queries);
    multiplications += tokens * queries * static_cast<double>(call.q.heads) * static_cast<double>(call.q.dim);
  }
  return multiplications > kShortMultiplications;
}

Result<quantizers::AttendItem> MakeItem(const AttendCall& call, CachedRows& rows) {
  if (auto checked = CheckTokens(call); !checked) return checked.error();
  auto cache = call.sequence->View(call.layer, call.new_tokens);
  if (!cache) return cache.error();
  rows = *cache;
  // A probe stands at length() but has no row there: it sees what the last token sees, less the oldest of its window.
  const std::uint32_t behind = call.new_tokens == 0 ? 1 : 0;
  const quantizers::AttendItem item{.cache = {.plan = call.sequence->store().plan().get(),
                                              .layer = call.layer,
                                              .blocks = rows.blocks,
                                              .raw = std::span(rows.raw).first(rows.raw_count)},
                                    .query = {.q = call.q,
                                              .out = call.out,
                                              .lse = call.lse,
                                              .sink_logits = call.sink_logits,
                                              .first_position = call.sequence->length() - behind,
                                              .scale = call.scale,
                                              .softcap = call.softcap,
                                              .window = call.window == 0 ? 0 : call.window - behind}};
  if (auto checked = quantizers::CheckItem(item); !checked) return checked.error();
  return item;
}

void AttendService::Run(std::span<const AttendCall> calls) {
  caches_.resize(calls.size());
  items_.clear();
  for (std::size_t i = 0; i < calls.size(); ++i) {
    const AttendCall& call = calls[i];
    const auto item = MakeItem(call, caches_[i]);
    *call.outcome = item ? CheckNewRowsFinite(call.sequence->tail(), call.sequence->id(), call.sequence->length(), call.layer,
                                              call.new_tokens)
                         : Result<void>(item.error());
    if (*call.outcome) items_.push_back(*item);
  }
  if (!items_.empty()) attention_.Run(items_);
}

}  // namespace kvant::daemon
