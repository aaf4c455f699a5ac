#include <algorithm>
#include <atomic>
#include <cfloat>
#include <cmath>

#include "kernels/raw/rows.h"
#include "kernels/raw/weighted_sum.h"
#include "quantizers/attention/tile.h"

namespace kvant::quantizers {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

}  // namespace

void Merge(const Partial& from, Partial& to, std::size_t count, std::size_t acc_floats, std::size_t dim) {
  for (std::size_t i = 0; i < count; ++i) {
    const float max = std::max(from.max[i], to.max[i]);
    if (from.max[i] == -kInfinity) {  // saw nothing; its sums are 0, or NaN if the query is broken
      to.code_sum[i] += from.code_sum[i];
      to.raw_sum[i] += from.raw_sum[i];
      continue;
    }
    if (max > to.max[i]) {
      const float factor = to.max[i] == -kInfinity ? 0.0f : std::exp(to.max[i] - max);
      kernels::Rescale(to.code_acc + i * acc_floats, acc_floats, factor);
      kernels::Rescale(to.raw_acc + i * dim, dim, factor);
      to.code_sum[i] *= factor;
      to.raw_sum[i] *= factor;
      to.max[i] = max;
    }
    const float factor = std::exp(from.max[i] - max);
    kernels::AddScaled(from.code_acc + i * acc_floats, acc_floats, factor, to.code_acc + i * acc_floats);
    to.code_sum[i] += from.code_sum[i] * factor;
    to.raw_sum[i] += from.raw_sum[i] * factor;  // 0 unless it is NaN: only the first part has raw rows
  }
}

void Finish(const AttendItem& item, const TileRun& tile, ThreadBuffers& buffers, const Partial& partial) {
  const StoreSpec& spec = item.cache.plan->spec();
  const Query& query = item.query;
  const std::size_t dim = spec.head_dim, group = GroupSize(item);
  float* rows = buffers.rows.Floats();
  const std::size_t acc_floats = AccFloats(item, tile.head);
  item.cache.plan->codecs(item.cache.layer, tile.head)
      .values->Finish({.head = tile.head,
                       .acc = partial.code_acc,
                       .acc_stride = acc_floats,
                       .acc_floats = acc_floats,
                       .weight_sums = partial.code_sum,
                       .n = tile.count,
                       .rows = rows,
                       .row_stride = dim,
                       .scratch = buffers.scratch.data()});
  const float largest = kernels::LargestStorable(query.out.type);
  bool not_finite = false;
  for (std::size_t i = 0; i < tile.count; ++i) {
    const std::size_t token = (tile.first + i) / group;
    const std::size_t head = tile.head * group + (tile.first + i) % group;
    float max = partial.max[i];
    float sum = partial.code_sum[i] + partial.raw_sum[i];
    float factor = 1.0f;
    if (query.sink_logits != nullptr) {
      const float sink = query.sink_logits[head];
      const float all = std::max(max, sink);
      factor = max == -kInfinity ? 0.0f : std::exp(max - all);
      sum = sum * factor + (sink == -kInfinity ? 0.0f : std::exp(sink - all));
      max = all;
    }
    float* row = rows + i * dim;
    kernels::AddScaled(partial.raw_acc + i * dim, dim, 1.0f, row);
    kernels::Rescale(row, dim, sum == 0.0f ? 0.0f : factor / sum);
    auto* out = static_cast<std::byte*>(query.out.data) +
                (token * query.out.token_stride + head * query.out.head_stride) * ElementBytes(query.out.type);
    const float magnitude = kernels::CopyRow(row, ElementType::kF32, dim, query.out.type, out);
    // Without any weight (sum 0) all logits were beyond f32, too: every query sees a key.
    if (!(magnitude <= largest) || !(sum > 0.0f && sum <= FLT_MAX)) not_finite = true;
    if (query.lse != nullptr) query.lse[token * query.q.heads + head] = sum == 0.0f ? -kInfinity : max + std::log(sum);
  }
  if (not_finite && query.not_finite != nullptr) {
    std::atomic_ref<std::uint8_t>(*query.not_finite).store(1, std::memory_order_relaxed);
  }
}

}  // namespace kvant::quantizers
