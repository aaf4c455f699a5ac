// An engine with worker threads: each has a client of its own to the same daemon, and all share one prefix.
//
//   worker_threads [unix:PATH]        (without an argument the daemon runs inside this process)
#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <string>
#include <thread>
#include <vector>

#include <kvant/client.h>

namespace {

constexpr std::size_t kTokens = 300;
constexpr std::size_t kHeads = 2;
constexpr std::size_t kDim = 64;

kvant::StoreSpec Spec() {
  kvant::StoreSpec spec;
  spec.name = "workers";
  spec.model = "waves-1";
  spec.tokenizer = "none";
  spec.layers = 1;
  spec.kv_heads = kHeads;
  spec.head_dim = kDim;
  return spec;
}

/// Stands for a model: some smooth numbers.
void Fill(const kvant::TensorView& rows, std::size_t first_token) {
  for (std::size_t t = 0; t < rows.tokens; ++t) {
    for (std::size_t h = 0; h < rows.heads; ++h) {
      float* row = static_cast<float*>(rows.data) + t * rows.token_stride + h * rows.head_stride;
      for (std::size_t i = 0; i < rows.dim; ++i) {
        row[i] = std::sin(0.1f * static_cast<float>(first_token + t + 1) + 0.3f * static_cast<float>(h * kDim + i));
      }
    }
  }
}

/// Opens the prompt, computes what is not cached, and attends once. Writes what it found.
kvant::Result<void> Work(kvant::Client& client, std::array<float, 3>& output, kvant::SequenceCounters& counters,
                         std::size_t& found) {
  auto store = client.OpenStore(Spec());
  if (!store) return store.error();
  const std::vector<kvant::TokenId> tokens(kTokens, 7);
  auto sequence = store->Open(tokens, {.placement = kvant::Placement::kLocal, .tail_type = kvant::ElementType::kF32});
  if (!sequence) return sequence.error();
  found = sequence->prefix_hit_tokens();
  while (sequence->length() < kTokens) {
    const std::size_t length = sequence->length();
    auto rows = sequence->Reserve(std::min(sequence->reservable(), kTokens - length));
    if (!rows) return rows.error();
    Fill(rows->Keys(0), length);
    Fill(rows->Values(0), length);
    if (auto advanced = sequence->Advance({tokens.data(), rows->tokens()}); !advanced) return advanced;
  }
  std::vector<float> q(kHeads * kDim), out(kHeads * kDim);
  const kvant::TensorView query{q.data(), kvant::ElementType::kF32, 1, kHeads, kDim, kHeads * kDim, kDim};
  Fill(query, kTokens);
  const kvant::TensorView answer{out.data(), kvant::ElementType::kF32, 1, kHeads, kDim, kHeads * kDim, kDim};
  if (auto attended = sequence->Attend(0, {.q = kvant::AsConst(query), .out = answer, .scale = 0.125f}); !attended)
    return attended;
  std::copy_n(out.begin(), output.size(), output.begin());
  counters = sequence->counters();
  return {};
}

struct Worker {
  std::array<float, 3> output{};
  kvant::SequenceCounters counters;
  std::size_t found = 0;
  std::chrono::microseconds connected{0};
  kvant::Result<void> done;
};

int Run(const char* uri) {
  auto client = kvant::Client::Connect(uri);
  if (!client) {
    std::fprintf(stderr, "worker_threads: %s\n", client.error().message.c_str());
    return 1;
  }
  Worker first;
  first.done = Work(*client, first.output, first.counters, first.found);  // reads the prompt: its blocks stay in the store
  std::array<Worker, 4> workers;
  std::vector<std::thread> threads;
  for (Worker& worker : workers) {
    threads.emplace_back([&client, &worker] {
      const auto begin = std::chrono::steady_clock::now();
      auto own = client->ForThisThread();
      worker.connected = std::chrono::duration_cast<std::chrono::microseconds>(std::chrono::steady_clock::now() - begin);
      worker.done = own ? Work(*own, worker.output, worker.counters, worker.found) : kvant::Result<void>(own.error());
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (const Worker* worker : {&first, &workers[0], &workers[1], &workers[2], &workers[3]}) {
    if (!worker->done) {
      std::fprintf(stderr, "worker_threads: %s\n", worker->done.error().message.c_str());
      return 1;
    }
    std::printf("%s: %zu tokens found, %zu computed, output starts %.4f %.4f %.4f\n",
                worker == &first ? "connecting thread" : "worker thread", worker->found,
                static_cast<std::size_t>(worker->counters.tokens_advanced), worker->output[0], worker->output[1],
                worker->output[2]);
  }
  std::fprintf(stderr, "a worker's connection took %d us\n", static_cast<int>(workers[0].connected.count()));
  return 0;
}

}  // namespace

int main(int argc, char** argv) { return Run(argc > 1 ? argv[1] : "embedded:"); }
