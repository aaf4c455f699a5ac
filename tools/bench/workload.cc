#include "tools/bench/workload.h"

#include "tools/codec_calls.h"

#include <algorithm>
#include <cstring>
#include <utility>

namespace kvant::tools {
namespace {

using quantizers::Side;

RowsView BlockOf(const float* rows, std::size_t block) {
  return {rows + block * kBlockTokens * kHeadDim, ElementType::kF32, kBlockTokens, kHeadDim, kHeadDim};
}

}  // namespace

Result<std::unique_ptr<Workload>> Workload::Make(const quantizers::Registry& registry, const CacheForm& form,
                                                 const SampleRows& rows, std::span<std::byte> memory) {
  StoreSpec store;
  store.name = store.model = store.tokenizer = "bench";
  store.layers = kLayers;
  store.kv_heads = static_cast<std::uint32_t>(form.kv_heads);
  store.head_dim = kHeadDim;
  store.block_tokens = kBlockTokens;
  store.plan.keys = form.keys;
  store.plan.values = form.values;
  auto plan = quantizers::Plan::Make(registry, store);
  if (!plan) return plan.error();
  std::unique_ptr<Workload> workload(new Workload(form, rows));
  workload->plan_ = std::move(*plan);
  if (auto encoded = workload->Encode(memory); !encoded) return encoded.error();
  return workload;
}

std::size_t Workload::Content(std::size_t block) const noexcept {
  // The queries are those of the rows' last tokens, so the last block is the rows' last.
  const std::size_t contents = rows_.tokens / kBlockTokens;
  return (contents - blocks() % contents + block) % contents;
}

Result<void> Workload::Encode(std::span<std::byte> memory) {
  const std::size_t slot_bytes = plan_->payload_bytes();
  const std::size_t slots = memory.size() / slot_bytes / blocks() * blocks();
  if (slots == 0) {
    return Error{ErrorCode::kInvalidArgument, "bench: no room for " + std::to_string(form_.tokens) + " tokens of " +
                                                  form_.keys + " and " + form_.values + " in " +
                                                  std::to_string(memory.size() >> 20) + " MiB"};
  }
  contents_.assign(rows_.tokens / kBlockTokens, nullptr);
  for (std::size_t slot = 0; slot < slots; ++slot) {
    std::byte* payload = memory.data() + slot * slot_bytes;
    slots_.push_back(payload);
    const std::size_t content = Content(slot % blocks());
    if (contents_[content] != nullptr) {
      std::memcpy(payload, contents_[content], slot_bytes);
      continue;
    }
    for (std::size_t l = 0; l < kLayers; ++l) {
      for (std::size_t head = 0; head < form_.kv_heads; ++head) {
        const std::size_t lane = l * kKvHeads + head;
        for (const Side side : {Side::kKeys, Side::kValues}) {
          const float* rows = side == Side::kKeys ? rows_.Keys(lane) : rows_.Values(lane);
          auto done = EncodeBlock(plan_->codec(l, head, side), head, content * kBlockTokens, BlockOf(rows, content),
                                  plan_->place(l, head, side).In(payload));
          if (!done) return done;
        }
      }
    }
    contents_[content] = payload;
  }
  return {};
}

std::size_t Workload::layer_bytes() const noexcept {
  return form_.kv_heads * blocks() *
         (plan_->codec(0, 0, Side::kKeys).block_bytes() + plan_->codec(0, 0, Side::kValues).block_bytes());
}

std::vector<double> Workload::Times(std::size_t visible) const {
  std::vector<double> times(rows_.tokens, 0.0);
  for (std::size_t t = 0; t < visible; ++t) times[Row(t)] += 1.0;
  return times;
}

std::size_t Workload::Row(std::size_t token) const {
  return Content(token / kBlockTokens) * kBlockTokens + token % kBlockTokens;
}

std::vector<float> Workload::Decoded(Side side, std::size_t layer, std::size_t head) const {
  const quantizers::Place place = plan_->place(layer, head, side);
  std::vector<float> rows(rows_.tokens * kHeadDim);
  for (std::size_t content = 0; content < contents_.size(); ++content) {
    if (contents_[content] == nullptr) continue;
    const std::size_t first = content * kBlockTokens;
    DecodeBlock(plan_->codec(layer, head, side), head, first, place.In<const std::byte>(contents_[content]), 0, kBlockTokens,
                &rows[first * kHeadDim], kHeadDim);
  }
  return rows;
}

std::vector<float> Workload::DecodedKeys(std::size_t layer, std::size_t head) const {
  return Decoded(Side::kKeys, layer, head);
}

std::vector<float> Workload::DecodedValues(std::size_t layer, std::size_t head) const {
  return Decoded(Side::kValues, layer, head);
}

}  // namespace kvant::tools
