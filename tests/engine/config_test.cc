// What config.json may say, and that everything the engine does not compute is refused by name.
#include "client/examples/llama/config.h"

#include <ostream>
#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "tests/engine/byte_model.h"

namespace kvant::examples {
namespace {

using ::testing::HasSubstr;
using Json = nlohmann::json;

Json Good() { return Json::parse(ReadText(ModelFolder() + "/config.json").value()); }

TEST(ConfigTest, ReadsTheCheckpointsShape) {
  const Config config = ParseConfig(Good().dump()).value();
  EXPECT_EQ(config.layers, 6u);
  EXPECT_EQ(config.hidden, 256u);
  EXPECT_EQ(config.intermediate, 768u);
  EXPECT_EQ(config.q_heads, 4u);
  EXPECT_EQ(config.kv_heads, 2u);
  EXPECT_EQ(config.head_dim, 128u);
  EXPECT_EQ(config.vocab, 259u);
  EXPECT_EQ(config.max_positions, 32768u);
  EXPECT_DOUBLE_EQ(config.rms_eps, 1e-5);
  EXPECT_DOUBLE_EQ(config.rope_theta, 500000.0);
  EXPECT_TRUE(config.tied_embeddings);
  EXPECT_EQ(config.bos, 1);
  EXPECT_EQ(config.eos, 2);
}

TEST(ConfigTest, ReadsTheOlderSpellingOfRope) {
  Json json = Good();
  json.erase("rope_parameters");
  json["rope_theta"] = 10000.0;
  json["rope_scaling"] = nullptr;
  EXPECT_DOUBLE_EQ(ParseConfig(json.dump())->rope_theta, 10000.0);
}

TEST(ConfigTest, HeadSizeAndKeyHeadsHaveTheArchitecturesDefaults) {
  Json json = Good();
  json.erase("head_dim");
  json.erase("num_key_value_heads");
  const Config config = ParseConfig(json.dump()).value();
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
  const Result<Config> config = ParseConfig(json.dump());
  ASSERT_FALSE(config) << GetParam().value;
  EXPECT_EQ(config.error().code, GetParam().code);
  EXPECT_THAT(config.error().message, HasSubstr(GetParam().field));
}

INSTANTIATE_TEST_SUITE_P(
    Fields, ConfigRefusalTest,
    ::testing::Values(Refusal{"architectures", R"(["MistralForCausalLM"])", ErrorCode::kUnsupported},
                      Refusal{"hidden_act", R"("gelu")", ErrorCode::kUnsupported},
                      Refusal{"attention_bias", "true", ErrorCode::kUnsupported},
                      Refusal{"mlp_bias", "true", ErrorCode::kUnsupported},
                      Refusal{"quantization_config", R"({"quant_method":"gptq"})", ErrorCode::kUnsupported},
                      Refusal{"partial_rotary_factor", "0.5", ErrorCode::kUnsupported},
                      Refusal{"rope_parameters", R"({"rope_type":"llama3","rope_theta":500000.0})", ErrorCode::kUnsupported},
                      Refusal{"rope_scaling", R"({"type":"linear","factor":2.0})", ErrorCode::kUnsupported},
                      Refusal{"rope_scaling", "7", ErrorCode::kInvalidArgument},
                      Refusal{"num_hidden_layers", "0", ErrorCode::kInvalidArgument},
                      Refusal{"num_hidden_layers", "-3", ErrorCode::kInvalidArgument},
                      Refusal{"hidden_size", "1e30", ErrorCode::kInvalidArgument},
                      Refusal{"hidden_size", R"("256")", ErrorCode::kInvalidArgument},
                      Refusal{"vocab_size", "null", ErrorCode::kInvalidArgument},
                      Refusal{"num_attention_heads", "3", ErrorCode::kInvalidArgument},
                      Refusal{"head_dim", "100", ErrorCode::kInvalidArgument},
                      Refusal{"rms_norm_eps", "-1", ErrorCode::kInvalidArgument},
                      Refusal{"eos_token_id", R"("</s>")", ErrorCode::kInvalidArgument},
                      Refusal{"tie_word_embeddings", "1", ErrorCode::kInvalidArgument}));

TEST(ConfigTest, TextThatIsNoObjectIsRefused) {
  for (const char* text : {"", "[]", "{", "null"}) {
    const Result<Config> config = ParseConfig(text);
    ASSERT_FALSE(config) << text;
    EXPECT_THAT(config.error().message, HasSubstr("config.json"));
  }
}

}  // namespace
}  // namespace kvant::examples
