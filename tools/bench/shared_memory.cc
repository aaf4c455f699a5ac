#include "tools/bench/shared_memory.h"

#include <sys/mman.h>

#include <cerrno>
#include <cstring>
#include <string>
#include <system_error>

namespace kvant::tools {

SharedMemory::SharedMemory(std::size_t bytes) : data_(nullptr), size_(bytes) {
  void* mapping = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (mapping == MAP_FAILED) {
    throw std::system_error(errno, std::generic_category(), "mmap of " + std::to_string(bytes >> 20) + " MiB");
  }
  data_ = static_cast<std::byte*>(mapping);
  std::memset(data_, 1, bytes);  // a read of untouched pages would come from one page of zeros
}

SharedMemory::~SharedMemory() { munmap(data_, size_); }

}  // namespace kvant::tools
