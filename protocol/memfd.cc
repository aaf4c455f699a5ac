#include "protocol/memfd.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <string>

#include "protocol/system_error.h"

namespace kvant::protocol {

UniqueFd& UniqueFd::operator=(UniqueFd&& other) noexcept {
  if (this != &other) {
    if (fd_ >= 0) ::close(fd_);
    fd_ = std::exchange(other.fd_, -1);
  }
  return *this;
}

UniqueFd::~UniqueFd() {
  if (fd_ >= 0) ::close(fd_);
}

Result<UniqueFd> CreateSealedMemfd(const char* name, std::size_t bytes) {
  const std::string what = "create segment " + std::string(name) + " of " + std::to_string(bytes) + " bytes: ";
  UniqueFd fd(::memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING));
  if (!fd.valid()) return SystemError(what + "memfd_create", errno);
  // The default mode is 0777: any uid that is sent a read-only descriptor could open it again for writing.
  if (::fchmod(fd.get(), 0600) != 0) return SystemError(what + "fchmod", errno);
  if (::ftruncate(fd.get(), static_cast<off_t>(bytes)) != 0) return SystemError(what + "ftruncate", errno);
  if (::fcntl(fd.get(), F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) != 0) return SystemError(what + "seal", errno);
  return fd;
}

Result<UniqueFd> ReopenReadOnly(int fd) {
  const std::string path = "/proc/self/fd/" + std::to_string(fd);
  UniqueFd read_only(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!read_only.valid()) return SystemError("open " + path + " read-only", errno);
  return read_only;
}

}  // namespace kvant::protocol
