#include "tools/kvantctl/printable.h"

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstdio>

namespace kvant::tools {
namespace {

struct Character {
  std::uint32_t code = 0;
  std::size_t bytes = 0;  ///< 0: not UTF-8 (an overlong form, a surrogate, beyond U+10FFFF, cut off)
};

Character FirstCharacter(std::string_view text) noexcept {
  const auto byte = [text](std::size_t i) { return static_cast<std::uint32_t>(static_cast<unsigned char>(text[i])); };
  const std::uint32_t first = byte(0);
  if (first < 0x80) return {first, 1};
  const std::size_t bytes = first >= 0xF0 ? 4 : first >= 0xE0 ? 3 : 2;
  if (first < 0xC2 || first > 0xF4 || text.size() < bytes) return {};
  std::uint32_t code = first & (0x7FU >> bytes);
  for (std::size_t i = 1; i < bytes; ++i) {
    if ((byte(i) & 0xC0) != 0x80) return {};
    code = code << 6 | (byte(i) & 0x3F);
  }
  constexpr std::array<std::uint32_t, 5> kLeast = {0, 0, 0x80, 0x800, 0x10000};
  if (code < kLeast[bytes] || code > 0x10FFFF || (code >= 0xD800 && code <= 0xDFFF)) return {};
  return {code, bytes};
}

/// Unicode's controls (Cc), separators of lines (Zl, Zp) and formatting characters (Cf) that hide or reorder text.
bool Hidden(std::uint32_t code) noexcept {
  struct Range {
    std::uint32_t first, last;
  };
  constexpr std::array<Range, 14> kRanges = {{{0x00, 0x1F},
                                              {0x7F, 0x9F},
                                              {0xAD, 0xAD},
                                              {0x0600, 0x0605},
                                              {0x061C, 0x061C},
                                              {0x06DD, 0x06DD},
                                              {0x070F, 0x070F},
                                              {0x180E, 0x180E},
                                              {0x200B, 0x200F},
                                              {0x2028, 0x202E},
                                              {0x2060, 0x206F},
                                              {0xFEFF, 0xFEFF},
                                              {0xFFF0, 0xFFFB},
                                              {0xE0000, 0xE0FFF}}};
  return std::any_of(kRanges.begin(), kRanges.end(), [code](Range r) { return code >= r.first && code <= r.last; });
}

std::string Escaped(const char* format, std::uint32_t code) {
  std::array<char, 16> text{};
  std::snprintf(text.data(), text.size(), format, static_cast<unsigned>(code));
  return text.data();
}

}  // namespace

std::string Printable(std::string_view text) {
  std::string shown;
  shown.reserve(text.size());
  while (!text.empty()) {
    const Character c = FirstCharacter(text);
    const std::size_t bytes = std::max<std::size_t>(c.bytes, 1);
    if (c.bytes == 0) {
      shown += Escaped("\\x%02x", static_cast<unsigned char>(text[0]));
    } else if (c.code == '\n') {
      shown += "\\n";
    } else if (c.code == '\t') {
      shown += "\\t";
    } else if (c.code == '\\') {
      shown += "\\\\";
    } else if (Hidden(c.code)) {
      shown += Escaped(c.code <= 0x7F ? "\\x%02x" : c.code <= 0xFFFF ? "\\u%04x" : "\\U%08x", c.code);
    } else {
      shown += text.substr(0, bytes);
    }
    text.remove_prefix(bytes);
  }
  return shown;
}

std::size_t Columns(std::string_view printable) noexcept {
  return static_cast<std::size_t>(std::count_if(printable.begin(), printable.end(), [](char c) {
    return (static_cast<unsigned char>(c) & 0xC0) != 0x80;  // a byte that begins a character
  }));
}

std::string FirstColumns(std::string_view printable, std::size_t columns) {
  std::size_t bytes = 0;
  while (bytes < printable.size() && Columns(printable.substr(0, bytes + 1)) <= columns) ++bytes;
  return std::string(printable.substr(0, bytes));
}

}  // namespace kvant::tools
