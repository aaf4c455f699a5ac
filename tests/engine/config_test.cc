// What config.json may say, and that everything the engine does not compute is refused by name.
#include "client/examples/llama/config.h"

#include <ostream>
#include <string>
#include <variant>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "tests/engine/byte_model.h"

namespace kvant::examples {
namespace {

using ::testing::HasSubstr;
using Json = nlohmann::json;

Json Good() { return Json::parse(ReadText(ModelFolder() + "/config.json").value()); }

/// Without a word about rotary positions.
Json WithoutRope() {
  Json json = Good();
  json.erase("rope_parameters");
  json.erase("rope_theta");
  return json;
}

TEST(ConfigTest, ReadsTheCheckpointsShape) {
  const Config config = ParseConfig(Good()).value();
  EXPECT_EQ(config.layers, 6u);
  EXPECT_EQ(config.hidden, 256u);
  EXPECT_EQ(config.intermediate, 768u);
  EXPECT_EQ(config.q_heads, 4u);
  EXPECT_EQ(config.kv_heads, 2u);
  EXPECT_EQ(config.head_dim, 128u);
  EXPECT_EQ(config.vocab, 259u);
  EXPECT_EQ(config.max_positions, 32768u);
  EXPECT_DOUBLE_EQ(config.rms_eps, 1e-5);
  EXPECT_EQ(config.rope.pairing, RopePairing::kHalfSplit);
  EXPECT_EQ(config.rope.theta, 500000.0);
  EXPECT_EQ(config.rope.rotary_dims, 0u);
  EXPECT_TRUE(std::holds_alternative<std::monostate>(config.rope.scaling));
  EXPECT_TRUE(config.tied_embeddings);
  EXPECT_EQ(config.bos, 1);
  EXPECT_EQ(config.eos, 2);
}

TEST(ConfigTest, ReadsBothSpellingsOfRope) {
  Json json = WithoutRope();
  EXPECT_EQ(ParseConfig(json)->rope.theta, 10000.0);  // the default of the architecture
  json["rope_theta"] = 20000.0;
  json["rope_scaling"] = nullptr;
  EXPECT_EQ(ParseConfig(json)->rope.theta, 20000.0);
  json["rope_scaling"] = {{"type", "linear"}, {"factor", 2.0}};
  EXPECT_EQ(std::get<RopeLinear>(ParseConfig(json)->rope.scaling).factor, 2.0);
  EXPECT_EQ(ParseConfig(json)->rope.theta, 20000.0);
  json["rope_parameters"] = json["rope_scaling"];  // some files have both
  EXPECT_TRUE(ParseConfig(json));
}

TEST(ConfigTest, ReadsLlama3Scaling) {
  Json json = WithoutRope();
  json["rope_theta"] = 500000.0;
  json["rope_scaling"] = Json::parse(R"({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                                         "original_max_position_embeddings": 8192})");
  const Config config = ParseConfig(json).value();
  const auto llama3 = std::get<RopeLlama3>(config.rope.scaling);
  EXPECT_EQ(llama3.factor, 8.0);
  EXPECT_EQ(llama3.original_positions, 8192u);
  EXPECT_EQ(llama3.low_freq_factor, 1.0);
  EXPECT_EQ(llama3.high_freq_factor, 4.0);
  EXPECT_EQ(config.max_positions, 32768u);
}

TEST(ConfigTest, ReadsYarnScaling) {
  Json json = WithoutRope();
  json["rope_scaling"] = Json::parse(R"({"rope_type": "yarn", "factor": 4.0})");
  auto yarn = std::get<RopeYarn>(ParseConfig(json)->rope.scaling);
  EXPECT_EQ(yarn.factor, 4.0);
  EXPECT_EQ(yarn.original_positions, 32768u);  // max_position_embeddings, where nothing else is said
  EXPECT_EQ(yarn.beta_fast, 32.0);
  EXPECT_EQ(yarn.beta_slow, 1.0);
  EXPECT_TRUE(yarn.truncate);
  EXPECT_EQ(yarn.attention_factor, 0.0);
  json["rope_scaling"] =
      Json::parse(R"({"rope_type": "yarn", "factor": 40, "original_max_position_embeddings": 4096, "beta_fast": 16,
                                         "beta_slow": 2, "truncate": false, "mscale": 1.0, "mscale_all_dim": 0.8})");
  yarn = std::get<RopeYarn>(ParseConfig(json)->rope.scaling);
  EXPECT_EQ(yarn.original_positions, 4096u);
  EXPECT_EQ(yarn.beta_fast, 16.0);
  EXPECT_EQ(yarn.beta_slow, 2.0);
  EXPECT_FALSE(yarn.truncate);
  EXPECT_NEAR(yarn.attention_factor, 1.0569662567531274, 1e-15);  // "yarn_deepseek" of tests/golden/make_rope.py
  json["rope_scaling"].erase("mscale_all_dim");                   // one of the two alone says nothing
  EXPECT_EQ(std::get<RopeYarn>(ParseConfig(json)->rope.scaling).attention_factor, 0.0);
  json["rope_scaling"]["attention_factor"] = 1.5;
  EXPECT_EQ(std::get<RopeYarn>(ParseConfig(json)->rope.scaling).attention_factor, 1.5);
}

TEST(ConfigTest, FixesScalingsThatGrowWithTheSequence) {
  Json json = WithoutRope();
  json["max_position_embeddings"] = 4096u;
  json["rope_scaling"] = Json::parse(R"({"type": "dynamic", "factor": 2.5})");
  Config config = ParseConfig(json).value();
  auto dynamic = std::get<RopeDynamic>(config.rope.scaling);
  EXPECT_EQ(dynamic.factor, 2.5);
  EXPECT_EQ(dynamic.original_positions, 4096u);
  EXPECT_EQ(dynamic.context_tokens, 10240u);
  EXPECT_EQ(config.max_positions, 10240u);
  json["max_position_embeddings"] = 8192u;
  json["rope_scaling"]["original_max_position_embeddings"] = 4096u;
  config = ParseConfig(json).value();
  dynamic = std::get<RopeDynamic>(config.rope.scaling);
  EXPECT_EQ(dynamic.original_positions, 4096u);
  EXPECT_EQ(dynamic.context_tokens, 8192u);
  EXPECT_EQ(config.max_positions, 8192u);
}

TEST(ConfigTest, ReadsLongRopeScaling) {
  Json json = WithoutRope();
  json["max_position_embeddings"] = 131072u;
  json["original_max_position_embeddings"] = 4096u;  // as Phi 3 does
  json["rope_scaling"] = {
      {"type", "su"}, {"short_factor", std::vector<double>(64, 1.5)}, {"long_factor", std::vector<double>(64, 2)}};
  const auto longrope = std::get<RopeLong>(ParseConfig(json)->rope.scaling);
  EXPECT_EQ(longrope.factor, 32.0);
  EXPECT_EQ(longrope.original_positions, 4096u);
  EXPECT_EQ(longrope.context_tokens, 131072u);
  EXPECT_EQ(longrope.short_factors, std::vector<double>(64, 1.5));
  EXPECT_EQ(longrope.long_factors, std::vector<double>(64, 2.0));
  EXPECT_EQ(longrope.attention_factor, 0.0);
}

TEST(ConfigTest, ReadsPartialRotaryPositions) {
  Json json = WithoutRope();
  json["partial_rotary_factor"] = 0.25;
  EXPECT_EQ(ParseConfig(json)->rope.rotary_dims, 32u);
  json.erase("partial_rotary_factor");
  json["rope_parameters"] = Json::parse(R"({"rope_theta": 500000.0, "rope_type": "default", "partial_rotary_factor": 0.5})");
  EXPECT_EQ(ParseConfig(json)->rope.rotary_dims, 64u);
}

TEST(ConfigTest, HeadSizeAndKeyHeadsHaveTheArchitecturesDefaults) {
  Json json = Good();
  json.erase("head_dim");
  json.erase("num_key_value_heads");
  const Config config = ParseConfig(json).value();
  EXPECT_EQ(config.head_dim, 64u);  // hidden / heads
  EXPECT_EQ(config.kv_heads, 4u);   // no grouping
}

struct Refusal {
  const char* field;
  const char* value;  // JSON
  ErrorCode code;
};

void PrintTo(const Refusal& refusal, std::ostream* out) { *out << refusal.field << ' ' << refusal.value; }

class ConfigRefusalTest : public ::testing::TestWithParam<Refusal> {};

TEST_P(ConfigRefusalTest, NamesTheField) {
  Json json = Good();
  json[GetParam().field] = Json::parse(GetParam().value);
  const Result<Config> config = ParseConfig(json);
  ASSERT_FALSE(config) << GetParam().value;
  EXPECT_EQ(config.error().code, GetParam().code);
  EXPECT_THAT(config.error().message, HasSubstr(GetParam().field));
}

INSTANTIATE_TEST_SUITE_P(
    Fields, ConfigRefusalTest,
    ::testing::Values(
        Refusal{"architectures", R"(["MistralForCausalLM"])", ErrorCode::kUnsupported},
        Refusal{"hidden_act", R"("gelu")", ErrorCode::kUnsupported}, Refusal{"attention_bias", "true", ErrorCode::kUnsupported},
        Refusal{"mlp_bias", "true", ErrorCode::kUnsupported},
        Refusal{"quantization_config", R"({"quant_method":"gptq"})", ErrorCode::kUnsupported},
        Refusal{"rope_theta", "10000.0", ErrorCode::kInvalidArgument},  // rope_parameters says 500000
        Refusal{"rope_scaling", R"({"type":"linear","factor":2.0})", ErrorCode::kInvalidArgument},  // and this
        Refusal{"rope_scaling", "7", ErrorCode::kInvalidArgument}, Refusal{"rope_interleaved", "true", ErrorCode::kUnsupported},
        Refusal{"rotary_pct", "0.25", ErrorCode::kUnsupported}, Refusal{"use_mrope", "true", ErrorCode::kUnsupported},
        Refusal{"num_hidden_layers", "0", ErrorCode::kInvalidArgument},
        Refusal{"num_hidden_layers", "-3", ErrorCode::kInvalidArgument},
        Refusal{"hidden_size", "1e30", ErrorCode::kInvalidArgument},
        Refusal{"hidden_size", R"("256")", ErrorCode::kInvalidArgument},
        Refusal{"vocab_size", "null", ErrorCode::kInvalidArgument},
        Refusal{"num_attention_heads", "3", ErrorCode::kInvalidArgument},
        Refusal{"head_dim", "100", ErrorCode::kInvalidArgument}, Refusal{"rms_norm_eps", "-1", ErrorCode::kInvalidArgument},
        Refusal{"eos_token_id", R"("</s>")", ErrorCode::kInvalidArgument},
        Refusal{"tie_word_embeddings", "1", ErrorCode::kInvalidArgument}));

class RopeRefusalTest : public ::testing::TestWithParam<Refusal> {};

TEST_P(RopeRefusalTest, NamesTheField) {
  Json json = WithoutRope();
  json["rope_parameters"] = Json::parse(GetParam().value);
  const Result<Config> config = ParseConfig(json);
  ASSERT_FALSE(config) << GetParam().value;
  EXPECT_EQ(config.error().code, GetParam().code) << config.error().message;
  EXPECT_THAT(config.error().message, HasSubstr(GetParam().field));
}

INSTANTIATE_TEST_SUITE_P(
    Fields, RopeRefusalTest,
    ::testing::Values(
        Refusal{"rope_parameters.rope_type", R"({"rope_type":"mrope"})", ErrorCode::kUnsupported},
        Refusal{"rope_parameters.type", R"({"rope_type":"default","type":"linear"})", ErrorCode::kUnsupported},
        Refusal{"rope_parameters.mrope_section", R"({"rope_type":"default","mrope_section":[1,2]})", ErrorCode::kUnsupported},
        Refusal{"rope_parameters.beta_fast", R"({"rope_type":"linear","factor":2,"beta_fast":1})", ErrorCode::kUnsupported},
        Refusal{"rope_parameters.factor", R"({"rope_type":"linear"})", ErrorCode::kInvalidArgument},
        Refusal{"rope.factor", R"({"rope_type":"linear","factor":0.5})", ErrorCode::kInvalidArgument},
        Refusal{"rope_parameters.factor", R"({"rope_type":"linear","factor":"2"})", ErrorCode::kInvalidArgument},
        Refusal{"rope_parameters.low_freq_factor",
                R"({"rope_type":"llama3","factor":8,"original_max_position_embeddings":8192,"high_freq_factor":4})",
                ErrorCode::kInvalidArgument},
        Refusal{"rope_parameters.original_max_position_embeddings",
                R"({"rope_type":"llama3","factor":8,"low_freq_factor":1,"high_freq_factor":4})", ErrorCode::kInvalidArgument},
        Refusal{
            "rope.high_freq_factor",
            R"({"rope_type":"llama3","factor":8,"original_max_position_embeddings":8192,"low_freq_factor":4,"high_freq_factor":4})",
            ErrorCode::kInvalidArgument},
        Refusal{"rope_parameters.truncate", R"({"rope_type":"yarn","factor":2,"truncate":1})", ErrorCode::kInvalidArgument},
        Refusal{"rope_parameters.short_factor", R"({"rope_type":"longrope","long_factor":[1]})", ErrorCode::kInvalidArgument},
        Refusal{"rope.short_factors", R"({"rope_type":"longrope","short_factor":[1],"long_factor":[1]})",
                ErrorCode::kInvalidArgument},
        Refusal{"rope_parameters.long_factor", R"({"rope_type":"longrope","short_factor":[1],"long_factor":["1"]})",
                ErrorCode::kInvalidArgument},
        Refusal{"partial_rotary_factor", R"({"rope_type":"default","partial_rotary_factor":1.5})", ErrorCode::kInvalidArgument},
        Refusal{"partial_rotary_factor", R"({"rope_type":"default","partial_rotary_factor":0.001})",
                ErrorCode::kInvalidArgument},
        Refusal{"rope.theta", R"({"rope_type":"default","rope_theta":0.5})", ErrorCode::kInvalidArgument}));

TEST(ConfigTest, WhatIsNoObjectIsRefused) {
  for (const char* text : {"[]", "7", "null"}) {
    const Result<Config> config = ParseConfig(Json::parse(text));
    ASSERT_FALSE(config) << text;
    EXPECT_THAT(config.error().message, HasSubstr("config.json"));
  }
}

}  // namespace
}  // namespace kvant::examples
