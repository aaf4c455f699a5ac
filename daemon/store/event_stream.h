// What happens, as it happens, for operators who watch. Whoever watches slowly loses events and keeps nobody waiting.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <initializer_list>
#include <memory>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

namespace kvant::daemon {

struct EventField {
  std::string_view name;  ///< a literal
  std::variant<std::uint64_t, std::string> value;
};

struct Event {
  std::uint64_t number = 0;  ///< ascending from 1
  std::chrono::system_clock::time_point time;
  std::string_view kind;  ///< a literal
  std::vector<EventField> fields;
};

/// The events that one watcher has not taken yet: kMostEvents at most, the newer of which are lost. Loop thread.
class Watcher {
 public:
  static constexpr std::size_t kMostEvents = 4096;

  struct Taken {
    std::vector<std::shared_ptr<const Event>> events;
    std::uint64_t lost = 0;  ///< since the last Take, after these
  };
  /// The oldest, `most` at most.
  Taken Take(std::size_t most);

 private:
  friend class EventStream;
  void Hear(const std::shared_ptr<const Event>& event);
  std::deque<std::shared_ptr<const Event>> waiting_;  // shared with other watchers
  std::uint64_t lost_ = 0;
};

/// Loop thread.
class EventStream {
 public:
  static constexpr std::size_t kMostWatchers = 16;
  /// Bytes of a text that are kept; names and messages are clients' to choose.
  static constexpr std::size_t kMostText = 256;

  /// Hears what is told from now on, until it is destroyed. Null if there are kMostWatchers already.
  std::shared_ptr<Watcher> Watch();
  /// Telling costs next to nothing while nobody watches, but fields do: ask first.
  [[nodiscard]] bool watched() const noexcept { return !watchers_.empty(); }
  void Tell(std::string_view kind, std::initializer_list<EventField> fields);
  /// True once every watcher has taken all there is.
  [[nodiscard]] bool taken() const noexcept;

 private:
  std::vector<std::weak_ptr<Watcher>> watchers_;
  std::uint64_t told_ = 0;
};

}  // namespace kvant::daemon
