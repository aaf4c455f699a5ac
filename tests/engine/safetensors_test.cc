// Reading what was written, the three element types, and hostile images.
#include "client/examples/llama/safetensors.h"

#include <cstdint>
#include <cstring>
#include <ostream>
#include <random>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/engine/byte_model.h"

namespace kvant::examples {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

std::vector<std::byte> Image(const std::string& header, std::size_t data_bytes, std::uint64_t header_bytes) {
  std::vector<std::byte> image(8 + header.size() + data_bytes);
  std::memcpy(image.data(), &header_bytes, 8);
  std::memcpy(image.data() + 8, header.data(), header.size());
  for (std::size_t i = 0; i < data_bytes; ++i) image[8 + header.size() + i] = static_cast<std::byte>(i);
  return image;
}
std::vector<std::byte> Image(const std::string& header, std::size_t data_bytes) {
  return Image(header, data_bytes, header.size());
}

std::vector<float> Read(const SafeTensors& file, const std::string& name, std::vector<std::size_t> shape) {
  return file.Floats(name, shape).value();
}

TEST(SafeTensorsTest, WhatIsWrittenIsReadBack) {
  const std::vector<FloatTensor> tensors = {{"a", {2, 3}, {1, 2, 3, 4, 5, 6}}, {"b", {1}, {-0.5f}}};
  const SafeTensors file = SafeTensors::Parse(WriteSafeTensors(tensors, {{"format", "pt"}})).value();
  EXPECT_THAT(Read(file, "a", {2, 3}), ElementsAre(1, 2, 3, 4, 5, 6));
  EXPECT_THAT(Read(file, "b", {1}), ElementsAre(-0.5f));
  EXPECT_FALSE(file.Has("__metadata__"));
}

TEST(SafeTensorsTest, HalfPrecisionsAreWidenedExactly) {
  std::vector<std::byte> image = Image(
      R"({"h":{"dtype":"F16","shape":[2],"data_offsets":[0,4]},"b":{"dtype":"BF16","shape":[2],"data_offsets":[4,8]}})", 8);
  const std::uint16_t words[] = {0x3C01, 0x0001, 0x3F81, 0xC000};  // f16 1+2^-10, 2^-24; bf16 1+2^-7, -2
  std::memcpy(image.data() + image.size() - 8, words, 8);
  const SafeTensors file = SafeTensors::Parse(image).value();
  EXPECT_THAT(Read(file, "h", {2}), ElementsAre(1.0f + 0x1p-10f, 0x1p-24f));
  EXPECT_THAT(Read(file, "b", {2}), ElementsAre(1.0f + 0x1p-7f, -2.0f));
}

TEST(SafeTensorsTest, AbsentTensorsOtherShapesAndOtherTypesAreNamed) {
  const SafeTensors file = SafeTensors::Parse(Image(R"({"w":{"dtype":"I8","shape":[2,2],"data_offsets":[0,4]}})", 4)).value();
  const std::size_t shape[] = {2, 2};
  const std::size_t other[] = {4};
  EXPECT_THAT(file.Floats("v", shape).error().message, HasSubstr("'v'"));
  EXPECT_THAT(file.Floats("w", other).error().message, HasSubstr("[2, 2]"));
  EXPECT_EQ(file.Floats("w", shape).error().code, ErrorCode::kUnsupported);
}

struct HostileImage {
  const char* what;
  std::vector<std::byte> image;
};
void PrintTo(const HostileImage& hostile, std::ostream* out) { *out << hostile.what; }

class HostileImageTest : public ::testing::TestWithParam<HostileImage> {};

TEST_P(HostileImageTest, IsCorrupt) {
  const auto file = SafeTensors::Parse(GetParam().image);
  ASSERT_FALSE(file);
  EXPECT_EQ(file.error().code, ErrorCode::kCorrupt);
}

std::vector<std::byte> OneTensor(const char* fields) { return Image(std::string(R"({"w":{)") + fields + "}}", 4); }

INSTANTIATE_TEST_SUITE_P(
    Images, HostileImageTest,
    ::testing::Values(
        HostileImage{"too short", std::vector<std::byte>(3)}, HostileImage{"endless header", Image("{}", 0, UINT64_MAX)},
        HostileImage{"header beyond the file", Image("{}", 0, 3)}, HostileImage{"half a header", Image("{}", 0, 1)},
        HostileImage{"a list", Image("[]", 0)}, HostileImage{"no offsets", OneTensor(R"("dtype":"F32","shape":[1])")},
        HostileImage{"offsets beyond the file", OneTensor(R"("dtype":"F32","shape":[2],"data_offsets":[0,8])")},
        HostileImage{"offsets backwards", OneTensor(R"("dtype":"F32","shape":[1],"data_offsets":[4,0])")},
        HostileImage{"shape larger than bytes", OneTensor(R"("dtype":"F32","shape":[2],"data_offsets":[0,4])")},
        HostileImage{"negative shape", OneTensor(R"("dtype":"F32","shape":[-1],"data_offsets":[0,4])")},
        // 4 * (2^62 + 1) = 4 modulo 2^64
        HostileImage{"overflowing shape", OneTensor(R"("dtype":"F32","shape":[4611686018427387905],"data_offsets":[0,4])")},
        HostileImage{"endless offsets", OneTensor(R"("dtype":"F32","shape":[1],"data_offsets":[0,18446744073709551615])")},
        HostileImage{"type a number", OneTensor(R"("dtype":7,"shape":[1],"data_offsets":[0,4])")},
        HostileImage{"offsets a string", OneTensor(R"("dtype":"F32","shape":[1],"data_offsets":"x")")}));

TEST(SafeTensorsTest, FlippedBitsNeverReadOutside) {
  const unsigned seed = std::random_device{}();
  SCOPED_TRACE("seed " + std::to_string(seed));
  std::mt19937 random(seed);
  const std::vector<FloatTensor> tensors = {{"a", {2, 3}, {1, 2, 3, 4, 5, 6}}, {"b", {4}, {1, 2, 3, 4}}};
  const std::vector<std::byte> good = WriteSafeTensors(tensors, {});
  const std::size_t shape[] = {2, 3};
  std::size_t refused = 0;
  for (int i = 0; i < 2000; ++i) {
    std::vector<std::byte> bad = good;
    for (int flips = 0; flips < 3; ++flips) bad[random() % bad.size()] ^= static_cast<std::byte>(1u << (random() % 8));
    bad.shrink_to_fit();
    const auto file = SafeTensors::Parse(bad);
    if (file) {
      const auto floats = file->Floats("a", shape);
      EXPECT_TRUE(!floats || floats->size() == 6);
    } else {
      ++refused;
    }
  }
  EXPECT_GT(refused, 1000u);  // most flips hit the header
}

}  // namespace
}  // namespace kvant::examples
