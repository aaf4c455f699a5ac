#include "quantizers/code_form.h"

namespace kvant::quantizers {

std::string_view CodeFamilyName(CodeFamily family) noexcept {
  switch (family) {
    case CodeFamily::kOpaque: return "opaque";
    case CodeFamily::kRaw: return "raw";
    case CodeFamily::kScalar: return "scalar";
    case CodeFamily::kVector: return "vector";
    case CodeFamily::kSigns: return "signs";
    case CodeFamily::kTrellis: return "trellis";
  }
  return "unknown";
}

std::string_view CodeOrderName(CodeOrder order) noexcept {
  switch (order) {
    case CodeOrder::kOpaque: return "opaque";
    case CodeOrder::kRows: return "rows";
    case CodeOrder::kKeyTiles: return "key_tiles";
    case CodeOrder::kValueTiles: return "value_tiles";
  }
  return "unknown";
}

std::string_view ScaleFormatName(ScaleFormat format) noexcept {
  switch (format) {
    case ScaleFormat::kNone: return "none";
    case ScaleFormat::kUfloat16: return "ufloat16";
    case ScaleFormat::kF16: return "f16";
    case ScaleFormat::kF32: return "f32";
  }
  return "unknown";
}

}  // namespace kvant::quantizers
