// A make-believe model for tests: keys, values and queries of a token depend on the tokens up to it alone, so that two
// processes that feed the same tokens make the same rows. And plain attention over them in double, as the reference.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include <kvant/client.h>

namespace kvant::testing {

struct ModelShape {
  std::uint32_t layers = 2;
  std::uint32_t kv_heads = 2;
  std::uint32_t q_heads = 4;
  std::uint32_t head_dim = 64;
};

/// A store for `shape`; `keys` and `values` are codec specs.
StoreSpec SpecOf(const ModelShape& shape, const std::string& keys, const std::string& values, std::uint32_t block_tokens = 64,
                 std::uint32_t sink_tokens = 4);

enum class Side : std::uint8_t { kKey, kValue, kQuery };

/// `n` token ids from a seed.
std::vector<TokenId> RandomTokens(std::size_t n, std::uint64_t seed);

/// Rows of all tokens of a text. Numbers are about N(0, 1), rounded to f16 so that f16 tails hold them exactly.
class FakeModel {
 public:
  explicit FakeModel(ModelShape shape) : shape_(shape) {}
  [[nodiscard]] const ModelShape& shape() const noexcept { return shape_; }

  /// The row of tokens[position], which depends on tokens[0..position].
  [[nodiscard]] std::vector<float> Row(std::span<const TokenId> tokens, std::size_t position, Side side, std::size_t layer,
                                       std::size_t head) const;

 private:
  ModelShape shape_;
};

struct AttendStyle {
  float softcap = 0.0f;
  std::uint32_t window = 0;
  bool sinks = false;  ///< learned sink logits
  [[nodiscard]] float scale(const ModelShape& shape) const;
  [[nodiscard]] std::vector<float> SinkLogits(const ModelShape& shape) const;
};

/// Attention outputs of the queries at positions [begin, end) of one layer, [end - begin, q_heads, head_dim], in double inside.
/// `lse` (may be null) gets [end - begin, q_heads].
std::vector<float> BruteForce(const FakeModel& model, std::span<const TokenId> tokens, std::size_t begin, std::size_t end,
                              std::size_t layer, const AttendStyle& style, std::vector<float>* lse);

enum class WriteMode : std::uint8_t { kInPlace, kAppendTokenMajor, kAppendHeadMajor };

/// What a query without a row of its own sees of tokens [first, tokens.size()): [q_heads, head_dim]. All heads ask `q`.
std::vector<float> BruteProbe(const FakeModel& model, std::span<const TokenId> tokens, std::size_t first, std::size_t layer,
                              std::span<const float> q, float scale);

/// Feeds a sequence and collects what attention says.
class Conversation {
 public:
  /// `tokens` are those that `sequence` holds already.
  Conversation(Client& client, Sequence sequence, const FakeModel& model, std::vector<TokenId> tokens, std::uint32_t max_step);

  /// Feeds `tokens`, at most `chunk` at a time; returns what attention said: [token][layer][q_heads][head_dim]. `lse` gets
  /// [token][layer][q_heads]. Fails the running test on errors.
  std::vector<float> Feed(std::span<const TokenId> tokens, std::size_t chunk, WriteMode mode = WriteMode::kInPlace,
                          const AttendStyle& style = {}, std::vector<float>* lse = nullptr);

  /// One step, errors returned. Outputs are in out(): [layer][token][q_heads][head_dim].
  Result<void> Step(std::span<const TokenId> tokens, WriteMode mode, const AttendStyle& style);
  /// Without Advance.
  Result<void> AttendOnly(std::span<const TokenId> tokens, WriteMode mode, const AttendStyle& style);
  /// What Feed is compared with: brute force for the tokens at [begin, end), in the same order.
  [[nodiscard]] std::vector<float> Expected(std::size_t begin, std::size_t end, const AttendStyle& style = {},
                                            std::vector<float>* lse = nullptr) const;

  [[nodiscard]] Sequence& sequence() noexcept { return sequence_; }
  [[nodiscard]] std::vector<TokenId>& tokens() noexcept { return tokens_; }
  [[nodiscard]] const std::vector<float>& out() const noexcept { return out_; }
  [[nodiscard]] const std::vector<float>& lse() const noexcept { return lse_; }
  [[nodiscard]] const FakeModel& model() const noexcept { return model_; }

 private:
  void AppendByToken(std::span<const float> by_layer, std::size_t tokens, std::vector<float>& to) const;

  Sequence sequence_;
  const FakeModel& model_;
  std::vector<TokenId> tokens_;
  Tensor q_;
  Tensor out_tensor_;
  Tensor lse_tensor_;
  Tensor sink_tensor_;
  std::vector<float> out_;
  std::vector<float> lse_;
};

/// Largest absolute difference.
double MaxDifference(std::span<const float> a, std::span<const float> b);

/// Writes one float as an element.
void StoreElement(void* base, ElementType type, std::size_t index, float value);

/// Rounds to f16 and back.
float RoundToHalf(float value);

}  // namespace kvant::testing
