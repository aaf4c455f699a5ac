#include "quantizers/tokens/token_policy.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <optional>
#include <span>
#include <vector>

namespace kvant::quantizers {
namespace {

struct Parameter {
  std::string_view name;
  std::uint32_t TokenPolicy::*number = nullptr;  // null: the pooling
  std::uint32_t min = 0;
  std::uint32_t default_value = 0;
};

constexpr std::uint32_t kMost = 1u << 30;
constexpr std::array kWindowParameters{Parameter{"tokens", &TokenPolicy::recent, 2, 4096},
                                       Parameter{"sinks", &TokenPolicy::sinks, 0, 4},
                                       Parameter{"min", &TokenPolicy::min, 0, 0}};
constexpr std::array kSnapKVParameters{
    Parameter{"budget", &TokenPolicy::budget, 1, 2048}, Parameter{"window", &TokenPolicy::recent, 1, 32},
    Parameter{"kernel", &TokenPolicy::kernel, 1, 7},    Parameter{"pool"},
    Parameter{"sinks", &TokenPolicy::sinks, 0, 4},      Parameter{"min", &TokenPolicy::min, 0, 0}};
constexpr std::array kH2OParameters{Parameter{"budget", &TokenPolicy::budget, 1, 2048},
                                    Parameter{"recent", &TokenPolicy::recent, 1, 1024},
                                    Parameter{"sinks", &TokenPolicy::sinks, 0, 0}, Parameter{"min", &TokenPolicy::min, 0, 0}};

struct Kind {
  std::string_view name;
  PolicyKind kind = PolicyKind::kAll;
  std::span<const Parameter> parameters;
};
constexpr std::array kKinds{Kind{"all", PolicyKind::kAll, {}}, Kind{"window", PolicyKind::kWindow, kWindowParameters},
                            Kind{"snapkv", PolicyKind::kSnapKV, kSnapKVParameters},
                            Kind{"h2o", PolicyKind::kH2O, kH2OParameters}};

template <typename Items>
std::string Names(const Items& items) {
  std::string names;
  for (const auto& item : items) names += (names.empty() ? "" : ", ") + std::string(item.name);
  return names.empty() ? "none" : names;
}

Error Invalid(std::string_view text, const std::string& what) {
  return {ErrorCode::kInvalidArgument, "token policy \"" + std::string(text.substr(0, 200)) + "\": " + what};
}

std::string_view TakeUntil(std::string_view& text, char stop) {
  const std::size_t end = std::min(text.find(stop), text.size());
  const std::string_view taken = text.substr(0, end);
  text.remove_prefix(std::min(text.size(), end + 1));
  return taken;
}

/// The parameter's value into `policy`; else what may stand there.
std::optional<std::string> Set(const Parameter& parameter, std::string_view value, TokenPolicy& policy) {
  if (parameter.number == nullptr) {
    if (value != "max" && value != "avg") return "is neither max nor avg";
    policy.pool = value == "max" ? Pooling::kMax : Pooling::kAverage;
    return std::nullopt;
  }
  std::uint32_t number = 0;
  const auto [end, status] = std::from_chars(value.data(), value.data() + value.size(), number);
  if (status != std::errc() || end != value.data() + value.size() || number < parameter.min || number > kMost) {
    return "is not a number in " + std::to_string(parameter.min) + ".." + std::to_string(kMost);
  }
  policy.*parameter.number = number;
  return std::nullopt;
}

/// Whether the numbers fit together; else what does not.
std::optional<std::string> Misfit(const TokenPolicy& policy) {
  if (policy.kind == PolicyKind::kSnapKV && policy.kernel % 2 == 0) {
    return "kernel " + std::to_string(policy.kernel) + " is even, it has a middle";
  }
  const std::uint64_t always = std::uint64_t{policy.recent} + policy.sinks;
  if (policy.chooses() && policy.budget < always) {
    return "budget " + std::to_string(policy.budget) + " is less than the " + std::to_string(always) +
           " tokens that always stay (" + std::to_string(policy.recent) + " newest and " + std::to_string(policy.sinks) +
           " sinks)";
  }
  return std::nullopt;
}

}  // namespace

Result<TokenPolicy> TokenPolicy::Parse(std::string_view text) {
  if (text.empty()) return TokenPolicy();
  std::string_view rest = text;
  const std::string_view name = TakeUntil(rest, ':');
  const auto kind = std::ranges::find(kKinds, name, &Kind::name);
  if (kind == kKinds.end()) return Invalid(text, "unknown (known: " + Names(kKinds) + ")");
  TokenPolicy policy{.kind = kind->kind};
  for (const Parameter& parameter : kind->parameters) {
    if (parameter.number != nullptr) policy.*parameter.number = parameter.default_value;
  }
  std::vector<std::string_view> given;
  for (bool more = name.size() < text.size(); more;) {
    more = rest.find(',') != std::string_view::npos;
    std::string_view value = TakeUntil(rest, ',');
    const std::string_view key = TakeUntil(value, '=');
    const auto parameter = std::ranges::find(kind->parameters, key, &Parameter::name);
    if (parameter == kind->parameters.end()) {
      return Invalid(text, "unknown parameter \"" + std::string(key) + "\" (known: " + Names(kind->parameters) + ")");
    }
    if (std::ranges::find(given, key) != given.end()) return Invalid(text, std::string(key) + " is given twice");
    given.push_back(key);
    if (const auto fault = Set(*parameter, value, policy)) {
      return Invalid(text, std::string(key) + "=" + std::string(value) + " " + *fault);
    }
  }
  if (const auto misfit = Misfit(policy)) return Invalid(text, *misfit);
  return policy;
}

std::string TokenPolicy::Canonical() const {
  const auto kind_of = std::ranges::find(kKinds, kind, &Kind::kind);
  std::string text(kind_of->name);
  for (const Parameter& parameter : kind_of->parameters) {
    text += (text.size() == kind_of->name.size() ? ":" : ",") + std::string(parameter.name) + "=";
    text += parameter.number == nullptr ? (pool == Pooling::kMax ? "max" : "avg") : std::to_string(this->*parameter.number);
  }
  return text;
}

}  // namespace kvant::quantizers
