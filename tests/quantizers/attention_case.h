// Attention problems with random contents, and what attention should answer: a brute-force softmax in double over decoded rows.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include <kvant/tensor.h>

#include "quantizers/attention/attention.h"
#include "quantizers/plan.h"
#include "quantizers/registry.h"

namespace kvant::quantizers::test {

/// How one problem is laid out. Tokens [0, sealed) are in blocks, [0, sinks) and [raw_from, total) are raw; queries are the
/// last ones.
struct CaseShape {
  std::string keys = "f32";
  std::string values = "f32";
  std::size_t head_dim = 64;
  std::size_t kv_heads = 2;
  std::size_t group = 1;
  std::size_t block_tokens = 128;
  std::size_t sealed_blocks = 3;
  std::size_t sinks = 4;
  std::size_t raw_overlap = 0;  ///< raw rows reach this many tokens back into the sealed blocks
  std::size_t tail = 40;        ///< raw tokens after the last block, the queries' own included
  std::size_t queries = 1;
  std::size_t raw_pieces = 1;  ///< the tail is handed over in this many pieces
  ElementType raw_type = ElementType::kF32;
  ElementType query_type = ElementType::kF32;
  ElementType out_type = ElementType::kF32;
  float softcap = 0.0f;
  std::uint32_t window = 0;
  bool sink_logits = false;
  bool head_major = false;  ///< q and out are [heads, tokens, dim]
  float spread = 1.0f;      ///< logits have about this standard deviation
  RopeSpec rope = {};
  KeyStage key_stage = KeyStage::kAfterRope;
  std::vector<std::byte> artifact = {};
  std::vector<LayerPlan> overrides = {};
  KeptTokens kept = {};     ///< its window
  double kept_share = 1.0;  ///< below 1: of the tokens before kept_end so many are kept, in runs, others in each KV head
  std::uint64_t kept_end = 0;
  bool votes = false;
  std::vector<std::uint8_t> sections = {};  ///< block b keeps the first sections[b % size] sections; empty: all
};

/// Owns everything an AttendItem points to.
class AttentionCase {
 public:
  AttentionCase(const Registry& registry, const CaseShape& shape, std::uint64_t seed);

  [[nodiscard]] AttendItem& item() { return item_; }
  [[nodiscard]] const Plan& plan() const { return *plan_; }
  [[nodiscard]] std::size_t total() const { return total_; }

  /// Row of the answer for token t and query head h, as float.
  [[nodiscard]] std::vector<double> Output(std::size_t t, std::size_t h) const;
  [[nodiscard]] float Lse(std::size_t t, std::size_t h) const { return lse_[t * shape_.group * shape_.kv_heads + h]; }
  [[nodiscard]] const std::vector<float>& Votes() const { return votes_; }
  [[nodiscard]] std::vector<std::byte> OutputBytes() const { return out_; }
  void ClearOutput();

  /// The brute-force answers: over what the codecs decode to, or over the rows before encoding. [tokens, heads, dim] and
  /// [tokens, heads].
  struct Answer {
    std::vector<double> out;
    std::vector<double> lse;
    std::vector<double> logits;   ///< of every visible (token, head, position), in that order
    std::vector<double> weights;  ///< their softmax
    std::vector<double> votes;    ///< [kv_heads, total]
  };
  [[nodiscard]] Answer Reference(bool decoded) const;

  /// Sum of the squares of a - b.
  static double Distance(const std::vector<double>& a, const std::vector<double>& b);
  [[nodiscard]] std::vector<double> Outputs() const;

 private:
  void Fill(std::mt19937_64& random);
  void DropTokens(std::mt19937_64& random);
  [[nodiscard]] bool Kept(std::size_t head, std::size_t position, std::size_t query_position) const;
  void Encode();

  CaseShape shape_;
  std::size_t total_ = 0;
  std::unique_ptr<const Plan> plan_;
  std::vector<float> keys_;  ///< [kv_heads, total, dim]; pre-RoPE where the codec wants that
  std::vector<float> values_;
  std::vector<std::vector<std::byte>> slots_;  ///< payloads, over-aligned by hand
  std::vector<const std::byte*> blocks_;
  std::vector<std::uint8_t> sections_;  ///< of each block, or empty
  std::vector<std::byte> raw_keys_;     ///< [kv_heads, total, dim] of raw_type
  std::vector<std::byte> raw_values_;
  std::vector<RawRows> raw_;
  std::vector<std::byte> q_;
  std::vector<std::byte> out_;
  std::vector<float> lse_;
  std::vector<float> sink_logits_;
  std::vector<std::uint64_t> kept_;  ///< [kv_heads, words]
  std::vector<float> votes_;         ///< [kv_heads, total]
  AttendItem item_;
};

/// Runs one problem and compares with brute force over the decoded rows. What the integer arithmetic of a codec adds must stay
/// below 5 % of what the codec itself costs against the rows before encoding; float arithmetic may add a relative 1e-5.
void ExpectMatchesReference(const Registry& registry, const CaseShape& shape, std::uint64_t seed);

}  // namespace kvant::quantizers::test
