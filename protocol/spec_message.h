// A store's spec as bytes that outlive a process: an unpacked Cap'n Proto message, whose fields may only be added to.
#pragma once

#include <cstddef>
#include <span>
#include <string_view>
#include <vector>

#include <kvant/result.h>
#include <kvant/store_spec.h>

namespace kvant::wire {

/// Without the plan's artifact. A multiple of 8 bytes.
std::vector<std::byte> WriteSpecMessage(const kvant::StoreSpec& spec);

/// kCorrupt, beginning with `what`, for bytes that are no such message; else errors as ReadStoreSpec. Reads only inside
/// `bytes`, whatever it holds.
Result<kvant::StoreSpec> ReadSpecMessage(std::span<const std::byte> bytes, std::string_view what);

}  // namespace kvant::wire
