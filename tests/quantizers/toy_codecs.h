// Three codecs that exist to prove the contract: none of them touches the project's code but through Registry::Add.
#pragma once

#include "quantizers/codec.h"

namespace kvant::quantizers::test {

/// Keys only: 4-bit minimum-maximum per channel over aligned groups of 32 tokens.
extern const Codec kToyChannel;

/// Keys and values: 8 bits per 4 numbers from the artifact's codebook "toy.codebook" [256, 4]. Scores by lookup table; the
/// values' accumulator is a histogram: the weight that fell on each codeword of each position.
extern const Codec kToyCodebook;

/// Keys only: bf16 rows before RoPE, turned to their positions while scoring.
extern const Codec kToyPreRope;

}  // namespace kvant::quantizers::test
