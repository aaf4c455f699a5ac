// From the codec contract to the kernels of byte codes, for codecs of one part whose blocks are codes, then scales.
#pragma once

#include <cstddef>

#include "kernels/bytes/attend.h"
#include "quantizers/codec.h"
#include "quantizers/strided_rows.h"

namespace kvant::quantizers {

/// Scratch of ScoreByteCodes for n queries: the kernel's, then logits that are added.
constexpr std::size_t ByteCodesScoreScratch(std::size_t n, std::size_t dim, std::size_t tokens) noexcept {
  return kernels::ByteScoreScratchBytes(n, dim) + n * tokens * sizeof(float);
}

/// KeyCodec::Score by `kernel` (kernels::ByteScoreArgs -> nothing), which overwrites logits. Scratch: ByteCodesScoreScratch.
template <typename Kernel>
void ScoreByteCodes(const ScoreArgs& args, std::size_t dim, std::size_t tokens, const Kernel& kernel) {
  auto* own = reinterpret_cast<float*>(args.scratch + kernels::ByteScoreScratchBytes(args.n, dim));
  kernel(kernels::ByteScoreArgs{.dim = dim,
                                .tokens = tokens,
                                .block = args.block.part[0],
                                .prepared = args.prepared,
                                .queries = args.n,
                                .logits = args.add ? own : args.logits,
                                .stride = args.add ? tokens : args.stride,
                                .scratch = args.scratch,
                                .next = args.next.data,
                                .next_bytes = args.next.bytes});
  if (args.add) PutRows(own, args.n, tokens, args.logits, args.stride, true);
}

/// What ValueCodec::Accumulate asks of a kernel.
inline kernels::ByteAccumulateArgs ByteAccumulate(const AccumulateArgs& args, std::size_t dim, std::size_t tokens) noexcept {
  return {.dim = dim,
          .tokens = tokens,
          .block = args.block.part[0],
          .weights = args.weights,
          .stride = args.stride,
          .queries = args.n,
          .acc = args.acc,
          .acc_stride = args.acc_stride,
          .scratch = args.scratch,
          .next = args.next.data,
          .next_bytes = args.next.bytes};
}

}  // namespace kvant::quantizers
