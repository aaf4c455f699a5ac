// kvantctl quality and kvantctl calibrate on rows whose law is known: what codes cost them follows from the codes' error.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <random>
#include <string>
#include <vector>

#include "tests/tools/processes.h"

namespace kvant::tests {
namespace {

using Json = nlohmann::json;
using testing::HasSubstr;

constexpr std::size_t kHeadDim = 64;
constexpr std::size_t kQueryHeads = 4;
constexpr std::size_t kKvHeads = 2;

Finished Kvantctl(const std::vector<std::string>& arguments) {
  return RunProgram(std::string(KVANT_PROGRAM_DIR) + "/kvantctl", arguments);
}

/// Rows of N(0, 1), of one layer, in a file that ends with the test.
class RowsCommandsTest : public testing::Test {
 protected:
  void Write(std::size_t tokens, const Json& metadata = {}) {
    std::mt19937 generator(1);
    std::normal_distribution<float> normal;
    Json header = Json::object();
    if (!metadata.is_null()) header["__metadata__"] = metadata;
    std::string data;
    const auto add = [&](const char* name, std::size_t heads) {
      const std::size_t begin = data.size();
      for (std::size_t i = 0; i < heads * tokens * kHeadDim; ++i) {
        const float number = normal(generator);
        data.append(reinterpret_cast<const char*>(&number), sizeof(number));
      }
      header[name] = {{"dtype", "F32"}, {"shape", {heads, tokens, kHeadDim}}, {"data_offsets", {begin, data.size()}}};
    };
    add("layers.0.queries", kQueryHeads);
    add("layers.0.keys", kKvHeads);
    add("layers.0.values", kKvHeads);
    const std::vector<double> radians(kHeadDim / 2, 0.25);
    const std::string turns(reinterpret_cast<const char*>(radians.data()), radians.size() * sizeof(double));
    header["rope.radians"] = {
        {"dtype", "F64"}, {"shape", {radians.size()}}, {"data_offsets", {data.size(), data.size() + turns.size()}}};
    data += turns;
    const std::string text = header.dump();
    const std::uint64_t size = text.size();
    std::ofstream file(rows_, std::ios::binary | std::ios::trunc);
    file.write(reinterpret_cast<const char*>(&size), sizeof(size));
    file << text << data;
  }
  void TearDown() override {
    std::remove(rows_.c_str());
    std::remove(artifact_.c_str());
    std::remove(plan_.c_str());
  }

  std::string rows_ = testing::TempDir() + "kvant_rows_" + std::to_string(getpid());
  std::string artifact_ = rows_ + ".artifact";
  std::string plan_ = rows_ + ".plan";
};

TEST_F(RowsCommandsTest, QualityIsWhatTheErrorOfTheCodesSays) {
  Write(512);
  const std::vector<std::string> arguments{"quality",     "--rows", rows_, "--plans", "f32", "turboquant_mse:bits=2",
                                           "--positions", "32",     "-o",  "json"};
  const Finished finished = Kvantctl(arguments);
  ASSERT_EQ(finished.exit_code, 0) << finished.err;
  const Json json = Json::parse(finished.out);
  const Json &raw = json["plans"][0], &codes = json["plans"][1];
  EXPECT_EQ(raw["key_bits_per_element"], 32);
  EXPECT_LT(raw["attention_kl"].get<double>(), 1e-10);
  EXPECT_LT(raw["output_error"].get<double>(), 1e-10);
  EXPECT_NEAR(raw["key_cosine"].get<double>(), 1.0, 1e-6);
  // At 64 dims Lloyd-Max codes of 2 bits have an error of D = 0.1145 (codecs.md 2.2): rows keep a cosine of sqrt(1 - D), and a
  // logit <q, k> / sqrt(d) of independent rows is off by sqrt(D / (1 - D)) where codes are unbiased.
  constexpr double kError = 0.1145;
  EXPECT_EQ(codes["key_bits_per_element"], 2.25 + 24.0 / 128);  // a block's mean and gains
  EXPECT_EQ(codes["value_bits_per_element"], 2.25);
  EXPECT_NEAR(codes["key_cosine"].get<double>(), std::sqrt(1 - kError), 0.003);
  EXPECT_NEAR(codes["value_cosine"].get<double>(), std::sqrt(1 - kError), 0.003);
  const double noise = kError / (1 - kError);
  EXPECT_NEAR(codes["logit_error"].get<double>(), std::sqrt(noise), 0.05 * std::sqrt(noise));
  // KL is half the variance of the logits' error where it is small, of the share of the weight that stands on codes: 256 of
  // 400.
  EXPECT_GT(codes["attention_kl"].get<double>(), 0.3 * noise / 2);
  EXPECT_LT(codes["attention_kl"].get<double>(), 1.0 * noise / 2);
  EXPECT_GT(codes["output_error"].get<double>(), 0.05);
  EXPECT_LT(codes["output_error"].get<double>(), 0.3);
  EXPECT_EQ(Kvantctl(arguments).out, finished.out);
  const Finished table = Kvantctl({"quality", "--rows", rows_, "--plans", "int8/f16", "--layers"});
  EXPECT_THAT(table.out, HasSubstr("int8/f16"));
}

TEST_F(RowsCommandsTest, CalibrationWritesTensorsThatDescribeThemselves) {
  Write(384);
  const Finished finished = Kvantctl({"calibrate", "--rows", rows_, "--artifact-out", artifact_, "-o", "json"});
  ASSERT_EQ(finished.exit_code, 0) << finished.err;
  EXPECT_EQ(Json::parse(finished.out)["tensors"], 15);  // the file does not say how RoPE turned its keys
  const Json tensors = Json::parse(Kvantctl({"calibrate", "--show", artifact_, "-o", "json"}).out)["tensors"];
  const Json square = Json::array({kKvHeads, kHeadDim, kHeadDim});
  EXPECT_EQ(tensors["keys.gauge"]["shape"], square);
  EXPECT_EQ(tensors["keys.gauge_inverse"]["shape"], square);
  // Keys and queries of one law: the gauge is the identity, as far as 384 tokens say.
  for (const char* name : {"keys.gauge", "keys.gauge_inverse"}) {
    EXPECT_NEAR(tensors[name]["most"].get<double>(), 1.0, 0.15);
    EXPECT_NEAR(tensors[name]["least"].get<double>(), 0.0, 0.15);
  }
  // The largest of 384 rows of 128 numbers is most often between 3.8 and 5.2.
  EXPECT_NEAR(tensors["keys.smooth"]["most"].get<double>(), std::sqrt(4.5), 0.2);
  EXPECT_NEAR(tensors["keys.mean"]["most"].get<double>(), 0.0, 5 / std::sqrt(384.0));
}

const Json kRope = {{"pairing", "half_split"}, {"rotary_dims", 0}, {"attention_factor", 1.0}};

std::string BytesOf(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

TEST_F(RowsCommandsTest, WhatIsCalibratedServesEveryCodecThatWantsIt) {
  Write(1024, {{"rope", kRope.dump()}, {"window", "512"}, {"model", "a\nmodel"}});
  const std::vector<std::string> calibrate{"calibrate", "--rows", rows_, "--artifact-out", artifact_, "--commvq-bits", "1"};
  const Finished finished = Kvantctl(calibrate);
  ASSERT_EQ(finished.exit_code, 0) << finished.err;
  EXPECT_THAT(finished.out, HasSubstr("18 tensors, measured on 1,024 tokens"));
  const std::string image = BytesOf(artifact_);
  ASSERT_EQ(Kvantctl(calibrate).exit_code, 0);
  EXPECT_EQ(BytesOf(artifact_), image);
  const Finished shown = Kvantctl({"calibrate", "--show", artifact_});
  EXPECT_THAT(shown.out, HasSubstr("model a\\nmodel"));
  EXPECT_THAT(shown.out, HasSubstr("keys.commvq"));
  // Rows of one context, for what attention loses; codecs that read every kind of tensor.
  Write(512);
  const Finished quality =
      Kvantctl({"quality", "--rows", rows_, "--artifact", artifact_, "--positions", "8", "--plans", "vecinfer",
                "spectral:bits=map", "turboquant_mse:bits=3,gauge=matrix/f16",
                "gauge:kind=pair,codes=(turboquant_mse:bits=3)/f16", "outlier", "turboquant_mse:bits=2", "-o", "json"});
  ASSERT_EQ(quality.exit_code, 0) << quality.err;
  const Json plans = Json::parse(quality.out)["plans"];
  // Normal rows: vectors of four lose .0970 of two bits' rows, scalars .1145; 512 words' worth of rows cost some of that.
  EXPECT_LT(plans[0]["value_cosine"].get<double>(), std::sqrt(1 - 0.0970) + 0.002);
  EXPECT_GT(plans[0]["value_cosine"].get<double>(), plans[5]["value_cosine"].get<double>() + 0.003);
  // Three bits of any direction are as good as of any other, where all are alike.
  EXPECT_NEAR(plans[1]["key_cosine"].get<double>(), std::sqrt(1 - 0.0345), 0.005);
}

TEST_F(RowsCommandsTest, BitsAreAllocatedToWhatTheyHelpMost) {
  Write(512);
  const std::vector<std::string> calibrate{
      "calibrate", "--rows", rows_, "--artifact-out", artifact_, "--plan-out", plan_, "--target-bits", "2.9", "-o", "json"};
  const Finished finished = Kvantctl(calibrate);
  ASSERT_EQ(finished.exit_code, 0) << finished.err;
  const Json plan = Json::parse(finished.out)["plan"];
  const double bits = (plan["key_bits_per_element"].get<double>() + plan["value_bits_per_element"].get<double>()) / 2;
  EXPECT_LE(bits, 2.9);
  EXPECT_GT(bits, 2.9 - 1.0 / 4);  // four units, a bit a step
  const Json written = Json::parse(BytesOf(plan_));
  EXPECT_TRUE(written.contains("keys") && written.contains("values") && written.contains("overrides"));
  EXPECT_EQ(
      Json::parse(Kvantctl({"calibrate", "--show", artifact_, "-o", "json"}).out)["tensors"]["allocation.losses"]["shape"],
      Json::array({5, 2, 1, kKvHeads}));
  const Finished few =
      Kvantctl({"calibrate", "--rows", rows_, "--artifact-out", artifact_, "--plan-out", plan_, "--target-bits", "1"});
  EXPECT_EQ(few.exit_code, 1);
  EXPECT_THAT(few.err, HasSubstr("turboquant_tcq:bits=1, takes 1.3"));
  const Finished unknown = Kvantctl(
      {"calibrate", "--rows", rows_, "--artifact-out", artifact_, "--losses", "--candidates", "int8", "no_such_codec"});
  EXPECT_EQ(unknown.exit_code, 1);
  EXPECT_THAT(unknown.err, HasSubstr("no_such_codec"));
}

TEST_F(RowsCommandsTest, WhatMetadataSaysIsChecked) {
  const auto refused = [&](const Json& metadata, const char* what) {
    Write(512, metadata);
    const Finished finished = Kvantctl({"calibrate", "--rows", rows_, "--artifact-out", artifact_});
    EXPECT_EQ(finished.exit_code, 1);
    EXPECT_THAT(finished.err, HasSubstr(rows_));
    EXPECT_THAT(finished.err, HasSubstr(what));
  };
  refused({{"window", "0"}}, "window \"0\"");
  refused({{"window", "12x"}}, "window \"12x\"");
  refused({{"window", "64"}}, "contexts of 64 tokens");
  refused({{"rope", "[[[["}}, "rope");
  Json rope = kRope;
  rope["pairing"] = "spiral";
  refused({{"rope", rope.dump()}}, "spiral");
  rope = kRope;
  rope["rotary_dims"] = 128;
  refused({{"rope", rope.dump()}}, "rotary_dims 128");
  rope["rotary_dims"] = 32;  // 16 pairs; the tensor has 32
  refused({{"rope", rope.dump()}}, "rope.radians, F64 [16]");
  rope["rotary_dims"] = 0;
  rope["attention_factor"] = -1.0;
  refused({{"rope", rope.dump()}}, "attention_factor");
  Write(512);
  const Finished unturned = Kvantctl({"calibrate", "--rows", rows_, "--artifact-out", artifact_, "--commvq-bits", "1"});
  EXPECT_EQ(unturned.exit_code, 1);
  EXPECT_THAT(unturned.err, HasSubstr("--commvq-bits"));
  Write(512, {{"window", "256"}});
  const Finished contexts = Kvantctl({"quality", "--rows", rows_});
  EXPECT_EQ(contexts.exit_code, 1);
  EXPECT_THAT(contexts.err, HasSubstr("2 contexts"));
}

TEST_F(RowsCommandsTest, RefusalsNameTheFile) {
  EXPECT_EQ(Kvantctl({"quality", "--rows", rows_ + "-none"}).exit_code, 4);
  Write(200);
  const Finished few = Kvantctl({"quality", "--rows", rows_});
  EXPECT_EQ(few.exit_code, 1);
  EXPECT_THAT(few.err, HasSubstr("at least 256 tokens"));
  EXPECT_EQ(Kvantctl({"calibrate", "--rows", rows_, "--artifact-out", artifact_}).exit_code, 1);
  EXPECT_EQ(Kvantctl({"calibrate", "--rows", rows_}).exit_code, 2);
  std::ofstream(rows_, std::ios::trunc) << "no rows";
  const Finished garbage = Kvantctl({"quality", "--rows", rows_});
  EXPECT_EQ(garbage.exit_code, 1);
  EXPECT_THAT(garbage.err, HasSubstr(rows_));
}

}  // namespace
}  // namespace kvant::tests
