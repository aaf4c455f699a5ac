// Attention's buffers grow to the largest call and stay: a steady state allocates nothing. Counts every operator new of the
// binary.
#include <atomic>
#include <cstddef>
#include <cstdlib>
#include <new>

#include <gtest/gtest.h>

#include "quantizers/attention/attention.h"
#include "quantizers/attention/worker_team.h"
#include "tests/quantizers/attention_case.h"

namespace {

std::atomic<std::size_t> allocations{0};

void* Allocate(std::size_t bytes, std::size_t alignment) {
  allocations.fetch_add(1, std::memory_order_relaxed);
  void* p = std::aligned_alloc(alignment, (bytes + alignment) / alignment * alignment);
  if (p == nullptr) throw std::bad_alloc();
  return p;
}

}  // namespace

void* operator new(std::size_t bytes) { return Allocate(bytes, alignof(std::max_align_t)); }
void* operator new(std::size_t bytes, std::align_val_t alignment) {
  return Allocate(bytes, static_cast<std::size_t>(alignment));
}
void operator delete(void* p) noexcept { std::free(p); }
void operator delete(void* p, std::size_t) noexcept { std::free(p); }
void operator delete(void* p, std::align_val_t) noexcept { std::free(p); }
void operator delete(void* p, std::size_t, std::align_val_t) noexcept { std::free(p); }

namespace kvant::quantizers {
namespace {

TEST(AttentionAllocationTest, SteadyStateAllocatesNothing) {
  const Registry registry = Registry::Builtin();
  for (const char* codec : {"f16", "int8", "turboquant_mse:bits=4", "turboquant_mse:bits=2"}) {
    // Several runs per head, and a prompt of several tiles.
    test::AttentionCase step(registry, {.keys = codec, .values = codec, .group = 4, .sealed_blocks = 70}, 1);
    test::AttentionCase prompt(registry, {.keys = codec, .values = codec, .group = 4, .tail = 60, .queries = 50}, 2);
    WorkerTeam team(1);
    Attention attention(team);
    const AttendItem items[] = {step.item(), prompt.item()};
    attention.Run(items);
    const std::size_t before = allocations.load();
    attention.Run(items);
    attention.Run({&items[0], 1});
    EXPECT_EQ(allocations.load(), before) << codec;
  }
}

}  // namespace
}  // namespace kvant::quantizers
