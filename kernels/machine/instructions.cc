#include "kernels/machine/instructions.h"

#include <cstdint>

#include "hwy/highway.h"
#include "kernels/machine/amx.h"

namespace kvant::kernels {

std::string Instructions() {
  // Better targets have lower bits.
  const auto usable = static_cast<std::uint64_t>(hwy::SupportedTargets()) & static_cast<std::uint64_t>(HWY_TARGETS);
  std::string name = usable == 0 ? "scalar" : hwy::TargetName(static_cast<std::int64_t>(usable & (~usable + 1)));
  return UsesTiles() ? name + "+AMX" : name;
}

}  // namespace kvant::kernels
