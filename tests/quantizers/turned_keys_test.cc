// Raw keys before RoPE are turned once per call, and only those that some query sees.
#include "quantizers/attention/turned_keys.h"

#include <cmath>
#include <memory>
#include <random>
#include <vector>

#include <gtest/gtest.h>

#include "kernels/raw/reference/rows.h"
#include "kernels/raw/rows.h"
#include "kernels/reference/rope.h"
#include "quantizers/plan.h"
#include "tests/quantizers/toy_codecs.h"

namespace kvant::quantizers {
namespace {

constexpr std::size_t kHeads = 3;
constexpr std::size_t kDim = 40;
constexpr std::size_t kRows = 150;  // of the tail
constexpr std::uint64_t kFirst = 1000;
constexpr RopePairing kPairing = RopePairing::kAdjacent;

StoreSpec SpecOf(KeyStage stage) {
  StoreSpec spec;
  spec.name = "turned";
  spec.model = "model";
  spec.tokenizer = "bytes";
  spec.layers = 1;
  spec.kv_heads = kHeads;
  spec.head_dim = kDim;
  spec.rope.pairing = kPairing;
  spec.rope.rotary_dims = 24;
  spec.key_stage = stage;
  spec.plan.keys = stage == KeyStage::kBeforeRope ? "toy_pre_rope" : "f16";
  spec.plan.values = "f16";
  return spec;
}

class TurnedKeysTest : public testing::Test {
 protected:
  TurnedKeysTest() {
    EXPECT_TRUE(registry_.Add(test::kToyPreRope));
    before_ = Plan::Make(registry_, SpecOf(KeyStage::kBeforeRope)).value();
    after_ = Plan::Make(registry_, SpecOf(KeyStage::kAfterRope)).value();
    std::mt19937_64 random(7);
    std::normal_distribution<float> normal;
    std::vector<float> numbers(kHeads * kRows * kDim);
    for (float& x : numbers) x = normal(random);
    memory_.resize(numbers.size() * 2);
    kernels::StoreRow(numbers.data(), numbers.size(), ElementType::kF16, memory_.data());
    // Sinks, of which the memory's first rows serve, and a tail.
    raw_[0] = {memory_.data(), nullptr, ElementType::kF16, kRows * kDim, kDim, 0, 4};
    raw_[1] = {memory_.data(), nullptr, ElementType::kF16, kRows * kDim, kDim, kFirst, kRows};
  }

  [[nodiscard]] AttendItem Item(const Plan& plan, std::size_t queries, std::uint32_t window = 0) const {
    AttendItem item;
    item.cache.plan = &plan;
    item.cache.raw = raw_;
    item.query.q.tokens = queries;
    item.query.q.heads = kHeads;
    item.query.first_position = kFirst + kRows - queries;
    item.query.window = window;
    return item;
  }

  void ExpectTurned(const RawRows& turned) const {
    EXPECT_EQ(turned.type, ElementType::kF32);
    const std::uint64_t origin = turned.first_position < kFirst ? 0 : kFirst;
    for (std::size_t h = 0; h < kHeads; ++h) {
      for (std::size_t i = 0; i < turned.count; ++i) {
        const std::uint64_t position = turned.first_position + i;
        std::vector<double> row(kDim);
        for (std::size_t k = 0; k < kDim; ++k) {
          row[k] = kernels::reference::ElementAt(memory_.data(), ElementType::kF16, (h * kRows + position - origin) * kDim + k);
        }
        kernels::reference::Rotate(before_->spec().rope, kDim, row.data(), position);
        const float* got = static_cast<const float*>(turned.keys) + h * turned.head_stride + i * turned.row_stride;
        for (std::size_t k = 0; k < kDim; ++k) {
          // Rope::Rotate's bound: 7 * 2^-24 of the pair's norm.
          const double norm = k < 24 ? std::hypot(row[k], row[k ^ 1]) : 0.0;
          ASSERT_NEAR(got[k], row[k], 7 * 0x1p-24 * norm) << "head " << h << " position " << position << " dim " << k;
        }
      }
    }
  }

  Registry registry_ = Registry::Builtin();
  std::unique_ptr<const Plan> before_;
  std::unique_ptr<const Plan> after_;
  std::vector<std::byte> memory_;  ///< [kHeads, kRows, kDim] f16
  RawRows raw_[2];
};

TEST_F(TurnedKeysTest, EachRowIsTurnedOnceWhateverTheNumberOfQueries) {
  for (const std::size_t queries : {1, 7, 100}) {
    TurnedKeys keys;
    const AttendItem item = Item(*before_, queries);
    keys.Lay({&item, 1});
    EXPECT_EQ(keys.jobs(), 4u);                                // the sinks, and 150 rows in runs of 64
    for (std::size_t i = keys.jobs(); i-- > 0;) keys.Turn(i);  // in any order
    ASSERT_EQ(keys.KeysOf(0).size(), 2u);
    EXPECT_EQ(keys.KeysOf(0)[0].count, 4u);
    EXPECT_EQ(keys.KeysOf(0)[1].count, kRows);
    ExpectTurned(keys.KeysOf(0)[0]);
    ExpectTurned(keys.KeysOf(0)[1]);
  }
}

TEST_F(TurnedKeysTest, RowsOutsideTheWindowAreLeftOut) {
  TurnedKeys keys;
  const AttendItem item = Item(*before_, 10, 50);
  keys.Lay({&item, 1});
  EXPECT_EQ(keys.jobs(), 1u);
  keys.Turn(0);
  EXPECT_EQ(keys.KeysOf(0)[0].count, 0u);
  EXPECT_EQ(keys.KeysOf(0)[1].first_position, kFirst + kRows - 10 + 1 - 50);  // what the first query sees
  EXPECT_EQ(keys.KeysOf(0)[1].count, 59u);
  ExpectTurned(keys.KeysOf(0)[1]);
}

TEST_F(TurnedKeysTest, KeysAfterRopeStayWhereTheyAre) {
  TurnedKeys keys;
  const AttendItem items[] = {Item(*after_, 3), Item(*before_, 3), Item(*after_, 3)};
  keys.Lay(items);
  EXPECT_EQ(keys.jobs(), 4u);
  for (std::size_t i = 0; i < keys.jobs(); ++i) keys.Turn(i);
  EXPECT_EQ(keys.KeysOf(0).data(), raw_);
  EXPECT_EQ(keys.KeysOf(2).data(), raw_);
  ExpectTurned(keys.KeysOf(1)[1]);
  keys.Lay({&items[0], 1});  // the next call knows nothing of the last one
  EXPECT_EQ(keys.jobs(), 0u);
}

}  // namespace
}  // namespace kvant::quantizers
