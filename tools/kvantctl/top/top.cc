// kvantctl top: a live view of a daemon, on the whole screen.
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "tools/kvantctl/command.h"
#include "tools/kvantctl/printable.h"
#include "tools/kvantctl/top/screen.h"
#include "tools/kvantctl/top/view.h"

namespace kvant::tools {
namespace {

Result<Sample> Look(Admin& admin) {
  auto stats = admin.Stats();
  if (!stats) return stats.error();
  auto stores = admin.Stores();
  if (!stores) return stores.error();
  return Sample{.at = std::chrono::steady_clock::now(), .stats = *std::move(stats), .stores = *std::move(stores)};
}

/// A daemon that goes away is waited for: its next one is shown.
class Daemon {
 public:
  Daemon(const Globals& globals, Admin admin) : globals_(globals), admin_(std::move(admin)) {}

  Result<Sample> Look() {
    if (!admin_) {
      auto connected = ConnectAdmin(globals_);
      if (!connected) return connected.error();
      admin_ = *std::move(connected);
    }
    auto sample = tools::Look(*admin_);
    if (!sample) admin_.reset();
    return sample;
  }

 private:
  const Globals& globals_;
  std::optional<Admin> admin_;
};

int Top(const Globals& globals, double interval_s) {
  if (globals.format != Format::kTable || ::isatty(STDOUT_FILENO) == 0) {
    return Report(globals,
                  {ErrorCode::kInvalidArgument, "top: this is for terminals; `stats --watch` prints one line after another"});
  }
  return WithAdmin(globals, [&](Admin& admin) -> int {
    Daemon daemon(globals, std::move(admin));
    const auto interval = std::chrono::milliseconds(static_cast<std::int64_t>(interval_s * 1000));
    std::optional<Sample> before;
    std::optional<Sample> now;
    StoreOrder order = StoreOrder::kResident;
    Screen screen;
    std::string trouble;
    for (auto next = std::chrono::steady_clock::now();;) {
      if (std::chrono::steady_clock::now() >= next) {
        auto looked = daemon.Look();
        if (looked) {
          before = std::exchange(now, *std::move(looked));
          trouble.clear();
        } else {
          trouble = Printable(looked.error().message);
        }
        next = std::chrono::steady_clock::now() + interval;
      }
      std::vector<std::string> lines;
      if (now) lines = TopLines(*now, before ? &*before : nullptr, order, screen.columns());
      if (!trouble.empty()) lines.insert(lines.begin(), FirstColumns("no answer: " + trouble, screen.columns()));
      screen.Draw(lines, trouble.empty() ? kStoresLine : kStoresLine + 1);
      const auto left = std::chrono::ceil<std::chrono::milliseconds>(next - std::chrono::steady_clock::now());
      switch (screen.Wait(left)) {
        case Screen::Key::kEnd: return kOk;
        case Screen::Key::kSort: order = After(order); break;
        case Screen::Key::kNone:
        case Screen::Key::kResized: break;
      }
    }
  });
}

}  // namespace

void AddTop(CLI::App& app, Invocation& invocation) {
  auto* const top = app.add_subcommand("top", "Show a daemon live, on the whole screen");
  auto interval = std::make_shared<double>(1.0);
  top->add_option("--interval", *interval, "Seconds between looks")->check(CLI::Range(0.1, 3600.0))->capture_default_str();
  top->callback([&invocation, interval] { invocation.exit_code = Top(invocation.globals, *interval); });
}

}  // namespace kvant::tools
