// Replaces operator new by one that counts, thread by thread. For one source file of a test binary.
#pragma once

#include <cstddef>
#include <cstdlib>
#include <new>

namespace kvant::testing {

inline thread_local std::size_t allocations_of_this_thread = 0;

inline void* CountedNew(std::size_t bytes, std::size_t alignment) {
  ++allocations_of_this_thread;
  void* p = std::aligned_alloc(alignment, (bytes + alignment) / alignment * alignment);
  if (p == nullptr) throw std::bad_alloc();
  return p;
}

}  // namespace kvant::testing

// g++ 12 with -O1 sees an inlined delete of these without the new that belongs to it.
#pragma GCC diagnostic ignored "-Wmismatched-new-delete"
void* operator new(std::size_t bytes) { return kvant::testing::CountedNew(bytes, alignof(std::max_align_t)); }
void* operator new(std::size_t bytes, std::align_val_t alignment) {
  return kvant::testing::CountedNew(bytes, static_cast<std::size_t>(alignment));
}
void* operator new(std::size_t bytes, const std::nothrow_t&) noexcept {  // std::stable_sort's; freed by the same delete
  ++kvant::testing::allocations_of_this_thread;
  return std::malloc(bytes);
}
void operator delete(void* p) noexcept { std::free(p); }
void operator delete(void* p, std::size_t) noexcept { std::free(p); }
void operator delete(void* p, std::align_val_t) noexcept { std::free(p); }
void operator delete(void* p, std::size_t, std::align_val_t) noexcept { std::free(p); }
