// A kvantd for benchmarks that need one, and what the kernel says of a process.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include <kvant/result.h>

namespace kvant::tools {

/// The kvantd that lies beside this program, as a child with a socket in a directory of its own; ends with this.
class DaemonProcess {
 public:
  /// `arguments` besides the socket. Returns once it answers; kNotFound or kDeadlineExceeded say what went wrong.
  static Result<std::unique_ptr<DaemonProcess>> Start(const std::vector<std::string>& arguments);
  ~DaemonProcess();
  DaemonProcess(const DaemonProcess&) = delete;
  DaemonProcess& operator=(const DaemonProcess&) = delete;
  [[nodiscard]] const std::string& socket() const noexcept { return socket_; }

 private:
  DaemonProcess() = default;
  std::string directory_;
  std::string socket_;
  pid_t pid_ = -1;
};

/// Resident bytes of a kvantd, memory shared with other processes included.
struct Resident {
  std::uint64_t all = 0;
  std::uint64_t arenas = 0;  ///< of those, clients' arenas: queries, outputs and tails that the daemon has looked at
};
/// From /proc. kSystem if it cannot be read.
Result<Resident> ResidentBytes(std::uint64_t pid);
/// Page faults since the process's threads began, minor and major.
struct Faults {
  std::uint64_t steps = 0;       ///< of threads that steps wait for
  std::uint64_t background = 0;  ///< of a daemon's workers, which seal blocks and make pages ready ahead of need
};
Result<Faults> PageFaults(std::uint64_t pid);

}  // namespace kvant::tools
