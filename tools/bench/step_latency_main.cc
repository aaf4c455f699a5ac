// Prints what step_latency measures, one line per figure: median and p99 in microseconds. One process start is one sample.
//   step_latency [--socket PATH] [--spin US] [--daemon-spin US] [--workers N] [--steps N] [--context TOKENS] [--heads N]
//                [--seal LAYERS] [--pin 1]
// Without --socket the daemon runs in this process; with --pin it has core 1, and the client core 0.
#include <chrono>
#include <cstdio>
#include <cstring>
#include <memory>
#include <string>

#include <sched.h>

#include "tools/bench/step_latency.h"

namespace {

using namespace kvant;  // NOLINT(google-build-using-namespace)

int Fail(const Error& error) {
  std::fprintf(stderr, "step_latency: %s\n", error.message.c_str());
  return 1;
}

void Print(const char* what, const tools::Spread& spread) {
  std::printf("%-22s %8.2f  (%8.2f)\n", what, spread.median_us, spread.p99_us);
}

void Print(const char* placement, const tools::StepTimes& times) {
  const std::string name = placement;
  Print((name + " step").c_str(), times.step);
  Print((name + " compute").c_str(), times.compute);
  Print((name + " overhead").c_str(), times.overhead);
  std::printf("%-22s %.3f calls, %.1f tensor bytes copied, %.4f page faults per step\n", placement, times.calls_per_step,
              times.bytes_copied_per_step, times.page_faults_per_step);
}

void Pin(int core) {
  cpu_set_t cores;
  CPU_ZERO(&cores);
  CPU_SET(core, &cores);
  ::sched_setaffinity(0, sizeof(cores), &cores);
}

}  // namespace

int main(int argc, char** argv) {
  tools::StepOptions options;
  tools::SealOptions seal;
  DaemonOptions daemon_options;
  bool measure_sealing = false;
  bool pin = false;
  for (int i = 1; i + 1 < argc; i += 2) {
    const std::string flag = argv[i];
    const long number = std::atol(argv[i + 1]);
    if (flag == "--socket") options.socket = argv[i + 1];
    if (flag == "--spin") options.spin = std::chrono::microseconds(number);
    if (flag == "--daemon-spin") daemon_options.spin = std::chrono::microseconds(number);
    if (flag == "--workers") daemon_options.workers = static_cast<std::size_t>(number);
    if (flag == "--steps") options.steps = static_cast<std::size_t>(number);
    if (flag == "--context") options.context_tokens = static_cast<std::size_t>(number);
    if (flag == "--heads") options.shape.q_heads = static_cast<std::uint32_t>(number);
    if (flag == "--pin") pin = number != 0;
    if (flag == "--seal") {
      measure_sealing = true;
      seal.shape.layers = static_cast<std::uint32_t>(number);
    }
  }
  if (!measure_sealing) {  // before anything is pinned
    auto socket = tools::MeasureSocket(options.steps);
    if (!socket) return Fail(socket.error());
    Print("socket blocking", socket->blocking);
    Print("socket spinning", socket->spinning);
  }
  std::unique_ptr<tools::InProcessDaemon> daemon;
  if (options.socket.empty()) {
    if (pin) Pin(1);  // the daemon's threads begin where this one is
    auto started = tools::InProcessDaemon::Start(daemon_options);
    if (pin) Pin(0);
    if (!started) return Fail(started.error());
    daemon = *std::move(started);
    options.socket = daemon->socket();
  }
  if (measure_sealing) {
    seal.socket = options.socket;
    seal.spin = options.spin;
    for (const Placement placement : {Placement::kService, Placement::kLocal}) {
      seal.placement = placement;
      auto latency = tools::MeasureSealing(seal);
      if (!latency) return Fail(latency.error());
      std::printf("%s\n", placement == Placement::kLocal ? "local" : "service");
      Print("token while sealing", latency->sealing);
      Print("token without", latency->without);
      std::printf("p99 ratio %.2f over %llu blocks\n", latency->p99_ratio,
                  static_cast<unsigned long long>(latency->sealed_blocks));
    }
    return 0;
  }
  auto latency = tools::MeasureSteps(options);
  if (!latency) return Fail(latency.error());
  Print("ping", latency->ping);
  Print("service", latency->service);
  Print("local", latency->local);
  return 0;
}
