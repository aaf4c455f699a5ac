#include "tests/integration/held_memory.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <set>
#include <string>
#include <system_error>
#include <vector>

#include "protocol/memfd.h"
#include "protocol/segment_layout.h"

namespace kvant::testing {
namespace {

/// Paths in /proc of the process's descriptors, and what they lead to.
std::vector<std::pair<std::string, std::string>> Descriptors(pid_t process) {
  std::vector<std::pair<std::string, std::string>> list;
  std::error_code ignored;
  for (const auto& entry : std::filesystem::directory_iterator("/proc/" + std::to_string(process) + "/fd", ignored)) {
    list.emplace_back(entry.path().string(), std::filesystem::read_symlink(entry.path(), ignored).string());
  }
  return list;
}

}  // namespace

HeldMemory HeldMemory::Of(pid_t process) {
  HeldMemory held;
  std::set<ino_t> seen;
  for (const auto& [path, target] : Descriptors(process)) {
    ++held.descriptors;
    struct stat status {};
    if (!target.starts_with("/memfd:kvant-") || ::stat(path.c_str(), &status) != 0) continue;
    if (!seen.insert(status.st_ino).second) continue;
    ++held.segments;
    held.bytes += static_cast<std::uint64_t>(status.st_blocks) * 512;
  }
  return held;
}

bool DamageABlock(pid_t process, std::uint64_t first_position) {
  for (const auto& [path, target] : Descriptors(process)) {
    if (!target.starts_with("/memfd:kvant-slab")) continue;
    const protocol::UniqueFd fd(::open(path.c_str(), O_RDWR | O_CLOEXEC));
    protocol::SlabHeader slab{};
    if (!fd.valid() || ::pread(fd.get(), &slab, sizeof slab, 0) != sizeof slab) continue;
    for (std::uint32_t i = 0; i < slab.slot_count; ++i) {
      protocol::BlockHeader block{};
      const auto at = static_cast<off_t>(protocol::SlotOffset(slab, i));
      if (::pread(fd.get(), &block, sizeof block, at) != sizeof block || block.magic != protocol::kBlockMagic ||
          block.kind != protocol::BlockKind::kCodes || block.first_position != first_position) {
        continue;
      }
      const auto inside = at + static_cast<off_t>(protocol::PayloadOffset(slab.block_tokens) + block.payload_bytes / 2);
      char byte = 0;
      if (::pread(fd.get(), &byte, 1, inside) != 1) return false;
      byte = static_cast<char>(byte ^ 1);
      return ::pwrite(fd.get(), &byte, 1, inside) == 1;
    }
  }
  return false;
}

bool IsRunning(pid_t process) {
  std::ifstream stat("/proc/" + std::to_string(process) + "/stat");
  std::string text;
  if (!std::getline(stat, text)) return false;
  const std::size_t name_end = text.rfind(") ");
  return name_end != std::string::npos && text[name_end + 2] != 'Z';
}

}  // namespace kvant::testing
