#include "quantizers/sequence/view.h"

#include <cfloat>
#include <string>
#include <vector>

#include "kernels/raw/rows.h"

namespace kvant::quantizers {
namespace {

Error Invalid(const std::string& what) { return {ErrorCode::kInvalidArgument, "attend: " + what}; }

/// What CheckItem cannot know: which rows are new, and that callers forget the scale.
Result<void> CheckQueries(const CachedSequence& sequence, const AttendRequest& request) {
  if (request.scale == 0.0f) return Invalid("scale is 0");
  const std::size_t queries = request.q.tokens;
  if (request.from_end > 0) {
    if (request.new_rows > 0) return Invalid("queries of earlier tokens come without new rows");
    if (request.from_end > sequence.length) {
      return Error{ErrorCode::kOutOfRange, "attend: queries " + std::to_string(request.from_end) +
                                               " tokens before the end of " + std::to_string(sequence.length)};
    }
    if (queries <= request.from_end) return {};
    return Invalid(std::to_string(queries) + " queries, the sequence ends " + std::to_string(request.from_end) +
                   " tokens behind the first");
  }
  if (request.new_rows > 0) {
    if (queries <= request.new_rows) return {};
    return Invalid(std::to_string(queries) + " queries for " + std::to_string(request.new_rows) + " new rows");
  }
  if (queries != 1) {
    return Invalid(std::to_string(queries) + " queries without new rows; a probe of what is cached has one");
  }
  if (sequence.length == 0) return Invalid("a query without new rows sees nothing: the sequence is empty");
  if (request.window == 1 || request.kept.window == 1)
    return Invalid("a query without new rows sees nothing: its window holds itself only");
  return {};
}

/// Names the operation.
Result<void> CheckFinite(const CachedSequence& sequence, const AttendRequest& request) {
  auto finite = quantizers::CheckNewRows(sequence.tail, request.layer,
                                         {.length = sequence.length, .first = 0, .count = request.new_rows});
  if (!finite) return Error{finite.error().code, "attend: " + finite.error().message};
  return {};
}

}  // namespace

LayerView ViewLayer(const CachedSequence& sequence, std::uint32_t block_tokens, std::size_t layer,
                    std::uint64_t new_rows) noexcept {
  LayerView view;
  view.blocks = sequence.blocks;
  view.sections = sequence.sections;
  if (!sequence.blocks.empty() && sequence.sinks.data != nullptr) {
    const SinkLayout& layout = sequence.sinks.layout;
    view.raw[view.raw_count++] = {.keys = sequence.sinks.data + layout.Offset(layer, 0, 0),
                                  .values = sequence.sinks.data + layout.Offset(layer, 1, 0),
                                  .type = layout.type,
                                  .head_stride = std::size_t{layout.tokens} * layout.head_dim,
                                  .row_stride = layout.head_dim,
                                  .first_position = 0,
                                  .count = layout.tokens};
  }
  const TailLayout& layout = sequence.tail.layout;
  const std::uint64_t first = sequence.blocks.size() * std::uint64_t{block_tokens};
  const auto add = [&](const RowRun& run) {
    const std::uint64_t offset = run.first_row * layout.row_bytes();
    view.raw[view.raw_count++] = {.keys = sequence.tail.Ring(layer, 0, 0) + offset,
                                  .values = sequence.tail.Ring(layer, 1, 0) + offset,
                                  .type = layout.type,
                                  .head_stride = static_cast<std::size_t>(layout.head_rows()) * layout.head_dim,
                                  .row_stride = layout.head_dim,
                                  .first_position = run.first_position,
                                  .count = static_cast<std::size_t>(run.count)};
  };
  const RowRuns runs = layout.Runs(first, sequence.length - first);
  // The new rows follow the last row, unless that one is the ring's last: then they begin where the ring does.
  RowRun last = runs[1].count > 0 ? runs[1] : runs[0];
  const std::uint64_t new_row = sequence.length % layout.capacity;
  if (runs[1].count > 0) add(runs[0]);
  if (last.count > 0 && new_row != 0) {
    last.count += new_rows;
    add(last);
  } else {
    if (last.count > 0) add(last);
    if (new_rows > 0) add({.first_position = sequence.length, .first_row = new_row, .count = new_rows});
  }
  return view;
}

Result<AttendItem> MakeItem(const Plan& plan, const CachedSequence& sequence, const AttendRequest& request, LayerView& view) {
  const StoreSpec& spec = plan.spec();
  if (request.layer >= spec.layers) {
    return Error{ErrorCode::kOutOfRange,
                 "attend: layer " + std::to_string(request.layer) + " of " + std::to_string(spec.layers)};
  }
  if (auto good = CheckQueries(sequence, request); !good) return good.error();
  const std::uint64_t first_raw = sequence.blocks.size() * std::uint64_t{spec.block_tokens};
  const std::uint64_t free_rows = sequence.tail.layout.capacity - (sequence.length - first_raw);
  if (request.new_rows > free_rows) {
    return Error{ErrorCode::kTailFull, "attend: " + std::to_string(request.new_rows) + " new rows, the tail has room for " +
                                           std::to_string(free_rows)};
  }
  if (const std::uint64_t adjacent = sequence.tail.layout.AdjacentRows(sequence.length); request.new_rows > adjacent) {
    return Error{ErrorCode::kOutOfRange, "attend: " + std::to_string(request.new_rows) + " new rows, " +
                                             std::to_string(adjacent) + " are adjacent in the tail (" +
                                             std::to_string(sequence.tail.layout.spare) + " spare)"};
  }
  view = ViewLayer(sequence, spec.block_tokens, request.layer, request.new_rows);
  // A probe stands at the sequence's length but has no row there: it sees what the last token sees, less the oldest of its
  // window.
  const std::uint32_t behind = request.new_rows == 0 && request.from_end == 0 ? 1 : 0;
  KeptTokens kept = request.kept;
  if (behind != 0 && kept.window != 0) {
    --kept.window;
    kept.whole_below -= kept.whole_below == 0 ? 0 : 1;
  }
  const AttendItem item{.cache = {.plan = &plan,
                                  .layer = request.layer,
                                  .blocks = view.blocks,
                                  .raw = std::span(view.raw).first(view.raw_count),
                                  .sections = view.sections,
                                  .kept = kept},
                        .query = {.q = request.q,
                                  .out = request.out,
                                  .lse = request.lse,
                                  .sink_logits = request.sink_logits,
                                  .first_position = sequence.length - behind - request.from_end,
                                  .scale = request.scale,
                                  .softcap = request.softcap,
                                  .window = request.window == 0 ? 0 : request.window - behind,
                                  .votes = request.votes,
                                  .votes_stride = request.votes_stride,
                                  .not_finite = &view.not_finite}};
  if (auto good = CheckItem(item); !good) return good.error();
  if (auto finite = CheckFinite(sequence, request); !finite) return finite.error();
  return item;
}

Result<void> CheckResult(const AttendItem& item) {
  const Query& query = item.query;
  if (query.not_finite == nullptr || *query.not_finite == 0) return {};
  std::vector<float> row(query.q.dim);
  const auto first_not_finite = [&](const ConstTensorView& tensor) -> std::string {
    for (std::size_t head = 0; head < tensor.heads; ++head) {
      const RowsView rows = tensor.Head(head);
      const auto* data = static_cast<const std::byte*>(rows.data);
      for (std::size_t token = 0; token < rows.count; ++token) {
        const std::byte* at = data + token * rows.stride * ElementBytes(rows.type);
        if (kernels::LoadRow(at, rows.type, rows.dim, row.data()) <= FLT_MAX) continue;
        return "token " + std::to_string(token) + ", head " + std::to_string(head);
      }
    }
    return {};
  };
  if (const std::string at = first_not_finite(query.q); !at.empty()) {
    return Error{ErrorCode::kNotFinite, "attend: the query of " + at + " holds NaN or infinity"};
  }
  const std::string at = first_not_finite(AsConst(query.out));
  return Error{ErrorCode::kNotFinite,
               "attend: layer " + std::to_string(item.cache.layer) + ": the result" + (at.empty() ? "" : " of " + at) +
                   " is not finite: a query times a key, or a weighted value, goes beyond " + ElementTypeName(query.out.type)};
}

}  // namespace kvant::quantizers
