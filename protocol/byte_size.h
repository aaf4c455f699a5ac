// Sizes as operators write them.
#pragma once

#include <cstdint>
#include <string_view>

#include <kvant/result.h>

namespace kvant::protocol {

/// "512MiB", "64KiB", "2GiB", "4096" (bytes), "1.5GiB". kInvalidArgument quotes the text and says what is allowed; units that
/// leave open whether they mean 1000 or 1024 (MB, M) are refused.
Result<std::uint64_t> ParseByteSize(std::string_view text);

}  // namespace kvant::protocol
