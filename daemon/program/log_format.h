// How a line of the log is written: for people, or as a JSON object for programs. One event is one line either way.
#pragma once

#include <memory>

namespace spdlog {
class formatter;
}

namespace kvant::daemon {

enum class LogFormat { kText, kJson };

/// Text: "[2026-01-31 12:00:00.123] [kvantd] [info] serving socket=...", in local time. JSON: an object of time (RFC 3339 in
/// UTC), level, process and message. Names and errors are clients' to choose: line ends and other control characters among them
/// are shown by their escapes, and what is not UTF-8 as U+FFFD, so that nobody forges a line.
std::unique_ptr<spdlog::formatter> MakeLogFormatter(LogFormat format);

}  // namespace kvant::daemon
