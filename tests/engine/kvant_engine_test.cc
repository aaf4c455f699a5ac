// The real model over kvant's cache, in both placements, held against the engine's own plain attention.
#include <chrono>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "client/examples/llama/evaluate.h"
#include "client/examples/llama/exact_attention.h"
#include "client/examples/llama/files.h"
#include "client/examples/llama/generate.h"
#include "client/examples/llama/kvant_service.h"
#include "client/examples/llama/model.h"
#include "tests/engine/byte_model.h"

namespace kvant::examples {
namespace {

constexpr std::size_t kGenerated = 200;

/// About 1.5 KB of source, cut in the middle of a line.
std::vector<TokenId> Prompt() { return ByteModel().tokenizer().Encode(ProjectText({"protocol/include/kvant/result.h"}, 1500)); }

std::vector<TokenId> EvaluationTokens(std::size_t size) {
  return ByteModel().tokenizer().Encode(
      ProjectText({"client/include/kvant/client.h", "protocol/include/kvant/store_spec.h"}, size));
}

std::string Greedy(Attention& attention, std::span<const TokenId> prompt) {
  const auto start = std::chrono::steady_clock::now();
  return Generate(ByteModel(), attention, prompt, kGenerated, Sampler({}), start, [](const std::string&) {}).value().text;
}

const std::string& ExactText() {
  static const std::string text = [] {
    ExactAttention exact(ByteModel().config());
    return Greedy(exact, Prompt());
  }();
  return text;
}

ServiceOptions Options(const char* codec, Placement placement) {
  ServiceOptions options;
  options.keys = codec;
  options.values = codec;
  options.placement = placement;
  options.embedded_budget_bytes = std::size_t{128} << 20;
  return options;
}

double KvantLoss(const ServiceOptions& options, std::span<const TokenId> tokens) {
  Service service = Service::Connect(ByteModel(), options).value();
  const auto attention = service.Open({}).value();
  const double loss = ScoreTokens(ByteModel(), *attention, tokens, 0, options.max_step_tokens).value().per_token();
  EXPECT_EQ(service.counters().bytes_copied, 0u);
  return loss;
}

class PlacementTest : public ::testing::TestWithParam<Placement> {};

TEST_P(PlacementTest, F32PlanWritesTheExactText) {
  Service service = Service::Connect(ByteModel(), Options("f32", GetParam())).value();
  EXPECT_EQ(service.tail_type(), ElementType::kF32);
  const auto attention = service.Open({}).value();
  EXPECT_EQ(Greedy(*attention, Prompt()), ExactText());
  EXPECT_EQ(attention->length(), Prompt().size() + kGenerated - 1);  // the last token's rows are never needed
  EXPECT_EQ(service.counters().bytes_copied, 0u);
  EXPECT_GT(service.counters().bytes_zero_copy, 0u);
}

TEST_P(PlacementTest, LossOfRawPlansStaysNearTheExactOne) {
  const std::vector<TokenId> tokens = EvaluationTokens(1024);
  ExactAttention exact(ByteModel().config());
  const double reference = ScoreTokens(ByteModel(), exact, tokens, 0, 512).value().per_token();
  // Small blocks and steps, so that most attention reads sealed blocks.
  for (const auto& [codec, tolerance] : {std::pair{"f32", 1e-5}, std::pair{"f16", 1e-3}}) {
    ServiceOptions options = Options(codec, GetParam());
    options.block_tokens = 64;
    options.recent_tokens = 32;
    options.max_step_tokens = 64;
    EXPECT_NEAR(KvantLoss(options, tokens), reference, tolerance) << codec;
  }
}

TEST_P(PlacementTest, ASecondSequenceStartsFromSharedBlocks) {
  Service service = Service::Connect(ByteModel(), Options("f32", GetParam())).value();
  const std::vector<TokenId> prompt = Prompt();
  const auto first = service.Open(prompt).value();
  EXPECT_EQ(first->length(), 0u);
  const std::string text = Greedy(*first, prompt);

  const std::span<const TokenId> all_but_last = std::span(prompt).first(prompt.size() - 1);
  const auto second = service.Open(all_but_last).value();
  EXPECT_EQ(second->length(),
            all_but_last.size() / 128 * 128);  // whole blocks; all of them older than the recent window by now
  EXPECT_EQ(Greedy(*second, std::span(prompt).subspan(second->length())), text);
}

TEST_P(PlacementTest, AForkInTheMiddleGoesItsOwnWay) {
  Service service = Service::Connect(ByteModel(), Options("f32", GetParam())).value();
  const std::vector<TokenId> prompt = Prompt();
  const std::vector<TokenId> other = ByteModel().tokenizer().Encode("\n\nclass Tokenizer {\n public:\n  ");
  const auto source = service.Open({}).value();
  const std::string before = Greedy(*source, prompt);

  constexpr std::size_t kAt = 700;  // inside a sealed block
  const auto fork = service.Fork(source->sequence().id(), kAt).value();
  EXPECT_EQ(fork->length(), kAt);
  const std::string forked = Greedy(*fork, other);

  ExactAttention exact(ByteModel().config());
  std::vector<TokenId> both(prompt.begin(), prompt.begin() + kAt);
  both.insert(both.end(), other.begin(), other.end());
  EXPECT_EQ(forked, Greedy(exact, both));
  EXPECT_NE(forked, before);
}

TEST_P(PlacementTest, AFullStoreWarnsAndGenerationGoesOn) {
  ServiceOptions options = Options("f32", GetParam());
  options.block_tokens = 64;
  options.recent_tokens = 256;
  options.max_step_tokens = 64;
  options.embedded_budget_bytes = std::size_t{4} << 20;  // an f32 block of 64 tokens takes 768 KiB
  Result<Service> connected = Service::Connect(ByteModel(), options);
  ASSERT_TRUE(connected) << connected.error().message;
  Service service = std::move(connected).value();
  const auto attention = service.Open({}).value();
  const std::vector<TokenId> tokens = EvaluationTokens(2048);
  Matrix logits;
  Result<std::size_t> step = std::size_t{0};
  while (attention->length() < tokens.size()) {
    const std::span<const TokenId> rest = std::span(tokens).subspan(attention->length());
    step = ByteModel().Forward(rest, *attention, LogitsOf::kLast, logits);
    if (!step) break;
  }
  ASSERT_FALSE(step) << "4 MiB took " << attention->length() << " tokens of 12 KiB";
  EXPECT_EQ(step.error().code, ErrorCode::kTailFull) << step.error().message;
  EXPECT_TRUE(attention->warning());
  EXPECT_GT(attention->length(), options.recent_tokens);
}

INSTANTIATE_TEST_SUITE_P(Placements, PlacementTest, ::testing::Values(Placement::kService, Placement::kLocal),
                         [](const auto& param) { return param.param == Placement::kLocal ? "local" : "service"; });

TEST(KvantEngineTest, BothPlacementsGiveTheSameBits) {
  const std::vector<TokenId> tokens = EvaluationTokens(700);
  std::vector<Matrix> logits[2];
  for (const Placement placement : {Placement::kService, Placement::kLocal}) {
    ServiceOptions options = Options("turboquant_mse:bits=4", placement);
    options.block_tokens = 128;
    options.max_step_tokens = 100;
    Service service = Service::Connect(ByteModel(), options).value();
    const auto attention = service.Open({}).value();
    for (std::size_t at = 0; at < tokens.size();) {
      auto& steps = logits[static_cast<int>(placement)];
      steps.emplace_back();
      at += ByteModel().Forward(std::span(tokens).subspan(at), *attention, LogitsOf::kAll, steps.back()).value();
    }
  }
  ASSERT_EQ(logits[0].size(), logits[1].size());
  for (std::size_t i = 0; i < logits[0].size(); ++i) {
    const auto bytes = static_cast<std::size_t>(logits[0][i].size()) * sizeof(float);
    ASSERT_EQ(logits[0][i].rows(), logits[1][i].rows());
    EXPECT_EQ(std::memcmp(logits[0][i].data(), logits[1][i].data(), bytes), 0) << "step " << i;
  }
}

/// KL per token and relative change of loss over one window of source, counted from its second quarter on, with blocks of 64,
/// 4 sinks and 64 recent tokens: the setting of the model card's table.
struct Damage {
  double kl;
  double loss_change;
};

Damage Measure(const std::string& codec, const std::string& artifact) {
  ServiceOptions options = Options(codec.c_str(), Placement::kLocal);
  options.artifact = artifact;
  options.block_tokens = 64;
  options.recent_tokens = 64;
  options.max_step_tokens = 32;
  Service service = Service::Connect(ByteModel(), options).value();
  const auto attention = service.Open({}).value();
  ExactAttention exact(ByteModel().config());
  const std::vector<TokenId> tokens = EvaluationTokens(2048);
  const Comparison c =
      CompareTokens(ByteModel(), exact, *attention, tokens, tokens.size() / 4, options.max_step_tokens).value();
  EXPECT_EQ(c.tokens, 1536u);
  return {c.kl / static_cast<double>(c.tokens), c.candidate_nll / c.reference_nll - 1};
}

TEST(KvantEngineTest, CompressionDamagesAboutAsMuchAsTheModelCardSays) {
  const std::vector<TokenId> text = ByteModel().tokenizer().Encode(
      ProjectText({"quantizers/codec.h", "client/examples/llama/model.cc", "quantizers/attention/attention.h"}, 8192));
  const std::string artifact = (std::filesystem::path(::testing::TempDir()) / "kvant_engine_means.safetensors").string();
  ASSERT_TRUE(WriteFile(artifact, Calibrate(ByteModel(), text, 2048).value()));

  // The card: KL 0.0010 and loss +0.31 % for 4 bits centred, 0.0271 and +6.5 % for 2 bits. Here 64 to 176 newest tokens are raw
  // (blocks are encoded whole and a step sees its own rows), the card's run kept 64: less damage is expected, on another text.
  const Damage four = Measure("turboquant_mse:bits=4,center=1", artifact);
  EXPECT_GT(four.kl, 0.0010 / 5);
  EXPECT_LT(four.kl, 0.0010 * 2.5);
  EXPECT_LT(std::abs(four.loss_change), 0.012);
  const Damage two = Measure("turboquant_mse:bits=2,center=1", artifact);
  EXPECT_GT(two.kl, 0.0271 / 8);
  EXPECT_LT(two.kl, 0.0271 * 1.5);
  EXPECT_LT(std::abs(two.loss_change), 0.10);
  EXPECT_GT(two.kl, 5 * four.kl);
  std::filesystem::remove(artifact);
}

}  // namespace
}  // namespace kvant::examples
