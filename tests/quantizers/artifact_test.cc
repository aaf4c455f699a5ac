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

TEST(ArtifactTest, GivesBackTensorsByNameAndShape) {
  const auto image = SafetensorsImage({{"means", {2, 3}, {1, 2, 3, 4, 5, 6}}, {"gains", {2}, {7, 8}}});
  const auto artifact = Artifact::Make(image);
  ASSERT_TRUE(artifact) << artifact.error().message;
  EXPECT_TRUE((*artifact)->Has("means"));
  EXPECT_FALSE((*artifact)->Has("mean"));
  const auto means = (*artifact)->Find("means", 2, 3);
  ASSERT_TRUE(means);
  EXPECT_EQ(std::vector<float>(means->begin(), means->end()), (std::vector<float>{1, 2, 3, 4, 5, 6}));
  EXPECT_TRUE((*artifact)->Find("gains", 1, 2));
  const auto missing = (*artifact)->Find("mean", 2, 3);
  ASSERT_FALSE(missing);
  EXPECT_EQ(missing.error().code, ErrorCode::kNotFound);
  const auto other = (*artifact)->Find("means", 3, 2);
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
    const auto values = (*artifact)->Find(name, 1, 2);
    ASSERT_TRUE(values);
    EXPECT_EQ((*values)[0], 1.0f);
    EXPECT_EQ((*values)[1], -2.0f);
  }
}

TEST(ArtifactTest, NotANumberIsFoundOnUse) {
  const auto artifact = Artifact::Make(SafetensorsImage({{"bad", {1}, {std::numeric_limits<float>::quiet_NaN()}}}));
  ASSERT_TRUE(artifact);
  const auto values = (*artifact)->Find("bad", 1, 1);
  ASSERT_FALSE(values);
  EXPECT_EQ(values.error().code, ErrorCode::kNotFinite);
}

void ExpectRefused(const std::vector<std::byte>& image, const std::string& what) {
  const auto artifact = Artifact::Make(image);
  ASSERT_FALSE(artifact) << what;
  EXPECT_NE(artifact.error().message.find(what), std::string::npos) << artifact.error().message;
}

TEST(ArtifactTest, HostileImagesAreRefused) {
  const std::vector<std::byte> data(16);
  const auto header = [&](const std::string& text) { return SafetensorsImage(text, data); };
  ExpectRefused({}, "shorter than");
  ExpectRefused(std::vector<std::byte>(7), "shorter than");
  auto image = header("{}");
  const std::uint64_t huge = std::numeric_limits<std::uint64_t>::max();
  std::memcpy(image.data(), &huge, 8);
  ExpectRefused(image, "header length 18446744073709551615");
  ExpectRefused(header("[1]"), "not a JSON object");
  ExpectRefused(header("{\"a\":"), "not a JSON object");
  ExpectRefused(header(std::string(100000, '[')), "not a JSON object");
  ExpectRefused(header(R"({"a":1})"), "\"a\"");
  ExpectRefused(header(R"({"a":{"shape":[1],"data_offsets":[0,4]}})"), "no dtype");
  ExpectRefused(header(R"({"a":{"dtype":7,"shape":[1],"data_offsets":[0,4]}})"), "no dtype");
  ExpectRefused(header(R"({"a":{"dtype":"I64","shape":[1],"data_offsets":[0,8]}})"), "dtype I64; use F32");
  ExpectRefused(header(R"({"a":{"dtype":"F32","data_offsets":[0,4]}})"), "no shape");
  ExpectRefused(header(R"({"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}})"), "holds -1");
  ExpectRefused(header(R"({"a":{"dtype":"F32","shape":[1.5],"data_offsets":[0,4]}})"), "holds 1.5");
  ExpectRefused(header(R"({"a":{"dtype":"F32","shape":["x"],"data_offsets":[0,4]}})"), "not a size");
  ExpectRefused(header(R"({"a":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,4]}})"), "overflows");
  ExpectRefused(header(R"({"a":{"dtype":"F32","shape":[4611686018427387904],"data_offsets":[0,0]}})"), "overflows");
  ExpectRefused(header(R"({"a":{"dtype":"F32","shape":[1]}})"), "no data_offsets");
  ExpectRefused(header(R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0]}})"), "no data_offsets");
  ExpectRefused(header(R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[4,0]}})"), "lie outside");
  ExpectRefused(header(R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[16,20]}})"), "lie outside the 16 data bytes");
  ExpectRefused(header(R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[18446744073709551612,18446744073709551615]}})"),
                "lie outside");
  ExpectRefused(header(R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,4]}})"), "takes 8 bytes, data_offsets give 4");
  ExpectRefused(
      header(
          R"({"a":{"dtype":"F32","shape":[4],"data_offsets":[0,16]},"b":{"dtype":"F32","shape":[4],"data_offsets":[0,16]}})"),
      "overlaps");
}

TEST(ArtifactTest, FlippedBytesNeverCrash) {
  const auto good = SafetensorsImage({{"means", {2, 3}, {1, 2, 3, 4, 5, 6}}, {"gains", {2}, {7, 8}}});
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
