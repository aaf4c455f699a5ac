#include "client/examples/llama/canonical_json.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <string_view>
#include <vector>

#include <nlohmann/json.hpp>

namespace kvant::examples {
namespace {

using Json = nlohmann::json;

Error Invalid(const std::string& what) { return {ErrorCode::kInvalidArgument, what}; }

/// Whether UTF-8 text `a` comes before `b` in order of UTF-16 units. That is the order of bytes, but for U+E000..U+FFFF, which
/// come after the surrogate pairs of what UTF-8 writes in four bytes.
bool Utf16Less(const std::string& a, const std::string& b) {
  const auto [x, y] = std::mismatch(a.begin(), a.end(), b.begin(), b.end());
  if (x == a.end() || y == b.end()) return x == a.end() && y != b.end();
  const auto rank = [](char c) {
    const auto byte = static_cast<unsigned char>(c);
    return byte == 0xEE || byte == 0xEF ? 0x100 + byte : static_cast<int>(byte);
  };
  return rank(*x) < rank(*y);
}

/// As ECMAScript's Number::toString writes a finite double.
std::string EcmaScriptNumber(double value) {
  if (value == 0) return "0";
  std::array<char, 32> buffer;
  const auto [end, error] =
      std::to_chars(buffer.data(), buffer.data() + buffer.size(), std::abs(value), std::chars_format::scientific);
  const std::string_view text(buffer.data(),
                              static_cast<std::size_t>(end - buffer.data()));  // d.ddde±xx, the shortest that reads back
  const std::size_t e = text.find('e');
  std::string digits(1, text[0]);
  if (e > 2) digits += text.substr(2, e - 2);
  const int point = std::atoi(std::string(text.substr(e + 1)).c_str()) + 1;  // value = 0.digits * 10^point
  const int count = static_cast<int>(digits.size());
  std::string number = value < 0 ? "-" : "";
  if (count <= point && point <= 21) {
    return number + digits + std::string(static_cast<std::size_t>(point - count), '0');
  }
  if (0 < point && point <= 21) {
    return number + digits.substr(0, static_cast<std::size_t>(point)) + "." + digits.substr(static_cast<std::size_t>(point));
  }
  if (-6 < point && point <= 0) return number + "0." + std::string(static_cast<std::size_t>(-point), '0') + digits;
  number += digits[0];
  if (count > 1) number += "." + digits.substr(1);
  const int exponent = point - 1;
  return number + "e" + (exponent < 0 ? "-" : "+") + std::to_string(std::abs(exponent));
}

/// Appends the canonical form; recursion goes as deep as ParseJson allows.
Result<void> Append(const Json& value, std::string& text) {
  if (value.is_object()) {
    std::vector<std::string> names;
    for (const auto& [name, field] : value.items()) names.push_back(name);
    std::sort(names.begin(), names.end(), Utf16Less);
    text += '{';
    for (std::size_t i = 0; i < names.size(); ++i) {
      if (i > 0) text += ',';
      text += Json(names[i]).dump() + ":";
      if (auto ok = Append(value[names[i]], text); !ok) return ok;
    }
    text += '}';
  } else if (value.is_array()) {
    text += '[';
    for (std::size_t i = 0; i < value.size(); ++i) {
      if (i > 0) text += ',';
      if (auto ok = Append(value[i], text); !ok) return ok;
    }
    text += ']';
  } else if (value.is_number()) {
    constexpr std::int64_t kMaxExact = std::int64_t{1} << 53;
    const bool exact = value.is_number_float() || (value.is_number_unsigned() && value.get<std::uint64_t>() <= kMaxExact) ||
                       (!value.is_number_unsigned() && value.get<std::int64_t>() >= -kMaxExact);
    if (!exact) return Invalid("integer " + value.dump() + " is beyond what a double holds exactly");
    text += EcmaScriptNumber(value.get<double>());
  } else {
    text += value.dump();  // strings escaped as RFC 8785 wants it, true, false, null
  }
  return {};
}

}  // namespace

Result<std::string> CanonicalJson(const Json& value) {
  std::string text;
  if (auto ok = Append(value, text); !ok) return ok.error();
  return text;
}

}  // namespace kvant::examples
