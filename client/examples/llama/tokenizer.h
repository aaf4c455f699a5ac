// The byte-level vocabulary of this model family: token = 3 + byte, 0 pad, 1 start, 2 end.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include <kvant/client.h>
#include <kvant/result.h>

namespace kvant::examples {

/// Most bytes of a tokenizer.json.
inline constexpr std::size_t kMaxTokenizerBytes = std::size_t{64} << 20;

class Tokenizer {
 public:
  /// Checks that the text of a tokenizer.json says exactly this vocabulary. kUnsupported names what differs.
  static Result<Tokenizer> Parse(const std::string& tokenizer_json);

  [[nodiscard]] std::vector<TokenId> Encode(std::string_view text) const;
  /// The byte of a token; nothing for pad, start and end.
  [[nodiscard]] std::string Decode(TokenId token) const;
  [[nodiscard]] TokenId start() const noexcept { return 1; }
  [[nodiscard]] const std::string& digest() const noexcept { return digest_; }  ///< of the file, in hex

 private:
  explicit Tokenizer(std::string digest) : digest_(std::move(digest)) {}
  std::string digest_;
};

}  // namespace kvant::examples
