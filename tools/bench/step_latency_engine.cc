#include "tools/bench/step_latency_engine.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <random>
#include <span>
#include <utility>

#include "kernels/raw/rows.h"
#include "protocol/digest.h"
#include "protocol/segment_layout.h"
#include "quantizers/registry.h"
#include "quantizers/sequence/schedule.h"

namespace kvant::tools {
namespace {

constexpr std::size_t kPoolFloats = std::size_t{1} << 16;

/// Normal numbers that all rows are cut from.
const std::vector<float>& Pool() {
  static const std::vector<float> pool = [] {
    std::mt19937 random(1);
    std::normal_distribution<float> normal;
    std::vector<float> numbers(kPoolFloats);
    for (float& number : numbers) number = normal(random);
    return numbers;
  }();
  return pool;
}

/// `dim` numbers that depend on `seed` alone.
const float* Cut(std::uint64_t seed, std::size_t dim) {
  std::uint64_t x = seed * 0x9E3779B97F4A7C15u;
  x ^= x >> 29;
  return Pool().data() + x * 0xBF58476D1CE4E5B9u % (kPoolFloats - dim);
}

void WriteSide(const TensorView& rows, std::uint64_t seed, std::uint64_t first_token) {
  auto* base = static_cast<std::byte*>(rows.data);
  const std::size_t element = ElementBytes(rows.type);
  for (std::size_t t = 0; t < rows.tokens; ++t) {
    for (std::size_t h = 0; h < rows.heads; ++h) {
      kernels::StoreRow(Cut(((first_token + t) * 1024 + h) * 4096 + seed, rows.dim), rows.dim, rows.type,
                        base + (t * rows.token_stride + h * rows.head_stride) * element);
    }
  }
}

/// Read-only shared mappings of slabs in this process.
std::vector<std::span<const std::byte>> MappedSlabs() {
  std::vector<std::span<const std::byte>> slabs;
  std::ifstream maps("/proc/self/maps");
  for (std::string line; std::getline(maps, line);) {
    if (line.find("memfd:kvant-slab") == std::string::npos || line.find(" r--s ") == std::string::npos) continue;
    unsigned long begin = 0;
    unsigned long end = 0;
    if (std::sscanf(line.c_str(), "%lx-%lx", &begin, &end) != 2) continue;
    slabs.emplace_back(reinterpret_cast<const std::byte*>(begin), end - begin);
  }
  return slabs;
}

}  // namespace

StoreSpec SpecOf(const StepShape& shape, std::uint64_t salt) {
  StoreSpec spec;
  spec.name = "bench-" + std::to_string(salt);
  spec.model = "step_latency";
  spec.tokenizer = "none";
  spec.salt = std::to_string(salt);
  spec.layers = shape.layers;
  spec.kv_heads = shape.kv_heads;
  spec.head_dim = shape.head_dim;
  spec.block_tokens = shape.block_tokens;
  spec.plan.keys = shape.keys;
  spec.plan.values = shape.values;
  return spec;
}

SequenceOptions OptionsOf(Placement placement) {
  return {.placement = placement, .recent_tokens = kRecentTokens, .max_step_tokens = kMaxStepTokens, .label = "step_latency"};
}

Result<StepTensors> StepTensors::Make(Client& client, const StepShape& shape) {
  auto q = client.Allocate(1, shape.q_heads, shape.head_dim, ElementType::kF32);
  if (!q) return q.error();
  auto out = client.Allocate(1, shape.q_heads, shape.head_dim, ElementType::kF32);
  if (!out) return out.error();
  for (std::uint32_t h = 0; h < shape.q_heads; ++h) {
    std::memcpy(q->f32() + std::size_t{h} * shape.head_dim, Cut(h + 77, shape.head_dim), shape.head_dim * sizeof(float));
  }
  return StepTensors{*std::move(q), *std::move(out)};
}

AttendArgs StepTensors::args() const {
  return {.q = AsConst(q.view()), .out = out.view(), .scale = 1.0f / std::sqrt(static_cast<float>(q.view().dim))};
}

void StepTensors::Turn() {
  const TensorView& view = q.view();
  float sum = 0;
  for (std::size_t i = 0; i < view.heads * view.dim; ++i) sum += out.f32()[i];
  q.f32()[0] = std::isfinite(sum) ? q.f32()[0] : 0.0f;
  for (std::size_t h = 0; h < view.heads; ++h) {
    std::memcpy(q.f32() + h * view.dim, Cut(h + 77, view.dim), view.dim * sizeof(float));
  }
}

void WriteRows(const NewRows& rows, std::size_t layer, std::uint64_t first_token) {
  WriteSide(rows.Keys(layer), 2 * layer, first_token);
  WriteSide(rows.Values(layer), 2 * layer + 1, first_token);
}

Result<void> Feed(Sequence& sequence, const StepShape& shape, std::span<const TokenId> tokens) {
  while (sequence.length() < tokens.size()) {
    const std::uint64_t length = sequence.length();
    auto rows = sequence.Reserve(std::clamp<std::size_t>(sequence.reservable(), 1, tokens.size() - length));
    if (!rows) return rows.error();
    for (std::size_t layer = 0; layer < shape.layers; ++layer) WriteRows(*rows, layer, length);
    if (auto advanced = sequence.Advance(tokens.subspan(length, rows->tokens())); !advanced) return advanced;
  }
  return {};
}

PreparedAttention::~PreparedAttention() = default;

Result<void> PreparedAttention::FindSlots(const std::string& identity, std::size_t switched) {
  const StoreSpec& spec = plan_->spec();
  blocks_.assign(switched, nullptr);
  for (const auto slab : MappedSlabs()) {
    protocol::SlabHeader header;
    std::memcpy(&header, slab.data(), sizeof(header));
    if (header.magic != protocol::kSlabMagic || protocol::DigestHex(header.identity) != identity) continue;
    for (std::uint32_t i = 0; i < header.slot_count; ++i) {
      const std::byte* slot = slab.data() + protocol::SlotOffset(header, i);
      protocol::BlockHeader block;
      std::memcpy(&block, slot, sizeof(block));
      if (block.magic != protocol::kBlockMagic) continue;
      const std::byte* payload = slot + protocol::PayloadOffset(spec.block_tokens);
      if (block.kind == protocol::BlockKind::kSinks) sinks_ = payload;
      const std::uint64_t index = block.first_position / spec.block_tokens;
      if (block.kind == protocol::BlockKind::kCodes && index < switched) blocks_[index] = payload;
    }
  }
  for (const std::byte* block : blocks_) {
    if (block == nullptr)
      return Error{ErrorCode::kInternal, "a block of store " + spec.name + " is not mapped in this process"};
  }
  return {};
}

Result<std::unique_ptr<PreparedAttention>> PreparedAttention::Make(const StoreSpec& spec, const std::string& identity,
                                                                   std::uint64_t length, const NewRows& reserved,
                                                                   const StepTensors& tensors) {
  std::unique_ptr<PreparedAttention> made(new PreparedAttention());
  auto plan = quantizers::Plan::Make(quantizers::Registry::Builtin(), spec);
  if (!plan) return plan.error();
  made->plan_ = *std::move(plan);
  const std::uint64_t switched = quantizers::ScheduledSeals(length, spec.block_tokens, kRecentTokens).switched;
  if (auto found = made->FindSlots(identity, switched); !found) return found.error();

  const TensorView keys = reserved.Keys(0);
  const TensorView values = reserved.Values(0);
  quantizers::TailLayout layout{.layers = spec.layers, .kv_heads = spec.kv_heads, .head_dim = spec.head_dim};
  layout.spare = kMaxStepTokens;
  layout.capacity = static_cast<std::uint32_t>(keys.head_stride / spec.head_dim) - layout.spare;
  layout.type = keys.type;
  if (switched > 0 && spec.sink_tokens > 0) {
    const std::size_t head = std::size_t{spec.sink_tokens} * spec.head_dim;
    made->raw_.push_back({made->sinks_, made->sinks_ + spec.kv_heads * head * ElementBytes(layout.type), layout.type, head,
                          spec.head_dim, 0, spec.sink_tokens});
  }
  const std::uint64_t row = length % layout.capacity;
  const auto* ring_keys = static_cast<const std::byte*>(keys.data) - row * layout.row_bytes();
  const auto* ring_values = static_cast<const std::byte*>(values.data) - row * layout.row_bytes();
  const std::uint64_t first = switched * spec.block_tokens;
  for (const quantizers::RowRun& run : layout.Runs(first, length + 1 - first)) {
    if (run.count == 0) continue;
    made->raw_.push_back({ring_keys + run.first_row * layout.row_bytes(), ring_values + run.first_row * layout.row_bytes(),
                          layout.type, keys.head_stride, spec.head_dim, run.first_position, run.count});
  }
  const AttendArgs args = tensors.args();
  made->item_ = {.cache = {.plan = made->plan_.get(), .layer = 0, .blocks = made->blocks_, .raw = made->raw_},
                 .query = {.q = args.q, .out = args.out, .first_position = length, .scale = args.scale}};
  if (auto good = quantizers::CheckItem(made->item_); !good) return good.error();
  return made;
}

}  // namespace kvant::tools
