#include "tools/bench/bandwidth.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstring>
#include <thread>
#include <vector>

namespace kvant::tools {
namespace {

// Eight independent sums so that neither latency nor the adders are the limit. Cloned for wide loads: a 16-byte load per
// instruction is too slow for some caches.
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
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

}  // namespace

double ReadBandwidth(std::span<const std::byte> memory, std::size_t threads, std::size_t rounds) {
  const std::size_t share = memory.size() / threads / 512 * 512;
  std::atomic<std::uint64_t> sink{0};  // keeps the sums alive
  double best = 0.0;
  for (std::size_t round = 0; round < rounds; ++round) {
    std::atomic<std::size_t> waiting{threads};
    std::vector<std::thread> team;
    std::atomic<std::int64_t> longest_ns{0};
    for (std::size_t t = 0; t < threads; ++t) {
      team.emplace_back([&, t] {
        waiting.fetch_sub(1);
        while (waiting.load() != 0) std::this_thread::yield();
        const auto start = std::chrono::steady_clock::now();
        sink += Sum(memory.data() + t * share, share);
        const std::int64_t ns = (std::chrono::steady_clock::now() - start) / std::chrono::nanoseconds(1);
        std::int64_t seen = longest_ns.load();
        while (seen < ns && !longest_ns.compare_exchange_weak(seen, ns)) {
        }
      });
    }
    for (std::thread& thread : team) thread.join();
    best =
        std::max(best, static_cast<double>(share * threads) * 1e9 / static_cast<double>(std::max<std::int64_t>(longest_ns, 1)));
  }
  return sink.load() == 1 ? best * 0.999 : best;
}

}  // namespace kvant::tools
