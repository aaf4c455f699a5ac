// The forward pass against figures of an independent float64 implementation (NumPy, whole text at once).
#include "client/examples/llama/model.h"

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <random>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "client/examples/llama/evaluate.h"
#include "client/examples/llama/exact_attention.h"
#include "client/examples/llama/generate.h"
#include "client/examples/llama/sampler.h"
#include "tests/engine/byte_model.h"

namespace kvant::examples {
namespace {

using ::testing::HasSubstr;

std::vector<TokenId> LicenceTokens(std::size_t size) { return ByteModel().tokenizer().Encode(ProjectText({"LICENSE"}, size)); }

TEST(ModelTest, LossOfTheLicenceIsTheReferences) {
  const std::vector<TokenId> tokens = LicenceTokens(1024);
  ExactAttention all(ByteModel().config());
  const Loss loss = ScoreTokens(ByteModel(), all, tokens, 0, 512).value();
  EXPECT_EQ(loss.tokens, 1023u);
  EXPECT_NEAR(loss.per_token(), 0.652445700, 2e-6);  // f32 against f64
  ExactAttention late(ByteModel().config());
  const Loss second_half = ScoreTokens(ByteModel(), late, tokens, 512, 512).value();
  EXPECT_EQ(second_half.tokens, 512u);
  EXPECT_NEAR(second_half.per_token(), 0.810402844, 2e-6);
}

TEST(ModelTest, LogitsAfterTheLicenceAreTheReferences) {
  ExactAttention attention(ByteModel().config());
  Matrix logits;
  std::vector<TokenId> tokens = LicenceTokens(1024);
  for (std::size_t at = 0; at < tokens.size();) {
    at += ByteModel().Forward(std::span(tokens).subspan(at), attention, LogitsOf::kLast, logits).value();
  }
  EXPECT_NEAR(logits(0, 35), 10.898183891, 2e-4);
  EXPECT_NEAR(logits(0, 13), 5.136571702, 2e-4);
  EXPECT_NEAR(logits(0, 45), 2.405700756, 2e-4);
  EXPECT_NEAR(logits(0, 0), -11.989469357, 2e-4);
}

TEST(ModelTest, StepsOfAnySizeGiveTheSameLogits) {
  const std::vector<TokenId> tokens = LicenceTokens(300);
  Matrix expected;
  ExactAttention whole(ByteModel().config());
  ASSERT_EQ(ByteModel().Forward(tokens, whole, LogitsOf::kAll, expected).value(), tokens.size());
  const unsigned seed = std::random_device{}();
  SCOPED_TRACE("seed " + std::to_string(seed));
  std::mt19937 random(seed);
  ExactAttention steps(ByteModel().config());
  Matrix logits;
  for (std::size_t at = 0; at < tokens.size();) {
    const std::size_t wanted = std::min<std::size_t>(1 + random() % 70, tokens.size() - at);
    const std::size_t count = ByteModel().Forward(std::span(tokens).subspan(at, wanted), steps, LogitsOf::kAll, logits).value();
    const auto rows = expected.middleRows(static_cast<Eigen::Index>(at), static_cast<Eigen::Index>(count));
    EXPECT_LT((logits - rows).cwiseAbs().maxCoeff(), 2e-4f) << "tokens from " << at;
    at += count;
  }
}

TEST(ModelTest, TokensAndPositionsBeyondTheModelAreRefused) {
  ExactAttention attention(ByteModel().config());
  Matrix logits;
  const TokenId foreign[] = {5, 259};
  EXPECT_THAT(ByteModel().Forward(foreign, attention, LogitsOf::kLast, logits).error().message, HasSubstr("token 259"));
  const std::vector<TokenId> many(32769, 5);
  EXPECT_THAT(ByteModel().Forward(many, attention, LogitsOf::kLast, logits).error().message, HasSubstr("32768"));
}

TEST(ModelTest, AFolderThatIsNoCheckpointIsNamed) {
  EXPECT_EQ(Model::Load("/nonexistent/model").error().code, ErrorCode::kNotFound);
  EXPECT_THAT(Model::Load("/nonexistent/model").error().message, HasSubstr("/nonexistent/model/config.json"));

  namespace fs = std::filesystem;
  const fs::path folder = fs::path(::testing::TempDir()) / "kvant_truncated_model";
  fs::create_directories(folder);
  for (const char* file : {"config.json", "tokenizer.json", "model.safetensors"}) {
    fs::copy_file(fs::path(ModelFolder()) / file, folder / file, fs::copy_options::overwrite_existing);
  }
  fs::resize_file(folder / "model.safetensors", 1'000'000);
  const auto truncated = Model::Load(folder.string());
  ASSERT_FALSE(truncated);
  EXPECT_EQ(truncated.error().code, ErrorCode::kCorrupt);
  EXPECT_THAT(truncated.error().message, HasSubstr("model.safetensors"));
  fs::remove_all(folder);
}

TEST(SamplerTest, GreedyTakesTheLargestAndSamplingFollowsTheProbabilities) {
  const std::vector<float> logits = {0.0f, std::log(3.0f), std::log(6.0f)};  // 0.1, 0.3, 0.6
  EXPECT_EQ(Sampler({}).Next(logits), 2);
  constexpr int kDraws = 40000;
  int counts[3] = {};
  Sampler sampler({.temperature = 1.0, .top_p = 1.0, .seed = 42});
  for (int i = 0; i < kDraws; ++i) ++counts[sampler.Next(logits)];
  const double expected[] = {0.1, 0.3, 0.6};
  for (int i = 0; i < 3; ++i) {
    const double sigma = std::sqrt(expected[i] * (1 - expected[i]) / kDraws);
    EXPECT_NEAR(static_cast<double>(counts[i]) / kDraws, expected[i], 5 * sigma) << i;
  }
}

TEST(SamplerTest, TopPDropsTheTailAndSeedsRepeat) {
  const std::vector<float> logits = {0.0f, std::log(3.0f), std::log(6.0f)};
  Sampler narrow({.temperature = 1.0, .top_p = 0.7, .seed = 1});  // 0.6 does not reach 0.7, 0.6 + 0.3 does
  for (int i = 0; i < 2000; ++i) EXPECT_NE(narrow.Next(logits), 0);
  Sampler a({.temperature = 0.8, .top_p = 0.95, .seed = 7});
  Sampler b({.temperature = 0.8, .top_p = 0.95, .seed = 7});
  for (int i = 0; i < 100; ++i) EXPECT_EQ(a.Next(logits), b.Next(logits));
}

}  // namespace
}  // namespace kvant::examples
