// Signs of sketched rows with one 16-bit number per row, the row's norm: all of a block of qjl, half of one of turboquant_prod.
//
// Bytes: the signs as codes of one bit of rows of m numbers (m projections), as kernels/lloyd/layout.h lays keys out, 1 for
// (S k)_i >= 0; then block_tokens ufloat16 norms. So the kernels of Lloyd codes score them, with sketched queries in place of
// rotated ones.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "kernels/bytes/queries.h"
#include "kernels/lloyd/layout.h"
#include "quantizers/codec.h"
#include "quantizers/rotated_keys.h"
#include "quantizers/sketch.h"

namespace kvant::quantizers {

/// More would cost what raw rows do, and be seen less than the rounding of queries.
inline constexpr std::uint32_t kMaxProjectionsPerNumber = 16;

/// An error unless `projections` is a multiple of 8, at most kMaxProjections and kMaxProjectionsPerNumber * head_dim.
[[nodiscard]] Result<void> CheckProjections(const CodecName& codec, const CodecConfig& config, std::uint64_t projections);

class SketchedSigns {
 public:
  /// Requires: CheckRotatedShape of one bit, CheckProjections.
  SketchedSigns(const CodecName& codec, const CodecConfig& config, SketchKind kind, std::uint32_t projections);

  /// 64-byte aligned sections follow each other: a multiple of 64.
  [[nodiscard]] std::size_t bytes() const noexcept { return kernels::LloydBlockBytes(1, projections_, tokens_); }
  [[nodiscard]] std::size_t memory_bytes() const noexcept;
  [[nodiscard]] double expected_error() const { return sketches_.front().expected_error(); }

  /// Signs and numbers of the kLanes rows from `first` on, which stand in columns [head_dim][16]; `bytes` is where this begins
  /// in the block. Tokens come in ascending order.
  void Encode(std::size_t head, const float* columns, const float* norms, std::size_t first, std::byte* bytes,
              std::byte* scratch) const;
  [[nodiscard]] std::size_t encode_scratch() const noexcept { return column_bytes(); }

  /// A batch of `count` queries, at most 16, in columns.
  void Prepare(std::size_t head, const float* columns, std::size_t count, std::byte* batch, std::byte* scratch) const;
  [[nodiscard]] std::size_t batch_bytes() const noexcept;
  [[nodiscard]] std::size_t prepare_scratch() const noexcept;

  /// `args.block.part[0]` and `args.prepared` are where this begins.
  void Score(const ScoreArgs& args) const;
  [[nodiscard]] std::size_t score_scratch(std::size_t n) const noexcept;

  /// rows [count][head_dim] += the rows from `begin` on, at most kLanes.
  void AddRows(std::size_t head, const std::byte* bytes, std::size_t begin, std::size_t count, float* rows,
               std::byte* scratch) const;
  [[nodiscard]] std::size_t rows_scratch() const noexcept;

 private:
  [[nodiscard]] const Sketch& sketch(std::size_t head) const { return sketches_[head - first_head_]; }
  [[nodiscard]] std::size_t column_bytes() const noexcept {
    return Sketch::ColumnRows(dim_, projections_) * kernels::kLanes * sizeof(float);
  }

  std::size_t dim_;
  std::size_t tokens_;
  std::size_t projections_;
  std::size_t first_head_;
  std::vector<Sketch> sketches_;  ///< of heads from first_head_ on
};

/// The norms of kLanes rows in columns, summed in order; NaN or infinity where a row has one.
void ColumnNorms(const float* columns, std::size_t dim, float* norms);

}  // namespace kvant::quantizers
