// kvantctl drain: ends the daemon once its calls are answered, and waits for that.
#include <CLI/CLI.hpp>
#include <chrono>
#include <memory>
#include <thread>

#include "tools/kvantctl/command.h"
#include "tools/kvantctl/render.h"

namespace kvant::tools {
namespace {

constexpr std::chrono::milliseconds kLook{50};

int Drain(const Globals& globals, double wait_s) {
  return WithAdmin(globals, [&](Admin& admin) -> int {
    if (auto asked = admin.Drain(); !asked) return Report(globals, asked.error());
    const auto begin = std::chrono::steady_clock::now();
    const auto limit = std::chrono::duration<double>(wait_s);
    for (;;) {
      const auto ping = admin.Ping();
      if (!ping && ping.error().code == ErrorCode::kDisconnected) break;
      if (std::chrono::steady_clock::now() - begin >= limit) {
        return Report(globals, {ErrorCode::kDeadlineExceeded,
                                "drain: the daemon still runs after " + std::to_string(wait_s) + " s; it goes on ending"});
      }
      std::this_thread::sleep_for(kLook);
    }
    if (globals.format == Format::kJson) {
      Print(Json{{"ended", true}, {"pid", admin.daemon().pid}});
    } else {
      Print("the daemon with pid " + std::to_string(admin.daemon().pid) + " has ended\n");
    }
    return kOk;
  });
}

}  // namespace

void AddDrain(CLI::App& app, Invocation& invocation) {
  CLI::App* command = app.add_subcommand(
      "drain", "End the daemon once the calls that wait are answered and, with --state-dir, its blocks are saved");
  auto wait_s = std::make_shared<double>(60.0);
  command->add_option("--wait", *wait_s, "Seconds to wait for its end")->check(CLI::Range(0.0, 86400.0))->capture_default_str();
  command->callback([&invocation, wait_s] { invocation.exit_code = Drain(invocation.globals, *wait_s); });
}

}  // namespace kvant::tools
