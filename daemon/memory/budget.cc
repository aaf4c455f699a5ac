#include "daemon/memory/budget.h"

#include <string>

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
  if (budget_ != nullptr) budget_->used_[static_cast<std::size_t>(kind_)] -= bytes_;
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
  used_[static_cast<std::size_t>(kind)] += bytes;
  return Charge(this, kind, bytes);
}

}  // namespace kvant::daemon
