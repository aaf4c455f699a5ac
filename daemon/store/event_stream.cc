#include "daemon/store/event_stream.h"

#include <algorithm>
#include <utility>

namespace kvant::daemon {

Watcher::Taken Watcher::Take(std::size_t most) {
  const auto end = waiting_.begin() + static_cast<std::ptrdiff_t>(std::min(most, waiting_.size()));
  Taken taken{.events = {waiting_.begin(), end}};
  waiting_.erase(waiting_.begin(), end);
  if (waiting_.empty()) taken.lost = std::exchange(lost_, 0);
  return taken;
}

void Watcher::Hear(const std::shared_ptr<const Event>& event) {
  // Once events are lost, those that follow are too, until all that wait are taken: there is one gap, and it has a place.
  if (lost_ != 0 || waiting_.size() >= kMostEvents) {
    ++lost_;
  } else {
    waiting_.push_back(event);
  }
}

std::shared_ptr<Watcher> EventStream::Watch() {
  std::erase_if(watchers_, [](const auto& watcher) { return watcher.expired(); });
  if (watchers_.size() >= kMostWatchers) return nullptr;
  auto watcher = std::make_shared<Watcher>();
  watchers_.push_back(watcher);
  return watcher;
}

void EventStream::Tell(std::string_view kind, std::initializer_list<EventField> fields) {
  std::erase_if(watchers_, [](const auto& watcher) { return watcher.expired(); });
  if (watchers_.empty()) return;
  auto event = std::make_shared<Event>(
      Event{.number = ++told_, .time = std::chrono::system_clock::now(), .kind = kind, .fields = fields});
  for (EventField& field : event->fields) {
    if (auto* text = std::get_if<std::string>(&field.value); text != nullptr && text->size() > kMostText)
      text->resize(kMostText);
  }
  for (const auto& weak : watchers_) {
    if (const auto watcher = weak.lock()) watcher->Hear(event);
  }
}

bool EventStream::taken() const noexcept {
  return std::ranges::all_of(watchers_, [](const auto& weak) {
    const auto watcher = weak.lock();
    return watcher == nullptr || watcher->waiting_.empty();
  });
}

}  // namespace kvant::daemon
