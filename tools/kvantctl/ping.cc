// kvantctl ping: is the daemon there, and how long does a call take?
#include <CLI/CLI.hpp>
#include <algorithm>
#include <array>
#include <chrono>
#include <cstdio>
#include <vector>

#include "tools/kvantctl/command.h"
#include "tools/kvantctl/render.h"

namespace kvant::tools {
namespace {

int Ping(const Globals& globals, std::uint32_t count) {
  return WithAdmin(globals, [&](Admin& admin) -> int {
    std::vector<std::int64_t> times_ns;
    for (std::uint32_t i = 0; i < count; ++i) {
      const auto time = admin.Ping();
      if (!time) return Report(globals, time.error());
      times_ns.push_back(time->count());
    }
    std::sort(times_ns.begin(), times_ns.end());
    const std::int64_t median = times_ns[times_ns.size() / 2];
    if (globals.format == Format::kJson) {
      Print(Json{{"count", count}, {"min_ns", times_ns.front()}, {"median_ns", median}, {"max_ns", times_ns.back()}});
    } else {
      std::array<char, 128> line{};
      const auto us = [](std::int64_t ns) { return static_cast<double>(ns) / 1000.0; };
      std::snprintf(line.data(), line.size(), "pong: %u %s, min %.1f us, median %.1f us, max %.1f us\n", count,
                    count == 1 ? "call" : "calls", us(times_ns.front()), us(median), us(times_ns.back()));
      Print(std::string(line.data()));
    }
    return kOk;
  });
}

}  // namespace

void AddPing(CLI::App& app, Invocation& invocation) {
  CLI::App* command = app.add_subcommand("ping", "Call the daemon and show the round trip time");
  auto count = std::make_shared<std::uint32_t>(1);
  command->add_option("-c,--count", *count, "Calls to make")->check(CLI::Range(1U, 1000000U))->capture_default_str();
  command->callback([&invocation, count] { invocation.exit_code = Ping(invocation.globals, *count); });
}

}  // namespace kvant::tools
