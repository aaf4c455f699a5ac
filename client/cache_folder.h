// The files of a prompt cache: which there are, which goes next, and who may write.
#pragma once

#include <compare>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include <kvant/result.h>

#include "protocol/memfd.h"
#include "protocol/segment_layout.h"

namespace kvant::client {

/// A prompt by the digests of its first and its last block: FIRST-LAST.safetensors.
struct PromptName {
  protocol::Digest first{};
  protocol::Digest last{};
  [[nodiscard]] std::string FileName() const;
  static std::optional<PromptName> Parse(const std::string& file_name);
};

struct CacheFile {
  std::filesystem::path path;
  std::uint64_t bytes = 0;
  std::int64_t used_ns = 0;  ///< when, since 1970: its modification time
};

/// One thread.
class CacheFolder {
 public:
  /// Makes it if it is not there.
  static Result<CacheFolder> Open(const std::filesystem::path& path);

  /// The folder of one identity, made if it is not there.
  Result<std::filesystem::path> FolderOf(const protocol::Digest& identity) const;
  /// The files there, used last first.
  [[nodiscard]] std::vector<CacheFile> FilesOf(const protocol::Digest& identity) const;

  /// Lets one process at a time go on. kUnavailable after 10 s.
  Result<protocol::UniqueFd> Lock() const;
  /// Removes what killed processes left half written. Requires: the lock.
  void RemovePartial() const;
  /// Removes files until `bytes` more fit into `budget`: damaged ones, then those of `first`, then those used longest ago.
  /// False if that many never do. Requires: the lock.
  [[nodiscard]] bool MakeRoom(std::uint64_t bytes, std::uint64_t budget, const std::vector<std::filesystem::path>& first) const;

  /// Counts as used now.
  static void Touch(const std::filesystem::path& file);
  /// Renames it to NAME.damaged; an older one of that name is replaced.
  static void SetAside(const std::filesystem::path& file);

 private:
  explicit CacheFolder(std::filesystem::path path) : path_(std::move(path)) {}
  std::filesystem::path path_;
};

}  // namespace kvant::client
