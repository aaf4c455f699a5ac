#include "daemon/memory/budget.h"

#include <unistd.h>

#include <string>

#include "daemon/memory/check.h"

namespace kvant::daemon {

Charge& Charge::operator=(Charge&& other) noexcept {
  if (this != &other) {
    Charge old(std::move(*this));
    budget_ = std::exchange(other.budget_, nullptr);
    kind_ = other.kind_;
    bytes_ = std::exchange(other.bytes_, 0);
  }
  return *this;
}

Charge::~Charge() {
  if (budget_ != nullptr) budget_->Return(kind_, bytes_);
}

void Charge::Merge(Charge&& other) {
  if (budget_ == nullptr) {
    *this = std::move(other);
    return;
  }
  KVANT_CHECK(other.budget_ == budget_ && other.kind_ == kind_, bytes_, other.bytes_);
  bytes_ += std::exchange(other.bytes_, 0);
}

void Charge::GiveBack(std::size_t bytes) {
  KVANT_CHECK(bytes <= bytes_, bytes, bytes_);
  bytes_ -= bytes;
  if (budget_ != nullptr) budget_->Return(kind_, bytes);
}

std::uint64_t MachineMemory() noexcept {
  return static_cast<std::uint64_t>(::sysconf(_SC_PHYS_PAGES)) * static_cast<std::uint64_t>(::sysconf(_SC_PAGESIZE));
}

Result<Budget> Budget::Make(std::size_t limit) {
  if (limit < kMinimumBytes) {
    return Error{ErrorCode::kInvalidArgument,
                 "budget of " + std::to_string(limit) + " bytes: the least is " + std::to_string(kMinimumBytes) + " bytes"};
  }
  return Budget(limit);
}

Result<Charge> Budget::Take(ChargeKind kind, std::size_t bytes, std::string_view what) {
  if (bytes > available()) {
    return Error{ErrorCode::kStoreFull, std::string(what) + " needs " + std::to_string(bytes) + " bytes, the budget of " +
                                            std::to_string(limit_) + " bytes has " + std::to_string(available()) + " left"};
  }
  used_[static_cast<std::size_t>(kind)].fetch_add(bytes, std::memory_order_relaxed);
  return Charge(this, kind, bytes);
}

void Budget::Return(ChargeKind kind, std::size_t bytes) noexcept {
  const std::size_t before = used_[static_cast<std::size_t>(kind)].fetch_sub(bytes, std::memory_order_relaxed);
  KVANT_CHECK(bytes <= before, static_cast<unsigned>(kind), bytes, before);
}

}  // namespace kvant::daemon
