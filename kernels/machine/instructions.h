// Which instructions kernels use on this machine.
#pragma once

#include <string>

namespace kvant::kernels {

/// For people and logs: Highway's name of the target, with "+AMX" where tiles are used: "AVX3_DL+AMX".
[[nodiscard]] std::string Instructions();

}  // namespace kvant::kernels
