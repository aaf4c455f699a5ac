#include "client/examples/llama/tokenizer.h"

#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "tests/engine/byte_model.h"

namespace kvant::examples {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using Json = nlohmann::json;

Json Good() { return Json::parse(ReadText(ModelFolder() + "/tokenizer.json").value()); }

TEST(TokenizerTest, EveryByteIsOneTokenAndComesBack) {
  const Tokenizer tokenizer = Tokenizer::Parse(Good().dump()).value();
  std::string bytes;
  for (int byte = 0; byte < 256; ++byte) bytes.push_back(static_cast<char>(byte));
  const std::vector<TokenId> tokens = tokenizer.Encode(bytes);
  ASSERT_EQ(tokens.size(), 256u);
  std::string back;
  for (std::size_t i = 0; i < tokens.size(); ++i) {
    EXPECT_EQ(tokens[i], static_cast<TokenId>(3 + i));
    back += tokenizer.Decode(tokens[i]);
  }
  EXPECT_EQ(back, bytes);
  EXPECT_THAT(tokenizer.Encode("A\n"), ElementsAre(68, 13));
}

TEST(TokenizerTest, SpecialAndForeignTokensHaveNoText) {
  const Tokenizer tokenizer = Tokenizer::Parse(Good().dump()).value();
  for (const TokenId token : {-1, 0, 1, 2, 259, 1 << 30}) EXPECT_EQ(tokenizer.Decode(token), "") << token;
}

TEST(TokenizerTest, OtherKindsAreRefusedByName) {
  const auto refused = [](const Json& json, const char* what) {
    const auto tokenizer = Tokenizer::Parse(json.dump());
    ASSERT_FALSE(tokenizer) << what;
    EXPECT_EQ(tokenizer.error().code, ErrorCode::kUnsupported);
    EXPECT_THAT(tokenizer.error().message, HasSubstr(what));
  };
  Json json = Good();
  json["model"]["type"] = "Unigram";
  refused(json, "Unigram");
  json = Good();
  json["model"]["merges"] = {"a b"};
  refused(json, "1 merges");
  json = Good();
  json["model"]["vocab"]["extra"] = 259;
  refused(json, "260 entries");
  json = Good();
  json["model"]["vocab"]["A"] = 69;  // swapped with B
  json["model"]["vocab"]["B"] = 68;
  refused(json, "byte 65");
  json = Good();
  json["normalizer"] = {{"type", "NFC"}};
  refused(json, "normalizer");
  json = Good();
  json["pre_tokenizer"]["add_prefix_space"] = true;
  refused(json, "pre_tokenizer");
  refused(Json::array(), "no 'model'");
}

}  // namespace
}  // namespace kvant::examples
