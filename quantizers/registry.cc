#include "quantizers/registry.h"

#include <algorithm>
#include <charconv>
#include <utility>

namespace kvant::quantizers {

// One line per codec: its declaration here and its place in Builtin() below.
extern const Codec kF32;
extern const Codec kF16;
extern const Codec kBF16;
extern const Codec kInt8;
extern const Codec kTurboQuantMse;

namespace {

Error Invalid(std::string message) { return Error{ErrorCode::kInvalidArgument, std::move(message)}; }

std::string KnownNames(std::span<const Codec* const> codecs) {
  std::string text;
  for (const Codec* codec : codecs) text += (text.empty() ? "" : ", ") + std::string(codec->name);
  return text;
}

std::string Allowed(const ParamSpec& param) {
  if (param.allowed.empty()) return std::to_string(param.min) + ".." + std::to_string(param.max);
  std::string text;
  for (const std::int64_t value : param.allowed) text += (text.empty() ? "" : ", ") + std::to_string(value);
  return text;
}

bool IsAllowed(const ParamSpec& param, std::int64_t value) {
  if (value < param.min || value > param.max) return false;
  return param.allowed.empty() || std::ranges::find(param.allowed, value) != param.allowed.end();
}

/// One "name=value" of a spec, into `params`. `seen` marks the parameters met so far.
Result<void> ParseParam(const Codec& codec, std::string_view item, std::vector<std::int64_t>& params, std::vector<bool>& seen) {
  const std::string where = "codec " + std::string(codec.name) + ": ";
  const std::size_t equals = item.find('=');
  if (equals == std::string_view::npos)
    return Invalid(where + "\"" + std::string(item) + "\" is not of the form parameter=value");
  const std::string_view name = item.substr(0, equals);
  const std::string_view text = item.substr(equals + 1);
  const auto it = std::ranges::find(codec.params, name, &ParamSpec::name);
  if (it == codec.params.end()) {
    std::string known;
    for (const ParamSpec& param : codec.params) known += (known.empty() ? "" : ", ") + std::string(param.name);
    return Invalid(where + "unknown parameter \"" + std::string(name) + "\" (" +
                   (known.empty() ? "it has none" : "known: " + known) + ")");
  }
  const auto index = static_cast<std::size_t>(it - codec.params.begin());
  if (seen[index]) return Invalid(where + "parameter " + std::string(name) + " is given twice");
  std::int64_t value = 0;
  const auto [end, status] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (status != std::errc() || end != text.data() + text.size() || !IsAllowed(*it, value)) {
    return Invalid(where + "parameter " + std::string(name) + "=" + std::string(text) + " is not one of the integers " +
                   Allowed(*it));
  }
  seen[index] = true;
  params[index] = value;
  return {};
}

}  // namespace

std::string ParsedSpec::Canonical() const {
  std::string text(codec->name);
  text.append("@").append(std::to_string(codec->version));
  for (std::size_t i = 0; i < params.size(); ++i) {
    text.append(i == 0 ? ":" : ",").append(codec->params[i].name).append("=").append(std::to_string(params[i]));
  }
  return text;
}

Registry Registry::Builtin() {
  Registry registry;
  registry.codecs_ = {
      &kF32, &kF16, &kBF16, &kInt8, &kTurboQuantMse,
  };
  return registry;
}

Result<void> Registry::Add(const Codec& codec) {
  if (std::ranges::find(codecs_, codec.name, &Codec::name) != codecs_.end()) {
    return Invalid("registry: codec name " + std::string(codec.name) + " is taken");
  }
  codecs_.push_back(&codec);
  return {};
}

Result<ParsedSpec> Registry::Parse(std::string_view spec) const {
  const std::size_t colon = spec.find(':');
  const std::string_view name = spec.substr(0, colon);
  const auto it = std::ranges::find(codecs_, name, &Codec::name);
  if (it == codecs_.end()) return Invalid("unknown codec \"" + std::string(name) + "\" (known: " + KnownNames(codecs_) + ")");
  const Codec& codec = **it;
  ParsedSpec parsed{&codec, {}};
  for (const ParamSpec& param : codec.params) parsed.params.push_back(param.default_value);
  std::vector<bool> seen(codec.params.size());
  std::string_view rest = colon == std::string_view::npos ? std::string_view() : spec.substr(colon + 1);
  bool more = colon != std::string_view::npos;
  while (more) {
    const std::size_t comma = rest.find(',');
    if (auto ok = ParseParam(codec, rest.substr(0, comma), parsed.params, seen); !ok) return ok.error();
    more = comma != std::string_view::npos;
    if (more) rest = rest.substr(comma + 1);
  }
  return parsed;
}

}  // namespace kvant::quantizers
