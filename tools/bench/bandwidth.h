// The limit that attention over a large cache runs against: how fast this process reads memory and does nothing else.
#pragma once

#include <cstddef>
#include <span>

namespace kvant::tools {

/// Bytes per second of a read-only sum over `memory`, each thread reading its own contiguous share: best of `rounds`.
/// Best, because a virtual machine's neighbours and clock only ever take away.
double ReadBandwidth(std::span<const std::byte> memory, std::size_t threads, std::size_t rounds);

}  // namespace kvant::tools
