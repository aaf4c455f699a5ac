#include "quantizers/presets.h"

#include <cstdint>

#include "quantizers/seed_methods.h"

namespace kvant::quantizers {
namespace {

constexpr std::string_view kTwoBits = "gaussian_vq";
constexpr std::uint32_t kVectorMultiple = 16;  // of head sizes that vector codes serve
constexpr std::string_view kScalarTwoBits = "turboquant_mse:bits=2";

constexpr Preset kPresets[] = {
    {"exact", "", "", "keys and values as the model computes them"},
    {"hq", "turboquant_mse:bits=4", "turboquant_mse:bits=4", "4 bits each: a quarter of f16"},
    {"balanced", "turboquant_mse:bits=3", "turboquant_mse:bits=3", "3 bits each: the default"},
    {"small", "turboquant_mse:bits=3", kTwoBits, "3 bits for keys, 2 for values"},
    {"tiny", "gauge:kind=block,codes=(gaussian_vq)", kTwoBits, "2 bits each: where memory decides"},
};

}  // namespace

std::span<const Preset> Presets() noexcept { return kPresets; }

std::string ResolvePreset(std::string_view text, Side side, const StoreSpec& store) {
  for (const Preset& preset : kPresets) {
    if (preset.name != text) continue;
    const std::string_view spec = side == Side::kKeys ? preset.keys : preset.values;
    if (spec.empty()) return ElementTypeName(store.dtype);
    const bool vectors = spec.find(kTwoBits) != std::string_view::npos;
    return std::string(vectors && store.head_dim % kVectorMultiple != 0 ? kScalarTwoBits : spec);
  }
  return std::string(text);
}

Result<std::string> ResolveText(std::string_view text, Side side, const StoreSpec& store) {
  if (SaysMethod(text)) return MethodSpec(text, side, store.head_dim);
  return ResolvePreset(text, side, store);
}

}  // namespace kvant::quantizers
