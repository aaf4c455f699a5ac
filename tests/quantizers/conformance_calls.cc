#include "tests/quantizers/conformance_calls.h"

#include <random>

#include <gtest/gtest.h>

#include "tests/quantizers/allocations.h"

namespace kvant::quantizers::test {

std::vector<float> Gaussian(std::size_t n, std::uint64_t seed) {
  std::mt19937_64 random(seed);
  std::normal_distribution<float> normal;
  std::vector<float> v(n);
  for (float& x : v) x = normal(random);
  return v;
}

Result<void> Encode(const BlockCodec& codec, std::uint64_t position, const RowsView& rows, Block& block) {
  GuardedBytes scratch(codec.needs(0).encode);
  const std::size_t before = Allocations();
  auto stored =
      codec.Encode({.head = kHead, .first_position = position, .rows = rows, .block = block.view(), .scratch = scratch.data()});
  if (stored) {
    EXPECT_EQ(Allocations(), before) << "Encode allocates";
  }
  EXPECT_TRUE(block.intact()) << "Encode writes beyond its block";
  EXPECT_TRUE(scratch.intact()) << "Encode writes beyond its scratch";
  return stored;
}

void DecodeInto(const BlockCodec& codec, std::uint64_t position, const ConstBlockView& block, const DecodeCall& call,
                float* rows) {
  GuardedBytes scratch(codec.needs(0).decode);
  const std::size_t before = Allocations();
  codec.Decode({.head = kHead,
                .first_position = position,
                .block = block,
                .begin = call.begin,
                .end = call.end,
                .rows = rows,
                .row_stride = call.row_stride,
                .add = call.add,
                .scratch = scratch.data()});
  EXPECT_EQ(Allocations(), before) << "Decode allocates";
  EXPECT_TRUE(scratch.intact()) << "Decode writes beyond its scratch";
}

Prepared::Prepared(const KeyCodec& codec, const float* queries, std::size_t stride, std::size_t n)
    : codec_(codec),
      queries_(queries),
      stride_(stride),
      n_(n),
      prepared_(codec.needs(n).prepared),
      scratch_(codec.needs(n).scratch) {
  const std::size_t before = Allocations();
  codec.Prepare({.head = kHead,
                 .queries = queries,
                 .query_stride = stride,
                 .n = n,
                 .prepared = prepared_.data(),
                 .scratch = scratch_.data()});
  EXPECT_EQ(Allocations(), before) << "Prepare allocates";
  EXPECT_TRUE(prepared_.intact() && scratch_.intact()) << "Prepare writes beyond its memory";
}

void Prepared::Score(std::uint64_t position, const ConstBlockView& block, float* logits, std::size_t stride, bool add,
                     Ahead next) {
  const std::size_t before = Allocations();
  codec_.Score({.head = kHead,
                .first_position = position,
                .queries = queries_,
                .query_stride = stride_,
                .prepared = prepared_.data(),
                .n = n_,
                .block = block,
                .logits = logits,
                .stride = stride,
                .add = add,
                .scratch = scratch_.data(),
                .next = next});
  EXPECT_EQ(Allocations(), before) << "Score allocates";
  EXPECT_TRUE(prepared_.intact() && scratch_.intact()) << "Score writes beyond its memory";
}

Sums::Sums(const ValueCodec& codec, std::size_t n, std::size_t queries_of_call)
    : codec_(codec),
      n_(n),
      floats_(codec.accumulator_floats(queries_of_call)),
      stride_(floats_ + 2),
      acc_(n * stride_, 0.0f),
      scratch_(codec.needs(n).scratch) {}

void Sums::Add(const float* weights, std::size_t stride, const ConstBlockView& block, Ahead next) {
  const std::size_t before = Allocations();
  codec_.Accumulate({.head = kHead,
                     .first_position = 0,
                     .weights = weights,
                     .stride = stride,
                     .n = n_,
                     .block = block,
                     .acc = acc_.data(),
                     .acc_stride = stride_,
                     .acc_floats = floats_,
                     .scratch = scratch_.data(),
                     .next = next});
  EXPECT_EQ(Allocations(), before) << "Accumulate allocates";
  EXPECT_TRUE(scratch_.intact()) << "Accumulate writes beyond its scratch";
}

void Sums::Finish(const float* weight_sums, float* rows, std::size_t row_stride, bool add) {
  const std::size_t before = Allocations();
  codec_.Finish({.head = kHead,
                 .acc = acc_.data(),
                 .acc_stride = stride_,
                 .acc_floats = floats_,
                 .weight_sums = weight_sums,
                 .n = n_,
                 .rows = rows,
                 .row_stride = row_stride,
                 .add = add,
                 .scratch = scratch_.data()});
  EXPECT_EQ(Allocations(), before) << "Finish allocates";
  EXPECT_TRUE(scratch_.intact()) << "Finish writes beyond its scratch";
}

std::vector<float> Sums::Of(std::size_t query) const {
  const auto begin = acc_.begin() + static_cast<std::ptrdiff_t>(query * stride_);
  return {begin, begin + static_cast<std::ptrdiff_t>(floats_)};
}

}  // namespace kvant::quantizers::test
