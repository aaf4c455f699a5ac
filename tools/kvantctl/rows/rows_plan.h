// Plans for rows of a file.
#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <vector>

#include <kvant/result.h>

#include "quantizers/plan.h"
#include "quantizers/registry.h"
#include "tools/kvantctl/rows/rows_file.h"

namespace kvant::tools {

/// `plan`: KEYS or KEYS/VALUES. Errors name it: what Plan::Make says, and kOutOfRange where there are fewer than two blocks of
/// tokens, or more query heads for a KV head than codecs take.
[[nodiscard]] Result<std::unique_ptr<const quantizers::Plan>> PlanForRows(const quantizers::Registry& registry,
                                                                          const RowsShape& shape, const std::string& plan,
                                                                          std::vector<std::byte> artifact);

}  // namespace kvant::tools
