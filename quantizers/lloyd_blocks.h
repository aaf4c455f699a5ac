// What keys and values of turboquant_mse share, in either order of their bits: the table, rotations and means of the KV heads
// of a layer, rows to blocks of codes in the layout of kernels/lloyd/layout.h, and sums of codes to rows.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

#include "kernels/lloyd/encode.h"
#include "kernels/lloyd/table.h"
#include "kernels/rotation/unrotate.h"
#include "quantizers/codec.h"
#include "quantizers/rotated_keys.h"
#include "quantizers/rotation.h"

namespace kvant::quantizers {

class LloydBlocks {
 public:
  struct Choice {
    CodecName codec;  ///< in errors; its version is that of the rotations
    std::uint32_t bits = 4;
    const kernels::LloydTable* table = nullptr;  ///< null: Lloyd's of so many bits
    kernels::LloydScale scale = kernels::LloydScale::kUnbiased;
    std::uint32_t block_multiple = 0;  ///< of block_tokens
    std::string_view means = {};       ///< tensor of the artifact, [kv_heads, head_dim], that rows are centred by; empty: none
  };

  /// kUnsupported for a head size that rotations do not take, kInvalidArgument for blocks that codes do not fill and for means
  /// that are not there.
  static Result<LloydBlocks> Make(const Choice& choice, const CodecConfig& config);

  [[nodiscard]] std::size_t dim() const noexcept { return dim_; }
  [[nodiscard]] std::size_t tokens() const noexcept { return tokens_; }
  [[nodiscard]] kernels::LloydScale scale() const noexcept { return scale_; }
  [[nodiscard]] kernels::LloydLayout layout() const noexcept {
    return side_ == Side::kKeys ? kernels::LloydLayout::kKeys : kernels::LloydLayout::kValues;
  }
  [[nodiscard]] const kernels::LloydTable& table() const noexcept { return *table_; }
  [[nodiscard]] const Rotation& rotation(std::size_t head) const { return rotations_.of(head); }
  [[nodiscard]] std::size_t memory_bytes() const noexcept { return rotations_.memory_bytes(); }
  /// [head_dim], or null without centring.
  [[nodiscard]] const float* mean(std::size_t head) const noexcept {
    return means_.empty() ? nullptr : means_.data() + head * dim_;
  }
  [[nodiscard]] std::size_t bytes() const noexcept { return kernels::LloydBlockBytes(table_->bits, dim_, tokens_); }
  [[nodiscard]] std::size_t row_bytes() const noexcept { return dim_ * sizeof(float); }
  [[nodiscard]] std::size_t encode_scratch() const noexcept { return kernels::LloydEncodeScratchBytes(dim_); }
  [[nodiscard]] std::size_t unrotate_scratch(std::size_t n) const noexcept {
    return kernels::RotationScratchBytes(dim_) + n * row_bytes();
  }
  [[nodiscard]] std::size_t decode_scratch() const noexcept { return unrotate_scratch(1) + row_bytes(); }

  [[nodiscard]] CodecTraits traits() const noexcept;
  [[nodiscard]] CodeForm form() const noexcept;
  [[nodiscard]] double expected_error() const;

  /// What calls need whose codes have their levels' meaning from elsewhere: Prepare's queries and Score's scratch, for levels
  /// of `bits` bits (lloyd/query.h); Accumulate's scratch and Finish's.
  [[nodiscard]] Needs KeyNeeds(std::size_t n, std::uint32_t bits, std::size_t encode) const noexcept;
  [[nodiscard]] Needs ValueNeeds(std::size_t n, std::size_t encode) const noexcept;
  /// Queries for levels in units of `levels`.
  void PrepareQueries(const PrepareArgs& args, const kernels::LloydTable& levels) const;

  /// What a kernel needs to know to encode rows of a head.
  [[nodiscard]] kernels::LloydEncoding EncodingOf(std::size_t head) const noexcept;
  /// What Encode returns where a kernel stopped at `row`.
  [[nodiscard]] Result<void> Encoded(const EncodeArgs& args, std::size_t row) const;
  /// Into the first part, with encode_scratch.
  [[nodiscard]] Result<void> Encode(const EncodeArgs& args) const;

  /// `level(token, dim)`: the code's level in units of which `unit` are a standard deviation; `scales`: ufloat16 of all tokens.
  /// Scratch: decode_scratch.
  template <class Level>
  void DecodeRows(const DecodeArgs& args, const std::byte* scales, float unit, const Level& level) const {
    auto* row = reinterpret_cast<float*>(args.scratch + unrotate_scratch(1));
    for (std::size_t token = args.begin; token < args.end; ++token) {
      const float scale = ScaleAt(scales, token);
      for (std::size_t i = 0; i < dim_; ++i) row[i] = static_cast<float>(level(token, i)) * scale;
      DecodeRow(args, token, unit, row);
    }
  }
  void Decode(const DecodeArgs& args) const;

  /// Accumulators, in units of which `unit` are a standard deviation, to rows; row i gets its mean times weight_sums[i] added.
  /// Scratch: unrotate_scratch(n).
  void Unrotate(const FinishArgs& args, float unit) const;

 private:
  LloydBlocks() = default;
  static float ScaleAt(const std::byte* scales, std::size_t token) noexcept;
  void DecodeRow(const DecodeArgs& args, std::size_t token, float unit, const float* row) const;

  std::string_view name_;
  Side side_ = Side::kKeys;
  std::size_t dim_ = 0;
  std::size_t tokens_ = 0;
  const kernels::LloydTable* table_ = nullptr;
  kernels::LloydScale scale_ = kernels::LloydScale::kUnbiased;
  std::span<const float> means_;  ///< [kv_heads, head_dim] of the artifact, or empty
  HeadRotations rotations_;
};

}  // namespace kvant::quantizers
