// Whether this process was forked from the one that made an object. What a child inherits shares its socket with the parent,
// and the threads that served it do not exist there: the library lets it rest.
#pragma once

#include <cstdint>

namespace kvant::client {

/// Differs between a process and its children, once it has been called in the parent. Costs one load.
[[nodiscard]] std::uint64_t ForkGeneration() noexcept;

}  // namespace kvant::client
