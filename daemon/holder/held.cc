#include "daemon/holder/held.h"

#include <algorithm>
#include <utility>

namespace kvant::daemon {
namespace {

constexpr std::size_t kMostNameBytes = 64;

bool IsName(std::string_view name) {
  return !name.empty() && name.size() <= kMostNameBytes &&
         std::ranges::all_of(name, [](char c) { return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '-'; });
}

/// The value of `key` in lines KEY=VALUE; empty if it is not there.
std::string_view ValueOf(std::string_view message, std::string_view key) {
  while (!message.empty()) {
    const std::string_view line = message.substr(0, message.find('\n'));
    message.remove_prefix(std::min(line.size() + 1, message.size()));
    if (line.size() > key.size() && line.substr(0, key.size()) == key && line[key.size()] == '=') {
      return line.substr(key.size() + 1);
    }
  }
  return {};
}

}  // namespace

Held::Heard Held::Hear(std::string_view message, protocol::UniqueFd fd) {
  const std::string_view name = ValueOf(message, "FDNAME");
  if (fd.valid()) {
    const auto known = held_.find(name);
    if (ValueOf(message, "FDSTORE") != "1" || !IsName(name) || (known == held_.end() && held_.size() >= kMostHeld)) {
      return Heard::kRefused;
    }
    held_.insert_or_assign(std::string(name), std::move(fd));
    return Heard::kStored;
  }
  if (ValueOf(message, "FDSTOREREMOVE") == "1") {
    const auto known = held_.find(name);
    if (known != held_.end()) held_.erase(known);
    return Heard::kRemoved;
  }
  return ValueOf(message, "READY") == "1" ? Heard::kReady : Heard::kNothing;
}

}  // namespace kvant::daemon
