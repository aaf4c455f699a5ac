#include "tools/bench/bandwidth.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstring>

#include "quantizers/attention/worker_team.h"

namespace kvant::tools {
namespace {

// Eight independent sums so that neither latency nor the adders are the limit. Cloned for wide loads: a 16-byte load per
// instruction is too slow for some caches. The choice among clones is made before ThreadSanitizer is there to watch it.
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && !defined(__SANITIZE_THREAD__)
__attribute__((target_clones("default", "avx2", "avx512f")))
#endif
std::uint64_t
Sum(const std::byte* data, std::size_t bytes) {
  constexpr std::size_t kLanes = 64;
  std::uint64_t sums[kLanes] = {};
  for (std::size_t at = 0; at + sizeof(sums) <= bytes; at += sizeof(sums)) {
    std::uint64_t words[kLanes];
    std::memcpy(words, data + at, sizeof(words));
    for (std::size_t i = 0; i < kLanes; ++i) sums[i] += words[i];
  }
  std::uint64_t total = 0;
  for (const std::uint64_t sum : sums) total += sum;
  return total;
}

struct Portion {
  const std::byte* data;
  std::size_t piece_bytes;
  std::atomic<std::uint64_t> sum{0};  // keeps the additions alive
};

}  // namespace

void ReadOnlySum::Run() {
  if (next_ + portion_bytes_ > memory_.size()) next_ = 0;
  const std::size_t threads = executor_.threads();
  // Several pieces per thread: a core that a neighbour takes away holds up one piece, not half of the work.
  const std::size_t pieces = threads == 1 ? 1 : 4 * threads;
  Portion portion{memory_.data() + next_, portion_bytes_ / pieces / 512 * 512, {}};
  executor_.ForEach(
      pieces,
      [](void* context, std::size_t i, std::size_t) {
        auto& p = *static_cast<Portion*>(context);
        p.sum += Sum(p.data + i * p.piece_bytes, p.piece_bytes);
      },
      &portion);
  asm volatile("" : : "r"(portion.sum.load()));
  next_ += portion_bytes_;
}

double ReadBandwidth(std::span<const std::byte> memory, std::size_t threads, std::size_t rounds) {
  quantizers::WorkerTeam team(threads - 1, std::chrono::milliseconds(2));
  ReadOnlySum sum(team, memory, memory.size());
  double best = 0.0;
  for (std::size_t round = 0; round < rounds; ++round) {
    const auto start = std::chrono::steady_clock::now();
    sum.Run();
    const std::chrono::duration<double> time = std::chrono::steady_clock::now() - start;
    best = std::max(best, static_cast<double>(memory.size()) / time.count());
  }
  return best;
}

}  // namespace kvant::tools
