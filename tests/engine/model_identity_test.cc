// The digest that says which model keys and values belong to.
#include "client/examples/llama/model_identity.h"

#include <fstream>
#include <functional>
#include <string>
#include <vector>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "quantizers/bounded_json.h"
#include "tests/engine/byte_model.h"

namespace kvant::examples {
namespace {

using Json = nlohmann::json;

Json ByteConfig() { return quantizers::ParseJson(ReadText(ModelFolder() + "/config.json").value(), {}, "config.json").value(); }

const std::vector<WeightsFile> kWeights = {{"b.safetensors", "22"}, {"a.safetensors", "11"}};

std::string Identity(const Json& config, const std::vector<WeightsFile>& weights = kWeights) {
  return ModelIdentity(config, weights).value();
}

TEST(ModelIdentityTest, IsWhatTheIndependentProgramComputes) {
  std::ifstream file(KVANT_SOURCE_DIR "/tests/golden/model_identity.txt");
  std::string line;
  std::string last;
  while (std::getline(file, line)) last = line;
  EXPECT_EQ(ByteModel().identity(), last);
}

TEST(ModelIdentityTest, EveryFieldCountsButThoseThatCannotMatter) {
  const Json config = ByteConfig();
  const std::string identity = Identity(config);
  const char* left_out[] = {"_name_or_path", "transformers_version", "dtype",        "torch_dtype",
                            "use_cache",     "bos_token_id",         "eos_token_id", "pad_token_id"};
  for (const char* name : left_out) {
    Json other = config;
    other[name] = "something else";
    EXPECT_EQ(Identity(other), identity) << name;
  }
  Json other = config;
  other["a_field_of_tomorrow"] = 1;
  EXPECT_NE(Identity(other), identity);
  for (const auto& [name, value] : config.items()) {
    if (std::find(std::begin(left_out), std::end(left_out), name) != std::end(left_out)) continue;
    other = config;
    other.erase(name);
    EXPECT_NE(Identity(other), identity) << name;
  }
  other = config;
  other["rope_parameters"]["rope_theta"] = 500000.5;  // deeper fields, too
  EXPECT_NE(Identity(other), identity);
  other = config;
  other["rope_parameters"]["dtype"] = "left out at the top alone";
  EXPECT_NE(Identity(other), identity);
}

TEST(ModelIdentityTest, WeightsCountByNameAndContentInAnyOrder) {
  const Json config = ByteConfig();
  const std::string identity = Identity(config);
  EXPECT_EQ(Identity(config, {kWeights[1], kWeights[0]}), identity);
  EXPECT_NE(Identity(config, {kWeights[0]}), identity);
  EXPECT_NE(Identity(config, {{"b.safetensors", "11"}, {"a.safetensors", "22"}}), identity);
  EXPECT_NE(Identity(config, {}), identity);
}

}  // namespace
}  // namespace kvant::examples
