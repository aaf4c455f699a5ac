// Every codec of the registry by itself: encoding a row, scoring a key, accumulating a value. Data stays in the cache: this is
// the arithmetic, the attend benchmarks are the memory.
#include <benchmark/benchmark.h>

#include <cmath>
#include <cstring>
#include <vector>

#include "tools/bench/bench.h"
#include "tools/codec_calls.h"

namespace kvant::tools {
namespace {

using quantizers::Side;

/// Seconds per token of a block: printed with a unit prefix, "22.9n" is 22.9 ns.
benchmark::Counter PerUnit() {
  using Counter = benchmark::Counter;
  return Counter(kBlockTokens, static_cast<Counter::Flags>(Counter::kIsIterationInvariantRate | Counter::kInvert));
}

quantizers::ConstBlockView BlockOf(const Workload& w, Side side) {
  return w.plan().place(0, 0, side).In<const std::byte>(w.Blocks(0)[0]);
}

void CheckScore(const Workload& w, const std::vector<float>& logits, double bound) {
  std::vector<float> rows(kBlockTokens * kHeadDim);
  DecodeBlock(w.plan().codec(0, 0, Side::kKeys), 0, 0, BlockOf(w, Side::kKeys), 0, kBlockTokens, rows.data(), kHeadDim);
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
  DecodeBlock(w.plan().codec(0, 0, Side::kValues), 0, 0, BlockOf(w, Side::kValues), 0, kBlockTokens, rows.data(), kHeadDim);
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

void BenchEncode(benchmark::State& state, const Workload& w, Side side, ElementType type) {
  const quantizers::BlockCodec& codec = w.plan().codec(0, 0, side);
  // Enough rows that they come from the second-level cache, as rows of a tail would.
  constexpr std::size_t kBlocks = 8;
  std::vector<float> rows = NormalRows(kBlocks * kBlockTokens * kHeadDim, 77);
  std::vector<std::uint16_t> bf16(rows.size());
  for (std::size_t i = 0; i < rows.size(); ++i) {
    std::uint32_t bits = 0;
    std::memcpy(&bits, &rows[i], sizeof(bits));
    bf16[i] = static_cast<std::uint16_t>(bits >> 16);
  }
  AlignedBytes block(AdjacentBytes(codec)), scratch(codec.needs(0).encode);
  std::size_t next = 0;
  for (auto _ : state) {
    const std::size_t first = next * kBlockTokens * kHeadDim;
    const void* data = type == ElementType::kF32 ? static_cast<const void*>(&rows[first]) : &bf16[first];
    auto done = codec.Encode({.rows = {data, type, kBlockTokens, kHeadDim, kHeadDim},
                              .block = AdjacentParts(codec, block.data()),
                              .scratch = scratch.data()});
    if (!done) Abort(w.form().keys + ": " + done.error().message);
    benchmark::ClobberMemory();
    next = (next + 1) % kBlocks;
  }
  state.counters["per_row"] = PerUnit();
}

void BenchScore(benchmark::State& state, const Workload& w, double bound) {
  const quantizers::KeyCodec& codec = *w.plan().codecs(0, 0).keys;
  AlignedBytes prepared(codec.needs(kGroup).prepared), scratch(codec.needs(kGroup).scratch);
  const float* queries = w.rows().Queries(0, 0);
  codec.Prepare(
      {.queries = queries, .query_stride = kHeadDim, .n = kGroup, .prepared = prepared.data(), .scratch = scratch.data()});
  std::vector<float> logits(kGroup * kBlockTokens);
  const auto score = [&] {
    codec.Score({.queries = queries,
                 .query_stride = kHeadDim,
                 .prepared = prepared.data(),
                 .n = kGroup,
                 .block = BlockOf(w, Side::kKeys),
                 .logits = logits.data(),
                 .stride = kBlockTokens,
                 .scratch = scratch.data()});
  };
  score();
  CheckScore(w, logits, bound);
  for (auto _ : state) {
    score();
    benchmark::ClobberMemory();
  }
  state.counters["per_token"] = PerUnit();
}

void BenchAccumulate(benchmark::State& state, const Workload& w, double bound) {
  const quantizers::ValueCodec& codec = *w.plan().codecs(0, 0).values;
  std::vector<float> weights = NormalRows(kGroup * kBlockTokens, 5);
  std::vector<float> sums(kGroup, 0.0f);
  for (std::size_t i = 0; i < weights.size(); ++i) {
    weights[i] = std::exp(weights[i]);  // what a softmax gives: positive, few large
    sums[i / kBlockTokens] += weights[i];
  }
  const std::size_t stride = codec.accumulator_floats(kGroup);
  std::vector<float> acc(kGroup * stride, 0.0f);
  AlignedBytes scratch(codec.needs(kGroup).scratch);
  const auto accumulate = [&] {
    codec.Accumulate({.weights = weights.data(),
                      .stride = kBlockTokens,
                      .n = kGroup,
                      .block = BlockOf(w, Side::kValues),
                      .acc = acc.data(),
                      .acc_stride = stride,
                      .acc_floats = stride,
                      .scratch = scratch.data()});
  };
  accumulate();
  std::vector<float> result(kGroup * kHeadDim);
  codec.Finish({.acc = acc.data(),
                .acc_stride = stride,
                .acc_floats = stride,
                .weight_sums = sums.data(),
                .n = kGroup,
                .rows = result.data(),
                .row_stride = kHeadDim,
                .scratch = scratch.data()});
  CheckAccumulate(w, weights, result, bound);
  for (auto _ : state) {
    accumulate();
    benchmark::ClobberMemory();
  }
  state.counters["per_token"] = PerUnit();
}

}  // namespace

void RegisterCodecBenchmarks(Workloads& workloads, const std::string& spec) {
  const double key_bound = HiddenLossBound(workloads.ExpectedErrorOf(spec, Side::kKeys));
  const double value_bound = HiddenLossBound(workloads.ExpectedErrorOf(spec, Side::kValues));
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
