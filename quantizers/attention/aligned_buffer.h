// Memory that grows and is reused, aligned for vector loads.
#pragma once

#include <cstddef>
#include <memory>
#include <new>

namespace kvant::quantizers {

/// 64-byte aligned scratch memory. Growing drops the contents.
class AlignedBuffer {
 public:
  void Reserve(std::size_t bytes) {
    if (bytes <= size_) return;
    data_.reset();
    size_ = 0;
    data_.reset(static_cast<std::byte*>(::operator new(bytes, kAlignment)));
    size_ = bytes;
  }
  [[nodiscard]] std::byte* data() noexcept { return data_.get(); }
  [[nodiscard]] const std::byte* data() const noexcept { return data_.get(); }
  [[nodiscard]] float* Floats() noexcept { return reinterpret_cast<float*>(data_.get()); }

 private:
  static constexpr std::align_val_t kAlignment{64};
  struct Free {
    void operator()(std::byte* p) const noexcept { ::operator delete(p, kAlignment); }
  };
  std::unique_ptr<std::byte, Free> data_;
  std::size_t size_ = 0;
};

}  // namespace kvant::quantizers
