// Which threads give way to which.
#pragma once

namespace kvant::daemon {

/// Raises the calling thread's nice value by `by`. Threads it starts later inherit that. Where policy forbids it, nothing
/// changes and the threads compete as equals.
void BeNicer(int by) noexcept;

}  // namespace kvant::daemon
