// kvantctl upgrade: a new process of the program that is installed now takes over, and its stores with it.
#include <CLI/CLI.hpp>
#include <chrono>
#include <memory>
#include <string>
#include <thread>

#include "tools/kvantctl/command.h"
#include "tools/kvantctl/render.h"

namespace kvant::tools {
namespace {

using Clock = std::chrono::steady_clock;

constexpr std::chrono::milliseconds kLook{50};

/// The next daemon at the socket that is not `before`.
Result<StatsReport> WaitForNext(const Globals& globals, const DaemonInfo& before, Clock::duration limit) {
  const auto begin = Clock::now();
  Error last{ErrorCode::kDeadlineExceeded, "upgrade: the old process still serves"};
  while (Clock::now() - begin < limit) {
    auto admin = ConnectAdmin(globals);
    if (!admin && admin.error().code != ErrorCode::kDisconnected && admin.error().code != ErrorCode::kDeadlineExceeded) {
      return admin.error();  // another protocol version, for one: it serves, and this kvantctl is too old or too new for it
    }
    if (admin && admin->daemon().boot_token != before.boot_token) return admin->Stats();
    if (!admin) last = admin.error();
    std::this_thread::sleep_for(kLook);
  }
  return Error{ErrorCode::kDeadlineExceeded,
               "upgrade: no new process serves after " +
                   std::to_string(std::chrono::duration_cast<std::chrono::seconds>(limit).count()) +
                   " s (kvantd's log says why): " + last.message};
}

int Upgrade(const Globals& globals, double wait_s) {
  return WithAdmin(globals, [&](Admin& admin) -> int {
    const DaemonInfo before = admin.daemon();
    if (auto asked = admin.Upgrade(); !asked) return Report(globals, asked.error());
    const auto begin = Clock::now();
    const auto after =
        WaitForNext(globals, before, std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(wait_s)));
    if (!after) return Report(globals, after.error());
    const auto took = std::chrono::duration_cast<std::chrono::milliseconds>(Clock::now() - begin);
    const std::uint64_t blocks = after->figures.Find("blocks").value_or(0);
    if (globals.format == Format::kJson) {
      Print(Json{{"before", ToJson(before)}, {"after", ToJson(after->daemon)}, {"blocks", blocks}, {"took_ms", took.count()}});
    } else {
      Print("kvantd " + before.version + " (pid " + std::to_string(before.pid) + ") handed over to kvantd " +
            after->daemon.version + " (pid " + std::to_string(after->daemon.pid) + ") in " + std::to_string(took.count()) +
            " ms; " + HumanCount(blocks) + " blocks are served\n");
    }
    return kOk;
  });
}

}  // namespace

void AddUpgrade(CLI::App& app, Invocation& invocation) {
  CLI::App* const command = app.add_subcommand(
      "upgrade", "Hand the daemon's memory to a new process of the installed program, and wait until that serves");
  auto wait_s = std::make_shared<double>(60.0);
  command->add_option("--wait", *wait_s, "Seconds to wait for it")->check(CLI::Range(0.0, 86400.0))->capture_default_str();
  command->callback([&invocation, wait_s] { invocation.exit_code = Upgrade(invocation.globals, *wait_s); });
}

}  // namespace kvant::tools
