#include "daemon/daemon_log.h"

#include <chrono>
#include <cstdint>
#include <utility>

namespace kvant::daemon {
namespace {

constexpr std::uint32_t kMostLogged = 20;
constexpr std::chrono::seconds kLogInterval{60};

}  // namespace

std::string Description(const kj::Exception& exception) {
  const kj::StringPtr text = exception.getDescription();
  return {text.begin(), text.size()};
}

DaemonLog::DaemonLog(std::shared_ptr<spdlog::logger> log)
    : log_(std::move(log)), events_(kMostLogged, kLogInterval), failures_(kMostLogged, kLogInterval) {}

bool DaemonLog::Tell(std::string_view event) {
  if (!log_) return false;
  const auto left_out = events_.Admit(LogLimit::Clock::now());
  if (left_out.value_or(0) != 0) log_->warn("events not logged count={}", *left_out);
  if (left_out) log_->warn("{}", event);
  return left_out.has_value();
}

void DaemonLog::Report(std::string_view what, const kj::Exception& exception) {
  if (!log_) return;
  const auto left_out = failures_.Admit(LogLimit::Clock::now());
  if (left_out.value_or(0) != 0) log_->error("failures not logged count={}", *left_out);
  if (left_out) log_->error("failed, going on what=\"{}\" error=\"{}\"", what, Description(exception));
}

}  // namespace kvant::daemon
