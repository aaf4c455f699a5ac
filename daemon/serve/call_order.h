// Calls of one session on one sequence take effect in the order in which they came, though some have to wait for encodings and
// some go on after the turn that began them.
#pragma once

#include <cstdint>
#include <functional>
#include <list>
#include <memory>
#include <span>
#include <vector>

#include <kj/async.h>
#include <kj/function.h>

#include "daemon/store/sequence.h"

namespace kvant::daemon {

/// What a call asks of its sequences before it begins.
enum class CallNeeds : std::uint8_t {
  kOrder,    ///< to come after the calls before it
  kSettled,  ///< also that no advance before it waits for an encoding
};

/// A call that has nothing to wait for begins at once. Others queue, and with them all later calls on the same sequences.
/// Owned (shared) by the session's capability; callbacks of sequences refer to it weakly. Loop thread.
class CallOrder : public std::enable_shared_from_this<CallOrder> {
 public:
  using Body = kj::Function<kj::Promise<void>()>;
  /// The live sequence that an id of a message means (a reader's id: its source), or null.
  using Find = std::function<Sequence*(std::uint64_t id)>;

  explicit CallOrder(Find find) : find_(std::move(find)) {}
  CallOrder(const CallOrder&) = delete;
  CallOrder& operator=(const CallOrder&) = delete;

  /// True if a call on `ids` need not wait: then it may run without Run, which has to keep it.
  [[nodiscard]] bool Free(std::span<const std::uint64_t> ids, CallNeeds needs) const;

  /// Begins `body` when the call on sequences `ids` may begin; the promise is the body's.
  kj::Promise<void> Run(std::vector<std::uint64_t> ids, CallNeeds needs, Body body);

  /// For a call that has begun and goes on: later calls on `ids` wait until what this returns is destroyed.
  class GoesOn;
  [[nodiscard]] kj::Own<GoesOn> HoldBack(std::span<const std::uint64_t> ids);

 private:
  struct Waiting {
    std::vector<std::uint64_t> ids;
    CallNeeds needs;
    Body body;
    kj::Own<kj::PromiseFulfiller<kj::Promise<void>>> promise;
    bool woken = true;  // false while a sequence is going to wake it
  };
  [[nodiscard]] std::vector<std::uint64_t> SourcesOf(std::span<const std::uint64_t> ids) const;
  [[nodiscard]] bool HeldBack(std::span<const std::uint64_t> sources) const;
  [[nodiscard]] Sequence* FirstBusy(std::span<const std::uint64_t> ids, CallNeeds needs) const;
  [[nodiscard]] bool BehindAnother(const std::vector<std::uint64_t>& ids, std::list<Waiting>::const_iterator end) const;
  void WakeWhenSettled(Sequence& sequence);
  void Wake();
  void BeginThoseThatMay();

  const Find find_;
  std::list<std::vector<std::uint64_t>> held_back_;  // sequences of calls that go on
  std::list<Waiting> waiting_;                       // in order of arrival
  bool scheduled_ = false;
  bool beginning_ = false;  // a body runs, and may settle or close sequences
  bool again_ = false;
  kj::Promise<void> turn_ = kj::READY_NOW;  // last: runs over the others
};

/// Loop thread.
class CallOrder::GoesOn {
 public:
  GoesOn(std::shared_ptr<CallOrder> order, std::vector<std::uint64_t> sources);
  ~GoesOn();
  GoesOn(const GoesOn&) = delete;
  GoesOn& operator=(const GoesOn&) = delete;

 private:
  const std::shared_ptr<CallOrder> order_;
  const std::list<std::vector<std::uint64_t>>::iterator place_;
};

}  // namespace kvant::daemon
