// How fuzz targets take numbers and texts from the bytes of an input, and how they say that something is wrong.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <span>
#include <string_view>

namespace kvant::fuzz {

/// Reads from the front; zeros behind the end.
class Input {
 public:
  Input(const std::uint8_t* data, std::size_t size) : rest_(data, size) {}

  template <typename Number>
  Number Take() {
    Number number{};
    const std::size_t bytes = rest_.size() < sizeof(number) ? rest_.size() : sizeof(number);
    if (bytes > 0) std::memcpy(&number, rest_.data(), bytes);
    rest_ = rest_.subspan(bytes);
    return number;
  }
  /// Up to the next line feed, which is eaten.
  std::string_view TakeLine() {
    const std::string_view all(reinterpret_cast<const char*>(rest_.data()), rest_.size());
    const std::size_t end = all.find('\n');
    rest_ = rest_.subspan(end == std::string_view::npos ? rest_.size() : end + 1);
    return all.substr(0, end);
  }
  [[nodiscard]] std::span<const std::uint8_t> rest() const noexcept { return rest_; }

 private:
  std::span<const std::uint8_t> rest_;
};

/// Ends the process with a message: the fuzzer, or the test, has found something.
[[noreturn]] inline void Found(const char* what) {
  std::fprintf(stderr, "found: %s\n", what);
  std::abort();
}

inline void Expect(bool holds, const char* what) {
  if (!holds) Found(what);
}

}  // namespace kvant::fuzz
