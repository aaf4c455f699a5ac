#include "daemon/program/log_format.h"

#include <string>

#include <spdlog/pattern_formatter.h>
#include <nlohmann/json.hpp>

namespace kvant::daemon {
namespace {

/// The message as the inside of a JSON string; with `keep_quotes`, quotes and backslashes stay as they are.
std::string Escaped(std::string_view message, bool keep_quotes) {
  const std::string quoted =
      nlohmann::json(std::string(message)).dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
  std::string text = quoted.substr(1, quoted.size() - 2);
  // JSON has no need to escape DEL and the controls of Unicode's second block; terminals do.
  std::string safe;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const auto byte = static_cast<unsigned char>(text[i]);
    const auto next = static_cast<unsigned char>(i + 1 < text.size() ? text[i + 1] : 0);
    if (byte == 0x7F) {
      safe += "\\u007f";
    } else if (byte == 0xC2 && next < 0xA0) {
      constexpr const char* kHex = "0123456789abcdef";
      safe += std::string("\\u00") + kHex[next >> 4] + kHex[next & 15];
      ++i;
    } else if (keep_quotes && byte == '\\' && (next == '"' || next == '\\')) {
      safe += static_cast<char>(next);
      ++i;
    } else {
      safe += text[i];
    }
  }
  return safe;
}

class Message final : public spdlog::custom_flag_formatter {
 public:
  explicit Message(LogFormat format) : format_(format) {}
  void format(const spdlog::details::log_msg& message, const std::tm&, spdlog::memory_buf_t& to) override {
    const std::string text = Escaped({message.payload.data(), message.payload.size()}, format_ == LogFormat::kText);
    to.append(text.data(), text.data() + text.size());
  }
  std::unique_ptr<custom_flag_formatter> clone() const override { return std::make_unique<Message>(format_); }

 private:
  const LogFormat format_;
};

}  // namespace

std::unique_ptr<spdlog::formatter> MakeLogFormatter(LogFormat format) {
  const bool json = format == LogFormat::kJson;
  auto formatter =
      std::make_unique<spdlog::pattern_formatter>(json ? spdlog::pattern_time_type::utc : spdlog::pattern_time_type::local);
  formatter->add_flag<Message>('*', format);
  formatter->set_pattern(json ? R"({"time":"%Y-%m-%dT%H:%M:%S.%eZ","level":"%l","process":%P,"message":"%*"})"
                              : "[%Y-%m-%d %H:%M:%S.%e] [%n] [%l] %*");
  return formatter;
}

}  // namespace kvant::daemon
