#include "daemon/memory/budget.h"

#include <unistd.h>

#include <algorithm>
#include <string>

#include "daemon/memory/check.h"

namespace kvant::daemon {

Charge& Charge::operator=(Charge&& other) noexcept {
  if (this != &other) {
    Charge old(std::move(*this));
    budget_ = std::exchange(other.budget_, nullptr);
    kept_ = std::move(other.kept_);
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

std::shared_ptr<Budget> Budget::Part(Budget& whole, std::string owner) {
  auto part = std::make_shared<Budget>(kUnlimited);
  part->whole_ = &whole;
  part->whole_kept_ = whole.weak_from_this().lock();
  part->owner_ = std::move(owner);
  return part;
}

Result<Charge> Budget::Take(ChargeKind kind, std::size_t bytes, std::string_view what) {
  for (const Budget* level = this; level != nullptr; level = level->whole_) {
    if (bytes <= level->own_available()) continue;
    // A tenant is not told how much of the daemon's budget others take.
    const bool others = level->whole_ == nullptr && level != this;
    return Error{ErrorCode::kStoreFull,
                 std::string(what) + " needs " + std::to_string(bytes) + " bytes, the " + level->Name() +
                     (others ? ", has no room for them" : " has " + std::to_string(level->own_available()) + " left")};
  }
  for (Budget* level = this; level != nullptr; level = level->whole_) {
    level->used_[static_cast<std::size_t>(kind)].fetch_add(bytes, std::memory_order_relaxed);
  }
  return Charge(this, weak_from_this().lock(), kind, bytes);
}

void Budget::Adopt(Charge& charge) {
  KVANT_CHECK(charge.budget_ == whole_, charge.bytes_);
  used_[static_cast<std::size_t>(charge.kind_)].fetch_add(charge.bytes_, std::memory_order_relaxed);
  charge.budget_ = this;
  charge.kept_ = weak_from_this().lock();
}

std::size_t Budget::used() const noexcept {
  std::size_t sum = 0;
  for (const auto& of_kind : used_) sum += of_kind.load(std::memory_order_relaxed);
  return sum;
}

std::size_t Budget::own_available() const noexcept {
  const std::size_t now = used();
  return now < limit_ ? limit_ - now : 0;
}

std::size_t Budget::limit() const noexcept { return whole_ == nullptr ? limit_ : std::min(limit_, whole_->limit()); }

std::size_t Budget::available() const noexcept {
  return whole_ == nullptr ? own_available() : std::min(own_available(), whole_->available());
}

const Budget& Budget::tightest() const noexcept {
  const Budget* tightest = this;
  for (const Budget* level = whole_; level != nullptr; level = level->whole_) {
    if (level->own_available() <= tightest->own_available()) tightest = level;
  }
  return *tightest;
}

std::string Budget::Name() const {
  return (owner_.empty() ? std::string() : "quota of " + owner_ + ", a ") + "budget of " + std::to_string(limit_) + " bytes";
}

void Budget::Return(ChargeKind kind, std::size_t bytes) noexcept {
  for (Budget* level = this; level != nullptr; level = level->whole_) {
    const std::size_t before = level->used_[static_cast<std::size_t>(kind)].fetch_sub(bytes, std::memory_order_relaxed);
    KVANT_CHECK(bytes <= before, static_cast<unsigned>(kind), bytes, before);
  }
}

}  // namespace kvant::daemon
