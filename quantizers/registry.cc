#include "quantizers/registry.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <limits>
#include <memory>
#include <optional>
#include <string>
#include <utility>

namespace kvant::quantizers {

// One line per codec: its declaration here and its place in Builtin() below.
extern const Codec kF32;
extern const Codec kF16;
extern const Codec kBF16;
extern const Codec kInt8;
extern const Codec kTurboQuantMse;
extern const Codec kTurboQuantTcq;
extern const Codec kGauge;
extern const Codec kTurboQuantRvq;
extern const Codec kRabitq;
extern const Codec kQjl;
extern const Codec kTurboQuantProd;
extern const Codec kGaussianVq;
extern const Codec kVecInfer;
extern const Codec kKivi;
extern const Codec kOutlier;
extern const Codec kPolarQuant;
extern const Codec kSpectral;
extern const Codec kCommVq;

namespace {

Error Invalid(std::string message) { return Error{ErrorCode::kInvalidArgument, std::move(message)}; }

template <typename Number>
std::string NumberText(Number value) {
  std::array<char, 32> text{};  // the shortest text that reads back to the same number
  const auto end = std::to_chars(text.data(), text.data() + text.size(), value).ptr;
  return {text.data(), end};
}

template <typename Number>
std::optional<Number> ParseNumber(std::string_view text) {
  Number value{};
  const auto [end, status] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (status != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return value;
}

/// "a, b, c".
template <typename Items, typename TextOf>
std::string Join(const Items& items, TextOf text_of) {
  std::string text;
  for (const auto& item : items) {
    if (!text.empty()) text += ", ";
    text += text_of(item);
  }
  return text;
}

std::string KnownNames(std::span<const Codec* const> codecs) {
  return Join(codecs, [](const Codec* codec) { return std::string(codec->name); });
}

std::string Allowed(const ParamSpec& param) {
  const auto range = [&] { return NumberText(param.min) + ".." + NumberText(param.max); };
  switch (param.kind) {
    case ParamKind::kInteger:
      if (param.allowed.empty()) return "one of the integers " + range();
      return "one of the integers " + Join(param.allowed, [](std::int64_t value) { return NumberText(value); });
    case ParamKind::kNumber: return "a number in " + range();
    case ParamKind::kChoice: return "one of " + Join(param.choices, [](std::string_view name) { return std::string(name); });
    case ParamKind::kSpec: return "a codec spec in parentheses";
  }
  return "";
}

bool IsAllowed(const ParamSpec& param, std::int64_t value) {
  const auto number = static_cast<double>(value);
  if (number < param.min || number > param.max) return false;
  return param.allowed.empty() || std::ranges::find(param.allowed, value) != param.allowed.end();
}

/// The value of a parameter that holds no spec; nothing if the text is none of its values.
std::optional<ParamValue> ParsePlainValue(const ParamSpec& param, std::string_view text) {
  switch (param.kind) {
    case ParamKind::kInteger: {
      const auto value = ParseNumber<std::int64_t>(text);
      if (!value || !IsAllowed(param, *value)) return std::nullopt;
      return *value;
    }
    case ParamKind::kNumber: {
      const auto value = ParseNumber<double>(text);
      if (!value || !(*value >= param.min && *value <= param.max)) return std::nullopt;
      return *value;
    }
    case ParamKind::kChoice: {
      const auto at = std::ranges::find(param.choices, text);
      if (at == param.choices.end()) return std::nullopt;
      return std::int64_t{at - param.choices.begin()};
    }
    case ParamKind::kSpec: break;
  }
  return std::nullopt;
}

/// Reads specs from the front of a text. Recursion is at most kMaxSpecNesting deep.
class SpecParser {
 public:
  SpecParser(std::span<const Codec* const> codecs, std::string_view text) : codecs_(codecs), rest_(text) {}

  Result<ParsedSpec> Spec(std::size_t nesting) {
    const std::string_view name = TakeUntil("@:,()=");
    auto codec = FindCodec(name);
    if (!codec) return std::move(codec).error();
    ParsedSpec parsed{*codec, std::vector<ParamValue>((*codec)->params.size())};
    std::vector<bool> seen(parsed.params.size());
    if (Take(':')) {
      do {
        if (auto ok = Param(parsed, seen, nesting); !ok) return ok.error();
      } while (Take(','));
    }
    for (std::size_t i = 0; i < seen.size(); ++i) {
      if (seen[i]) continue;
      auto value = Default((*codec)->params[i], nesting);
      if (!value) return std::move(value).error();
      parsed.params[i] = *std::move(value);
    }
    return parsed;
  }

  [[nodiscard]] std::string_view rest() const noexcept { return rest_; }

 private:
  std::string_view TakeUntil(std::string_view stops) {
    const std::size_t end = std::min(rest_.find_first_of(stops), rest_.size());
    const std::string_view taken = rest_.substr(0, end);
    rest_.remove_prefix(end);
    return taken;
  }
  bool Take(char c) {
    if (rest_.empty() || rest_.front() != c) return false;
    rest_.remove_prefix(1);
    return true;
  }

  /// The codec `name`, in the version that follows in the text or else its newest.
  Result<const Codec*> FindCodec(std::string_view name) {
    const Codec* newest = nullptr;
    for (const Codec* codec : codecs_) {
      if (codec->name == name && (newest == nullptr || codec->version > newest->version)) newest = codec;
    }
    if (newest == nullptr) return Invalid("unknown codec \"" + std::string(name) + "\" (known: " + KnownNames(codecs_) + ")");
    if (!Take('@')) return newest;
    const std::string_view text = TakeUntil(":,()=");
    const auto version = ParseNumber<std::uint32_t>(text);
    std::string known;
    for (const Codec* codec : codecs_) {
      if (codec->name != name) continue;
      if (version == codec->version) return codec;
      known += (known.empty() ? "" : ", ") + NumberText(codec->version);
    }
    return Invalid("codec " + std::string(name) + ": version \"" + std::string(text) + "\" is unknown (known: " + known + ")");
  }

  /// One "name=value" into `parsed`. `seen` marks the parameters met so far.
  Result<void> Param(ParsedSpec& parsed, std::vector<bool>& seen, std::size_t nesting) {
    const Codec& codec = *parsed.codec;
    const std::string where = "codec " + std::string(codec.name) + ": ";
    const std::string_view name = TakeUntil("=,()");
    if (!Take('=')) return Invalid(where + "\"" + std::string(name) + "\" is not of the form parameter=value");
    const auto param = std::ranges::find(codec.params, name, &ParamSpec::name);
    if (param == codec.params.end()) {
      const std::string known = Join(codec.params, [](const ParamSpec& p) { return std::string(p.name); });
      return Invalid(where + "unknown parameter \"" + std::string(name) + "\" (" +
                     (known.empty() ? "it has none" : "known: " + known) + ")");
    }
    const auto index = static_cast<std::size_t>(param - codec.params.begin());
    if (seen[index]) return Invalid(where + "parameter " + std::string(name) + " is given twice");
    seen[index] = true;
    const std::string here = where + "parameter " + std::string(name);
    if (param->kind == ParamKind::kSpec) {
      if (!Take('(')) return Invalid(here + "=" + std::string(TakeUntil(",)")) + " is not " + Allowed(*param));
      if (nesting == kMaxSpecNesting) return Invalid(here + ": specs are nested deeper than " + NumberText(kMaxSpecNesting));
      auto inner = Spec(nesting + 1);
      if (!inner) return Error{inner.error().code, here + ": " + inner.error().message};
      if (!Take(')')) return Invalid(here + ": no \")\" after " + inner->Canonical());
      parsed.params[index] = std::make_shared<const ParsedSpec>(*std::move(inner));
      return {};
    }
    const std::string_view text = TakeUntil(",()");
    auto value = ParsePlainValue(*param, text);
    if (!value) return Invalid(here + "=" + std::string(text) + " is not " + Allowed(*param));
    parsed.params[index] = *std::move(value);
    return {};
  }

  Result<ParamValue> Default(const ParamSpec& param, std::size_t nesting) {
    if (param.kind != ParamKind::kSpec) {
      if (auto value = ParsePlainValue(param, param.default_value)) return *std::move(value);
    } else if (nesting < kMaxSpecNesting) {
      SpecParser parser(codecs_, param.default_value);
      auto inner = parser.Spec(nesting + 1);
      if (!inner) return std::move(inner).error();
      if (parser.rest().empty()) return ParamValue(std::make_shared<const ParsedSpec>(*std::move(inner)));
    }
    return Invalid("the default \"" + std::string(param.default_value) + "\" of parameter " + std::string(param.name) +
                   " is not " + Allowed(param));
  }

  std::span<const Codec* const> codecs_;
  std::string_view rest_;
};

std::string ValueText(const ParamSpec& param, const ParamValue& value) {
  switch (param.kind) {
    case ParamKind::kInteger: return NumberText(std::get<std::int64_t>(value));
    case ParamKind::kNumber: return NumberText(std::get<double>(value));
    case ParamKind::kChoice: return std::string(param.choices[static_cast<std::size_t>(std::get<std::int64_t>(value))]);
    case ParamKind::kSpec: return "(" + std::get<std::shared_ptr<const ParsedSpec>>(value)->Canonical() + ")";
  }
  return "";
}

}  // namespace

std::string ParsedSpec::Canonical() const {
  std::string text = std::string(codec->name) + "@" + NumberText(codec->version);
  for (std::size_t i = 0; i < params.size(); ++i) {
    text += i == 0 ? ":" : ",";
    text += std::string(codec->params[i].name) + "=" + ValueText(codec->params[i], params[i]);
  }
  return text;
}

Registry Registry::Builtin() {
  Registry registry;
  registry.codecs_ = {
      &kF32,           &kF16,     &kBF16,       &kInt8,           &kTurboQuantMse, &kTurboQuantTcq,
      &kTurboQuantRvq, &kRabitq,  &kQjl,        &kTurboQuantProd, &kGaussianVq,    &kVecInfer,
      &kKivi,          &kOutlier, &kPolarQuant, &kSpectral,       &kCommVq,        &kGauge,
  };
  return registry;
}

Result<void> Registry::Add(const Codec& codec) {
  for (const Codec* other : codecs_) {
    if (other->name == codec.name && other->version == codec.version) {
      return Invalid("registry: version " + NumberText(codec.version) + " of codec " + std::string(codec.name) + " is taken");
    }
  }
  codecs_.push_back(&codec);
  if (auto defaults = Parse(std::string(codec.name) + "@" + NumberText(codec.version)); !defaults) {
    codecs_.pop_back();
    return Error{defaults.error().code, "registry: codec " + std::string(codec.name) + ": " + defaults.error().message};
  }
  return {};
}

Result<ParsedSpec> Registry::Parse(std::string_view spec) const {
  if (spec.size() > kMaxSpecBytes) {
    return Invalid("codec spec \"" + std::string(spec.substr(0, 64)) + "...\" has " + NumberText(spec.size()) +
                   " bytes, at most " + NumberText(kMaxSpecBytes));
  }
  SpecParser parser(codecs_, spec);
  auto parsed = parser.Spec(0);
  if (!parsed) return parsed;
  if (!parser.rest().empty()) {
    return Invalid("codec spec: \"" + std::string(parser.rest()) + "\" follows " + parsed->Canonical());
  }
  return parsed;
}

}  // namespace kvant::quantizers
