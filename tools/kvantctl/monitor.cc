// kvantctl monitor: what happens in the daemon, as it happens, over its restarts.
#include <CLI/CLI.hpp>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <ctime>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "tools/kvantctl/command.h"
#include "tools/kvantctl/printable.h"
#include "tools/kvantctl/render.h"

namespace kvant::tools {
namespace {

constexpr std::chrono::milliseconds kLook{50};

volatile std::sig_atomic_t ended = 0;

std::string TimeOf(std::chrono::sys_time<std::chrono::milliseconds> time) {
  const std::time_t seconds = std::chrono::system_clock::to_time_t(time);
  std::tm parts{};
  ::gmtime_r(&seconds, &parts);
  char text[64];
  const std::size_t length = std::strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%S", &parts);
  const auto ms = static_cast<int>(time.time_since_epoch().count() % 1000);
  std::snprintf(text + length, sizeof text - length, ".%03dZ", ms);
  return text;
}

/// Prints events, and counts down how many are wanted.
class Printer {
 public:
  Printer(const Globals& globals, const std::vector<std::string>& kinds, std::uint64_t most)
      : globals_(globals), kinds_(kinds.begin(), kinds.end()), left_(most), counted_(most != 0) {}

  [[nodiscard]] bool done() const { return counted_ && left_ == 0; }

  void Print(const Event& event) {
    if (done() || (!kinds_.empty() && !kinds_.contains(event.kind))) return;
    if (globals_.format == Format::kJson) {
      Json object = {{"time", TimeOf(event.time)}, {"number", event.number}, {"event", event.kind}};
      for (const EventField& field : event.fields) {
        std::visit([&](const auto& value) { object[field.name] = value; }, field.value);
      }
      PrintLine(object);
    } else {
      std::string line = TimeOf(event.time) + " " + Printable(event.kind);
      for (const EventField& field : event.fields) {
        line += " " + Printable(field.name) + "=";
        if (const auto* text = std::get_if<std::string>(&field.value)) {
          line += "\"" + Printable(*text) + "\"";
        } else {
          line += std::to_string(std::get<std::uint64_t>(field.value));
        }
      }
      tools::Print(line + "\n");
      std::fflush(stdout);
    }
    if (counted_) --left_;
  }

  /// What kvantctl itself has seen.
  void Print(std::string kind, std::vector<EventField> fields) {
    Print({.number = 0,
           .time = std::chrono::time_point_cast<std::chrono::milliseconds>(std::chrono::system_clock::now()),
           .kind = std::move(kind),
           .fields = std::move(fields)});
  }

 private:
  const Globals& globals_;
  const std::set<std::string> kinds_;
  std::uint64_t left_;
  const bool counted_;
};

/// Until the daemon is gone or there was enough.
Result<void> Follow(Admin& admin, Printer& printer) {
  if (auto watching = admin.Watch(); !watching) return watching;
  printer.Print("watching", {{"version", admin.daemon().version}, {"pid", admin.daemon().pid}});
  while (ended == 0 && !printer.done()) {
    const auto batch = admin.TakeEvents();
    if (!batch) return batch.error();
    for (const Event& event : batch->events) printer.Print(event);
    if (batch->lost != 0) printer.Print("lost", {{"events", batch->lost}});
    if (batch->events.empty()) std::this_thread::sleep_for(kLook);
  }
  return {};
}

int Monitor(const Globals& globals, const std::vector<std::string>& kinds, std::uint64_t most, bool once) {
  struct sigaction end {};
  end.sa_handler = [](int) { ended = 1; };
  ::sigaction(SIGINT, &end, nullptr);
  ::sigaction(SIGTERM, &end, nullptr);
  Printer printer(globals, kinds, most);
  bool watched = false;
  while (ended == 0 && !printer.done()) {
    auto admin = ConnectAdmin(globals);
    Result<void> followed = admin ? Follow(*admin, printer) : Result<void>(admin.error());
    if (followed) continue;
    const bool gone = followed.error().code == ErrorCode::kDisconnected;
    if (!gone || once || (!watched && !admin)) return Report(globals, followed.error());
    if (admin) printer.Print("daemon_gone", {{"pid", admin->daemon().pid}});
    watched = true;
    std::this_thread::sleep_for(kLook);
  }
  return kOk;
}

}  // namespace

void AddMonitor(CLI::App& app, Invocation& invocation) {
  CLI::App* const command = app.add_subcommand(
      "monitor", "Print what happens, as it happens: blocks, stores, clients, refusals; one line for each, until it is ended");
  auto kinds = std::make_shared<std::vector<std::string>>();
  auto most = std::make_shared<std::uint64_t>(0);
  auto once = std::make_shared<bool>(false);
  command->add_option("--only", *kinds, "Events of these kinds, such as refused or block_evicted");
  command->add_option("--count", *most, "Events to print; 0: no end")
      ->check(CLI::Range(0U, 1000000000U))
      ->capture_default_str();
  command->add_flag("--once", *once, "End with exit code 3 when the daemon goes, instead of waiting for the next");
  command->callback(
      [&invocation, kinds, most, once] { invocation.exit_code = Monitor(invocation.globals, *kinds, *most, *once); });
}

}  // namespace kvant::tools
