#include "protocol/message_memory.h"

namespace kvant::wire {

bool MessageMemory::Account::Take(std::size_t bytes) {
  Set(bytes_ + bytes);
  memory_->CutUntilItFits();
  return !cut_off_;
}

void MessageMemory::Account::Set(std::size_t bytes) {
  const auto beyond = [](std::size_t held) { return held > kFreeBytes ? held - kFreeBytes : 0; };
  if (bytes_ > kFreeBytes) memory_->large_.erase({bytes_, this});
  memory_->used_ = memory_->used_ - beyond(bytes_) + beyond(bytes);
  bytes_ = bytes;
  if (bytes_ > kFreeBytes) memory_->large_.emplace(bytes_, this);
}

void MessageMemory::CutUntilItFits() {
  while (used_ > limit_) {
    Account* most = nullptr;
    for (auto it = large_.rbegin(); it != large_.rend() && most == nullptr; ++it) {
      if (it->second->cut_ != nullptr) most = it->second;
    }
    if (most == nullptr) return;  // what is left belongs to calls of connections that are cut already, and ends with them
    most->cut_off_ = true;
    const std::function<void()> cut = std::exchange(most->cut_, nullptr);
    cut();
  }
}

}  // namespace kvant::wire
