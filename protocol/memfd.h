// Anonymous shared memory: creation and sealing of memfds, read-only descriptors for clients.
#pragma once

#include <cstddef>
#include <utility>

#include <kvant/result.h>

namespace kvant::protocol {

/// Owns a file descriptor; closes it. Movable.
class UniqueFd {
 public:
  UniqueFd() noexcept = default;
  explicit UniqueFd(int fd) noexcept : fd_(fd) {}
  UniqueFd(UniqueFd&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  UniqueFd& operator=(UniqueFd&& other) noexcept;
  ~UniqueFd();
  UniqueFd(const UniqueFd&) = delete;
  UniqueFd& operator=(const UniqueFd&) = delete;

  [[nodiscard]] int get() const noexcept { return fd_; }
  [[nodiscard]] bool valid() const noexcept { return fd_ >= 0; }
  /// Gives the descriptor up without closing it.
  [[nodiscard]] int Release() noexcept { return std::exchange(fd_, -1); }

 private:
  int fd_ = -1;
};

/// A memfd of `bytes` zero bytes: close-on-exec, mode 0600 (another uid that gets a read-only descriptor cannot open it again
/// for writing), sealed against shrinking (no SIGBUS for whoever maps it), growing and further seals. Not sealed against
/// writing: slots are rewritten. `name` shows in /proc/PID/maps only. kSystem names the call, the size and errno.
Result<UniqueFd> CreateSealedMemfd(const char* name, std::size_t bytes);

/// A read-only descriptor of the same memory. A guard against mistakes within one uid, a boundary between two.
Result<UniqueFd> ReopenReadOnly(int fd);

}  // namespace kvant::protocol
