// Plans by name, for those who do not want to know codecs. Chosen by measurement on real models (tools/bench/README.md); safe
// without calibration. A name stands wherever a codec spec may, and means what it meant when the store was made: plans and
// identities spell out the codecs.
#pragma once

#include <span>
#include <string>
#include <string_view>

#include <kvant/result.h>
#include <kvant/store_spec.h>

#include "quantizers/codec.h"

namespace kvant::quantizers {

struct Preset {
  std::string_view name;
  std::string_view keys;  ///< codec specs; empty: the model's own element type
  std::string_view values;
  std::string_view summary;
};

/// From the most exact to the smallest.
[[nodiscard]] std::span<const Preset> Presets() noexcept;

/// The codec spec that a preset's name stands for on that side of a store; any other text as it is. Trellis codes want head
/// sizes that are multiples of 16 from 48 on; for others the preset has Lloyd codes of as many bits.
[[nodiscard]] std::string ResolvePreset(std::string_view text, Side side, const StoreSpec& store);

/// The codec spec that a plan's text stands for on that side of a store: a preset's, a published method's (seed_methods.h), or
/// the text itself.
[[nodiscard]] Result<std::string> ResolveText(std::string_view text, Side side, const StoreSpec& store);

}  // namespace kvant::quantizers
