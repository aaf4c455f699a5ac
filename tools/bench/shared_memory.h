// Memory of the kind that the daemon keeps blocks in.
#pragma once

#include <cstddef>
#include <span>

namespace kvant::tools {

/// `bytes` of zeroed shared memory (as the daemon's slabs), page aligned, every page touched. Throws std::system_error.
class SharedMemory {
 public:
  explicit SharedMemory(std::size_t bytes);
  ~SharedMemory();
  SharedMemory(const SharedMemory&) = delete;
  SharedMemory& operator=(const SharedMemory&) = delete;
  [[nodiscard]] std::span<std::byte> bytes() const noexcept { return {data_, size_}; }

 private:
  std::byte* data_;
  std::size_t size_;
};

}  // namespace kvant::tools
