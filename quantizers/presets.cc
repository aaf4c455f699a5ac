#include "quantizers/presets.h"

#include <string>

#include "kernels/trellis/code.h"

#include "quantizers/seed_methods.h"

namespace kvant::quantizers {
namespace {

constexpr std::string_view kTrellis = "turboquant_tcq";
constexpr std::string_view kLloyd = "turboquant_mse";  // of as many bits, for head sizes that trellis codes do not serve

constexpr Preset kPresets[] = {
    {"exact", "", "", "keys and values as the model computes them"},
    {"hq", "turboquant_tcq:bits=4", "turboquant_tcq:bits=4", "4 bits each: a quarter of f16"},
    {"balanced", "turboquant_tcq:bits=3", "turboquant_tcq:bits=3", "3 bits each: the default"},
    {"small", "turboquant_tcq:bits=3", "turboquant_tcq:bits=2", "3 bits for keys, 2 for values"},
    {"tiny", "turboquant_tcq:bits=2,gauge=channels", "turboquant_tcq:bits=2", "2 bits each: where memory decides"},
};

}  // namespace

std::span<const Preset> Presets() noexcept { return kPresets; }

std::string ResolvePreset(std::string_view text, Side side, const StoreSpec& store) {
  for (const Preset& preset : kPresets) {
    if (preset.name != text) continue;
    const std::string_view spec = side == Side::kKeys ? preset.keys : preset.values;
    if (spec.empty()) return ElementTypeName(store.dtype);
    const bool served = store.head_dim % kernels::kTrellisDimMultiple == 0 && store.head_dim >= kernels::kLeastTrellisDim;
    if (served || !spec.starts_with(kTrellis)) return std::string(spec);
    return std::string(kLloyd) + std::string(spec.substr(kTrellis.size()));
  }
  return std::string(text);
}

Result<std::string> ResolveText(std::string_view text, Side side, const StoreSpec& store) {
  if (SaysMethod(text)) return MethodSpec(text, side, store.head_dim);
  return ResolvePreset(text, side, store);
}

}  // namespace kvant::quantizers
