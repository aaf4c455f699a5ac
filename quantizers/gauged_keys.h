// Keys of any codec behind a gauge: a change of coordinates that leaves every <q, k> as it is and lets the codes lose less of
// it.
//
// Softmax does not see a vector that is added to all keys, and <q, k> = <q g, k / g>. So each block's keys are coded without
// their own mean, and in coordinates in which no channel stands out: divided by gains that the block itself carries, or
// multiplied by a matrix or divided by gains from calibration. Both are needed for models whose keys have a large common part
// (codecs.md §1.2b; the figures are in tools/bench/README.md). Blocks stay pure functions of their rows.
//
//   code rows z = (k - mean) / gain   or   (k - mean) G        <q, k> = <q, mean> + <q gain, z>   or   <q, mean> + <q G^-1, z>
//
// Block: the inner codec's first part, then the gauge: head_dim means as f16, then head_dim gains as bytes where there are
// gains (kernels/gauge/gauge.h), adjacent: 16 / block_tokens or 24 / block_tokens bits per element more than the inner codec.
#pragma once

#include <cstdint>
#include <memory>
#include <string_view>

#include "quantizers/codec.h"

namespace kvant::quantizers {

enum class GaugeKind : std::uint8_t {
  kMean,      ///< the block's mean
  kGains,     ///< the block's mean and a gain per channel: few and coarse ones, mostly those of the block before
  kChannels,  ///< the same with fine gains of all channels: every block prepares queries anew
  kMatrix,    ///< the block's mean, then a calibrated matrix
  kPair,      ///< the block's mean, then calibrated gains, one for both channels of a pair that RoPE turns
};

/// Puts a gauge before a codec of keys. kPair, whose gains keys are divided by, and kMatrix need tensors of the artifact
/// (quantizers/calibrated_gauge.h): errors name them. Requires: inner->pre_rope() is false or the gauge is of keys before RoPE,
/// too.
[[nodiscard]] Result<std::unique_ptr<KeyCodec>> MakeGaugedKeys(GaugeKind kind, const CodecConfig& config,
                                                               std::unique_ptr<KeyCodec> inner);

/// What a codec with a gauge of its own calls it: its parameter `gauge`. kAuto is the codec's to decide.
enum class GaugeChoice : std::uint8_t { kAuto, kNone, kMean, kBlock, kMatrix, kChannels };
inline constexpr std::string_view kGaugeNames[] = {"auto", "none", "mean", "block", "matrix", "channels"};

/// Keys behind the gauge of that name; kNone: as they are. Requires: not kAuto.
[[nodiscard]] Result<std::unique_ptr<KeyCodec>> MakeKeysBehind(GaugeChoice choice, const CodecConfig& config,
                                                               std::unique_ptr<KeyCodec> keys);
/// What a codec says to a gauge of values.
[[nodiscard]] Error GaugeIsOfKeys(std::string_view codec, GaugeChoice choice);

}  // namespace kvant::quantizers
