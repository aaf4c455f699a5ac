#include "quantizers/presets.h"

namespace kvant::quantizers {
namespace {

constexpr Preset kPresets[] = {
    {"exact", "", "", "keys and values as the model computes them"},
    {"hq", "turboquant_mse:bits=4", "turboquant_mse:bits=4", "4 bits each: a quarter of f16"},
    {"balanced", "turboquant_mse:bits=3", "turboquant_mse:bits=3", "3 bits each: the default"},
    {"small", "turboquant_mse:bits=3", "turboquant_mse:bits=2", "3 bits for keys, 2 for values"},
    {"tiny", "turboquant_mse:bits=2", "turboquant_mse:bits=2", "2 bits each: where memory decides"},
};

}  // namespace

std::span<const Preset> Presets() noexcept { return kPresets; }

std::string ResolvePreset(std::string_view text, Side side, ElementType dtype) {
  for (const Preset& preset : kPresets) {
    if (preset.name != text) continue;
    const std::string_view spec = side == Side::kKeys ? preset.keys : preset.values;
    return std::string(spec.empty() ? ElementTypeName(dtype) : spec);
  }
  return std::string(text);
}

}  // namespace kvant::quantizers
