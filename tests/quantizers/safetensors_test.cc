// Reading what was written, every element type, and hostile images.
#include "quantizers/safetensors.h"

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

std::vector<std::byte> Bytes(std::initializer_list<unsigned> values) {
  std::vector<std::byte> bytes;
  for (const unsigned value : values) bytes.push_back(static_cast<std::byte>(value));
  return bytes;
}

std::vector<float> Widened(const StoredTensor& tensor) {
  std::vector<float> numbers(tensor.elements);
  EXPECT_TRUE(WidenTensor(tensor, numbers));
  return numbers;
}

TEST(SafetensorsTest, WhatIsWrittenIsReadBack) {
  const auto a = Bytes({1, 2, 3, 4, 5, 6, 7, 8}), b = Bytes({0xff}), c = Bytes({});
  const TensorToWrite tensors[] = {
      {"a", TensorType::kF16, {2, 1, 2}, a}, {"b", TensorType::kI8, {}, b}, {"c", TensorType::kF64, {3, 0}, c}};
  const auto image = WriteSafetensors(tensors, {{"format", "pt"}});
  std::uint64_t header = 0;
  std::memcpy(&header, image.data(), 8);
  EXPECT_EQ(header % 8, 0u) << "the data must begin aligned";
  const auto file = Safetensors::Read(image, "test");
  ASSERT_TRUE(file) << file.error().message;
  ASSERT_EQ(file->tensors().size(), 3u);
  for (const TensorToWrite& written : tensors) {
    const StoredTensor* read = file->Find(written.name);
    ASSERT_NE(read, nullptr) << written.name;
    EXPECT_EQ(read->type, written.type);
    EXPECT_EQ(read->shape, written.shape);
    EXPECT_EQ(std::vector<std::byte>(read->bytes.begin(), read->bytes.end()),
              std::vector<std::byte>(written.bytes.begin(), written.bytes.end()));
  }
  EXPECT_EQ(file->Find("d"), nullptr);
  EXPECT_EQ(file->Find("__metadata__"), nullptr);
}

// Bytes by hand, as the format's own description has them: not what our writer makes of them.
TEST(SafetensorsTest, NumbersAreWidenedExactly) {
  const std::string header =
      R"({"h":{"dtype":"F16","shape":[2],"data_offsets":[1,5]},"b":{"dtype":"BF16","shape":[2],"data_offsets":[5,9]},)"
      R"("i":{"dtype":"I8","shape":[1],"data_offsets":[0,1]},"u":{"dtype":"U8","shape":[1,1],"data_offsets":[9,10]},)"
      R"("n":{"dtype":"I64","shape":[1],"data_offsets":[10,18]}})";
  auto data = Bytes({0xfe, 0x01, 0x3c, 0x01, 0x00, 0x81, 0x3f, 0x00, 0xc0, 0xfe});
  data.resize(18);
  const auto image = SafetensorsImage(header, data);
  const auto file = Safetensors::Read(image, "test");
  ASSERT_TRUE(file) << file.error().message;
  EXPECT_EQ(Widened(*file->Find("h")), (std::vector<float>{1.0f + 0x1p-10f, 0x1p-24f}));
  EXPECT_EQ(Widened(*file->Find("b")), (std::vector<float>{1.0f + 0x1p-7f, -2.0f}));
  EXPECT_EQ(Widened(*file->Find("i")), (std::vector<float>{-2.0f}));
  EXPECT_EQ(Widened(*file->Find("u")), (std::vector<float>{254.0f}));
  float number = 0;
  EXPECT_FALSE(WidenTensor(*file->Find("n"), std::span(&number, 1)));
}

// More numbers than are widened at a time, at an odd address.
TEST(SafetensorsTest, LongTensorsAreWidenedWhole) {
  constexpr std::size_t kNumbers = 5001;
  std::vector<std::byte> data(1 + sizeof(float) * kNumbers);
  std::vector<float> expected;
  for (std::size_t i = 0; i < kNumbers; ++i) expected.push_back(static_cast<float>(i) / 3);
  std::memcpy(data.data() + 1, expected.data(), sizeof(float) * kNumbers);
  const auto image = SafetensorsImage(R"({"w":{"dtype":"F32","shape":[3,1667],"data_offsets":[1,20005]}})", data);
  const auto file = Safetensors::Read(image, "test");
  ASSERT_TRUE(file) << file.error().message;
  EXPECT_EQ(Widened(*file->Find("w")), expected);
}

void ExpectRefused(const std::vector<std::byte>& image, const std::string& what) {
  const auto file = Safetensors::Read(image, "test");
  ASSERT_FALSE(file) << what;
  EXPECT_NE(file.error().message.find(what), std::string::npos) << file.error().message;
  EXPECT_LT(file.error().message.size(), 400u) << "an error must not repeat the header";
}

TEST(SafetensorsTest, HostileImagesAreRefused) {
  const std::vector<std::byte> data(16);
  const auto header = [&](const std::string& text) { return SafetensorsImage(text, data); };
  ExpectRefused({}, "test: shorter than");
  ExpectRefused(std::vector<std::byte>(7), "shorter than");
  auto image = header("{}");
  const std::uint64_t huge = std::numeric_limits<std::uint64_t>::max();
  std::memcpy(image.data(), &huge, 8);
  ExpectRefused(image, "header length 18446744073709551615");
  ExpectRefused(header("{" + std::string(kMaxSafetensorsHeader, ' ') + "}"), "or the limit of 1048576");
  ExpectRefused(header("[1]"), "not a JSON object");
  ExpectRefused(header("{\"a\":"), "its header: not JSON");
  ExpectRefused(header("{\"\xff\":1}"), "not JSON");
  ExpectRefused(header(std::string(100000, '[')), "more than 3 levels");
  ExpectRefused(header(R"({"a":1})"), "tensor \"a\"");
  ExpectRefused(
      header(R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}})"),
      "the name \"a\" stands twice");
  ExpectRefused(header(R"({"a":{"dtype":"F32","shape":[1],"shape":[2],"data_offsets":[0,4]}})"),
                "the name \"shape\" stands twice");
  ExpectRefused(header("{\"" + std::string(257, 'n') + "\":{}}"), "more than 256 bytes");
  ExpectRefused(header(R"({"a":{"shape":[1],"data_offsets":[0,4]}})"), "no dtype");
  ExpectRefused(header(R"({"a":{"dtype":7,"shape":[1],"data_offsets":[0,4]}})"), "no dtype");
  ExpectRefused(header("{\"a\":{\"dtype\":\"" + std::string(9000, 'F') + "\",\"shape\":[1],\"data_offsets\":[0,8]}}"),
                "is unknown");
  ExpectRefused(header(R"({"a":{"dtype":"F32","data_offsets":[0,4]}})"), "no shape");
  ExpectRefused(header(R"({"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}})"), "axis 0 of its shape is not a size");
  ExpectRefused(header(R"({"a":{"dtype":"F32","shape":[1,1.5],"data_offsets":[0,4]}})"), "axis 1 of its shape is not a size");
  ExpectRefused(header(R"({"a":{"dtype":"F32","shape":["x"],"data_offsets":[0,4]}})"), "not a size");
  ExpectRefused(header(R"({"a":{"dtype":"F32","shape":[1,1,1,1,1,1,1,1,1],"data_offsets":[0,4]}})"), "rank 9, at most 8");
  ExpectRefused(header(R"({"a":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,4]}})"), "overflows");
  ExpectRefused(header(R"({"a":{"dtype":"F64","shape":[2305843009213693952],"data_offsets":[0,0]}})"), "overflows");
  ExpectRefused(header(R"({"a":{"dtype":"F32","shape":[1]}})"), "no data_offsets");
  ExpectRefused(header(R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0]}})"), "no data_offsets");
  ExpectRefused(header(R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[4,0]}})"), "lie outside");
  ExpectRefused(header(R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[16,20]}})"), "lie outside the 16 data bytes");
  ExpectRefused(header(R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[18446744073709551612,18446744073709551615]}})"),
                "lie outside");
  ExpectRefused(header(R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,4]}})"), "takes 8 bytes, data_offsets give 4");
  ExpectRefused(
      header(
          R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[8,16]},"b":{"dtype":"F32","shape":[3],"data_offsets":[0,12]}})"),
      "tensor \"a\": it overlaps \"b\"");
}

TEST(SafetensorsTest, FlippedBytesNeverReadOutside) {
  const std::vector<std::byte> data(24, std::byte{1});
  const TensorToWrite tensors[] = {{"means", TensorType::kF32, {2, 2}, std::span(data).first(16)},
                                   {"gains", TensorType::kF16, {4}, std::span(data).last(8)}};
  const auto good = WriteSafetensors(tensors);
  constexpr std::uint64_t kSeed = 5;
  SCOPED_TRACE(kSeed);
  std::mt19937_64 random(kSeed);
  std::size_t read = 0;
  for (int i = 0; i < 20000; ++i) {
    auto image = good;
    for (int k = 0; k < 1 + i % 3; ++k) image[random() % image.size()] = static_cast<std::byte>(random());
    if (i % 5 == 0) image.resize(random() % image.size());
    image.shrink_to_fit();
    const auto file = Safetensors::Read(image, "test");
    if (!file) continue;
    ++read;
    for (const auto& [name, tensor] : file->tensors()) {
      const auto* end = image.data() + image.size();
      ASSERT_TRUE(tensor.bytes.empty() ||
                  (tensor.bytes.data() >= image.data() && tensor.bytes.data() + tensor.bytes.size() <= end));
    }
  }
  EXPECT_GT(read, 0u);
}

}  // namespace
}  // namespace kvant::quantizers
