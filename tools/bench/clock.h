// The processor's clock, as a program can see it: virtual machines lower it without telling.
#pragma once

namespace kvant::tools {

/// Dependent additions per nanosecond: one per cycle on every processor we know. Takes about 10 ms.
double ClockGhz();

}  // namespace kvant::tools
