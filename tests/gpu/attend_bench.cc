// How long attention over codes takes on this GPU: one JSON object a line on standard output, the first the read-only bandwidth
// of the same process. 32 query and 8 KV heads of 128 dims, blocks of 128 tokens, bf16 queries and outputs, tables that
// scatter.
//
//   attend_bench [SEQUENCES TOKENS]      of its shapes, only that one
//
// Calls of different layers follow each other in one captured graph, over far more codes than the L2 holds; a figure is the
// median of the graph's replays over its calls.
#include <cuda_runtime_api.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <numeric>
#include <random>
#include <vector>

#include "kernels/cuda/attend.h"
#include "kernels/gauge/gauge.h"
#include "kernels/lloyd/layout.h"
#include "kernels/ufloat16.h"
#include "tests/gpu/device.h"
#include "tests/gpu/slots.h"

namespace kvant::gpu {
namespace {

using kernels::cuda::AttendArgs;
using kernels::cuda::Gauge;

constexpr int kDim = 128, kKvHeads = 8, kGroup = 4, kHeads = kKvHeads * kGroup, kBlockTokens = 128, kRounds = 3;
constexpr std::size_t kReadBytes = std::size_t{4} << 30;
/// Codes that a measurement goes through before it meets the first again: many times the L2.
constexpr std::size_t kRotated = std::size_t{2} << 30;
constexpr int kReplays = 15;

/// Median microseconds of a replay, and of waiting for one from the host.
struct Times {
  double on_device = 0;
  double to_result = 0;
};

Times Measure(const Graph& graph, cudaStream_t stream) {
  cudaEvent_t begin, end;
  Must(cudaEventCreate(&begin), "cudaEventCreate");
  Must(cudaEventCreate(&end), "cudaEventCreate");
  for (int i = 0; i < 3; ++i) graph.Launch(stream);
  Must(cudaStreamSynchronize(stream), "warm-up");
  std::vector<double> on_device, to_result;
  for (int i = 0; i < kReplays; ++i) {
    Must(cudaEventRecord(begin, stream), "cudaEventRecord");
    graph.Launch(stream);
    Must(cudaEventRecord(end, stream), "cudaEventRecord");
    Must(cudaStreamSynchronize(stream), "replay");
    float ms = 0;
    Must(cudaEventElapsedTime(&ms, begin, end), "cudaEventElapsedTime");
    on_device.push_back(ms * 1e3);
    const auto from = std::chrono::steady_clock::now();
    graph.Launch(stream);
    Must(cudaStreamSynchronize(stream), "replay");
    to_result.push_back(std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now() - from).count());
  }
  cudaEventDestroy(begin);
  cudaEventDestroy(end);
  std::ranges::sort(on_device);
  std::ranges::sort(to_result);
  return {on_device[kReplays / 2], to_result[kReplays / 2]};
}

/// Bytes a microsecond of reading `data`, by the best of several launch widths.
double MeasureReadOnly(const DeviceArray<std::uint8_t>& data, int multiprocessors, cudaStream_t stream) {
  DeviceArray<std::uint32_t> sink(1);
  double best = 0;
  for (const int each : {2, 4, 8, 16}) {
    const Graph graph(stream,
                      [&] { Must(ReadOnly(data.data(), data.size(), each * multiprocessors, sink.data(), stream), "read"); });
    best = std::max(best, static_cast<double>(data.size()) / Measure(graph, stream).on_device);
  }
  return best;
}

struct Case {
  int sequences;
  int tokens;
  int bits;
  Gauge gauge;
};

HeadLayout LayoutOf(const Case& which) {
  const auto bits = static_cast<std::uint32_t>(which.bits);
  HeadLayout layout{.block_tokens = kBlockTokens, .dim = kDim};
  const std::size_t codes = kernels::LloydCodesBytes(bits, kDim, kBlockTokens),
                    part = kernels::LloydBlockBytes(bits, kDim, kBlockTokens);
  layout.key_scales = codes;
  std::size_t keys = part;
  if (which.gauge != Gauge::kNone) layout.mean = keys, keys += 2 * kDim;
  if (which.gauge == Gauge::kGains) layout.gains = keys, keys += kDim;
  keys = (keys + 63) / 64 * 64;
  layout.value_scales = keys + codes;
  layout.bytes = keys + (part + 63) / 64 * 64;
  return layout;
}

void Run(const Case& which, double read_only, int multiprocessors, cudaStream_t stream) {
  const HeadLayout layout = LayoutOf(which);
  const std::size_t blocks = static_cast<std::size_t>(which.tokens) / kBlockTokens, slot_bytes = layout.bytes * kKvHeads;
  const std::size_t of_call = blocks * static_cast<std::size_t>(which.sequences);
  const std::size_t layers = std::clamp<std::size_t>(kRotated / (of_call * slot_bytes), 4, 256);
  std::mt19937 random(5);
  std::vector<std::int32_t> slots(layers * of_call);
  std::iota(slots.begin(), slots.end(), 0);
  std::ranges::shuffle(slots, random);
  const DeviceArray<std::int32_t> tables{std::span<const std::int32_t>(slots)};
  const DeviceArray<std::uint8_t> pool(slots.size() * slot_bytes);
  Must(FillHeads(pool.data(), slots.size() * kKvHeads, layout, kernels::FloatToUfloat16(std::sqrt(static_cast<float>(kDim))),
                 kernels::GainByte(1.0f), kernels::GainByte(4.0f), stream),
       "fill");
  const auto rows = static_cast<std::size_t>(which.sequences) * kHeads;
  std::vector<std::uint16_t> q(rows * kDim);
  for (auto& number : q) number = static_cast<std::uint16_t>((random() & 0x807Fu) | 0x3F00u);
  const DeviceArray<std::uint16_t> queries{std::span<const std::uint16_t>(q)}, out(rows * kDim);
  const std::vector<std::int32_t> lengths(static_cast<std::size_t>(which.sequences), which.tokens);
  const DeviceArray<std::int32_t> cached{std::span<const std::int32_t>(lengths)};
  std::vector<std::uint32_t> signs(kKvHeads * kRounds * kDim / 32);
  for (auto& word : signs) word = static_cast<std::uint32_t>(random());
  const DeviceArray<std::uint32_t> packed{std::span<const std::uint32_t>(signs)};

  AttendArgs args;
  args.key_bits = args.value_bits = which.bits;
  args.dim = kDim;
  args.block_tokens = kBlockTokens;
  args.rounds = kRounds;
  args.gauge = which.gauge;
  args.slots = pool.data();
  args.slot_bytes = slot_bytes;
  args.value_offset =
      layout.value_scales - kernels::LloydCodesBytes(static_cast<std::uint32_t>(which.bits), kDim, kBlockTokens);
  args.head_bytes = layout.bytes;
  args.key_signs = args.value_signs = packed.data();
  args.sequences = which.sequences;
  args.kv_heads = kKvHeads;
  args.group = kGroup;
  args.table_stride = static_cast<int>(blocks);
  args.cached = cached.data();
  args.q = {queries.data(), ElementType::kBF16, std::int64_t{kHeads} * kDim, 0, kDim};
  args.out = {out.data(), ElementType::kBF16, std::int64_t{kHeads} * kDim, 0, kDim};
  args.scale = 1.0f / std::sqrt(static_cast<float>(kDim));
  const auto bytes = kernels::cuda::AttendWorkspaceBytes(args, multiprocessors);
  if (!bytes) std::fprintf(stderr, "%s\n", bytes.error().message.c_str()), std::exit(2);
  DeviceArray<std::uint8_t> workspace(*bytes);
  workspace.Fill(0);
  args.workspace = reinterpret_cast<std::byte*>(workspace.data());
  args.workspace_bytes = *bytes;
  const auto attend = [&](std::size_t layer) {
    args.table = tables.data() + layer * of_call;
    const auto done = kernels::cuda::Attend(args, multiprocessors, stream);
    if (!done) std::fprintf(stderr, "%s\n", done.error().message.c_str()), std::exit(2);
  };
  const Graph all(stream, [&] {
    for (std::size_t layer = 0; layer < layers; ++layer) attend(layer);
  });
  const Graph one(stream, [&] { attend(0); });
  const double us = Measure(all, stream).on_device / static_cast<double>(layers);
  const Times single = Measure(one, stream);
  // What must be read: codes, scales and gauges, without what pads a slot.
  const std::size_t read = of_call * kKvHeads *
                           (2 * kernels::LloydBlockBytes(static_cast<std::uint32_t>(which.bits), kDim, kBlockTokens) +
                            (layout.mean != 0 ? 2 * kDim : 0) + (layout.gains != 0 ? kDim : 0));
  std::printf(
      "{\"sequences\": %d, \"tokens\": %d, \"bits\": %d, \"gauge\": \"%s\", \"us\": %.2f, \"share\": %.4f, \"bytes\": %zu, "
      "\"calls\": %zu, \"one_us\": %.2f, \"one_to_host_us\": %.2f}\n",
      which.sequences, which.tokens, which.bits,
      which.gauge == Gauge::kNone   ? "none"
      : which.gauge == Gauge::kMean ? "mean"
                                    : "gains",
      us, static_cast<double>(read) / us / read_only, read, layers, single.on_device, single.to_result);
  std::fflush(stdout);
}

int Main(int argc, char** argv) {
  const auto multiprocessors = kernels::cuda::Multiprocessors();
  if (!multiprocessors) {
    std::fprintf(stderr, "%s\n", multiprocessors.error().message.c_str());
    return 2;
  }
  cudaDeviceProp card;
  Must(cudaGetDeviceProperties(&card, 0), "cudaGetDeviceProperties");
  const OwnStream stream;
  double read_only = 0;
  {
    DeviceArray<std::uint8_t> data(kReadBytes);
    data.Fill(0x5A);
    read_only = MeasureReadOnly(data, *multiprocessors, stream.get());
  }
  std::printf("{\"card\": \"%s\", \"multiprocessors\": %d, \"l2_bytes\": %d, \"read_only_gb_s\": %.1f}\n", card.name,
              *multiprocessors, card.l2CacheSize, read_only / 1e3);
  constexpr std::pair<int, int> kShapes[] = {{1, 1024}, {1, 8192}, {1, 131072}, {8, 32768}, {32, 8192}};
  for (const auto& [sequences, tokens] : kShapes) {
    if (argc > 2 && (std::atoi(argv[1]) != sequences || std::atoi(argv[2]) != tokens)) continue;
    for (const int bits : {4, 2}) {
      for (const Gauge gauge : {Gauge::kNone, Gauge::kGains})
        Run({sequences, tokens, bits, gauge}, read_only, *multiprocessors, stream.get());
    }
  }
  return 0;
}

}  // namespace
}  // namespace kvant::gpu

int main(int argc, char** argv) { return kvant::gpu::Main(argc, argv); }
