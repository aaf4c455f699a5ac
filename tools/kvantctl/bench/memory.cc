// kvantctl bench memory: what the daemon really occupies for what it holds, and what a decoding step costs in page faults and
// copies. The tokens of one long sequence are appended in place, then single steps are watched.
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <memory>
#include <numbers>
#include <utility>

#include <kvant/admin.h>
#include <kvant/client.h>

#include "tools/bench/reference.h"
#include "tools/bench/rows.h"
#include "tools/bench/series.h"
#include "tools/kvantctl/bench/bench.h"
#include "tools/kvantctl/bench/daemon_process.h"

namespace kvant::tools {
namespace {

constexpr std::uint64_t kMiB = std::uint64_t{1} << 20;
constexpr double kTargetFactor = 1.03;
constexpr double kTargetExtra = 16.0 * static_cast<double>(kMiB);
const float kScale = 1.0f / std::sqrt(static_cast<float>(kHeadDim));

const std::vector<FigureColumn> kColumns = {{"KEYS", "keys"},
                                            {"VALUES", "values"},
                                            {"TOKENS", "tokens", "%.0f"},
                                            {"LAYERS", "layers", "%.0f"},
                                            {"F16 MiB", "logical_f16_bytes", "%.1f", kMiB},
                                            {"COMPRESSED MiB", "compressed_bytes", "%.1f", kMiB},
                                            {"DAEMON MiB", "daemon_resident_bytes", "%.1f", kMiB},
                                            {"OF IT ARENAS", "daemon_arena_bytes", "%.1f", kMiB},
                                            {"EMPTY MiB", "daemon_empty_bytes", "%.1f", kMiB},
                                            {"STEP us", "median_ns", "%.1f", 1e3},
                                            {"P99 us", "p99_ns", "%.1f", 1e3},
                                            {"FAULTS/STEP", "client_faults_per_step", "%.2f"},
                                            {"DAEMON'S", "daemon_faults_per_step", "%.2f"},
                                            {"BACKGROUND", "background_faults_per_step", "%.2f"},
                                            {"COPIED B/STEP", "copied_bytes_per_step", "%.1f"},
                                            {"ERROR", "error", "%.3g"},
                                            {"TARGET", "target"},
                                            {"MET", "target_met"}};

struct Size {
  std::uint32_t layers;
  std::size_t tokens;
  std::size_t steps;
};

/// One sequence that is filled and stepped.
class Conversation {
 public:
  Conversation(Sequence sequence, const SampleRows& rows, const Size& size, Tensor q, Tensor out)
      : sequence_(std::move(sequence)), rows_(rows), size_(size), q_(std::move(q)), out_(std::move(out)) {}

  /// Appends `tokens` without asking anything.
  Result<void> Fill(std::size_t tokens) {
    for (std::size_t done = 0; done < tokens;) {
      auto rows = sequence_.Reserve(std::clamp<std::size_t>(sequence_.reservable(), 1, tokens - done));
      if (!rows) return rows.error();
      for (std::size_t layer = 0; layer < size_.layers; ++layer) Write(*rows, layer);
      std::vector<TokenId> ids(rows->tokens());
      for (std::size_t i = 0; i < ids.size(); ++i) ids[i] = static_cast<TokenId>(sequence_.length() + i);
      if (auto advanced = sequence_.Advance(ids); !advanced) return advanced;
      done += ids.size();
    }
    return {};
  }

  /// One decoding step: rows in place, attention in every layer, advance.
  Result<void> Step() {
    auto rows = sequence_.Reserve(1);
    if (!rows) return rows.error();
    for (std::size_t layer = 0; layer < size_.layers; ++layer) {
      Write(*rows, layer);
      std::memcpy(q_.f32(), rows_.Queries(0, layer % kLayers * kKvHeads), kKvHeads * kGroup * kHeadDim * sizeof(float));
      if (auto done = sequence_.Attend(layer, {.q = AsConst(q_.view()), .out = out_.view(), .scale = kScale}); !done)
        return done;
    }
    const auto id = static_cast<TokenId>(sequence_.length());
    return sequence_.Advance({&id, 1});
  }

  /// Relative error of the last layer's output of the last step against attention over the original rows.
  [[nodiscard]] double Error() {
    std::vector<double> times(rows_.tokens, 0.0);
    for (std::uint64_t t = 0; t < sequence_.length(); ++t) times[t % rows_.tokens] += 1.0;
    const std::size_t layer = (size_.layers - 1) % kLayers;
    std::vector<double> exact(kKvHeads * kGroup * kHeadDim);
    for (std::size_t head = 0; head < kKvHeads; ++head) {
      const std::size_t lane = layer * kKvHeads + head;
      PlainAttention({rows_.Keys(lane), rows_.Values(lane), times, kHeadDim}, rows_.Queries(0, lane), kGroup,
                     static_cast<double>(kScale), &exact[head * kGroup * kHeadDim]);
    }
    return RelativeRms(std::span<const float>(out_.f32(), exact.size()), exact);
  }

  [[nodiscard]] std::uint64_t length() const { return sequence_.length(); }

 private:
  /// Keys and values of the reserved tokens, as an engine's kernel would leave them.
  void Write(const NewRows& rows, std::size_t layer) {
    for (std::size_t head = 0; head < kKvHeads; ++head) {
      const std::size_t lane = layer % kLayers * kKvHeads + head;
      for (std::size_t t = 0; t < rows.tokens(); ++t) {
        const std::size_t content = (sequence_.length() + t) % rows_.tokens * kHeadDim;
        Put(rows.Keys(layer), head, t, rows_.Keys(lane) + content);
        Put(rows.Values(layer), head, t, rows_.Values(lane) + content);
      }
    }
  }
  static void Put(const TensorView& view, std::size_t head, std::size_t token, const float* row) {
    auto* to = static_cast<std::byte*>(view.data) + (head * view.head_stride + token * view.token_stride) * 2;
    for (std::size_t i = 0; i < kHeadDim; ++i) {
      // bf16, rounded to nearest: the upper half of an f32 (2^-9 off at most; the bound of the check allows for it).
      const std::uint32_t bits = std::bit_cast<std::uint32_t>(row[i]) + 0x8000U;
      const auto half = static_cast<std::uint16_t>(bits >> 16);
      std::memcpy(to + 2 * i, &half, sizeof(half));
    }
  }

  Sequence sequence_;
  const SampleRows& rows_;
  Size size_;
  Tensor q_;
  Tensor out_;
};

/// What is counted before and after the steps.
struct Counts {
  std::uint64_t client_faults;
  Faults daemon_faults;
  std::uint64_t copied_bytes;
};

Result<Counts> Count(Admin& admin, const Client& client) {
  const auto own = PageFaults(static_cast<std::uint64_t>(getpid()));
  if (!own) return own.error();
  const auto daemons = PageFaults(client.daemon().pid);
  if (!daemons) return daemons.error();
  const auto stats = admin.Stats();
  if (!stats) return stats.error();
  return Counts{own->steps, *daemons, client.counters().bytes_copied + stats->figures.Find("bytes_copied").value_or(0)};
}

StoreSpec SpecOf(const PlanSpecs& plan, const Size& size) {
  StoreSpec spec;
  // A daemon that others use may hold an earlier run's store of the same name.
  spec.name = "bench/memory/" + std::to_string(getpid());
  spec.model = spec.tokenizer = "bench";
  spec.layers = size.layers;
  spec.kv_heads = kKvHeads;
  spec.head_dim = kHeadDim;
  spec.block_tokens = kBlockTokens;
  spec.plan.keys = plan.keys;
  spec.plan.values = plan.values;
  return spec;
}

/// What attention may be off by: twice what quantizers of so many bits cost normal rows. Panter and Dite: the squared error of
/// the best scalar quantizer of b bits is at most sqrt(3) pi / 2 * 4^-b of the variance; a fraction of a bit is side data.
double ErrorBound(const StoreInfo& info) {
  const auto squared = [](double bits) { return std::sqrt(3.0) * std::numbers::pi / 2.0 * std::pow(4.0, -std::floor(bits)); };
  return 2.0 * std::sqrt(squared(info.key_bits_per_element) + squared(info.value_bits_per_element)) + 1e-2;
}

Result<void> Measure(const std::string& socket, const SampleRows& rows, const PlanSpecs& plan, const Size& size,
                     FigureReport& report) {
  auto admin = Admin::Connect(socket);
  if (!admin) return admin.error();
  auto client = Client::Connect(socket);
  if (!client) return client.error();
  const auto empty = ResidentBytes(client->daemon().pid);
  if (!empty) return empty.error();
  auto store = client->OpenStore(SpecOf(plan, size));
  if (!store) return store.error();
  auto sequence = store->Open({}, {.tail_type = ElementType::kBF16});
  if (!sequence) return sequence.error();
  auto q = client->Allocate(1, kKvHeads * kGroup, kHeadDim);
  if (!q) return q.error();
  auto out = client->Allocate(1, kKvHeads * kGroup, kHeadDim);
  if (!out) return out.error();
  Conversation conversation(std::move(*sequence), rows, size, std::move(*q), std::move(*out));
  if (auto filled = conversation.Fill(size.tokens); !filled) return filled;

  Json& figure = report.Begin();
  figure["keys"] = plan.keys;
  figure["values"] = plan.values;
  figure["layers"] = size.layers;
  figure["daemon_pid"] = client->daemon().pid;
  // The tail's ring is touched all around before anything is counted.
  for (std::size_t i = 0; i < size.steps; ++i) {
    if (auto done = conversation.Step(); !done) return done;
  }
  const auto before = Count(*admin, *client);
  if (!before) return before.error();
  Series series;
  for (std::size_t i = 0; i < size.steps; ++i) {
    const auto start = std::chrono::steady_clock::now();
    if (auto done = conversation.Step(); !done) return done;
    series.calls_ns.push_back(std::chrono::duration<double, std::nano>(std::chrono::steady_clock::now() - start).count());
  }
  const auto after = Count(*admin, *client);
  if (!after) return after.error();

  const double error = conversation.Error();
  const double bound = ErrorBound(store->info());
  if (!(error <= bound)) {
    return Error{ErrorCode::kInternal, plan.keys + " / " + plan.values +
                                           ": the daemon's attention differs from the plain one by " + std::to_string(error) +
                                           ", more than " + std::to_string(bound)};
  }
  const auto stats = admin->Stats();
  if (!stats) return stats.error();
  const auto resident = ResidentBytes(client->daemon().pid);
  if (!resident) return resident.error();
  const auto steps = static_cast<double>(size.steps);
  figure["tokens"] = conversation.length();
  PutTimes(figure, series);
  figure["logical_f16_bytes"] = stats->figures.Find("logical_f16_bytes").value_or(0);
  figure["compressed_bytes"] = stats->figures.Find("compressed_bytes").value_or(0);
  figure["reported_resident_bytes"] = stats->figures.Find("resident_bytes").value_or(0);
  figure["metadata_bytes"] = stats->figures.Find("metadata_bytes").value_or(0);
  figure["arena_bytes"] = stats->figures.Find("arena_bytes").value_or(0);
  figure["daemon_empty_bytes"] = empty->all;
  figure["daemon_resident_bytes"] = resident->all;
  figure["daemon_arena_bytes"] = resident->arenas;
  figure["client_faults_per_step"] = static_cast<double>(after->client_faults - before->client_faults) / steps;
  const Faults& faults = after->daemon_faults;
  figure["daemon_faults_per_step"] = static_cast<double>(faults.steps - before->daemon_faults.steps) / steps;
  figure["background_faults_per_step"] = static_cast<double>(faults.background - before->daemon_faults.background) / steps;
  figure["copied_bytes_per_step"] = static_cast<double>(after->copied_bytes - before->copied_bytes) / steps;
  figure["error"] = error;
  const double allowed =
      kTargetFactor * static_cast<double>(stats->figures.Find("compressed_bytes").value_or(0)) + kTargetExtra;
  // Arenas are the clients' memory: their pages are counted where they are made, and the daemon only maps them, too.
  figure["target"] = "<= 1.03 x compressed + 16 MiB, without arenas";
  figure["target_met"] = static_cast<double>(resident->all - resident->arenas) <= allowed;
  report.End();
  return {};
}

}  // namespace

int BenchMemory(const Globals& globals, const BenchOptions& options) {
  const SampleRows rows = NormalSample(8 * kBlockTokens, 1);
  const bool full = options.length == BenchOptions::Length::kFull;
  Size size = full ? Size{4, 32768, 512} : Size{2, 512, 32};
  if (!options.tokens.empty()) size.tokens = options.tokens.front();
  FigureReport report("memory");
  report.head()["rows"] = rows.name;
  report.head()["shape"] = "8 KV heads, 32 query heads, head size 128, blocks of 128 tokens; bf16 tail, service placement";
  for (const PlanSpecs& plan : PlansOf(options, {{"turboquant_mse:bits=4", "turboquant_mse:bits=4"}})) {
    std::unique_ptr<DaemonProcess> daemon;
    std::string socket = options.socket;
    if (socket.empty()) {
      auto started = DaemonProcess::Start({"--budget", full ? "1GiB" : "64MiB"});
      if (!started) return Report(globals, started.error());
      daemon = std::move(*started);
      socket = daemon->socket();
    }
    if (auto done = Measure(socket, rows, plan, size, report); !done) return Report(globals, done.error());
  }
  report.Print(globals, kColumns);
  return kOk;
}

}  // namespace kvant::tools
