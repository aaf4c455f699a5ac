// kvantctl drain: ends the daemon once its calls are answered, and waits for that. What became of its blocks it hears as
// `kvantctl monitor` does.
#include <CLI/CLI.hpp>
#include <chrono>
#include <memory>
#include <string>
#include <string_view>
#include <thread>
#include <variant>

#include "tools/kvantctl/command.h"
#include "tools/kvantctl/printable.h"
#include "tools/kvantctl/render.h"

namespace kvant::tools {
namespace {

constexpr std::chrono::milliseconds kLook{50};

/// What became of --state-dir, as far as the daemon has told.
struct State {
  std::string saved;      ///< the file; empty for a daemon that keeps none
  std::string not_saved;  ///< why
};

std::string TextOf(const Event& event, std::string_view field) {
  for (const EventField& each : event.fields) {
    const auto* text = std::get_if<std::string>(&each.value);
    if (each.name == field && text != nullptr) return *text;
  }
  return {};
}

void Hear(const EventBatch& batch, State& state) {
  for (const Event& event : batch.events) {
    if (event.kind == "state_saved") state.saved = TextOf(event, "file");
    if (event.kind == "state_not_saved") state.not_saved = TextOf(event, "file") + ": " + TextOf(event, "reason");
  }
}

int Tell(const Globals& globals, std::uint64_t pid, const State& state) {
  const bool failed = !state.not_saved.empty();
  if (globals.format == Format::kJson) {
    Json object = {{"ended", true}, {"pid", pid}};
    if (failed || !state.saved.empty()) object["saved"] = !failed;
    Print(object);
  } else {
    Print("the daemon with pid " + std::to_string(pid) + " has ended" +
          (state.saved.empty() ? "" : ", its blocks are in " + Printable(state.saved)) + "\n");
  }
  if (!failed) return kOk;
  Report(globals, {ErrorCode::kSystem, "drain: the daemon has ended, but could not save its blocks to " + state.not_saved +
                                           "; an older file there is as it was"});
  return kNotSaved;
}

int Drain(const Globals& globals, double wait_s) {
  return WithAdmin(globals, [&](Admin& admin) -> int {
    if (auto watching = admin.Watch(); !watching) return Report(globals, watching.error());
    if (auto asked = admin.Drain(); !asked) return Report(globals, asked.error());
    const auto begin = std::chrono::steady_clock::now();
    const auto limit = std::chrono::duration<double>(wait_s);
    State state;
    for (;;) {
      const auto batch = admin.TakeEvents();
      if (batch) Hear(*batch, state);
      if (!batch && batch.error().code == ErrorCode::kDisconnected) return Tell(globals, admin.daemon().pid, state);
      if (std::chrono::steady_clock::now() - begin >= limit) {
        return Report(globals, {ErrorCode::kDeadlineExceeded,
                                "drain: the daemon still runs after " + std::to_string(wait_s) + " s; it goes on ending"});
      }
      if (!batch || batch->events.empty()) std::this_thread::sleep_for(kLook);
    }
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
