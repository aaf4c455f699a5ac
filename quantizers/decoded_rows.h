// Decoding row by row: through another codec, or through what turns sums into rows.
#pragma once

#include <cstddef>

#include "quantizers/codec.h"
#include "quantizers/strided_rows.h"

namespace kvant::quantizers {

/// Decodes rows of `inner`, a block of `dim` channels, one at a time into `row` ([dim]), lets `finish(token, row)` change each,
/// and puts it where `args` says. `scratch` is the inner codec's.
template <typename Finish>
void DecodeThrough(const BlockCodec& inner, const DecodeArgs& args, std::size_t dim, float* row, std::byte* scratch,
                   Finish finish) {
  for (std::size_t t = args.begin; t < args.end; ++t) {
    DecodeArgs one = args;
    one.begin = t;
    one.end = t + 1;
    one.rows = row;
    one.row_stride = dim;
    one.add = false;
    one.scratch = scratch;
    inner.Decode(one);
    finish(t, row);
    PutRows(row, 1, dim, args.rows + (t - args.begin) * args.row_stride, args.row_stride, args.add);
  }
}

/// Finish's arguments for a row that stands for itself, in the codec's own coordinates: a sum of one row with weight 1.
inline FinishArgs FinishOfRow(const DecodeArgs& args, std::size_t token, std::size_t dim, const float* row) {
  static constexpr float kOne = 1.0f;
  return {.head = args.head,
          .acc = row,
          .acc_stride = dim,
          .acc_floats = dim,
          .weight_sums = &kOne,
          .n = 1,
          .rows = args.rows + (token - args.begin) * args.row_stride,
          .row_stride = args.row_stride,
          .add = args.add,
          .scratch = args.scratch};
}

}  // namespace kvant::quantizers
