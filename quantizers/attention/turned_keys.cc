#include "quantizers/attention/turned_keys.h"

#include <algorithm>

#include "kernels/raw/rows.h"
#include "kernels/rope.h"
#include "quantizers/attention/units.h"

namespace kvant::quantizers {

void TurnedKeys::Lay(std::span<const AttendItem> items) {
  keys_.assign(items.size(), {});
  turned_.clear();
  offsets_.clear();
  jobs_.clear();
  std::size_t floats = 0;
  for (const AttendItem& item : items) {
    const CachedLayer& cache = item.cache;
    if (!cache.plan->pre_rope(cache.layer)) continue;
    const StoreSpec& spec = cache.plan->spec();
    const std::size_t tokens = item.query.q.tokens;
    const Range seen = tokens == 0 ? Range{} : Range{Visible(item.query, 0).begin, Visible(item.query, tokens - 1).end};
    for (std::size_t i = 0; i < cache.raw.size(); ++i) {
      const RawRows& raw = cache.raw[i];
      const Range rows{std::max(raw.first_position, seen.begin), std::min(raw.first_position + raw.count, seen.end)};
      RawRows turned;
      turned.type = ElementType::kF32;
      turned.first_position = rows.begin;
      turned.count = rows.empty() ? 0 : static_cast<std::size_t>(rows.end - rows.begin);
      turned.row_stride = spec.head_dim;
      turned.head_stride = turned.count * spec.head_dim;
      for (std::size_t begin = 0; begin < turned.count; begin += kernels::Rope::kRun) {
        jobs_.push_back({&cache, i, turned_.size(), begin, std::min(kernels::Rope::kRun, turned.count - begin)});
      }
      turned_.push_back(turned);
      offsets_.push_back(floats);
      floats += spec.kv_heads * turned.head_stride;
    }
  }
  // The vectors have stopped growing: what points into them is set now.
  memory_.Reserve(floats * sizeof(float));
  std::size_t next = 0;
  for (std::size_t i = 0; i < items.size(); ++i) {
    const CachedLayer& cache = items[i].cache;
    if (!cache.plan->pre_rope(cache.layer)) {
      keys_[i] = cache.raw;
      continue;
    }
    keys_[i] = std::span(turned_).subspan(next, cache.raw.size());
    for (const std::size_t end = next + cache.raw.size(); next < end; ++next)
      turned_[next].keys = memory_.Floats() + offsets_[next];
  }
}

void TurnedKeys::Turn(std::size_t index) {
  const Job& job = jobs_[index];
  const Plan& plan = *job.cache->plan;
  const RawRows& raw = job.cache->raw[job.raw];
  const RawRows& turned = turned_[job.turned];
  const std::size_t dim = plan.spec().head_dim;
  const std::size_t element = ElementBytes(raw.type);
  const auto first = static_cast<std::size_t>(turned.first_position - raw.first_position) + job.begin;
  float* rows = memory_.Floats() + offsets_[job.turned] + job.begin * dim;
  for (std::size_t h = 0; h < plan.spec().kv_heads; ++h) {
    const auto* from = static_cast<const std::byte*>(raw.keys) + (h * raw.head_stride + first * raw.row_stride) * element;
    for (std::size_t t = 0; t < job.count; ++t) {
      kernels::LoadRow(from + t * raw.row_stride * element, raw.type, dim, rows + h * turned.head_stride + t * dim);
    }
  }
  plan.rope().Rotate({.rows = rows,
                      .heads = plan.spec().kv_heads,
                      .head_stride = turned.head_stride,
                      .count = job.count,
                      .first_position = turned.first_position + job.begin});
}

}  // namespace kvant::quantizers
