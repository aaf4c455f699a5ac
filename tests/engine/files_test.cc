// Files that do not end, are no files, or are not what they should be.
#include "client/examples/llama/files.h"

#include <filesystem>
#include <fstream>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include "client/examples/llama/model.h"
#include "quantizers/safetensors.h"
#include "tests/engine/byte_model.h"

namespace kvant::examples {
namespace {

using ::testing::HasSubstr;
namespace fs = std::filesystem;

class FilesTest : public ::testing::Test {
 protected:
  void SetUp() override {
    folder_ = fs::path(KVANT_BINARY_DIR) / ("files_test." + std::to_string(getpid()));
    fs::remove_all(folder_);
    fs::create_directories(folder_);
  }
  void TearDown() override { fs::remove_all(folder_); }

  [[nodiscard]] std::string Write(const std::string& name, const std::string& content) const {
    const std::string path = (folder_ / name).string();
    std::ofstream(path, std::ios::binary) << content;
    return path;
  }
  /// The checkpoint of the other tests, one file of which is replaced by a link to `target`.
  [[nodiscard]] Error LoadWith(const std::string& file, const fs::path& target) const {
    for (const char* name : {"config.json", "tokenizer.json", "model.safetensors"}) {
      fs::remove(folder_ / name);
      fs::create_symlink(name == file ? target : fs::path(ModelFolder()) / name, folder_ / name);
    }
    const Result<Model> model = Model::Load(folder_.string());
    return model ? Error{ErrorCode::kInternal, "it was loaded"} : model.error();
  }

  fs::path folder_;
};

TEST_F(FilesTest, SizesAreBounded) {
  const std::string path = Write("ten", "0123456789");
  EXPECT_EQ(ReadText(path, 10).value(), "0123456789");
  EXPECT_EQ(ReadFile(path, 10)->size(), 10u);
  const auto longer = ReadText(path, 9);
  ASSERT_FALSE(longer);
  EXPECT_EQ(longer.error().code, ErrorCode::kInvalidArgument);
  EXPECT_EQ(longer.error().message, "read '" + path + "': it is longer than 9 bytes");
  EXPECT_EQ(ReadText(Write("empty", ""), 0).value(), "");
  EXPECT_EQ(ReadWholeFile(path)->size(), 10u);
}

TEST_F(FilesTest, WhatDoesNotEndIsRefused) {
  const auto zeros = ReadText("/dev/zero", std::size_t{3} << 20);
  ASSERT_FALSE(zeros);
  EXPECT_THAT(zeros.error().message, HasSubstr("longer than 3145728 bytes"));
  const auto whole = ReadWholeFile("/dev/zero");
  ASSERT_FALSE(whole);
  EXPECT_EQ(whole.error().message, "read '/dev/zero': it is not a regular file");
  for (const char* file : {"config.json", "tokenizer.json", "model.safetensors"}) {
    const Error error = LoadWith(file, "/dev/zero");
    EXPECT_EQ(error.code, ErrorCode::kInvalidArgument) << error.message;
    EXPECT_THAT(error.message, HasSubstr(file));
  }
}

TEST_F(FilesTest, FoldersAndAbsentFilesAreNamed) {
  EXPECT_EQ(ReadText(folder_.string(), 10).error().code, ErrorCode::kInvalidArgument);
  EXPECT_EQ(ReadWholeFile(folder_.string()).error().code, ErrorCode::kInvalidArgument);
  EXPECT_EQ(ReadText("/nonexistent", 10).error().code, ErrorCode::kNotFound);
}

TEST_F(FilesTest, DeepJsonIsRefusedInEveryFile) {
  std::string deep = "{\"architectures\":";
  deep.append(200'000, '[');
  deep.append(200'000, ']');
  deep += "}";
  for (const char* file : {"config.json", "tokenizer.json"}) {
    EXPECT_THAT(LoadWith(file, Write("deep", deep)).message, HasSubstr(std::string(file) + ": more than 64 levels")) << file;
  }
  std::string header = "{\"a\":{\"shape\":";
  header.append(200'000, '[');
  std::string image(8, '\0');
  for (std::size_t i = 0; i < 8; ++i) image[i] = static_cast<char>(header.size() >> (8 * i) & 255);
  EXPECT_THAT(LoadWith("model.safetensors", Write("deep", image + header)).message, HasSubstr("more than 3 levels"));
}

TEST_F(FilesTest, AFieldThatStandsTwiceIsRefused) {
  EXPECT_THAT(LoadWith("config.json", Write("twice", R"({"head_dim": 64, "head_dim": 32})")).message,
              HasSubstr("config.json: the name \"head_dim\" stands twice"));
}

TEST_F(FilesTest, WeightsOfAnotherShapeOrTypeAreNamed) {
  const Config& config = ByteModel().config();
  const std::string name = "model.embed_tokens.weight";
  const auto load = [&](quantizers::TensorType type, std::vector<std::size_t> shape) {
    std::size_t bytes = TensorTypeBytes(type);
    for (const std::size_t extent : shape) bytes *= extent;
    const std::vector<std::byte> data(bytes);
    const quantizers::TensorToWrite tensor{name, type, std::move(shape), data};
    const auto image = quantizers::WriteSafetensors(std::span(&tensor, 1));
    const std::string path = Write("weights", {reinterpret_cast<const char*>(image.data()), image.size()});
    return LoadWith("model.safetensors", path).message;
  };
  using quantizers::TensorType;
  EXPECT_THAT(load(TensorType::kF16, {config.vocab, config.hidden + 1}),
              HasSubstr("model.safetensors: tensor '" + name + "' is ["));
  EXPECT_THAT(load(TensorType::kF16, {config.vocab * config.hidden}), HasSubstr("the config asks for ["));
  // Codes without their scales are no weights.
  EXPECT_THAT(load(TensorType::kI8, {config.vocab, config.hidden}), HasSubstr("is I8; F32, F16 and BF16 are read"));
  EXPECT_THAT(load(TensorType::kF64, {config.vocab, config.hidden}), HasSubstr("is F64"));
  EXPECT_THAT(load(TensorType::kF16, {config.vocab, config.hidden}), HasSubstr("tensor 'model.norm.weight' is missing"));
}

}  // namespace
}  // namespace kvant::examples
