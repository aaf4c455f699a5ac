// Blocks that an operator keeps for a while.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <kvant/result.h>

#include "daemon/memory/budget.h"
#include "daemon/store/block.h"
#include "daemon/store/core.h"
#include "daemon/store/standing_rules.h"

namespace kvant::daemon {

/// What operators see of a pin.
struct PinFigures {
  std::uint64_t id = 0;
  std::string store;
  std::string tenant;
  std::uint64_t blocks = 0;
  std::uint64_t bytes = 0;    ///< of their slots, those of other pins counted again
  std::uint64_t left_ms = 0;  ///< until it ends by itself
};

/// A pin is a lease that no client holds: its blocks stay until it is taken off or its time is over, measured by the monotonic
/// clock of EvictionOrder. All pins together hold a share of the budget at most, so that they can never stop appends for good.
/// Owned by the store table; loop thread.
class Pins {
 public:
  static constexpr std::size_t kShareOfBudget = 4;  ///< a quarter
  static constexpr std::size_t kMost = 1024;
  static constexpr std::chrono::milliseconds kLongest = std::chrono::hours(24 * 30);

  explicit Pins(Core& core) : core_(core) {}
  ~Pins();
  Pins(const Pins&) = delete;
  Pins& operator=(const Pins&) = delete;

  /// Pins the blocks of one store and all that they continue. kInvalidArgument without blocks, with those of several stores or
  /// for a time beyond 1 ms .. kLongest; kStoreFull beyond the share of the budget, beyond kMost, or without room for its
  /// record.
  /// `id`: of a daemon before this one; none: the next.
  Result<PinFigures> Add(const std::vector<Block*>& blocks, std::chrono::milliseconds time,
                         std::optional<std::uint64_t> id = std::nullopt);
  /// kNotFound if there is none, or no longer.
  Result<void> Remove(std::uint64_t id);
  /// Takes off those of a store that is to go.
  void RemoveOf(const Store& store);
  /// Takes off those whose time is over.
  void Expire();
  [[nodiscard]] std::vector<PinFigures> list() const;  ///< by id
  /// What a daemon after this one needs to make them anew.
  [[nodiscard]] std::map<std::uint64_t, StandingRules::Pin> rules() const;
  /// The number of the next pin.
  [[nodiscard]] std::uint64_t next() const noexcept { return next_; }
  void set_next(std::uint64_t next) noexcept { next_ = std::max(next_, next); }
  [[nodiscard]] std::uint64_t blocks() const noexcept { return held_.size(); }
  [[nodiscard]] std::uint64_t bytes() const noexcept { return bytes_; }

 private:
  struct Pin {
    std::shared_ptr<Store> store;
    std::vector<Block*> blocks;  // leased; parents before those that continue them
    Charge charge;
    std::uint64_t bytes = 0;
    std::uint64_t end_ms = 0;
  };
  void Release(Pin& pin);
  void RemoveIf(const std::function<bool(const Pin&)>& goes);
  [[nodiscard]] PinFigures FiguresOf(std::uint64_t id, const Pin& pin) const;

  Core& core_;
  std::map<std::uint64_t, Pin> pins_;
  struct Held {
    std::uint32_t pins = 0;
    std::uint64_t bytes = 0;  // when it was pinned
  };
  std::map<const Block*, Held> held_;
  std::uint64_t bytes_ = 0;  // of held_
  std::uint64_t next_ = 1;
};

}  // namespace kvant::daemon
