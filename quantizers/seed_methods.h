// The methods and knobs of published MLX quantization packages as plan text, for users who come from them:
//
//   text = "method=" name {"," knob "=" value}            for example method=turboquant_rvq,bits=1,value_bits=16
//
// Names, defaults and meanings are those packages'. A knob at its published default is always taken; another value of one that
// means nothing for the method, or nothing here, is an error that names it. What is an array there comes in the plan's
// artifact.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include <kvant/result.h>

#include "quantizers/codec.h"

namespace kvant::quantizers {

/// Whether a text says a method, and not a codec or a preset.
[[nodiscard]] bool SaysMethod(std::string_view text) noexcept;

/// The codec spec that serves a method's keys or values for rows of head_dim numbers. kInvalidArgument or kUnsupported, naming
/// the method or the knob and its value. Whether the codec takes the numbers, the registry says. Requires: SaysMethod(text).
[[nodiscard]] Result<std::string> MethodSpec(std::string_view text, Side side, std::uint32_t head_dim);

}  // namespace kvant::quantizers
