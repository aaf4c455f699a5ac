// Counts what the test binary allocates.
#pragma once

#include <cstddef>

namespace kvant::quantizers::test {

/// Calls of operator new so far, by all threads.
std::size_t Allocations();

}  // namespace kvant::quantizers::test
