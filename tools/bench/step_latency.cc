#include "tools/bench/step_latency.h"

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <numeric>
#include <sstream>
#include <utility>

#include <sys/resource.h>
#include <unistd.h>

#include "tools/bench/step_latency_engine.h"

namespace kvant::tools {
namespace {

using Clock = std::chrono::steady_clock;

double Nanoseconds(Clock::time_point begin, Clock::time_point end) {
  return std::chrono::duration<double, std::nano>(end - begin).count();
}

std::uint64_t NewSalt() {
  static std::atomic<std::uint64_t> count{0};
  return static_cast<std::uint64_t>(Clock::now().time_since_epoch().count()) * 1024 + count.fetch_add(1);
}

std::vector<TokenId> CountUp(std::size_t tokens) {
  std::vector<TokenId> ids(tokens);
  std::iota(ids.begin(), ids.end(), TokenId{0});
  return ids;
}

/// Minor and major faults of this process and of another.
std::uint64_t PageFaults(std::uint64_t daemon) {
  rusage own{};
  ::getrusage(RUSAGE_SELF, &own);
  auto faults = static_cast<std::uint64_t>(own.ru_minflt + own.ru_majflt);
  if (daemon != static_cast<std::uint64_t>(::getpid())) {
    std::ifstream stat("/proc/" + std::to_string(daemon) + "/stat");
    std::string text((std::istreambuf_iterator<char>(stat)), {});
    std::istringstream fields(text.substr(std::min(text.size(), text.rfind(')') + 1)));
    std::string skipped;
    for (int i = 0; i < 7; ++i) fields >> skipped;
    std::uint64_t minor = 0;
    std::uint64_t children = 0;
    std::uint64_t major = 0;
    fields >> minor >> children >> major;
    faults += minor + major;
  }
  return faults;
}

Result<Client> Connect(const std::string& socket, std::chrono::microseconds spin) {
  ClientOptions options;
  options.name = "step_latency";
  options.spin = spin;
  return Client::Connect("unix:" + socket, options);
}

/// A sequence with one reserved row, on which the same step can be repeated.
struct Standing {
  static Result<Standing> Make(Store& store, Placement placement, const StepShape& shape, std::span<const TokenId> tokens) {
    auto sequence = store.Open({}, OptionsOf(placement));
    if (!sequence) return sequence.error();
    if (auto fed = Feed(*sequence, shape, tokens); !fed) return fed.error();
    return Standing{*std::move(sequence)};
  }
  /// What the engine does between steps, in any design: reads the last output, writes the next query and the new row. So these
  /// lie in this core's cache when a step begins, and not in the daemon's.
  Result<NewRows> Write(StepTensors& tensors) {
    auto rows = sequence.Reserve(1);
    if (rows) WriteRows(*rows, 0, sequence.length());
    tensors.Turn();
    return rows;
  }
  Result<void> Step(const AttendArgs& args) {
    if (auto rows = sequence.Reserve(1); !rows) return rows.error();
    return sequence.Attend(0, args);
  }
  Sequence sequence;
};

Result<std::vector<float>> OutputOf(Result<void> done, StepTensors& tensors) {
  if (!done) return done.error();
  const TensorView& out = tensors.out.view();
  const float* numbers = tensors.out.f32();
  std::vector<float> copy(numbers, numbers + out.heads * out.dim);
  std::fill_n(tensors.out.f32(), copy.size(), 0.0f);
  return copy;
}

bool SameBits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

Error DifferentBits(const std::string& who) {
  return {ErrorCode::kInternal, who + " do not give the same bits; what is wrong gets no time"};
}

Result<StepTimes> MeasureStanding(Client& client, Standing& standing, PreparedAttention& prepared, StepTensors& tensors,
                                  std::size_t steps) {
  const AttendArgs args = tensors.args();
  std::vector<double> step(steps);
  std::vector<double> compute(steps);
  std::vector<double> overhead(steps);
  ClientCounters before;
  std::uint64_t faults = 0;
  const std::size_t warm_up = steps / 10 + 10;
  for (std::size_t i = 0; i < warm_up + steps; ++i) {
    if (i == warm_up) {
      before = client.counters();
      faults = PageFaults(client.daemon().pid);
    }
    if (auto rows = standing.Write(tensors); !rows) return rows.error();
    const auto begin = Clock::now();
    if (auto done = standing.Step(args); !done) return done.error();
    const auto middle = Clock::now();
    prepared.Run();
    const auto end = Clock::now();
    if (i < warm_up) continue;
    step[i - warm_up] = Nanoseconds(begin, middle);
    compute[i - warm_up] = Nanoseconds(middle, end);
    overhead[i - warm_up] = step[i - warm_up] - compute[i - warm_up];
  }
  const ClientCounters after = client.counters();
  const auto n = static_cast<double>(steps);
  StepTimes times;
  times.page_faults_per_step = static_cast<double>(PageFaults(client.daemon().pid) - faults) / n;
  times.calls_per_step = static_cast<double>(after.rpc_calls - before.rpc_calls) / n;
  times.bytes_copied_per_step = static_cast<double>(after.bytes_copied - before.bytes_copied) / n;
  times.step = SpreadOf(step);
  times.compute = SpreadOf(compute);
  times.overhead = SpreadOf(overhead);
  return times;
}

Result<Spread> MeasurePing(Client& client, std::size_t pings) {
  std::vector<double> times;
  for (std::size_t i = 0; i < pings; ++i) {
    auto ping = client.Ping();
    if (!ping) return ping.error();
    times.push_back(static_cast<double>(ping->count()));
  }
  return SpreadOf(times);
}

/// One token through a whole model, timed.
Result<double> Token(Sequence& sequence, const StepShape& shape, const AttendArgs& args, TokenId token) {
  auto rows = sequence.Reserve(1);
  if (!rows) return rows.error();
  for (std::size_t layer = 0; layer < shape.layers; ++layer) WriteRows(*rows, layer, sequence.length());
  const auto begin = Clock::now();
  if (auto again = sequence.Reserve(1); !again) return again.error();
  for (std::size_t layer = 0; layer < shape.layers; ++layer) {
    if (auto done = sequence.Attend(layer, args); !done) return done.error();
  }
  if (auto advanced = sequence.Advance({&token, 1}); !advanced) return advanced.error();
  return Nanoseconds(begin, Clock::now());
}

}  // namespace

Spread SpreadOf(std::vector<double>& nanoseconds) {
  if (nanoseconds.empty()) return {};
  std::ranges::sort(nanoseconds);
  const std::size_t n = nanoseconds.size();
  return {nanoseconds[n / 2] * 1e-3, nanoseconds[n * 99 / 100] * 1e-3};
}

Result<StepLatency> MeasureSteps(const StepOptions& options) {
  auto client = Connect(options.socket, options.spin);
  if (!client) return client.error();
  const StoreSpec spec = SpecOf(options.shape, NewSalt());
  auto store = client->OpenStore(spec);
  if (!store) return store.error();
  auto tensors = StepTensors::Make(*client, options.shape);
  if (!tensors) return tensors.error();
  auto others = StepTensors::Make(*client, options.shape);  // of the prepared items
  if (!others) return others.error();
  const auto tokens = CountUp(options.context_tokens);
  // Both fed from nothing: blocks found at opening would be read as codes earlier.
  auto service = Standing::Make(*store, Placement::kService, options.shape, tokens);
  if (!service) return service.error();
  auto local = Standing::Make(*store, Placement::kLocal, options.shape, tokens);
  if (!local) return local.error();
  std::vector<std::unique_ptr<PreparedAttention>> prepared;
  for (Standing* standing : {&*service, &*local}) {
    auto rows = standing->Write(*tensors);
    if (!rows) return rows.error();
    auto made = PreparedAttention::Make(spec, store->info().identity, tokens.size(), *rows, *others);
    if (!made) return made.error();
    prepared.push_back(*std::move(made));
  }

  auto by_daemon = OutputOf(service->Step(tensors->args()), *tensors);
  if (!by_daemon) return by_daemon.error();
  auto by_client = OutputOf(local->Step(tensors->args()), *tensors);
  if (!by_client) return by_client.error();
  if (!SameBits(*by_daemon, *by_client)) return DifferentBits("the daemon and the client");
  for (const auto& by_hand : prepared) {
    by_hand->Run();
    auto out = OutputOf({}, *others);
    if (!out) return out.error();
    if (!SameBits(*by_client, *out)) return DifferentBits("the client and prepared items");
  }

  auto service_times = MeasureStanding(*client, *service, *prepared[0], *tensors, options.steps);
  if (!service_times) return service_times.error();
  auto local_times = MeasureStanding(*client, *local, *prepared[1], *tensors, options.steps);
  if (!local_times) return local_times.error();
  auto ping = MeasurePing(*client, options.steps);
  if (!ping) return ping.error();
  return StepLatency{.service = *service_times, .local = *local_times, .ping = *ping};
}

Result<SealLatency> MeasureSealing(const SealOptions& options) {
  auto client = Connect(options.socket, options.spin);
  if (!client) return client.error();
  auto tensors = StepTensors::Make(*client, options.shape);
  if (!tensors) return tensors.error();
  const AttendArgs args = tensors->args();
  const auto tokens = CountUp(options.context_tokens + options.blocks * options.shape.block_tokens);
  std::vector<double> sealing;
  std::vector<double> without;
  for (std::size_t round = 0; round < options.rounds; ++round) {
    auto store = client->OpenStore(SpecOf(options.shape, NewSalt()));
    if (!store) return store.error();
    for (std::vector<double>* times : {&sealing, &without}) {
      auto sequence = store->Open({}, OptionsOf(options.placement));
      if (!sequence) return sequence.error();
      if (auto fed = Feed(*sequence, options.shape, std::span(tokens).first(options.context_tokens)); !fed) return fed.error();
      while (sequence->length() < tokens.size()) {
        auto time = Token(*sequence, options.shape, args, tokens[sequence->length()]);
        if (!time) return time.error();
        times->push_back(*time);
      }
    }
  }
  SealLatency latency;
  latency.sealing = SpreadOf(sealing);
  latency.without = SpreadOf(without);
  latency.p99_ratio = latency.sealing.p99_us / latency.without.p99_us;
  latency.sealed_blocks = options.rounds * options.blocks;
  return latency;
}

}  // namespace kvant::tools
