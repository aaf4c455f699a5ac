// kvant_bench append: what encoding a row costs, one core, f16 rows into blocks.
#include <cmath>
#include <cstring>

#include "kernels/raw/rows.h"
#include "quantizers/attention/worker_team.h"
#include "tools/bench/limits.h"
#include "tools/bench/parts.h"
#include "tools/bench/shared_memory.h"
#include "tools/bench/workload.h"
#include "tools/codec_calls.h"
#include "tools/codec_specs.h"

namespace kvant::tools {
namespace {

using quantizers::Side;

constexpr std::size_t kRowBytes = kHeadDim * 2;  // as f16
constexpr std::size_t kInputBytes = kBlockTokens * kRowBytes;
constexpr double kTargetNs = 30.0;

const std::vector<FigureColumn> kColumns = {{"CODEC", "codec"},
                                            {"SIDE", "side"},
                                            {"ROWS FROM", "rows_from"},
                                            {"ns/ROW", "row_ns", "%.1f"},
                                            {"MEDIAN us/BLOCK", "median_ns", "%.2f", 1e3},
                                            {"P99 us", "p99_ns", "%.2f", 1e3},
                                            {"KB IN", "bytes", "%.1f", 1e3},
                                            {"GB/s IN", "bytes_per_s", "%.2f", 1e9},
                                            {"READ-ONLY", "read_only_bytes_per_s", "%.2f", 1e9},
                                            {"OF READ-ONLY %", "share_of_read_only", "%.0f", 0.01},
                                            {"ERROR^2", "squared_error", "%.4g"},
                                            {"DECLARED", "declared_squared_error", "%.4g"},
                                            {"TARGET", "target"}};

/// Squared error of a codec that declares none: f16 and bf16 round, f32 does not.
constexpr double kRounding = 1e-5;

class AppendBench {
 public:
  AppendBench(const BenchOptions& options, const SampleRows& rows)
      : options_(options),
        effort_(EffortOf(options)),
        rows_(rows),
        halves_(rows.keys.size()),
        input_(effort_.memory_bytes),
        block_(std::size_t{1} << 20),
        report_("append") {
    // f16 keys of all lanes, repeated through the memory.
    kernels::StoreRow(rows.keys.data(), rows.keys.size(), ElementType::kF16, halves_.data());
    const std::size_t bytes = halves_.size() * 2;
    for (std::size_t at = 0; at < input_.bytes().size(); at += bytes) {
      std::memcpy(input_.bytes().data() + at, halves_.data(), std::min(bytes, input_.bytes().size() - at));
    }
  }

  Result<void> Run() {
    report_.head()["rows"] = rows_.name;
    report_.head()["threads"] = 1;
    report_.head()["rotation_bytes"] = effort_.memory_bytes;
    for (const quantizers::Codec* codec : registry_.codecs()) {
      for (const std::string& spec : CodecSpecs(*codec)) {
        if (!options_.keys.empty() && spec != options_.keys) continue;
        // Codecs that want calibration, or keys before RoPE, have no rows here.
        const auto offered = [&](Side side) {
          return static_cast<bool>(MakeCodec(registry_, spec, side, kHeadDim, kBlockTokens));
        };
        const bool keys = offered(Side::kKeys), values = offered(Side::kValues);
        if (!keys && !values) continue;
        auto workload =
            Workload::Make(registry_, {.keys = keys ? spec : "f16", .values = values ? spec : "f16", .tokens = rows_.tokens},
                           rows_, block_memory());
        if (!workload) return workload.error();
        for (const Side side : {Side::kKeys, Side::kValues}) {
          if (!(side == Side::kKeys ? keys : values)) continue;
          if (auto done = MeasureSide(**workload, spec, side); !done) return done;
        }
      }
    }
    return {};
  }

  void Print(const Globals& globals) { report_.Print(globals, kColumns); }

 private:
  /// Room for the codec's working objects to be made with: one sequence.
  std::span<std::byte> block_memory() {
    if (scratch_ == nullptr)
      scratch_ = std::make_unique<SharedMemory>(SampleRows::kLanes * 2 * rows_.tokens * kHeadDim * 4 + (1U << 20));
    return scratch_->bytes();
  }

  Result<void> MeasureSide(const Workload& workload, const std::string& spec, Side side) {
    const quantizers::BlockCodec& codec = workload.plan().codec(0, 0, side);
    const double declared = codec.expected_error(codec.parts()).value_or(0.0);
    const auto error = Check(codec, spec, declared);
    if (!error) return error.error();
    for (const bool cached : {true, false}) {
      Json& figure = report_.Begin();
      figure["codec"] = spec;
      figure["side"] = side == Side::kKeys ? "keys" : "values";
      if (auto done = Measure(codec, figure, cached); !done) return done;
      figure["squared_error"] = *error;
      figure["declared_squared_error"] = declared;
      if (spec == "turboquant_mse:bits=2" || spec == "turboquant_mse:bits=4") {
        figure["target"] = "<= 30 ns/row, >= 8 GB/s";
        figure["target_met"] = figure["row_ns"].get<double>() <= kTargetNs;
      }
      report_.End();
    }
    return {};
  }

  [[nodiscard]] RowsView RowsAt(std::size_t offset) const {
    return {input_.bytes().data() + offset, ElementType::kF16, kBlockTokens, kHeadDim, kHeadDim};
  }

  /// Encodes and decodes a block: the squared error, relative, must be what the codec declares for normal rows.
  Result<double> Check(const quantizers::BlockCodec& codec, const std::string& spec, double declared) {
    double difference = 0.0;
    double norm = 0.0;
    std::vector<float> decoded(kBlockTokens * kHeadDim);
    for (std::size_t block = 0; block < 4; ++block) {
      const auto bytes = AdjacentParts(codec, block_.bytes().data());
      // Behind the first block, whose first rows a store keeps exactly.
      if (auto done = EncodeBlock(codec, 0, kBlockTokens, RowsAt(block * kInputBytes), bytes); !done) return done.error();
      DecodeBlock(codec, 0, kBlockTokens, AsConst(bytes), 0, kBlockTokens, decoded.data(), kHeadDim);
      for (std::size_t i = 0; i < decoded.size(); ++i) {
        const auto original = static_cast<double>(rows_.keys[block * decoded.size() + i]);
        const double d = static_cast<double>(decoded[i]) - original;
        difference += d * d;
        norm += original * original;
      }
    }
    const double error = difference / norm;
    // Rows of a model are no normal rows: outliers cost the codecs without a rotation more.
    const double bound = (rows_.name == "random" ? 1.1 : 4.0) * declared + kRounding;
    if (error <= bound) return error;
    return Error{ErrorCode::kInternal, spec + ": decoded rows have a squared error of " + std::to_string(error) +
                                           ", more than " + std::to_string(bound)};
  }

  Result<void> Measure(const quantizers::BlockCodec& codec, Json& figure, bool cached) {
    // As many rows as a second-level cache holds beside other things, or all of the memory.
    const std::size_t span_bytes = cached ? 8 * kInputBytes : input_.bytes().size() / kInputBytes * kInputBytes;
    std::size_t at = 0;
    Result<void> encoded;
    AlignedBytes scratch(codec.needs(0).encode);
    const auto encode = [&] {
      const auto bytes = AdjacentParts(codec, block_.bytes().data());
      if (auto done = codec.Encode({.rows = RowsAt(at), .block = bytes, .scratch = scratch.data()}); !done) encoded = done;
      at = (at + kInputBytes) % span_bytes;
    };
    quantizers::WorkerTeam alone(0);
    ReadOnlySum sum(alone, input_.bytes().first(span_bytes), kInputBytes);
    const std::size_t calls = options_.length == BenchOptions::Length::kFull ? 64 : 8;
    const std::vector<Contender> contenders = {{encode, calls}, {[&] { sum.Run(); }, calls}};
    const std::vector<Series> series = TakeTurns(contenders, effort_.rounds);
    if (!encoded) return encoded;
    figure["rows_from"] = cached ? "cache" : "memory";
    PutTimes(figure, series[0]);
    const double median_ns = figure["median_ns"];
    figure["row_ns"] = median_ns / kBlockTokens;
    figure["bytes"] = kInputBytes;
    figure["bytes_out"] = codec.block_bytes();
    figure["bytes_per_s"] = static_cast<double>(kInputBytes) / median_ns * 1e9;
    figure["read_only_bytes_per_s"] = static_cast<double>(kInputBytes) / Median(series[1].calls_ns) * 1e9;
    figure["share_of_read_only"] = MedianRatio(series[1], series[0]);
    return {};
  }

  const BenchOptions& options_;
  Effort effort_;
  const SampleRows& rows_;
  quantizers::Registry registry_ = quantizers::Registry::Builtin();
  std::vector<std::uint16_t> halves_;
  SharedMemory input_;
  SharedMemory block_;
  std::unique_ptr<SharedMemory> scratch_;
  FigureReport report_;
};

}  // namespace

int BenchAppend(const Globals& globals, const BenchOptions& options) {
  const auto rows = RowsOf(options, 1);
  if (!rows) return Report(globals, rows.error());
  AppendBench bench(options, *rows);
  if (auto done = bench.Run(); !done) return Report(globals, done.error());
  bench.Print(globals);
  return kOk;
}

}  // namespace kvant::tools
