// A client that looks at the sealed prefix of texts, over daemons that come and go.
#pragma once

#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include <kvant/client.h>

#include "tests/support/conversation.h"

namespace kvant::testing {

constexpr std::size_t kTextTokens = 400;  ///< as kvant_test_client floods

/// False if it does not come true within a minute or two.
bool WaitUntil(const std::function<bool()>& condition);

class SealedReader {
 public:
  explicit SealedReader(const std::string& uri);

  [[nodiscard]] pid_t worker() const { return static_cast<pid_t>(client_.daemon().pid); }
  Client& client() { return client_; }

  /// Fails the running test if there is no daemon to be found.
  void Reconnect();

  Sequence Open(const std::vector<TokenId>& text) { return store_.Open(text, kOptions).value(); }
  std::uint64_t Length(const std::vector<TokenId>& text) { return Open(text).length(); }

  /// Keys and values of all layers at the first `length` positions, decoded: [layer][2][length][kv_heads][head_dim].
  std::vector<float> Rows(Sequence& sequence, std::uint64_t length);

  /// Seals a text in this reader's daemon: all blocks that are due at its end. Requires: there is room for them.
  void Write(const std::vector<TokenId>& text);

  /// Of what the reader finds of a text, all is what `reference`, a daemon of its own, makes of the same text. Returns how many
  /// tokens that are.
  std::uint64_t ExpectSameAs(SealedReader& reference, const std::vector<TokenId>& text);

 private:
  static constexpr SequenceOptions kOptions{.recent_tokens = 16, .max_step_tokens = 64};
  const StoreSpec spec_ = SpecOf(ModelShape{}, "turboquant_mse:bits=4", "turboquant_mse:bits=4");
  Client client_;
  Store store_;
};

}  // namespace kvant::testing
