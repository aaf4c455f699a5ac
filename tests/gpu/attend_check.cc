// Checks attention on a GPU: outputs against float64, logits bit by bit against the processor's scalar twins, and that a
// captured graph gives a plain call's bits. Prints a line for each shape; exits 1 if anything was wrong.
//
//   attend_check [short]      short: a few small shapes, for tools that watch every access
#include <cuda_runtime_api.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <functional>
#include <limits>
#include <string>
#include <string_view>
#include <vector>

#include "kernels/cuda/attend.h"
#include "kernels/cuda/plan.h"
#include "kernels/raw/rows.h"
#include "tests/gpu/device.h"
#include "tests/gpu/logits.h"
#include "tests/kernels/cuda_inputs.h"

namespace kvant::gpu {
namespace {

using kernels::cuda::AttendArgs;
using kernels::cuda::Batch;
using kernels::cuda::BatchShape;
using kernels::cuda::Gauge;

/// What a call asks for beyond its batch.
struct Asked {
  std::uint32_t window = 0;
  float softcap = 0;
  bool sinks = false;
  ElementType type = ElementType::kF32;  ///< of queries and outputs
};

/// What rounding to a type costs, relative.
double RoundingOf(ElementType type) { return type == ElementType::kF32 ? 0 : type == ElementType::kF16 ? 0x1p-11 : 0x1p-8; }

std::vector<std::uint8_t> Encode(const std::vector<float>& numbers, ElementType type) {
  std::vector<std::uint8_t> bytes(numbers.size() * ElementBytes(type));
  kernels::StoreRow(numbers.data(), numbers.size(), type, bytes.data());
  return bytes;
}
std::vector<float> Decode(const std::vector<std::uint8_t>& bytes, ElementType type) {
  std::vector<float> numbers(bytes.size() / ElementBytes(type));
  kernels::LoadRow(bytes.data(), type, numbers.size(), numbers.data());
  return numbers;
}

/// A batch in the GPU's memory.
class OnDevice {
 public:
  OnDevice(const Batch& batch, const Asked& asked, const DeviceArray<std::byte>& workspace)
      : slots_(batch.slots()),
        table_(batch.table()),
        cached_(batch.cached()),
        positions_(batch.positions()),
        key_signs_(batch.key_signs()),
        value_signs_(batch.value_signs()),
        sinks_(batch.sinks()),
        queries_(batch.rows() * static_cast<std::size_t>(batch.shape().dim) * ElementBytes(asked.type)),
        out_(queries_.size()),
        lse_(batch.rows()),
        args_(ArgsOf(batch, asked)) {
    args_.workspace = workspace.data();
    args_.workspace_bytes = workspace.size();
  }

  [[nodiscard]] const AttendArgs& args() const { return args_; }
  void Ask(const std::vector<std::uint8_t>& queries) { queries_.Write(queries); }
  void Poison() {
    out_.Fill(0xFF);
    lse_.Fill(0xFF);
  }
  [[nodiscard]] std::vector<std::uint8_t> out() const { return out_.Read(); }
  [[nodiscard]] std::vector<float> lse() const { return lse_.Read(); }

 private:
  [[nodiscard]] AttendArgs ArgsOf(const Batch& batch, const Asked& asked) const {
    AttendArgs args = batch.Args();
    args.slots = slots_.data();
    args.table = table_.data();
    args.cached = cached_.data();
    if (args.positions != nullptr) args.positions = positions_.data();
    args.key_signs = key_signs_.data();
    args.value_signs = value_signs_.data();
    args.q.data = queries_.data();
    args.q.type = asked.type;
    args.out = {out_.data(), asked.type, args.q.sequence_stride, args.q.token_stride, args.q.head_stride};
    args.lse = lse_.data();
    args.window = asked.window;
    args.softcap = asked.softcap;
    if (asked.sinks) args.sink_logits = sinks_.data();
    return args;
  }
  DeviceArray<std::uint8_t> slots_;
  DeviceArray<std::int32_t> table_, cached_, positions_;
  DeviceArray<std::uint32_t> key_signs_, value_signs_;
  DeviceArray<float> sinks_;
  DeviceArray<std::uint8_t> queries_, out_;
  DeviceArray<float> lse_;
  AttendArgs args_;
};

class Checks {
 public:
  explicit Checks(int multiprocessors) : multiprocessors_(multiprocessors) { workspace_.Fill(0); }

  [[nodiscard]] int wrong() const { return wrong_; }

  void Run(const BatchShape& shape, const Asked& asked = {}) {
    Batch batch(shape, ++seed_);
    auto bytes = Encode(batch.queries(), asked.type);
    batch.queries() = Decode(bytes, asked.type);
    OnDevice device(batch, asked, workspace_);
    device.Ask(bytes);
    AttendArgs host = batch.Args();
    host.window = asked.window;
    host.softcap = asked.softcap;
    if (asked.sinks) host.sink_logits = batch.sinks().data();

    const auto plain = Call(device);
    const auto verdict = batch.Judge(host, Decode(plain.out, asked.type).data(), plain.lse.data(), RoundingOf(asked.type));
    std::string line = Name(shape) + ": error " + std::to_string(verdict.worst) + " of the tolerance";
    std::string what = verdict.wrong;
    if (what.empty() && !(Call(device) == plain)) what = "a second call gave other bits";
    if (what.empty()) what = Replay(device, batch, asked);
    if (what.empty()) what = CompareLogits(device, batch, line);
    if (!what.empty()) ++wrong_;
    std::printf("%s  %s%s%s\n", what.empty() ? "ok   " : "WRONG", line.c_str(), what.empty() ? "" : "; ", what.c_str());
  }

 private:
  struct Outcome {
    std::vector<std::uint8_t> out;
    std::vector<float> lse;
    bool operator==(const Outcome& other) const {
      return out == other.out && std::memcmp(lse.data(), other.lse.data(), lse.size() * sizeof(float)) == 0;
    }
  };

  void Enqueue(const OnDevice& device) const {
    const auto done = kernels::cuda::Attend(device.args(), multiprocessors_, stream_.get());
    if (done) return;
    std::fprintf(stderr, "%s\n", done.error().message.c_str());
    std::exit(2);
  }
  [[nodiscard]] Outcome Call(OnDevice& device) const {
    device.Poison();
    Enqueue(device);
    stream_.Wait();
    return {device.out(), device.lse()};
  }

  /// A graph captured with these queries is replayed with others.
  [[nodiscard]] std::string Replay(OnDevice& device, const Batch& batch, const Asked& asked) const {
    const Graph graph(stream_.get(), [&] { Enqueue(device); });
    std::vector<float> others(const_cast<Batch&>(batch).queries());
    for (float& x : others) x = 0.5f - x;
    device.Ask(Encode(others, asked.type));
    const auto plain = Call(device);
    for (int i = 0; i < 3; ++i) {
      device.Poison();
      graph.Launch(stream_.get());
      stream_.Wait();
      if (!(Outcome{device.out(), device.lse()} == plain)) return "a graph gave other bits than a call";
    }
    device.Ask(Encode(const_cast<Batch&>(batch).queries(), asked.type));
    return {};
  }

  [[nodiscard]] std::string CompareLogits(const OnDevice& device, const Batch& batch, std::string& line) const {
    const auto plan = kernels::cuda::PlaceAttend(device.args(), multiprocessors_);
    if (!plan) return plan.error().message;
    if (!HasLogits(*plan)) return {};
    const int stride = device.args().table_stride * device.args().block_tokens;
    DeviceArray<float> logits(batch.rows() * static_cast<std::size_t>(stride));
    logits.Fill(0xFF);
    Must(FindLogits(*plan, logits.data(), stride, stream_.get()), "logits");
    stream_.Wait();
    const auto found = logits.Read();
    std::size_t count = 0;
    const std::size_t of_sequence = batch.rows() / batch.cached().size();
    for (std::size_t row = 0; row < batch.rows(); ++row) {
      const std::size_t sequence = row / of_sequence;
      const int n = static_cast<int>(row % of_sequence) / batch.heads();
      const int tokens = std::min(batch.cached()[sequence], batch.positions()[sequence] + n + 1);  // that the row sees
      for (int token = 0; token < tokens; ++token, ++count) {
        const float is = found[row * static_cast<std::size_t>(stride) + static_cast<std::size_t>(token)];
        const float should = batch.Logit(row, token, device.args().scale);
        if (std::bit_cast<std::uint32_t>(is) == std::bit_cast<std::uint32_t>(should)) continue;
        return "logit of row " + std::to_string(row) + ", token " + std::to_string(token) + " is " + std::to_string(is) +
               ", not " + std::to_string(should);
      }
    }
    line += ", " + std::to_string(count) + " logits bit-equal";
    return {};
  }

  int multiprocessors_;
  DeviceArray<std::byte> workspace_{std::size_t{64} << 20};  ///< all shapes', one after the other
  OwnStream stream_;
  std::uint32_t seed_ = 100;
  int wrong_ = 0;
};

void RunShort(Checks& checks) {
  for (const auto& [key_bits, value_bits] : {std::pair{2, 2}, {4, 4}, {4, 2}}) {
    for (const int group : {4, 7}) {
      checks.Run({.key_bits = key_bits,
                  .value_bits = value_bits,
                  .gauge = Gauge::kGains,
                  .kv_heads = 1,
                  .group = group,
                  .cached = {1300, 1, 0}});
    }
  }
  checks.Run({.dim = 64, .kv_heads = 1, .tokens = 3, .cached = {700, 30}, .ahead = true}, {.window = 200, .sinks = true});
  checks.Run({.dim = 256, .kv_heads = 1, .cached = {700}}, {.softcap = 2});
}

void RunAll(Checks& checks) {
  const std::pair<int, int> widths[] = {{2, 2}, {4, 4}, {4, 2}};
  for (const auto& [key_bits, value_bits] : widths) {
    for (const int dim : {64, 128, 256}) {
      if (dim == 256 && key_bits != value_bits) continue;
      BatchShape shape{.key_bits = key_bits, .value_bits = value_bits, .dim = dim};
      for (const int group : {1, 3, 4, 7, 8, 16}) {
        shape.group = group;
        shape.cached = {1000, 130, 1, 2048, 0};
        checks.Run(shape);
      }
      for (const Gauge gauge : {Gauge::kMean, Gauge::kGains}) {
        for (const int group : {4, 8}) {
          shape.group = group;
          shape.gauge = gauge;
          shape.cached = {3000, 200};
          checks.Run(shape);
        }
      }
      shape.gauge = Gauge::kNone;
      shape.group = 4;
      shape.ahead = true;
      for (const int tokens : {1, 3, 9, 64}) {
        shape.tokens = tokens;
        shape.cached = {900, 150, 7};
        for (const std::uint32_t window : {0u, 1u, 64u, 200u, 5000u}) checks.Run(shape, {.window = window});
      }
      shape.tokens = 1;
      shape.ahead = false;
      shape.cached = {900, 0};
      checks.Run(shape, {.sinks = true});
      checks.Run(shape, {.softcap = 2});
      checks.Run(shape, {.window = 300, .softcap = 20, .sinks = true});
      for (const ElementType type : {ElementType::kF16, ElementType::kBF16}) checks.Run(shape, {.type = type});
      shape.block_tokens = 256;
      shape.cached = {1100};
      checks.Run(shape);
    }
    // Many splits.
    checks.Run({.key_bits = key_bits, .value_bits = value_bits, .gauge = Gauge::kGains, .kv_heads = 1, .cached = {40000}});
    checks.Run({.key_bits = key_bits, .value_bits = value_bits, .kv_heads = 1, .group = 8, .cached = {40000, 333}});
    // Many sequences of different lengths.
    BatchShape ragged{.key_bits = key_bits, .value_bits = value_bits, .gauge = Gauge::kGains};
    for (int i = 0; i < 64; ++i) ragged.cached.push_back(i * 37 % 611);
    checks.Run(ragged);
  }
  checks.Run({.block_tokens = 64, .cached = {700}});
  checks.Run({.key_bits = 2, .value_bits = 2, .block_tokens = 384, .cached = {1100}});
}

}  // namespace
}  // namespace kvant::gpu

int main(int argc, char** argv) {
  const auto multiprocessors = kvant::kernels::cuda::Multiprocessors();
  if (!multiprocessors) {
    std::fprintf(stderr, "%s\n", multiprocessors.error().message.c_str());
    return 2;
  }
  kvant::gpu::Checks checks(*multiprocessors);
  if (argc > 1 && std::string_view(argv[1]) == "short") {
    RunShort(checks);
  } else {
    RunAll(checks);
  }
  std::printf("%d wrong\n", checks.wrong());
  return checks.wrong() == 0 ? 0 : 1;
}
