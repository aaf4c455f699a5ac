#include "quantizers/bounded_json.h"

#include <string>
#include <utility>

namespace kvant::quantizers {

Result<nlohmann::json> ParseJson(std::string_view text, const JsonLimits& limits, std::string_view what) {
  using Json = nlohmann::json;
  const auto exceeded = [&](const char* of, std::size_t limit) {
    return Error{ErrorCode::kOutOfRange, std::string(what) + ": more than " + std::to_string(limit) + " " + of};
  };
  if (text.size() > limits.bytes) return exceeded("bytes of JSON", limits.bytes);
  bool too_deep = false;
  std::size_t values = 0;
  // A value for which the callback answers false is dropped as it is read, with all that is in it.
  const auto keep = [&](int depth, Json::parse_event_t event, Json&) {
    const bool opens = event == Json::parse_event_t::object_start || event == Json::parse_event_t::array_start;
    const bool closes = event == Json::parse_event_t::object_end || event == Json::parse_event_t::array_end;
    too_deep = too_deep || (opens && static_cast<std::size_t>(depth) >= limits.depth);
    if (!closes && event != Json::parse_event_t::key) ++values;
    return !too_deep && values <= limits.values;
  };
  Json document = Json::parse(text.begin(), text.end(), keep, /*allow_exceptions=*/false);
  if (too_deep) return exceeded("levels of JSON", limits.depth);
  if (values > limits.values) return exceeded("values of JSON", limits.values);
  if (document.is_discarded()) return Error{ErrorCode::kCorrupt, std::string(what) + ": not JSON"};
  return document;
}

}  // namespace kvant::quantizers
