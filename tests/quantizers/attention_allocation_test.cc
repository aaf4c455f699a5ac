// Attention's buffers grow to the largest call and stay: a steady state allocates nothing.
#include <cstddef>

#include <gtest/gtest.h>

#include "quantizers/attention/attention.h"
#include "quantizers/attention/worker_team.h"
#include "tests/quantizers/allocations.h"
#include "tests/quantizers/attention_case.h"

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
    const std::size_t before = test::Allocations();
    attention.Run(items);
    attention.Run({&items[0], 1});
    EXPECT_EQ(test::Allocations(), before) << codec;
  }
}

}  // namespace
}  // namespace kvant::quantizers
