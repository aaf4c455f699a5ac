// What is measured: a store's blocks as the daemon lays them out, filled with encoded rows, and the answers that a plain
// computation gives for them.
#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "quantizers/plan.h"
#include "tools/bench/reference.h"
#include "tools/bench/rows.h"

namespace kvant::tools {

/// The cache that a workload holds many copies of.
struct CacheForm {
  std::string keys;  ///< codec specs
  std::string values;
  std::size_t kv_heads = kKvHeads;  ///< of the rows' kKvHeads, the first so many
  std::size_t tokens = 0;           ///< of one sequence; a multiple of kBlockTokens
};

/// As many sequences of `form.tokens` tokens as fit into memory, all with the same contents at different addresses: the last
/// tokens of the rows, repeated from the front where a sequence is longer.
class Workload {
 public:
  /// `memory` (64-byte aligned) and `rows` outlive this. kInvalidArgument if not even one sequence fits.
  static Result<std::unique_ptr<Workload>> Make(const quantizers::Registry& registry, const CacheForm& form,
                                                const SampleRows& rows, std::span<std::byte> memory);

  [[nodiscard]] const quantizers::Plan& plan() const noexcept { return *plan_; }
  [[nodiscard]] const CacheForm& form() const noexcept { return form_; }
  [[nodiscard]] const SampleRows& rows() const noexcept { return rows_; }
  [[nodiscard]] std::size_t sequences() const noexcept { return slots_.size() / blocks(); }
  /// Payloads of one sequence's blocks.
  [[nodiscard]] std::span<const std::byte* const> Blocks(std::size_t sequence) const {
    return std::span(slots_).subspan(sequence * blocks(), blocks());
  }
  /// Encoded bytes that attention reads for one layer of a sequence, all heads.
  [[nodiscard]] std::size_t layer_bytes() const noexcept;
  /// The memory that is filled.
  [[nodiscard]] std::span<const std::byte> memory() const noexcept {
    return {slots_.front(), slots_.size() * plan_->payload_bytes()};
  }

  /// How often each of the rows' tokens occurs among the first `visible` tokens of a sequence.
  [[nodiscard]] std::vector<double> Times(std::size_t visible) const;
  /// The row that token `token` is.
  [[nodiscard]] std::size_t Row(std::size_t token) const;
  /// Rows of one head after encoding and decoding: [rows().tokens, kHeadDim].
  [[nodiscard]] std::vector<float> DecodedKeys(std::size_t layer, std::size_t head) const;
  [[nodiscard]] std::vector<float> DecodedValues(std::size_t layer, std::size_t head) const;

 private:
  Workload(const CacheForm& form, const SampleRows& rows) : form_(form), rows_(rows) {}
  Result<void> Encode(std::span<std::byte> memory);
  [[nodiscard]] std::size_t blocks() const noexcept { return form_.tokens / kBlockTokens; }
  /// Which of the rows' blocks stands at `block` of a sequence.
  [[nodiscard]] std::size_t Content(std::size_t block) const noexcept;

  CacheForm form_;
  const SampleRows& rows_;
  std::unique_ptr<const quantizers::Plan> plan_;
  [[nodiscard]] std::vector<float> Decoded(quantizers::Side side, std::size_t layer, std::size_t head) const;

  std::vector<const std::byte*> contents_;  ///< one encoded slot of each of the rows' blocks that occur; else null
  std::vector<const std::byte*> slots_;
};

}  // namespace kvant::tools
