// Codecs that exist to prove that the contract fits codecs of other kinds: none of them touches the project's code but through
// Registry::Add.
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

/// Two codecs, given by nested specs: the last `channels` numbers of a row in one, the others in the other.
extern const Codec kToyOutlier;

/// Keys only: 8 bits around each block's own mean with a step per channel, so that the query is prepared anew for every block.
extern const Codec kToyBlockMean;

/// Keys only: sign bits, scored by counting bits.
extern const Codec kToySigns;

/// 4-bit integers with a scale per row, whose fast path is an expander (toy_nibbles-inl.h).
extern const Codec kToyNibbles;

/// 8 bits in two parts, of which the second may be dropped.
extern const Codec kToyPlanes;

}  // namespace kvant::quantizers::test
