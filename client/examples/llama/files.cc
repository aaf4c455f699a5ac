#include "client/examples/llama/files.h"

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <memory>

#include <sys/stat.h>

#include "protocol/digest.h"

namespace kvant::examples {
namespace {

struct CloseFile {
  void operator()(std::FILE* file) const noexcept { std::fclose(file); }
};
using File = std::unique_ptr<std::FILE, CloseFile>;

Error SystemError(const char* operation, const std::string& path) {
  const ErrorCode code = errno == ENOENT ? ErrorCode::kNotFound : ErrorCode::kSystem;
  return {code, std::string(operation) + " '" + path + "': " + std::strerror(errno)};
}

Result<File> Open(const std::string& path, struct stat& info) {
  File file(std::fopen(path.c_str(), "rb"));
  if (!file) return SystemError("open", path);
  if (fstat(fileno(file.get()), &info) != 0) return SystemError("look at", path);
  if (S_ISDIR(info.st_mode)) return Error{ErrorCode::kInvalidArgument, "read '" + path + "': it is a directory"};
  return file;
}

template <typename Container>
Result<Container> Drain(std::FILE* file, const std::string& path, std::size_t max_bytes) {
  Container content;
  std::size_t used = 0;
  while (used <= max_bytes) {  // pipes too, so the size is not asked for first
    content.resize(used + (std::size_t{1} << 20));
    const std::size_t got = std::fread(content.data() + used, 1, content.size() - used, file);
    used += got;
    if (got == 0) break;
  }
  if (std::ferror(file) != 0) return SystemError("read", path);
  if (used > max_bytes) {
    return Error{ErrorCode::kInvalidArgument, "read '" + path + "': it is longer than " + std::to_string(max_bytes) + " bytes"};
  }
  content.resize(used);
  return content;
}

}  // namespace

Result<std::vector<std::byte>> ReadFile(const std::string& path, std::size_t max_bytes) {
  struct stat info {};
  const Result<File> file = Open(path, info);
  if (!file) return file.error();
  return Drain<std::vector<std::byte>>(file->get(), path, max_bytes);
}

Result<std::string> ReadText(const std::string& path, std::size_t max_bytes) {
  struct stat info {};
  const Result<File> file = Open(path, info);
  if (!file) return file.error();
  return Drain<std::string>(file->get(), path, max_bytes);
}

Result<std::string> ReadStandardInput() { return Drain<std::string>(stdin, "standard input", kMaxTextBytes); }

Result<std::vector<std::byte>> ReadWholeFile(const std::string& path) {
  struct stat info {};
  const Result<File> file = Open(path, info);
  if (!file) return file.error();
  if (!S_ISREG(info.st_mode)) return Error{ErrorCode::kInvalidArgument, "read '" + path + "': it is not a regular file"};
  std::vector<std::byte> content(static_cast<std::size_t>(info.st_size));
  if (std::fread(content.data(), 1, content.size(), file->get()) != content.size()) {
    if (std::ferror(file->get()) != 0) return SystemError("read", path);
    return Error{ErrorCode::kCorrupt, "read '" + path + "': it became shorter meanwhile"};
  }
  return content;
}

Result<void> WriteFile(const std::string& path, std::span<const std::byte> bytes) {
  File file(std::fopen(path.c_str(), "wb"));
  if (!file) return SystemError("create", path);
  if (std::fwrite(bytes.data(), 1, bytes.size(), file.get()) != bytes.size()) return SystemError("write", path);
  if (std::fclose(file.release()) != 0) return SystemError("close", path);
  return {};
}

std::string Digest(std::span<const std::byte> bytes) { return protocol::DigestHex(protocol::DigestOf(bytes)); }

std::string Digest(const std::string& text) { return Digest(std::as_bytes(std::span(text))); }

}  // namespace kvant::examples
