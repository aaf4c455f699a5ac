#include "quantizers/artifact.h"

#include <cstdint>
#include <cstring>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "tests/quantizers/safetensors_image.h"

namespace kvant::quantizers {
namespace {

using test::SafetensorsImage;

std::vector<std::byte> ImageOf(const std::vector<ExampleTensor>& tensors) { return ArtifactImage(tensors); }

TEST(ArtifactTest, GivesBackTensorsByNameAndShape) {
  const auto image = ImageOf({{"means", {2, 3}, {1, 2, 3, 4, 5, 6}}, {"gains", {2}, {7, 8}}});
  const auto artifact = Artifact::Make(image);
  ASSERT_TRUE(artifact) << artifact.error().message;
  EXPECT_TRUE((*artifact)->Has("means"));
  EXPECT_FALSE((*artifact)->Has("mean"));
  const auto means = (*artifact)->Find("means", {2, 3});
  ASSERT_TRUE(means);
  EXPECT_EQ(std::vector<float>(means->begin(), means->end()), (std::vector<float>{1, 2, 3, 4, 5, 6}));
  EXPECT_TRUE((*artifact)->Find("gains", {2}));
  const auto missing = (*artifact)->Find("mean", {2, 3});
  ASSERT_FALSE(missing);
  EXPECT_EQ(missing.error().code, ErrorCode::kNotFound);
  const auto other = (*artifact)->Find("means", {3, 2});
  ASSERT_FALSE(other);
  EXPECT_NE(other.error().message.find("\"means\" has shape [2, 3], want [3, 2]"), std::string::npos) << other.error().message;
  EXPECT_EQ((*artifact)->digest().size(), 32u);
}

TEST(ArtifactTest, WidensHalvesAndBrains) {
  std::vector<std::byte> data(8);
  const std::uint16_t halves[] = {0x3c00, 0xc000};  // 1, -2
  const std::uint16_t brains[] = {0x3f80, 0xc000};  // 1, -2
  std::memcpy(data.data(), halves, 4);
  std::memcpy(data.data() + 4, brains, 4);
  const auto artifact = Artifact::Make(SafetensorsImage(
      R"({"__metadata__":{"format":"pt"},"h":{"dtype":"F16","shape":[1,2],"data_offsets":[0,4]},"b":{"dtype":"BF16","shape":[1,2],"data_offsets":[4,8]}})",
      data));
  ASSERT_TRUE(artifact) << artifact.error().message;
  for (const char* name : {"h", "b"}) {
    const auto values = (*artifact)->Find(name, {1, 2});
    ASSERT_TRUE(values);
    EXPECT_EQ((*values)[0], 1.0f);
    EXPECT_EQ((*values)[1], -2.0f);
  }
}

TEST(ArtifactTest, NotANumberIsFoundOnUse) {
  const auto artifact = Artifact::Make(ImageOf({{"bad", {1}, {std::numeric_limits<float>::quiet_NaN()}}}));
  ASSERT_TRUE(artifact);
  const auto values = (*artifact)->Find("bad", {1});
  ASSERT_FALSE(values);
  EXPECT_EQ(values.error().code, ErrorCode::kNotFinite);
}

void ExpectRefused(const std::vector<std::byte>& image, const std::string& what) {
  const auto artifact = Artifact::Make(image);
  ASSERT_FALSE(artifact) << what;
  EXPECT_NE(artifact.error().message.find(what), std::string::npos) << artifact.error().message;
}

TEST(ArtifactTest, HostileImagesAreRefused) {
  ExpectRefused({}, "codec plan artifact: shorter than");
  const std::vector<std::byte> data(16);
  ExpectRefused(SafetensorsImage(R"({"a":{"dtype":"I64","shape":[1],"data_offsets":[0,8]}})", data),
                "\"a\" has dtype I64; use F32");
  // A header nested as deep as it likes, in each place that an error could print.
  for (const std::string& shape : {std::string(200000, '['), std::string(200000, '[') + std::string(200000, ']')}) {
    for (const std::string& header : {"{\"a\":{\"dtype\":\"F32\",\"shape\":[" + shape + "],\"data_offsets\":[0,0]}}",
                                      "{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":" + shape + "}}",
                                      "{\"a\":{\"dtype\":" + shape + ",\"shape\":[1],\"data_offsets\":[0,4]}}",
                                      "{\"a\":" + shape + "}", "{\"__metadata__\":" + shape + "}", shape}) {
      ExpectRefused(SafetensorsImage(header, data), "more than 3 levels of JSON");
    }
  }
}

TEST(ArtifactTest, FlippedBytesNeverCrash) {
  const auto good = ImageOf({{"means", {2, 3}, {1, 2, 3, 4, 5, 6}}, {"gains", {2}, {7, 8}}});
  constexpr std::uint64_t kSeed = 5;
  SCOPED_TRACE(kSeed);
  std::mt19937_64 random(kSeed);
  std::size_t parsed = 0;
  for (int i = 0; i < 20000; ++i) {
    auto image = good;
    for (int k = 0; k < 1 + i % 3; ++k) image[random() % image.size()] = static_cast<std::byte>(random());
    if (i % 5 == 0) image.resize(random() % image.size());
    const auto artifact = Artifact::Make(image);
    if (artifact) ++parsed;
  }
  EXPECT_GT(parsed, 0u);
}

}  // namespace
}  // namespace kvant::quantizers
