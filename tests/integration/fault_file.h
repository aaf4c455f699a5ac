// Processes that a test ends at a system call of its choice, or whose clocks it moves.
#pragma once

#include <cstdint>
#include <string>

#include "tests/integration/faults/faults.h"

namespace kvant::testing {

/// While it lives, programs that this process starts have the faults library loaded. One at a time.
class FaultFile {
 public:
  FaultFile();
  ~FaultFile();
  FaultFile(const FaultFile&) = delete;
  FaultFile& operator=(const FaultFile&) = delete;

  /// Programs that are started from now on are as they are.
  void StopLoading();

  /// The process that makes the `nth` such call from now on is ended with SIGKILL before it: whichever it is, or only one that
  /// kvantd's holder has started.
  enum class Whose { kAny, kWorker };
  void Arm(kvant_fault call, std::int32_t nth, Whose whose = Whose::kWorker);
  void Disarm();
  /// Processes that were ended.
  [[nodiscard]] std::int32_t fired() const;
  void MoveClocks(std::int64_t realtime_seconds, std::int64_t monotonic_seconds);

 private:
  std::string path_;
  kvant_faults* faults_ = nullptr;
};

}  // namespace kvant::testing
