#include "quantizers/bounded_json.h"

#include <set>
#include <string>
#include <utility>
#include <vector>

namespace kvant::quantizers {
namespace {

using Json = nlohmann::json;

/// Judges a document while it is read. What it refuses, and all that follows, is dropped.
class Judge {
 public:
  explicit Judge(const JsonLimits& limits) : limits_(limits) {}

  /// Called for every value, with the number of arrays and objects around it. Beginnings and names come even from what is being
  /// dropped, ends do not.
  bool Keep(int depth, Json::parse_event_t event, const Json& parsed) {
    using Event = Json::parse_event_t;
    if (refused()) return false;
    const bool opens = event == Event::object_start || event == Event::array_start;
    too_deep_ = opens && static_cast<std::size_t>(depth) >= limits_.depth;
    if (opens || event == Event::value) ++values_;
    if (refused()) return false;
    if (event == Event::object_start) names_.emplace_back();
    if (event == Event::object_end) names_.pop_back();
    if (event == Event::key && !names_.back().insert(parsed.get_ref<const std::string&>()).second) twice_ = ShownJson(parsed);
    return !refused();
  }

  /// What is wrong, and with which document.
  [[nodiscard]] Result<void> Verdict(const std::string& what, bool is_json) const {
    if (too_deep_) return Exceeded(what, "levels", limits_.depth);
    if (too_many()) return Exceeded(what, "values", limits_.values);
    if (!twice_.empty()) return Error{ErrorCode::kCorrupt, what + ": the name " + twice_ + " stands twice in one object"};
    if (!is_json) return Error{ErrorCode::kCorrupt, what + ": not JSON"};
    return {};
  }

  static Error Exceeded(const std::string& what, const char* of, std::size_t limit) {
    return {ErrorCode::kOutOfRange, what + ": more than " + std::to_string(limit) + " " + of + " of JSON"};
  }

 private:
  [[nodiscard]] bool too_many() const noexcept { return values_ > limits_.values; }
  [[nodiscard]] bool refused() const noexcept { return too_deep_ || too_many() || !twice_.empty(); }

  const JsonLimits& limits_;
  bool too_deep_ = false;
  std::size_t values_ = 0;
  std::string twice_;                         // as shown in an error; empty if no name stands twice
  std::vector<std::set<std::string>> names_;  // of the objects that are open
};

}  // namespace

Result<Json> ParseJson(std::string_view text, const JsonLimits& limits, std::string_view what) {
  if (text.size() > limits.bytes) return Judge::Exceeded(std::string(what), "bytes", limits.bytes);
  Judge judge(limits);
  const auto keep = [&](int depth, Json::parse_event_t event, const Json& parsed) { return judge.Keep(depth, event, parsed); };
  Json document = Json::parse(text.begin(), text.end(), keep, /*allow_exceptions=*/false);
  if (auto ok = judge.Verdict(std::string(what), !document.is_discarded()); !ok) return ok.error();
  return document;
}

std::string ShownJson(const Json& value) {
  constexpr std::size_t kMost = 100;
  std::string text = value.dump(-1, ' ', /*ensure_ascii=*/true);
  if (text.size() > kMost) text = text.substr(0, kMost) + "...";
  return text;
}

}  // namespace kvant::quantizers
