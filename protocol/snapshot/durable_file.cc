#include "protocol/snapshot/durable_file.h"

#include <cerrno>
#include <csignal>
#include <ctime>
#include <utility>

#include <fcntl.h>
#include <pthread.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "protocol/system_error.h"

namespace kvant::snapshot {
namespace {

struct SplitPath {
  std::string folder;
  std::string name;
};

SplitPath Split(const std::string& path) {
  const std::size_t slash = path.rfind('/');
  if (slash == std::string::npos) return {.folder = ".", .name = path};
  return {.folder = slash == 0 ? "/" : path.substr(0, slash), .name = path.substr(slash + 1)};
}

sigset_t FileSizeSignal() {
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGXFSZ);
  return signals;
}

}  // namespace

Result<DurableFile> DurableFile::Create(const std::string& target) {
  const auto [folder, name] = Split(target);
  const std::string what = "write " + target;
  if (name.empty() || name == "." || name == "..") return Error{ErrorCode::kInvalidArgument, what + ": no file name"};
  protocol::UniqueFd folder_fd(::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!folder_fd.valid()) return protocol::SystemError(what + ": open folder " + folder, errno);
  // A rename would put a file in the place of a device, a pipe or a link.
  struct stat present {};
  if (::fstatat(folder_fd.get(), name.c_str(), &present, AT_SYMLINK_NOFOLLOW) == 0 && !S_ISREG(present.st_mode)) {
    return Error{ErrorCode::kInvalidArgument, what + ": what is there is no regular file, and stays"};
  }
  const std::string partial = "." + name + ".kvant-partial";
  for (;;) {
    protocol::UniqueFd fd(::openat(folder_fd.get(), partial.c_str(), O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600));
    if (!fd.valid()) return protocol::SystemError(what + ": create " + folder + "/" + partial, errno);
    if (::flock(fd.get(), LOCK_EX | LOCK_NB) != 0) {
      if (errno != EWOULDBLOCK) return protocol::SystemError(what + ": lock " + folder + "/" + partial, errno);
      return Error{ErrorCode::kUnavailable, what + ": another process is writing it now"};
    }
    // Whoever had the lock before may have renamed or removed this very file meanwhile.
    struct stat ours {};
    struct stat named {};
    if (::fstat(fd.get(), &ours) != 0) return protocol::SystemError(what + ": fstat", errno);
    if (::fstatat(folder_fd.get(), partial.c_str(), &named, AT_SYMLINK_NOFOLLOW) != 0 || ours.st_ino != named.st_ino ||
        ours.st_dev != named.st_dev) {
      continue;
    }
    DurableFile file(target, partial, std::move(folder_fd), std::move(fd));
    if (::ftruncate(file.fd(), 0) != 0) return protocol::SystemError(what + ": truncate", errno);
    return file;
  }
}

DurableFile::DurableFile(std::string target, std::string partial, protocol::UniqueFd folder, protocol::UniqueFd fd)
    : target_(std::move(target)), partial_(std::move(partial)), folder_(std::move(folder)), fd_(std::move(fd)) {}

DurableFile::~DurableFile() {
  if (fd_.valid() && !partial_.empty()) ::unlinkat(folder_.get(), partial_.c_str(), 0);
}

Result<void> DurableFile::Commit() {
  const std::string what = "write " + target_;
  if (::fsync(fd_.get()) != 0) return protocol::SystemError(what + ": fsync", errno);
  if (::renameat(folder_.get(), partial_.c_str(), folder_.get(), Split(target_).name.c_str()) != 0) {
    return protocol::SystemError(what + ": rename", errno);
  }
  partial_.clear();
  if (::fsync(folder_.get()) != 0) return protocol::SystemError(what + ": fsync its folder", errno);
  return {};
}

FileSizeSignalBlock::FileSizeSignalBlock() noexcept {
  const sigset_t signals = FileSizeSignal();
  sigset_t before;
  pthread_sigmask(SIG_BLOCK, &signals, &before);
  blocked_before_ = sigismember(&before, SIGXFSZ) == 1;
}

FileSizeSignalBlock::~FileSizeSignalBlock() {
  if (blocked_before_) return;
  const sigset_t signals = FileSizeSignal();
  const timespec now{};
  while (::sigtimedwait(&signals, nullptr, &now) == SIGXFSZ) {
  }
  pthread_sigmask(SIG_UNBLOCK, &signals, nullptr);
}

}  // namespace kvant::snapshot
