// Lines of the log: one for each event, whatever a client's names hold.
#include <memory>
#include <sstream>
#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <spdlog/sinks/ostream_sink.h>
#include <spdlog/spdlog.h>
#include <unistd.h>
#include <nlohmann/json.hpp>

#include "daemon/program/log_format.h"

namespace kvant::daemon {
namespace {

using Json = nlohmann::json;
using ::testing::MatchesRegex;

std::string Line(LogFormat format, const std::string& message) {
  std::ostringstream text;
  spdlog::logger log("kvantd", std::make_shared<spdlog::sinks::ostream_sink_mt>(text));
  log.set_formatter(MakeLogFormatter(format));
  log.warn("{}", message);
  log.flush();
  return text.str();
}

TEST(LogFormatTest, TextReadsAsItDid) {
  EXPECT_THAT(Line(LogFormat::kText, R"(client gone name="a\b" error=5)"),
              MatchesRegex(R"(\[....-..-.. ..:..:..\....\] \[kvantd\] \[warning\] client gone name="a\\b" error=5)"
                           "\n"));
}

TEST(LogFormatTest, JsonIsAnObjectALine) {
  const std::string line = Line(LogFormat::kJson, "connection refused reason=\"there are 5\"");
  EXPECT_EQ(line.find('\n'), line.size() - 1);
  const Json object = Json::parse(line);
  EXPECT_EQ(object["message"], "connection refused reason=\"there are 5\"");
  EXPECT_EQ(object["level"], "warning");
  EXPECT_EQ(object["process"], ::getpid());
  EXPECT_THAT(object["time"].get<std::string>(), MatchesRegex("....-..-..T..:..:..\\....Z"));
}

TEST(LogFormatTest, NobodyForgesALineOrDrivesATerminal) {
  const std::string hostile("a\n[2026] [kvantd] [info] forged\r\x1b[2J\x7f\xc2\x9b\xff\0b", 42);
  for (const LogFormat format : {LogFormat::kText, LogFormat::kJson}) {
    const std::string line = Line(format, hostile);
    EXPECT_EQ(line.find('\n'), line.size() - 1);
    for (const char c : line.substr(0, line.size() - 1)) {
      EXPECT_FALSE((c >= 0 && c < 0x20) || c == 0x7F) << static_cast<int>(c);
    }
    EXPECT_EQ(line.find("\xc2\x9b"), std::string::npos);
    EXPECT_NE(line.find("\\n[2026]"), std::string::npos);
    EXPECT_NE(line.find("\xef\xbf\xbd"), std::string::npos) << "what is no UTF-8";
  }
  EXPECT_FALSE(Json::parse(Line(LogFormat::kJson, hostile), nullptr, false).is_discarded());
}

}  // namespace
}  // namespace kvant::daemon
