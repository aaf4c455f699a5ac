// Keys as codes of rotated rows with one 16-bit scale per row, whatever the levels are: what codecs in the layout of
// kernels/lloyd share beside their encoders. They differ in their table of levels and in how a row gets its codes and scale.
//
//   x -> y = Q x -> one code per dim -> reads back as scale * Q' c / (unit * sqrt(dim)), c the code's integer level.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "kernels/lloyd/layout.h"
#include "kernels/lloyd/query.h"
#include "kernels/lloyd/table.h"
#include "quantizers/byte_codes.h"
#include "quantizers/codec.h"
#include "quantizers/rotation.h"

namespace kvant::quantizers {

/// Which codec speaks: in errors, and in the seeds of its rotations.
struct CodecName {
  std::string_view name;
  std::uint32_t version = 1;
};

/// kUnsupported for a head size that rotations do not take, kInvalidArgument for blocks that codes of `bits` do not fill.
[[nodiscard]] Result<void> CheckRotatedShape(const CodecName& codec, const CodecConfig& config, std::uint32_t bits);

/// What Encode returns for a row that cannot be stored.
[[nodiscard]] Error BadRow(const CodecName& codec, std::size_t row, std::size_t head);

/// Blocks begin with LloydBlockBytes of codes and scales. A codec that keeps more behind them, or adds something to rows and
/// scores, overrides the calls.
class RotatedKeys : public KeyCodec {
 public:
  [[nodiscard]] std::size_t part_bytes(std::size_t) const noexcept override { return codes_bytes(); }
  [[nodiscard]] std::size_t memory_bytes() const noexcept override;
  [[nodiscard]] CodecTraits traits() const noexcept override;
  [[nodiscard]] CodeForm form() const noexcept override;
  [[nodiscard]] Needs needs(std::size_t n) const noexcept override;
  void Decode(const DecodeArgs& args) const override;
  void Prepare(const PrepareArgs& args) const override;
  void Score(const ScoreArgs& args) const override;

 protected:
  /// Requires: CheckRotatedShape. `table` outlives this.
  RotatedKeys(const CodecName& codec, const CodecConfig& config, const kernels::LloydTable& table);

  /// [count, dim] rotated rows from `begin` on, at most kLanes: what Decode turns back. `scratch`: needs().decode less what
  /// this class asks for.
  virtual void RotatedRows(const DecodeArgs& args, std::size_t begin, std::size_t count, float* rows, std::byte* scratch) const;

  [[nodiscard]] const CodecName& name() const noexcept { return codec_; }
  [[nodiscard]] const kernels::LloydTable& table() const noexcept { return *table_; }
  [[nodiscard]] std::size_t dim() const noexcept { return dim_; }
  [[nodiscard]] std::size_t tokens() const noexcept { return tokens_; }
  [[nodiscard]] const Rotation& rotation(std::size_t head) const { return rotations_.of(head); }
  [[nodiscard]] std::size_t codes_bytes() const noexcept { return kernels::LloydBlockBytes(table_->bits, dim_, tokens_); }
  /// The scale of a token, as stored.
  [[nodiscard]] float ScaleAt(const std::byte* block, std::size_t token) const noexcept;
  /// What one level is worth at scale 1, in the rotated space.
  [[nodiscard]] float level() const noexcept { return level_; }
  [[nodiscard]] std::size_t prepared_bytes(std::size_t n) const noexcept {
    return (n + kernels::kQueryBatch - 1) / kernels::kQueryBatch * kernels::LloydQueryBatchBytes(table_->bits, dim_);
  }

 private:
  CodecName codec_;
  std::size_t dim_;
  std::size_t tokens_;
  const kernels::LloydTable* table_;
  float level_;
  HeadRotations rotations_;
};

}  // namespace kvant::quantizers
