// A number that is not finite is an error, wherever it comes from; and rows that an engine forgot to write are named.
#include <cmath>
#include <cstdlib>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <kvant/client.h>

#include "tests/support/conversation.h"
#include "tests/support/daemon_env.h"

namespace kvant::testing {
namespace {

using ::testing::HasSubstr;

constexpr ModelShape kShape{.layers = 2, .kv_heads = 1, .q_heads = 2, .head_dim = 64};

class NotFiniteTest : public ::testing::TestWithParam<Placement> {
 protected:
  NotFiniteTest()
      : client_(env_.Connect()),
        store_(client_.OpenStore(SpecOf(kShape, "bf16", "bf16")).value()),
        sequence_(Open()),
        q_(client_.Allocate(8, kShape.q_heads, kShape.head_dim).value()),
        out_(client_.Allocate(8, kShape.q_heads, kShape.head_dim).value()) {}

  Sequence Open() {
    return store_.Open({}, {.placement = GetParam(), .recent_tokens = 16, .max_step_tokens = 8, .tail_type = ElementType::kF32})
        .value();
  }

  static float* Row(const TensorView& rows, std::size_t token) {
    return static_cast<float*>(rows.data) + token * rows.token_stride;
  }
  static void Fill(const NewRows& rows, std::size_t layer, float key, float value) {
    for (std::size_t t = 0; t < rows.tokens(); ++t) {
      std::fill_n(Row(rows.Keys(layer), t), kShape.head_dim, key);
      std::fill_n(Row(rows.Values(layer), t), kShape.head_dim, value);
    }
  }
  Result<void> Attend(std::size_t tokens, float query) {
    std::fill_n(q_.f32(), tokens * kShape.q_heads * kShape.head_dim, query);
    TensorView q = q_.view();
    TensorView out = out_.view();
    q.tokens = out.tokens = tokens;
    return sequence_.Attend(0, {.q = AsConst(q), .out = out, .scale = 0.125f});
  }
  static void ExpectNotFinite(const Result<void>& result, const std::string& words) {
    ASSERT_FALSE(result);
    EXPECT_EQ(result.error().code, ErrorCode::kNotFinite) << result.error().message;
    EXPECT_THAT(result.error().message, HasSubstr(words));
  }

  DaemonEnv env_;
  Client client_;
  Store store_;
  Sequence sequence_;
  Tensor q_;
  Tensor out_;
};

TEST_P(NotFiniteTest, ProductsBeyondF32) {
  const NewRows rows = sequence_.Reserve(8).value();
  for (const float sign : {1.0f, -1.0f}) {
    for (const bool cancel : {false, true}) {
      Fill(rows, 0, 1.0f, 1.0f);
      for (std::size_t d = 0; d < kShape.head_dim; ++d)
        Row(rows.Keys(0), 3)[d] = sign * (cancel && d % 2 == 1 ? -3e38f : 3e38f);
      if (sign < 0 && !cancel) continue;  // a logit of minus infinity among others has no weight: that is the right answer
      ExpectNotFinite(Attend(8, 100.0f), "result of token 3");
    }
  }
  Fill(rows, 0, -3e38f, 1.0f);  // every logit: nothing has a weight
  ExpectNotFinite(Attend(8, 100.0f), "the result is not finite");
  Fill(rows, 0, 1.0f, 1.0f);
  EXPECT_TRUE(Attend(8, 100.0f));
}

TEST_P(NotFiniteTest, ValuesBeyondTheOutputsType) {
  const NewRows rows = sequence_.Reserve(8).value();
  Fill(rows, 0, 1.0f, 1e5f);
  EXPECT_TRUE(Attend(8, 1.0f));
  Tensor half = client_.Allocate(8, kShape.q_heads, kShape.head_dim, ElementType::kF16).value();
  ExpectNotFinite(sequence_.Attend(0, {.q = AsConst(q_.view()), .out = half.view(), .scale = 0.125f}), "beyond f16");
}

TEST_P(NotFiniteTest, Queries) {
  const NewRows rows = sequence_.Reserve(8).value();
  Fill(rows, 0, 1.0f, 1.0f);
  ExpectNotFinite(Attend(8, NAN), "query of token 0, head 0");
  ExpectNotFinite(Attend(8, INFINITY), "query of token 0, head 0");
  EXPECT_TRUE(Attend(8, 1.0f));
}

TEST_P(NotFiniteTest, RowsThatNobodyHasSeenAreRefusedWhenTheyWouldBecomePart) {
  const std::vector<TokenId> tokens(8, 7);
  const NewRows rows = sequence_.Reserve(8).value();
  for (std::size_t layer = 0; layer < kShape.layers; ++layer) Fill(rows, layer, 1.0f, 1.0f);
  Row(rows.Values(1), 5)[3] = NAN;
  ASSERT_TRUE(Attend(8, 1.0f)) << "layer 0 is good";
  ExpectNotFinite(sequence_.Advance(tokens), "the value row of layer 1, KV head 0, position 5");
  EXPECT_EQ(sequence_.length(), 0u);
  // Rows behind those that are advanced do not matter.
  EXPECT_TRUE(sequence_.Advance(std::span(tokens).first(5)));
  EXPECT_EQ(sequence_.length(), 5u);
}

TEST_P(NotFiniteTest, UnwrittenRowsAreNamedOnDemand) {
  ::setenv("KVANT_POISON_ROWS", "1", 1);
  sequence_ = Open();
  ::unsetenv("KVANT_POISON_ROWS");
  const std::vector<TokenId> tokens(8, 7);
  NewRows rows = sequence_.Reserve(8).value();
  Fill(rows, 0, 1.0f, 1.0f);
  std::fill_n(Row(rows.Keys(0), 6), kShape.head_dim / 2, 2.0f);
  ASSERT_TRUE(Attend(8, 1.0f));
  ExpectNotFinite(sequence_.Advance(tokens),
                  "the key row of layer 1, KV head 0, position 0 holds NaN or infinity: it was reserved");
  // The same rows again: what is written stays.
  rows = sequence_.Reserve(8).value();
  Fill(rows, 1, 1.0f, 1.0f);
  ASSERT_TRUE(sequence_.Advance(tokens));
  // After going back, the rows of the dropped tokens count as unwritten.
  ASSERT_TRUE(sequence_.Trim(2));
  rows = sequence_.Reserve(3).value();
  ExpectNotFinite(Attend(3, 1.0f), "position 2 holds NaN or infinity: it was reserved");
}

INSTANTIATE_TEST_SUITE_P(Placements, NotFiniteTest, ::testing::Values(Placement::kService, Placement::kLocal),
                         [](const auto& param_info) { return param_info.param == Placement::kLocal ? "Local" : "Service"; });

}  // namespace
}  // namespace kvant::testing
