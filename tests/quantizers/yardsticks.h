// The formats that most engines keep quantized caches in, as codecs to hold others against: ggml's q8_0 and q4_0. They are not
// among the codecs of the library: plain, slow, and for reports and tests only.
#pragma once

#include "quantizers/codec.h"
#include "quantizers/registry.h"

namespace kvant::quantizers::test {

/// Per 32 numbers of a row: an f16 scale d = max|x| / 127, 32 signed bytes round(x / d). 8.5 bits per number.
extern const Codec kYardstickQ8;

/// Per 32 numbers of a row: an f16 scale d = m / -8, m the number of the largest magnitude with its sign, and 16 bytes: low
/// nibbles are numbers 0..15, high ones 16..31; a nibble c = min(15, floor(x / d + 8.5)) stands for (c - 8) d. 4.5 bits per
/// number.
extern const Codec kYardstickQ4;

/// The library's codecs and the two, as "q8_0" and "q4_0".
[[nodiscard]] Registry RegistryWithYardsticks();

}  // namespace kvant::quantizers::test
