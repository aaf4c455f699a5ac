#include "tools/bench/attend_calls.h"

#include <cmath>
#include <utility>

namespace kvant::tools {
namespace {

const float kScale = 1.0f / std::sqrt(static_cast<float>(kHeadDim));

}  // namespace

AttendCalls::AttendCalls(const Workload& workload, quantizers::Executor& executor, const CallForm& form)
    : workload_(workload),
      form_(form),
      attention_(executor),
      out_(form.batch * form.query_tokens * workload.form().kv_heads * kGroup * kHeadDim) {
  for (std::size_t sequence = 0; sequence < workload.sequences(); ++sequence) {
    for (std::size_t layer = 0; layer < kLayers; ++layer) {
      Call call;
      for (std::size_t i = 0; i < form.batch; ++i) call.items.push_back(Item(sequence, layer, i));
      calls_.push_back(std::move(call));
    }
  }
}

quantizers::AttendItem AttendCalls::Item(std::size_t sequence, std::size_t layer, std::size_t index) {
  const std::size_t heads = workload_.form().kv_heads * kGroup;
  const float* queries = workload_.rows().Queries(index * form_.query_tokens, layer * kKvHeads);
  float* out = &out_[index * form_.query_tokens * heads * kHeadDim];
  quantizers::AttendItem item;
  item.cache.plan = &workload_.plan();
  item.cache.layer = layer;
  item.cache.blocks = workload_.Blocks(sequence);
  item.cache.kept = form_.kept;
  item.query.q = {queries, ElementType::kF32, form_.query_tokens, heads, kHeadDim, SampleRows::kLanes * kGroup * kHeadDim,
                  kHeadDim};
  item.query.out = {out, ElementType::kF32, form_.query_tokens, heads, kHeadDim, heads * kHeadDim, kHeadDim};
  item.query.first_position = workload_.form().tokens - form_.query_tokens;
  item.query.scale = kScale;
  return item;
}

void AttendCalls::Run() {
  attention_.Run(calls_[next_].items);
  next_ = (next_ + 1) % calls_.size();
}

Result<Accuracy> AttendCalls::Check() {
  for (const quantizers::AttendItem& item : calls_[0].items) {
    if (auto shapes = quantizers::CheckItem(item); !shapes) return shapes.error();
  }
  attention_.Run(calls_[0].items);
  const SampleRows& rows = workload_.rows();
  const std::size_t kv_heads = workload_.form().kv_heads;
  std::vector<double> exact(out_.size());
  std::vector<double> decoded(out_.size());
  for (std::size_t head = 0; head < kv_heads; ++head) {
    const std::vector<float> keys = workload_.DecodedKeys(0, head);
    const std::vector<float> values = workload_.DecodedValues(0, head);
    for (std::size_t t = 0; t < form_.query_tokens; ++t) {
      const std::vector<double> times = TimesSeen(head, t);
      for (std::size_t i = 0; i < form_.batch; ++i) {
        const std::size_t query_token = i * form_.query_tokens + t;
        const std::size_t at = (query_token * kv_heads + head) * kGroup * kHeadDim;
        const float* q = rows.Queries(query_token, head);
        const auto scale = static_cast<double>(kScale);
        PlainAttention({keys.data(), values.data(), times, kHeadDim}, q, kGroup, scale, &decoded[at]);
        PlainAttention({rows.Keys(head), rows.Values(head), times, kHeadDim}, q, kGroup, scale, &exact[at]);
      }
    }
  }
  const Accuracy accuracy = Compare(out_, decoded, exact);
  const std::string what =
      workload_.form().keys + " / " + workload_.form().values + ", " + std::to_string(workload_.form().tokens) + " tokens";
  if (auto right = Judge(accuracy, what); !right) return right.error();
  return accuracy;
}

std::vector<double> AttendCalls::TimesSeen(std::size_t head, std::size_t t) const {
  const std::size_t visible = Visible(t);
  std::vector<double> times = workload_.Times(visible);
  if (form_.kept.all()) return times;
  const quantizers::Range gap = form_.kept.Gap(visible - 1);
  for (std::size_t p = 0; p < visible; ++p) {
    if (!form_.kept.Has(head, {p, p + 1}, gap)) times[workload_.Row(p)] -= 1.0;
  }
  return times;
}

double AttendCalls::macs() const {
  double pairs = 0.0;
  for (std::size_t t = 0; t < form_.query_tokens; ++t) pairs += static_cast<double>(Visible(t));
  return 2.0 * kHeadDim * static_cast<double>(form_.batch * workload_.form().kv_heads * kGroup) * pairs;
}

}  // namespace kvant::tools
