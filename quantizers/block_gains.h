// Gains that a block of keys carries, chosen from how large its channels are.
#pragma once

#include <cstdint>
#include <span>

namespace kvant::quantizers {

// `squares`: the channels' mean squares around the block's mean. `scratch`: as many. `gains`: as many bytes
// (kernels::GainByte); keys are divided by them.

/// 1 for most channels; for one whose root mean square r is above twice the median channel's, the square root of r / (2
/// median), to the nearest power of two. Measured on real models, stronger or finer gains are not better for three bits and
/// more (tools/bench/README.md), and so few and so coarse ones are mostly the same in the next block.
void ChooseGainsOfLoud(std::span<const float> squares, std::span<float> scratch, std::uint8_t* gains);

/// The square root of r / base for all channels, as fine as bytes are, the base 1/256 of the median channel's, so that no row
/// grows; channels below that are as it. Right for two bits, where loud channels drown the others (tools/docs/adr/0050).
void ChooseGainsOfAll(std::span<const float> squares, std::span<float> scratch, std::uint8_t* gains);

}  // namespace kvant::quantizers
