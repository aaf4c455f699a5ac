// kvantctl bench neighbour: what one client's long attention does to another client of the same daemon. Latencies of the
// neighbour's pings, opens and decoding steps, alone and while a prompt of another client is read.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstring>
#include <optional>
#include <random>
#include <thread>
#include <utility>
#include <vector>

#include <kvant/client.h>

#include "tools/bench/series.h"
#include "tools/kvantctl/bench/bench.h"
#include "tools/kvantctl/bench/daemon_process.h"

namespace kvant::tools {
namespace {

using Clock = std::chrono::steady_clock;

constexpr std::uint32_t kHeads = 8;
constexpr std::uint32_t kQueryHeads = 32;
constexpr std::uint32_t kDim = 128;
constexpr float kSoftmaxScale = 0.088388f;

const std::vector<FigureColumn> kColumns = {{"CALL", "call"},
                                            {"BESIDE", "beside"},
                                            {"CALLS", "calls", "%.0f"},
                                            {"MEDIAN ms", "median_ns", "%.3f", 1e6},
                                            {"P99 ms", "p99_ns", "%.3f", 1e6},
                                            {"WORST ms", "worst_ns", "%.3f", 1e6},
                                            {"TARGET", "target"},
                                            {"MET", "target_met"}};

/// One layer, rows of one kind that never change: what is measured is who waits for whom.
class Prompt {
 public:
  static Result<Prompt> Make(const std::string& socket, const BenchOptions& options, std::string store, std::size_t tokens,
                             std::uint32_t step_tokens) {
    auto client = Client::Connect(socket, {.deadline = std::chrono::minutes(5), .arena_bytes = std::size_t{512} << 20});
    if (!client) return client.error();
    StoreSpec spec;
    spec.name = std::move(store);
    spec.model = "bench";
    spec.tokenizer = "bench";
    spec.layers = 1;
    spec.kv_heads = kHeads;
    spec.head_dim = kDim;
    spec.plan.keys = options.keys.empty() ? "int8" : options.keys;
    spec.plan.values = options.values.empty() ? "int8" : options.values;
    auto opened = client->OpenStore(spec);
    if (!opened) return opened.error();
    auto sequence = opened->Open({}, {.max_step_tokens = step_tokens});
    if (!sequence) return sequence.error();
    Prompt prompt(*std::move(client), *std::move(opened), *std::move(sequence));
    while (prompt.sequence_.length() < tokens) {
      if (auto fed = prompt.Feed(std::min<std::size_t>(step_tokens, tokens - prompt.sequence_.length())); !fed)
        return fed.error();
    }
    return prompt;
  }

  [[nodiscard]] Client& client() noexcept { return client_; }
  [[nodiscard]] Store& store() noexcept { return store_; }

  /// Rows of the next `tokens`, and queries for them; Attend may be called again and again.
  Result<void> Reserve(std::size_t tokens) {
    auto rows = WriteRows(tokens);
    if (!rows) return rows.error();
    auto q = client_.Allocate(*rows, kQueryHeads, kDim);
    auto out = client_.Allocate(*rows, kQueryHeads, kDim);
    if (!q) return q.error();
    if (!out) return out.error();
    std::mt19937 random(7);
    std::normal_distribution<float> normal;
    std::generate_n(q->f32(), *rows * kQueryHeads * kDim, [&] { return normal(random); });
    q_ = *std::move(q);
    out_ = *std::move(out);
    return {};
  }
  Result<void> Attend() { return sequence_.Attend(0, {.q = AsConst(q_->view()), .out = out_->view(), .scale = kSoftmaxScale}); }
  /// The outputs of the last Attend.
  [[nodiscard]] std::vector<float> Outputs() {
    const TensorView& view = out_->view();
    return {out_->f32(), out_->f32() + view.tokens * view.heads * view.dim};
  }

 private:
  Prompt(Client client, Store store, Sequence sequence)
      : client_(std::move(client)), store_(std::move(store)), sequence_(std::move(sequence)) {}

  Result<std::size_t> WriteRows(std::size_t tokens) {
    auto rows = sequence_.Reserve(tokens);
    if (!rows) return rows.error();
    for (const TensorView& side : {rows->Keys(0), rows->Values(0)}) {
      for (std::size_t head = 0; head < kHeads; ++head) {
        for (std::size_t token = 0; token < rows->tokens(); ++token) {
          auto* row = static_cast<std::uint16_t*>(side.data) + head * side.head_stride + token * side.token_stride;
          for (std::size_t d = 0; d < kDim; ++d) {  // halves between 1/8 and 1/4, of changing sign
            const std::size_t mixed = (sequence_.length() + token) * 131 + d * 17 + head * 7;
            row[d] = static_cast<std::uint16_t>(0x3000 + (mixed & 0x3FF) + ((mixed >> 3 & 1) << 15));
          }
        }
      }
    }
    return rows->tokens();
  }
  Result<void> Feed(std::size_t tokens) {
    auto rows = WriteRows(tokens);
    if (!rows) return rows.error();
    std::vector<TokenId> ids(*rows);
    for (std::size_t i = 0; i < ids.size(); ++i) ids[i] = static_cast<TokenId>(sequence_.length() + i);
    return sequence_.Advance(ids);
  }

  Client client_;
  Store store_;
  Sequence sequence_;
  std::optional<Tensor> q_;
  std::optional<Tensor> out_;
};

/// Adds the time of one call.
template <typename Call>
Result<void> Take(Series& series, Call call) {
  const auto begin = Clock::now();
  if (Result<void> done = call(); !done) return done;
  series.calls_ns.push_back(std::chrono::duration<double, std::nano>(Clock::now() - begin).count());
  return {};
}

struct Neighbour {
  Series pings;
  Series opens;
  Series steps;
  std::vector<float> outputs;

  /// A round of calls every two milliseconds, until `enough(rounds)`.
  template <typename Enough>
  Result<void> Run(Prompt& prompt, Enough enough) {
    for (std::size_t round = 0; !enough(round); ++round) {
      auto done = Take(pings, [&]() -> Result<void> {
        auto answered = prompt.client().Ping();
        return answered ? Result<void>() : answered.error();
      });
      if (!done) return done;
      done = Take(opens, [&]() -> Result<void> {
        auto sequence = prompt.store().Open({}, {.max_step_tokens = 16});
        return sequence ? Result<void>() : sequence.error();
      });
      if (!done) return done;
      if (done = Take(steps, [&] { return prompt.Attend(); }); !done) return done;
      const auto now = prompt.Outputs();
      if (outputs.empty()) outputs = now;
      if (std::memcmp(outputs.data(), now.data(), now.size() * sizeof(float)) != 0) {
        return Error{ErrorCode::kInternal, "neighbour: a step gave other numbers than the one before"};
      }
      std::this_thread::sleep_for(std::chrono::milliseconds(2));
    }
    return {};
  }
};

void Put(FigureReport& report, const char* call, const char* beside, const Series& series, std::optional<double> alone_p99) {
  Json& figure = report.Begin();
  figure["call"] = call;
  figure["beside"] = beside;
  PutTimes(figure, series);
  figure["worst_ns"] = Quantile(series.calls_ns, 1.0);
  if (alone_p99) {
    figure["target"] = "p99 <= alone + 20 ms";
    figure["target_met"] = Quantile(series.calls_ns, 0.99) <= *alone_p99 + 20e6;
  }
  report.End();
}

Result<void> Measure(const std::string& socket, const BenchOptions& options, FigureReport& report) {
  const bool full = options.length == BenchOptions::Length::kFull;
  const std::size_t tokens = !options.tokens.empty() ? options.tokens.front() : full ? 32768 : 1024;
  const std::uint32_t new_tokens = full ? 512 : 32;
  const std::size_t prefills = full ? 5 : 1;
  auto heavy = std::optional<Result<void>>();
  auto neighbour = Prompt::Make(socket, options, "bench-neighbour", full ? 4096 : 512, 128);
  if (!neighbour) return neighbour.error();
  if (auto reserved = neighbour->Reserve(1); !reserved) return reserved;
  Neighbour alone;
  if (auto done = alone.Run(*neighbour, [&](std::size_t round) { return round >= (full ? 500u : 5u); }); !done) return done;

  std::atomic<bool> begun{false}, ended{false};
  Series prefill;
  std::thread thread([&] {
    heavy = [&]() -> Result<void> {
      auto prompt = Prompt::Make(socket, options, "bench-prefill", tokens, new_tokens);
      if (!prompt) return prompt.error();
      if (auto reserved = prompt->Reserve(new_tokens); !reserved) return reserved;
      begun = true;
      for (std::size_t i = 0; i < prefills; ++i) {
        if (auto done = Take(prefill, [&] { return prompt->Attend(); }); !done) return done;
      }
      return {};
    }();
    begun = ended = true;
  });
  while (!begun) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  Neighbour beside;
  beside.outputs = alone.outputs;
  const auto done = beside.Run(*neighbour, [&](std::size_t round) { return round > 0 && ended; });
  thread.join();
  if (!done) return done;
  if (!*heavy) return *heavy;

  report.head()["neighbour"] = "one query over " + std::string(full ? "4096" : "512") + " tokens per step";
  report.head()["prefill"] = std::to_string(new_tokens) + " queries over " + std::to_string(tokens) + " tokens per call";
  const char* const kPrefill = "a prefill";
  const char* const kNothing = "nothing";
  Put(report, "ping", kNothing, alone.pings, {});
  Put(report, "ping", kPrefill, beside.pings, Quantile(alone.pings.calls_ns, 0.99));
  Put(report, "open", kNothing, alone.opens, {});
  Put(report, "open", kPrefill, beside.opens, Quantile(alone.opens.calls_ns, 0.99));
  Put(report, "step", kNothing, alone.steps, {});
  Put(report, "step", kPrefill, beside.steps, Quantile(alone.steps.calls_ns, 0.99));
  Put(report, "prefill", "the neighbour", prefill, {});
  return {};
}

}  // namespace

int BenchNeighbour(const Globals& globals, const BenchOptions& options) {
  FigureReport report("neighbour");
  std::unique_ptr<DaemonProcess> daemon;
  std::string socket = options.socket;
  if (socket.empty()) {
    auto started = DaemonProcess::Start({});
    if (!started) return Report(globals, started.error());
    daemon = *std::move(started);
    socket = daemon->socket();
  }
  if (auto done = Measure(socket, options, report); !done) return Report(globals, done.error());
  report.Print(globals, kColumns);
  return kOk;
}

}  // namespace kvant::tools
