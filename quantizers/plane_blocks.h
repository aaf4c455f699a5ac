// turboquant_mse with planes=1: the indices and scales of the plain code, each bit in a plane of its own
// (kernels/lloyd/planes.h), most significant first. A plane is a part of a block, so the last planes can be dropped: what is
// left are the bytes that encoding into fewer parts writes, and reads as a code of so many bits (kernels/lloyd/plane_table.h).
//
// Part 0: the first plane, head_dim * block_tokens / 8 bytes, then block_tokens ufloat16 scales. Part p: plane p.
#pragma once

#include <memory>

#include "quantizers/codec.h"
#include "quantizers/lloyd_blocks.h"

namespace kvant::quantizers {

/// Requires: block_tokens is a multiple of kernels::LloydBlockMultiple(1).
[[nodiscard]] std::unique_ptr<KeyCodec> MakePlaneKeys(LloydBlocks blocks);
[[nodiscard]] std::unique_ptr<ValueCodec> MakePlaneValues(LloydBlocks blocks);

}  // namespace kvant::quantizers
