// Every codec of the registry by itself: encoding a row, scoring a key, accumulating a value. Data stays in the cache: this is
// the arithmetic, the attend benchmarks are the memory.
#include <benchmark/benchmark.h>

#include <cmath>
#include <cstring>
#include <vector>

#include "tools/bench/bench.h"

namespace kvant::tools {
namespace {

using quantizers::LayerCodecs;

/// Seconds per token of a block: printed with a unit prefix, "22.9n" is 22.9 ns.
benchmark::Counter PerUnit() {
  using Counter = benchmark::Counter;
  return Counter(kBlockTokens, static_cast<Counter::Flags>(Counter::kIsIterationInvariantRate | Counter::kInvert));
}

/// 64-byte aligned memory, as the codec contract asks.
class AlignedBytes {
 public:
  explicit AlignedBytes(std::size_t bytes) : storage_(bytes / sizeof(Line) + 1) {}
  std::byte* data() { return storage_[0].bytes; }

 private:
  struct alignas(64) Line {
    std::byte bytes[64];
  };
  std::vector<Line> storage_;
};

const std::byte* KeyBlock(const Workload& w) { return w.Blocks(0)[0] + w.plan().layer(0).offset; }
const std::byte* ValueBlock(const Workload& w) { return KeyBlock(w) + w.plan().layer(0).values_offset; }

void CheckScore(const Workload& w, const std::vector<float>& logits, double bound) {
  std::vector<float> rows(kBlockTokens * kHeadDim);
  w.plan().layer(0).keys->Decode(0, 0, KeyBlock(w), 0, kBlockTokens, rows.data());
  std::vector<double> expected(kGroup * kBlockTokens, 0.0);
  for (std::size_t q = 0; q < kGroup; ++q) {
    for (std::size_t t = 0; t < kBlockTokens; ++t) {
      for (std::size_t i = 0; i < kHeadDim; ++i) {
        expected[q * kBlockTokens + t] +=
            static_cast<double>(w.rows().Queries(0, 0)[q * kHeadDim + i]) * static_cast<double>(rows[t * kHeadDim + i]);
      }
    }
  }
  const double error = RelativeRms(logits, expected);
  if (!(error <= bound)) {
    Abort(w.form().keys + ": scores differ from decoded keys by " + std::to_string(error) + ", more than " +
          std::to_string(bound));
  }
}

void CheckAccumulate(const Workload& w, const std::vector<float>& weights, const std::vector<float>& result, double bound) {
  std::vector<float> rows(kBlockTokens * kHeadDim);
  w.plan().layer(0).values->Decode(0, 0, ValueBlock(w), 0, kBlockTokens, rows.data());
  std::vector<double> expected(kGroup * kHeadDim, 0.0);
  for (std::size_t q = 0; q < kGroup; ++q) {
    for (std::size_t t = 0; t < kBlockTokens; ++t) {
      for (std::size_t i = 0; i < kHeadDim; ++i) {
        expected[q * kHeadDim + i] +=
            static_cast<double>(weights[q * kBlockTokens + t]) * static_cast<double>(rows[t * kHeadDim + i]);
      }
    }
  }
  const double error = RelativeRms(result, expected);
  if (!(error <= bound)) {
    Abort(w.form().keys + ": sums differ from decoded values by " + std::to_string(error) + ", more than " +
          std::to_string(bound));
  }
}

void BenchEncode(benchmark::State& state, const Workload& w, quantizers::Side side, ElementType type) {
  const LayerCodecs& layer = w.plan().layer(0);
  const quantizers::BlockCodec& codec =
      side == quantizers::Side::kKeys ? static_cast<const quantizers::BlockCodec&>(*layer.keys) : *layer.values;
  // Enough rows that they come from the second-level cache, as rows of a tail would.
  constexpr std::size_t kBlocks = 8;
  std::vector<float> rows = NormalRows(kBlocks * kBlockTokens * kHeadDim, 77);
  std::vector<std::uint16_t> bf16(rows.size());
  for (std::size_t i = 0; i < rows.size(); ++i) {
    std::uint32_t bits = 0;
    std::memcpy(&bits, &rows[i], sizeof(bits));
    bf16[i] = static_cast<std::uint16_t>(bits >> 16);
  }
  AlignedBytes block(codec.block_bytes());
  std::size_t next = 0;
  for (auto _ : state) {
    const std::size_t first = next * kBlockTokens * kHeadDim;
    const void* data = type == ElementType::kF32 ? static_cast<const void*>(&rows[first]) : &bf16[first];
    if (auto done = codec.Encode(0, 0, RowsView{data, type, kBlockTokens, kHeadDim, kHeadDim}, block.data()); !done) {
      Abort(w.form().keys + ": " + done.error().message);
    }
    benchmark::ClobberMemory();
    next = (next + 1) % kBlocks;
  }
  state.counters["per_row"] = PerUnit();
}

void BenchScore(benchmark::State& state, const Workload& w, double bound) {
  const quantizers::KeyCodec& codec = *w.plan().layer(0).keys;
  AlignedBytes prepared(codec.prepared_bytes(kGroup));
  codec.PrepareQueries(0, w.rows().Queries(0, 0), kGroup, prepared.data());
  std::vector<float> logits(kGroup * kBlockTokens);
  const auto score = [&] { codec.Score(0, 0, prepared.data(), kGroup, KeyBlock(w), logits.data(), kBlockTokens, nullptr, 0); };
  score();
  CheckScore(w, logits, bound);
  for (auto _ : state) {
    score();
    benchmark::ClobberMemory();
  }
  state.counters["per_token"] = PerUnit();
}

void BenchAccumulate(benchmark::State& state, const Workload& w, double bound) {
  const quantizers::ValueCodec& codec = *w.plan().layer(0).values;
  std::vector<float> weights = NormalRows(kGroup * kBlockTokens, 5);
  std::vector<float> sums(kGroup, 0.0f);
  for (std::size_t i = 0; i < weights.size(); ++i) {
    weights[i] = std::exp(weights[i]);  // what a softmax gives: positive, few large
    sums[i / kBlockTokens] += weights[i];
  }
  const std::size_t stride = codec.accumulator_floats();
  std::vector<float> acc(kGroup * stride, 0.0f);
  AlignedBytes scratch(codec.accumulate_scratch_bytes(kGroup));
  const auto accumulate = [&] {
    codec.Accumulate(0, weights.data(), kBlockTokens, kGroup, ValueBlock(w), acc.data(), stride, scratch.data(), nullptr, 0);
  };
  accumulate();
  std::vector<float> result(kGroup * kHeadDim);
  codec.Finish(0, acc.data(), stride, sums.data(), kGroup, result.data());
  CheckAccumulate(w, weights, result, bound);
  for (auto _ : state) {
    accumulate();
    benchmark::ClobberMemory();
  }
  state.counters["per_token"] = PerUnit();
}

}  // namespace

void RegisterCodecBenchmarks(Workloads& workloads, const std::string& spec) {
  using quantizers::Side;
  const double key_bound = HiddenLossBound(workloads.GaussianError(spec, Side::kKeys));
  const double value_bound = HiddenLossBound(workloads.GaussianError(spec, Side::kValues));
  const auto add = [&](const std::string& what, auto body) {
    benchmark::RegisterBenchmark((what + "/" + spec).c_str(), [&workloads, spec, body](benchmark::State& state) {
      body(state, workloads.Get(spec, kBlockTokens * 8));
    });
  };
  using State = benchmark::State;
  add("encode_keys/f32", [](State& s, const Workload& w) { BenchEncode(s, w, Side::kKeys, ElementType::kF32); });
  add("encode_keys/bf16", [](State& s, const Workload& w) { BenchEncode(s, w, Side::kKeys, ElementType::kBF16); });
  add("encode_values/bf16", [](State& s, const Workload& w) { BenchEncode(s, w, Side::kValues, ElementType::kBF16); });
  add("score", [key_bound](State& s, const Workload& w) { BenchScore(s, w, key_bound); });
  add("accumulate", [value_bound](State& s, const Workload& w) { BenchAccumulate(s, w, value_bound); });
}

}  // namespace kvant::tools
