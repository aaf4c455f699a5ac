// The parameters of a codec: what a spec such as "turboquant_mse:bits=4,center=1" may say, and what one did say.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

namespace kvant::quantizers {

struct Codec;
struct ParsedSpec;

enum class ParamKind : std::uint8_t {
  kInteger,  ///< bits=4
  kChoice,   ///< scale=unbiased: one of a list of names
  kNumber,   ///< share=0.25: any finite double
  kSpec,     ///< rest=(int8): the spec of another codec, in parentheses
};

/// One parameter as a codec declares it.
struct ParamSpec {
  std::string_view name;  ///< lower_snake_case
  ParamKind kind = ParamKind::kInteger;
  std::string_view default_value;  ///< as a spec would write it; a kSpec without its parentheses
  std::string_view meaning;
  double min = 0.0;  ///< integers (within +-2^53) and numbers: min <= value <= max
  double max = 0.0;
  std::span<const std::int64_t> allowed = {};      ///< integers: if not empty, only these of min..max
  std::span<const std::string_view> choices = {};  ///< choices: the names; a value is the index into them
};

/// A parameter's value: integers and choices, numbers, specs. A nested spec is immutable and shared by the copies of its
/// parent.
using ParamValue = std::variant<std::int64_t, double, std::shared_ptr<const ParsedSpec>>;

/// The values of all parameters of a codec, in the order in which it declares them; borrowed. The registry has checked kinds
/// and ranges. Requires of every accessor: parameter `i` is of that kind.
class Params {
 public:
  Params() = default;
  Params(std::span<const ParamValue> values) : values_(values) {}     // NOLINT(google-explicit-constructor): a view
  Params(const std::vector<ParamValue>& values) : values_(values) {}  // NOLINT(google-explicit-constructor): a view

  [[nodiscard]] std::int64_t Integer(std::size_t i) const { return std::get<std::int64_t>(values_[i]); }
  [[nodiscard]] std::size_t Choice(std::size_t i) const { return static_cast<std::size_t>(Integer(i)); }
  [[nodiscard]] double Number(std::size_t i) const { return std::get<double>(values_[i]); }
  [[nodiscard]] const ParsedSpec& Spec(std::size_t i) const { return *std::get<std::shared_ptr<const ParsedSpec>>(values_[i]); }
  [[nodiscard]] std::size_t size() const noexcept { return values_.size(); }

 private:
  std::span<const ParamValue> values_;
};

/// A codec spec after parsing and checking: which codec, and every parameter's value.
struct ParsedSpec {
  const Codec* codec = nullptr;
  std::vector<ParamValue> params;  ///< in the order of codec->params, defaults filled in

  /// The spec with its version and every parameter spelled out, in order: "turboquant_mse@2:bits=4,center=0,scale=auto".
  /// Registry::Parse reads it back to the same. Hashed into identities.
  [[nodiscard]] std::string Canonical() const;
};

}  // namespace kvant::quantizers
