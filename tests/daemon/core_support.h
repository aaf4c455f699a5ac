// What tests of the daemon's core share: a core on a queue that the test drains, tails in plain memory, and rows that tell
// which tokens they stand for.
#pragma once

#include <cstdint>
#include <cstring>
#include <deque>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "daemon/store/core.h"
#include "daemon/store/sequence.h"
#include "daemon/store/store.h"
#include "daemon/store/store_table.h"
#include "kernels/raw/rows.h"
#include "tools/codec_calls.h"

namespace kvant::daemon {

/// Keeps jobs until the test runs them, in any order.
class QueueRunner final : public JobRunner {
 public:
  void Submit(std::function<void()> job, std::function<void()> done) override {
    queue_.push_back({std::move(job), std::move(done)});
  }
  [[nodiscard]] std::size_t size() const { return queue_.size(); }
  void RunAt(std::size_t i) {
    auto [job, done] = std::move(queue_[i]);
    queue_.erase(queue_.begin() + static_cast<std::ptrdiff_t>(i));
    job();
    job = nullptr;
    done();
  }
  void RunAll() {
    while (!queue_.empty()) RunAt(0);
  }

 private:
  std::deque<std::pair<std::function<void()>, std::function<void()>>> queue_;
};

/// A daemon's core without a daemon.
struct TestCore {
  explicit TestCore(std::size_t budget_bytes = std::size_t{64} << 20, EvictionKind eviction = EvictionKind::kLru,
                    std::size_t demote_to = 0, Keeper* keeper = nullptr)
      : budget(Budget::Make(budget_bytes).value()),
        core{.budget = budget,
             .encode = encode,
             .populate = populate,
             .codecs = codecs,
             .boot_token = 0xB007,
             .keeper = keeper,
             .eviction = EvictionOrder(eviction, demote_to)} {}

  Budget budget;
  QueueRunner encode;
  QueueRunner populate;
  quantizers::Registry codecs = quantizers::Registry::Builtin();
  Core core;
  StoreTable stores{core};
};

inline StoreSpec SmallSpec(std::string name = "small") {
  StoreSpec spec;
  spec.name = std::move(name);
  spec.model = "model-digest";
  spec.tokenizer = "bytes";
  spec.layers = 2;
  spec.kv_heads = 2;
  spec.head_dim = 16;
  spec.dtype = ElementType::kF32;
  spec.block_tokens = 16;
  spec.sink_tokens = 4;
  spec.plan.keys = "f32";
  spec.plan.values = "f32";
  return spec;
}

/// A tail in memory of its own.
inline TailView MakeTail(const StoreSpec& spec, const SequenceConfig& config, ElementType type = ElementType::kF32) {
  const quantizers::TailLayout layout{.layers = spec.layers,
                                      .kv_heads = spec.kv_heads,
                                      .head_dim = spec.head_dim,
                                      .capacity = static_cast<std::uint32_t>(quantizers::TailCapacity(
                                          spec.block_tokens, config.recent_tokens, config.max_step_tokens)),
                                      .type = type};
  std::shared_ptr<void> memory(::operator new (layout.total_bytes(), std::align_val_t{64}),
                               [](void* p) { ::operator delete (p, std::align_val_t{64}); });
  std::memset(memory.get(), 0xFF, layout.total_bytes());  // NaN until written
  return {static_cast<std::byte*>(memory.get()), layout, memory};
}

/// The number at one place of the row of a token, given all tokens up to it: small, and the same in every element type.
inline float RowValue(std::uint64_t history, std::size_t layer, std::size_t side, std::size_t head, std::size_t i) {
  std::uint64_t x =
      history ^ (layer * 0x9E3779B97F4A7C15 + side * 0xC2B2AE3D27D4EB4F + head * 0x165667B19E3779F9 + i * 0x27D4EB2F165667C5);
  x ^= x >> 29;
  x *= 0xBF58476D1CE4E5B9;
  x ^= x >> 32;
  return static_cast<float>(static_cast<int>(x % 255) - 127) / 64.0f;  // 8 significant bits: exact in bf16
}

/// Hash of tokens up to each position.
inline std::vector<std::uint64_t> Histories(std::span<const std::uint32_t> tokens) {
  std::vector<std::uint64_t> histories;
  std::uint64_t hash = 0x243F6A8885A308D3;
  for (const std::uint32_t token : tokens) {
    hash = (hash ^ token) * 0x100000001B3;
    hash ^= hash >> 31;
    histories.push_back(hash);
  }
  return histories;
}

inline void WriteRows(const TailView& tail, std::span<const std::uint64_t> histories, std::uint64_t first) {
  const quantizers::TailLayout& layout = tail.layout;
  std::vector<float> row(layout.head_dim);
  for (std::uint64_t position = first; position < histories.size(); ++position) {
    for (std::size_t layer = 0; layer < layout.layers; ++layer) {
      for (std::size_t side = 0; side < 2; ++side) {
        for (std::size_t head = 0; head < layout.kv_heads; ++head) {
          for (std::size_t i = 0; i < row.size(); ++i) row[i] = RowValue(histories[position], layer, side, head, i);
          kernels::StoreRow(row.data(), row.size(), layout.type,
                            tail.Ring(layer, side, head) + position % layout.capacity * layout.row_bytes());
        }
      }
    }
  }
}

/// Checks that what attention would read of a sequence is exactly the rows of `tokens`: codes (decoded), sinks and tail.
/// Requires codecs without loss. Returns a description of the first difference, or nothing.
inline std::string Difference(const Sequence& sequence, std::span<const std::uint32_t> tokens) {
  const StoreSpec& spec = sequence.store().spec();
  const quantizers::Plan& plan = *sequence.store().plan();
  if (sequence.length() != tokens.size()) {
    return "length " + std::to_string(sequence.length()) + ", expected " + std::to_string(tokens.size());
  }
  const std::vector<std::uint64_t> histories = Histories(tokens);
  std::vector<float> row(spec.head_dim);
  for (std::size_t layer = 0; layer < spec.layers; ++layer) {
    const quantizers::LayerView view = quantizers::ViewLayer(sequence.Cache(), spec.block_tokens, layer, 0);
    std::vector<int> raw_cover(tokens.size());
    const auto check = [&](std::uint64_t position, std::size_t side, std::size_t head, const char* what) -> std::string {
      for (std::size_t i = 0; i < row.size(); ++i) {
        if (row[i] != RowValue(histories[position], layer, side, head, i)) {
          return std::string(what) + " layer " + std::to_string(layer) + " side " + std::to_string(side) + " head " +
                 std::to_string(head) + " position " + std::to_string(position) + " element " + std::to_string(i);
        }
      }
      return {};
    };
    for (std::size_t p = 0; p < view.raw_count; ++p) {
      const quantizers::RawRows& raw = view.raw[p];
      for (std::size_t r = 0; r < raw.count; ++r) {
        if (raw.first_position + r >= tokens.size()) return "raw rows beyond the end";
        ++raw_cover[raw.first_position + r];
        for (std::size_t side = 0; side < 2; ++side) {
          for (std::size_t head = 0; head < spec.kv_heads; ++head) {
            const auto* base = static_cast<const std::byte*>(side == 0 ? raw.keys : raw.values);
            kernels::LoadRow(base + (head * raw.head_stride + r * raw.row_stride) * ElementBytes(raw.type), raw.type,
                             row.size(), row.data());
            if (std::string fault = check(raw.first_position + r, side, head, "raw"); !fault.empty()) return fault;
          }
        }
      }
    }
    for (std::size_t b = 0; b < view.blocks.size(); ++b) {
      for (std::size_t head = 0; head < spec.kv_heads; ++head) {
        for (const quantizers::Side side : {quantizers::Side::kKeys, quantizers::Side::kValues}) {
          const quantizers::ConstBlockView block = plan.place(layer, head, side).In<const std::byte>(view.blocks[b]);
          for (std::size_t t = 0; t < spec.block_tokens; ++t) {
            tools::DecodeBlock(plan.codec(layer, head, side), head, b * spec.block_tokens, block, t, t + 1, row.data(),
                               row.size());
            const std::uint64_t position = b * spec.block_tokens + t;
            const auto index = static_cast<std::size_t>(side);
            if (std::string fault = check(position, index, head, "code"); !fault.empty()) return fault;
          }
        }
      }
    }
    const std::uint64_t coded = view.blocks.size() * spec.block_tokens;
    for (std::uint64_t position = 0; position < tokens.size(); ++position) {
      const int expected = position >= coded ? 1 : position < spec.sink_tokens ? 1 : 0;
      if (raw_cover[position] != expected)
        return "position " + std::to_string(position) + " is raw " + std::to_string(raw_cover[position]) + " times";
    }
  }
  return {};
}

/// A sequence, the tokens it should hold, and the client's part of the work.
struct TestSequence {
  std::unique_ptr<Sequence> sequence;
  std::vector<std::uint32_t> tokens;

  static TestSequence Open(const std::shared_ptr<Store>& store, std::vector<std::uint32_t> tokens, const SequenceConfig& config,
                           ElementType type = ElementType::kF32) {
    TestSequence opened{Sequence::Open(store, tokens, MakeTail(store->spec(), config, type), config).value(),
                        std::move(tokens)};
    opened.tokens.resize(opened.sequence->length());
    return opened;
  }

  /// Writes the rows of `more` and advances by them; the answer arrives in `answer` once it is there.
  void Advance(std::span<const std::uint32_t> more, std::optional<Result<Advanced>>* answer = nullptr,
               SealWait wait = SealWait::kSwitched) {
    const std::uint64_t first = tokens.size();
    std::vector<std::uint32_t> all = tokens;
    all.insert(all.end(), more.begin(), more.end());
    if (more.size() <= sequence->free_rows()) {
      WriteRows(sequence->tail(), Histories(all), first);
      tokens = std::move(all);
    }
    sequence->Advance(more, wait, [answer](Result<Advanced> result) {
      if (answer != nullptr) answer->emplace(std::move(result));
    });
  }

  [[nodiscard]] std::string Fault() const { return Difference(*sequence, tokens); }
};

inline std::vector<std::uint32_t> Tokens(std::size_t count, std::uint32_t seed = 1) {
  std::vector<std::uint32_t> tokens(count);
  for (std::size_t i = 0; i < count; ++i) tokens[i] = seed * 1000003u + static_cast<std::uint32_t>(i) * 7u;
  return tokens;
}

}  // namespace kvant::daemon
