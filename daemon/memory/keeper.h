// Who keeps shared memory alive when this process dies.
#pragma once

namespace kvant::daemon {

/// Holds descriptors of segments (manifests and slabs) outside this process, so that the next one can serve what they hold:
/// kvantd's own holder process, or systemd. Outlives the stores; loop thread.
class Keeper {
 public:
  Keeper() = default;
  virtual ~Keeper() = default;
  Keeper(const Keeper&) = delete;
  Keeper& operator=(const Keeper&) = delete;

  /// Once it returns the segment outlives this process. Whoever cannot take it says so itself: the segment then ends with the
  /// process, as all do without a keeper. The descriptor stays the caller's.
  virtual void Keep(int segment) noexcept = 0;
  /// The segment may end. Any descriptor of it does. Nothing happens if it was not kept.
  virtual void Release(int segment) noexcept = 0;
  /// This process serves: from now on calls are answered.
  virtual void Ready() noexcept {}
  /// This process is not hung. Every few seconds.
  virtual void Alive() noexcept {}
};

}  // namespace kvant::daemon
