#include "client/examples/llama/tokenizer.h"

#include <nlohmann/json.hpp>

#include "client/examples/llama/files.h"
#include "quantizers/bounded_json.h"

namespace kvant::examples {
namespace {

using Json = nlohmann::json;
using quantizers::ShownJson;

constexpr TokenId kFirstByte = 3;

/// How byte-level BPE files spell a byte: itself where that prints (in Latin-1), else the next free code point from U+0100.
std::vector<std::string> ByteSpellings() {
  std::vector<std::string> spellings(256);
  unsigned next = 0x100;
  for (unsigned byte = 0; byte < 256; ++byte) {
    const bool prints = (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte <= 0xAC) || byte >= 0xAE;
    const unsigned code = prints ? byte : next++;
    std::string& utf8 = spellings[byte];
    if (code < 0x80) {
      utf8.push_back(static_cast<char>(code));
    } else {
      utf8.push_back(static_cast<char>(0xC0 | (code >> 6)));
      utf8.push_back(static_cast<char>(0x80 | (code & 0x3F)));
    }
  }
  return spellings;
}

Error Refuse(const std::string& what) {
  return {ErrorCode::kUnsupported,
          "tokenizer.json: " + what +
              "; this engine reads byte-level vocabularies alone (token = 3 + byte, 0 pad, 1 start, 2 end)"};
}

}  // namespace

Result<Tokenizer> Tokenizer::Parse(const std::string& text) {
  // A vocabulary of half a million entries with as many merges is still read, to say why it is refused.
  constexpr quantizers::JsonLimits kLimits{.bytes = kMaxTokenizerBytes, .depth = 64, .values = std::size_t{1} << 22};
  const Result<Json> parsed = quantizers::ParseJson(text, kLimits, "tokenizer.json");
  if (!parsed) return parsed.error();
  const Json& json = *parsed;
  if (!json.is_object() || !json.contains("model") || !json["model"].is_object()) return Refuse("no 'model' object");
  const Json& model = json["model"];
  const Json none;
  if (model.value("type", none) != "BPE") return Refuse("model type " + ShownJson(model.value("type", none)));
  const Json merges = model.value("merges", Json::array());
  if (!merges.is_array() || !merges.empty()) return Refuse("it has " + std::to_string(merges.size()) + " merges");
  const Json normalizer = json.value("normalizer", none);
  if (!normalizer.is_null()) return Refuse("it has a normalizer");
  const Json splitter = json.value("pre_tokenizer", Json::object());
  if (!splitter.is_object() || splitter.value("type", none) != "ByteLevel" ||
      splitter.value("add_prefix_space", Json(true)) != false) {
    return Refuse("its pre_tokenizer is not ByteLevel without a prefix space");
  }
  const Json vocab = model.value("vocab", none);
  if (!vocab.is_object() || vocab.size() != 256 + kFirstByte)
    return Refuse("its vocabulary has " + std::to_string(vocab.size()) + " entries");
  const std::vector<std::string> spellings = ByteSpellings();
  for (std::size_t byte = 0; byte < spellings.size(); ++byte) {
    const auto it = vocab.find(spellings[byte]);
    if (it == vocab.end() || *it != kFirstByte + static_cast<TokenId>(byte)) {
      return Refuse("byte " + std::to_string(byte) + " is not token " +
                    std::to_string(kFirstByte + static_cast<TokenId>(byte)));
    }
  }
  return Tokenizer(Digest(text));
}

std::vector<TokenId> Tokenizer::Encode(std::string_view text) const {
  std::vector<TokenId> tokens;
  tokens.reserve(text.size());
  for (const char c : text) tokens.push_back(kFirstByte + static_cast<unsigned char>(c));
  return tokens;
}

std::string Tokenizer::Decode(TokenId token) const {
  if (token < kFirstByte || token >= kFirstByte + 256) return {};
  return std::string(1, static_cast<char>(token - kFirstByte));
}

}  // namespace kvant::examples
