#include "client/cache_folder.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <functional>
#include <string_view>
#include <system_error>
#include <thread>
#include <tuple>
#include <utility>

#include "protocol/digest.h"
#include "protocol/system_error.h"

namespace kvant::client {
namespace {

namespace fs = std::filesystem;
using std::chrono::milliseconds;

constexpr std::string_view kSuffix = ".safetensors";
constexpr std::string_view kDamaged = ".damaged";
constexpr std::string_view kPartial = ".kvant-partial";
constexpr std::size_t kHexDigits = 2 * sizeof(protocol::Digest);
constexpr std::chrono::seconds kLockWait{10};
constexpr milliseconds kLockLook{20};

Result<void> MakeFolder(const fs::path& path) {
  if (::mkdir(path.c_str(), 0700) == 0 || errno == EEXIST) return {};
  return protocol::SystemError("make the folder " + path.string() + " of a prompt cache", errno);
}

/// Files come and go while this looks: those that are gone are passed over.
void AddFiles(const fs::path& folder, std::string_view suffix, std::vector<CacheFile>& files) {
  std::error_code gone;
  for (fs::directory_iterator it(folder, gone), end; !gone && it != end; it.increment(gone)) {
    struct stat status {};
    if (!it->path().native().ends_with(suffix) || ::lstat(it->path().c_str(), &status) != 0 || !S_ISREG(status.st_mode))
      continue;
    files.push_back({.path = it->path(),
                     .bytes = static_cast<std::uint64_t>(status.st_size),
                     .used_ns = status.st_mtim.tv_sec * 1'000'000'000 + status.st_mtim.tv_nsec});
  }
}

std::vector<fs::path> IdentityFolders(const fs::path& folder) {
  std::vector<fs::path> folders;
  std::error_code gone;
  for (fs::directory_iterator it(folder, gone), end; !gone && it != end; it.increment(gone)) {
    if (protocol::ParseDigest(it->path().filename().native()) && it->is_directory(gone)) folders.push_back(it->path());
  }
  return folders;
}

}  // namespace

std::string PromptName::FileName() const {
  return protocol::DigestHex(first) + "-" + protocol::DigestHex(last) + std::string(kSuffix);
}

std::optional<PromptName> PromptName::Parse(const std::string& file_name) {
  if (file_name.size() != 2 * kHexDigits + 1 + kSuffix.size() || file_name[kHexDigits] != '-') return std::nullopt;
  const auto first = protocol::ParseDigest(std::string_view(file_name).substr(0, kHexDigits));
  const auto last = protocol::ParseDigest(std::string_view(file_name).substr(kHexDigits + 1, kHexDigits));
  if (!first || !last || !file_name.ends_with(kSuffix)) return std::nullopt;
  return PromptName{.first = *first, .last = *last};
}

Result<CacheFolder> CacheFolder::Open(const fs::path& path) {
  if (auto made = MakeFolder(path); !made) return made.error();
  if (::access(path.c_str(), R_OK | X_OK) != 0) return protocol::SystemError("open prompt cache " + path.string(), errno);
  return CacheFolder(path);
}

Result<fs::path> CacheFolder::FolderOf(const protocol::Digest& identity) const {
  const fs::path folder = path_ / protocol::DigestHex(identity);
  if (auto made = MakeFolder(folder); !made) return made.error();
  return folder;
}

std::vector<CacheFile> CacheFolder::FilesOf(const protocol::Digest& identity) const {
  std::vector<CacheFile> files;
  AddFiles(path_ / protocol::DigestHex(identity), kSuffix, files);
  std::ranges::sort(files, std::ranges::greater{}, &CacheFile::used_ns);
  return files;
}

Result<protocol::UniqueFd> CacheFolder::Lock() const {
  const std::string what = "lock prompt cache " + path_.string();
  protocol::UniqueFd fd(::open(path_.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!fd.valid()) return protocol::SystemError(what, errno);
  const auto end = std::chrono::steady_clock::now() + kLockWait;
  while (::flock(fd.get(), LOCK_EX | LOCK_NB) != 0) {
    if (errno != EWOULDBLOCK && errno != EINTR) return protocol::SystemError(what, errno);
    if (std::chrono::steady_clock::now() > end) {
      return Error{ErrorCode::kUnavailable,
                   what + ": other processes have been saving for " + std::to_string(kLockWait.count()) + " s"};
    }
    std::this_thread::sleep_for(kLockLook);
  }
  return fd;
}

void CacheFolder::RemovePartial() const {
  for (const fs::path& folder : IdentityFolders(path_)) {
    std::vector<CacheFile> partial;
    AddFiles(folder, kPartial, partial);
    for (const CacheFile& file : partial) ::unlink(file.path.c_str());
  }
}

bool CacheFolder::MakeRoom(std::uint64_t bytes, std::uint64_t budget, const std::vector<fs::path>& first) const {
  if (bytes > budget) return false;
  std::vector<CacheFile> files;
  for (const fs::path& folder : IdentityFolders(path_)) {
    AddFiles(folder, kSuffix, files);
    AddFiles(folder, kDamaged, files);
  }
  const auto order = [&](const CacheFile& file) {
    return std::tuple(!file.path.native().ends_with(kDamaged), std::ranges::find(first, file.path) == first.end(),
                      file.used_ns);
  };
  std::ranges::sort(files, {}, order);
  std::uint64_t held = 0;
  for (const CacheFile& file : files) held += file.bytes;
  for (const CacheFile& file : files) {
    if (held <= budget - bytes) break;
    if (::unlink(file.path.c_str()) != 0 && errno != ENOENT) continue;
    held -= file.bytes;
  }
  return held <= budget - bytes;
}

void CacheFolder::Touch(const fs::path& file) { ::utimensat(AT_FDCWD, file.c_str(), nullptr, 0); }

void CacheFolder::SetAside(const fs::path& file) { ::rename(file.c_str(), (file.native() + std::string(kDamaged)).c_str()); }

}  // namespace kvant::client
