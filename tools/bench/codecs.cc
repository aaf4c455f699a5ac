// kvant_bench codecs: scores and weighted sums of every codec, one core, blocks from memory, and which share of what its bytes
// or its operations allow each reaches.
#include <algorithm>
#include <map>
#include <optional>
#include <set>
#include <string_view>

#include "kernels/machine/instructions.h"
#include "quantizers/attention/worker_team.h"
#include "tools/bench/bandwidth.h"
#include "tools/bench/codec_sweep.h"
#include "tools/bench/operations.h"
#include "tools/bench/parts.h"
#include "tools/bench/peak.h"
#include "tools/bench/peers/peer_sweep.h"
#include "tools/bench/shared_memory.h"
#include "tools/codec_specs.h"

namespace kvant::tools {
namespace {

using quantizers::Side;

constexpr double kWanted = 0.6;  // of the limit
constexpr std::size_t kRunBytes = std::size_t{2} << 20;

/// Codecs that somebody may take as a default; the others are there for parity with what packages offer.
const std::set<std::string_view> kChoices = {"f32",         "f16",      "bf16", "int8",   "turboquant_mse", "turboquant_tcq",
                                             "gaussian_vq", "vecinfer", "kivi", "outlier"};
/// Beside the registry's own list.
const std::map<std::string_view, std::vector<std::string>> kMore = {
    {"turboquant_mse",
     {"turboquant_mse:bits=2,gauge=none", "turboquant_mse:bits=4,gauge=none", "turboquant_mse:bits=2,planes=1",
      "turboquant_mse:bits=4,planes=1", "turboquant_mse:bits=6,planes=1", "turboquant_mse:bits=8,planes=1"}}};

const std::vector<FigureColumn> kColumns = {{"CODEC", "codec"},
                                            {"SIDE", "side"},
                                            {"BYTES/ROW", "row_bytes", "%.1f"},
                                            {"ns/ROW", "row_ns", "%.2f"},
                                            {"GB/s", "bytes_per_s", "%.2f", 1e9},
                                            {"READ-ONLY", "read_only_bytes_per_s", "%.2f", 1e9},
                                            {"OF READ-ONLY %", "share_of_read_only", "%.0f", 0.01},
                                            {"OF PEAK %", "share_of_peak", "%.0f", 0.01},
                                            {"LIMIT", "limit"},
                                            {"OF LIMIT %", "share_of_limit", "%.0f", 0.01},
                                            {"CACHED ns/ROW", "cached_row_ns", "%.2f"},
                                            {"OF PEAK %", "cached_share_of_peak", "%.0f", 0.01},
                                            {"FROM DECODED", "difference", "%.2g"},
                                            {"TARGET", "target"}};

class CodecsBench {
 public:
  CodecsBench(const BenchOptions& options)
      : options_(options), effort_(EffortOf(options)), memory_(effort_.memory_bytes), report_("codecs") {}

  Result<void> Run() {
    report_.head()["kernels"] = kernels::Instructions();
    report_.head()["threads"] = 1;
    report_.head()["shape"] = "4 queries, head size 128, blocks of 128 tokens";
    report_.head()["rotation_bytes"] = memory_.bytes().size();
    if (!options_.keys.empty() || !options_.values.empty()) return Chosen();
    for (const PeerFormat* peer : {&kF16Peer, &kQ40Peer}) {
      for (const Side side : {Side::kKeys, Side::kValues}) Peer(*peer, side);
    }
    for (const quantizers::Codec* codec : registry_.codecs()) {
      std::vector<std::string> specs = CodecSpecs(*codec);
      if (const auto more = kMore.find(codec->name); more != kMore.end()) {
        specs.insert(specs.end(), more->second.begin(), more->second.end());
      }
      for (const std::string& spec : specs) {
        for (const Side side : {Side::kKeys, Side::kValues}) {
          if (auto done = Codec(spec, side, /*offered=*/false); !done) return done;
        }
      }
    }
    return {};
  }

  void Print(const Globals& globals) { report_.Print(globals, kColumns); }

 private:
  /// What --keys and --values name.
  Result<void> Chosen() {
    for (const Side side : {Side::kKeys, Side::kValues}) {
      const std::string& spec = side == Side::kKeys ? options_.keys : options_.values;
      if (spec.empty()) continue;
      if (auto done = Codec(spec, side, /*offered=*/true); !done) return done;
    }
    return {};
  }

  /// `offered`: it is an error if the codec is not offered for this side.
  Result<void> Codec(const std::string& spec, Side side, bool offered) {
    auto made = MakeWithExample(registry_, spec, side, kHeadDim, kBlockTokens);
    if (!made && offered) return made.error();
    if (!made) return {};
    auto sweep = CodecSweep::Make(*std::move(made), rows(), kRunBytes);
    if (!sweep) return sweep.error();
    const auto difference = (*sweep)->Check(spec + (side == Side::kKeys ? ", scores" : ", sums"));
    if (!difference) return difference.error();
    Json& figure = Begin(spec, side);
    const auto parsed = registry_.Parse(spec);
    Measure(figure, {[&] { (*sweep)->Run(); }, 2}, {[&] { (*sweep)->RunCached(); }, 2}, {(*sweep)->bytes(), (*sweep)->tokens()},
            OperationsOf(*parsed, kHeadDim));
    figure["difference"] = *difference;
    const bool choice = kChoices.contains(parsed->codec->name);
    figure["target"] = choice ? Json(">= 60 % of its limit") : Json(nullptr);
    if (choice) figure["target_met"] = figure["share_of_limit"].get<double>() >= kWanted;
    report_.End();
    return {};
  }

  void Peer(const PeerFormat& format, Side side) {
    PeerSweep sweep(format, side == Side::kKeys, rows(), kRunBytes);
    Json& figure = Begin("peer: " + std::string(format.name), side);
    // q4_0's keys meet rounded queries; its values, and both sides of f16, are multiplied as floats.
    const bool bytes = &format == &kQ40Peer && side == Side::kKeys;
    Measure(figure, {[&] { sweep.Run(); }, 2}, {[&] { sweep.RunCached(); }, 2}, {sweep.bytes(), sweep.tokens()},
            bytes ? Operations{.bytes = kHeadDim} : Operations{.floats = kHeadDim});
    report_.End();
  }

  Json& Begin(const std::string& codec, Side side) {
    Json& figure = report_.Begin();
    figure["codec"] = codec;
    figure["side"] = side == Side::kKeys ? "keys" : "values";
    return figure;
  }

  /// Encoded rows lie in the first half of the memory. The read-only sum reads the other one: what a run has just read would
  /// still be in a cache.
  [[nodiscard]] std::span<std::byte> rows() const { return memory_.bytes().first(memory_.bytes().size() / 128 * 64); }

  /// What one run reads.
  struct Reads {
    std::size_t bytes;
    std::size_t rows;
  };

  /// The run, the read-only sum of its bytes, its multiply-accumulates in registers, and the run from a cache, in turn.
  void Measure(Json& figure, Contender run, Contender cached, const Reads& reads, const Operations& operations) {
    quantizers::WorkerTeam alone(0);
    ReadOnlySum sum(alone, memory_.bytes().subspan(rows().size()), reads.bytes);
    PeakProbe byte_peak(alone, Arithmetic::kBytes), word_peak(alone, Arithmetic::kWords),
        float_peak(alone, Arithmetic::kFloats);
    const std::vector<Contender> contenders = {std::move(run),
                                               {[&] { sum.Run(); }, 2},
                                               {[&] { byte_peak.Run(); }, 1},
                                               {[&] { word_peak.Run(); }, 1},
                                               {[&] { float_peak.Run(); }, 1},
                                               std::move(cached)};
    const std::vector<Series> series = TakeTurns(contenders, effort_.rounds);
    PutTimes(figure, series[0]);
    const double median_ns = figure["median_ns"], rows = static_cast<double>(reads.rows);
    const double pairs = rows * static_cast<double>(kGroup);
    const auto peak_share = [&](const Series& of) {
      const auto share = [&](std::size_t probe, double macs, double probe_macs) {
        return macs == 0 ? 0.0 : MedianRatio(series[probe], of) * pairs * macs / probe_macs;
      };
      return share(2, operations.bytes, byte_peak.macs()) + share(3, operations.words, word_peak.macs()) +
             share(4, operations.floats, float_peak.macs());
    };
    const double by_bytes = MedianRatio(series[1], series[0]), by_operations = peak_share(series[0]);
    const auto bytes = static_cast<double>(reads.bytes);
    figure["row_bytes"] = bytes / rows;
    figure["row_ns"] = median_ns / rows;
    figure["bytes_per_s"] = bytes / median_ns * 1e9;
    figure["read_only_bytes_per_s"] = bytes / Median(series[1].calls_ns) * 1e9;
    figure["share_of_read_only"] = by_bytes;
    figure["share_of_peak"] = by_operations;
    figure["cached_row_ns"] = Median(series[5].calls_ns) / rows;
    figure["cached_share_of_peak"] = peak_share(series[5]);
    figure["limit"] = by_bytes >= by_operations ? "bytes" : "operations";
    figure["share_of_limit"] = std::max(by_bytes, by_operations);
  }

  const BenchOptions& options_;
  Effort effort_;
  quantizers::Registry registry_ = quantizers::Registry::Builtin();
  SharedMemory memory_;
  FigureReport report_;
};

}  // namespace

int BenchCodecs(const Globals& globals, const BenchOptions& options) {
  CodecsBench bench(options);
  if (auto done = bench.Run(); !done) return Report(globals, done.error());
  bench.Print(globals);
  return kOk;
}

}  // namespace kvant::tools
