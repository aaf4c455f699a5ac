// A file that is replaced in one step: whoever looks finds the old one or the new one, whole, after a crash too.
#pragma once

#include <cstdint>
#include <string>

#include <kvant/result.h>

#include "protocol/memfd.h"

namespace kvant::snapshot {

/// Written beside its target as `.NAME.kvant-partial`, mode 0600, and renamed by Commit. Destruction without Commit removes it;
/// what a killed process left is taken over by the next that writes the same target. Movable. One thread.
class DurableFile {
 public:
  /// kUnavailable if another process writes that target now, kInvalidArgument if the target is there and no regular file,
  /// kSystem names the folder and errno.
  static Result<DurableFile> Create(const std::string& target);
  DurableFile(DurableFile&&) noexcept = default;
  DurableFile& operator=(DurableFile&&) = delete;
  ~DurableFile();

  [[nodiscard]] int fd() const noexcept { return fd_.get(); }
  [[nodiscard]] const std::string& target() const noexcept { return target_; }

  /// Makes the bytes durable, then the name, then the folder's entry of it. After an error the target is what it was, but for
  /// one of the last step, where it is the new file and only its survival of a power cut is unsure.
  Result<void> Commit();

 private:
  DurableFile(std::string target, std::string partial, protocol::UniqueFd folder, protocol::UniqueFd fd);

  std::string target_;
  std::string partial_;  // name within the folder; empty once it is gone
  protocol::UniqueFd folder_;
  protocol::UniqueFd fd_;
};

/// While it lives a write beyond the file-size limit of the process fails (EFBIG) and does not end the process. This thread.
class FileSizeSignalBlock {
 public:
  FileSizeSignalBlock() noexcept;
  ~FileSizeSignalBlock();
  FileSizeSignalBlock(const FileSizeSignalBlock&) = delete;
  FileSizeSignalBlock& operator=(const FileSizeSignalBlock&) = delete;

 private:
  bool blocked_before_ = false;
};

}  // namespace kvant::snapshot
