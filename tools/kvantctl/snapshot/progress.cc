#include "tools/kvantctl/snapshot/progress.h"

#include <algorithm>
#include <csignal>
#include <cstdio>
#include <utility>

#include <unistd.h>

#include "tools/kvantctl/render.h"

namespace kvant::tools {
namespace {

constexpr std::chrono::milliseconds kInterval{100};
constexpr std::uint64_t kBarCells = 30;

volatile std::sig_atomic_t interrupted = 0;
void Interrupt(int) { interrupted = 1; }

}  // namespace

Progress::Progress(const Globals& globals, std::string what)
    : globals_(globals), what_(std::move(what)), terminal_(::isatty(STDERR_FILENO) == 1 && globals.format == Format::kTable) {
  interrupted = 0;
  handler_before_ = std::signal(SIGINT, Interrupt);
}

Progress::~Progress() {
  std::signal(SIGINT, handler_before_);
  if (shown_ && terminal_) std::fprintf(stderr, "\r\033[K");
}

SnapshotProgress Progress::Callback() {
  return [this](std::uint64_t done, std::uint64_t all) { return Show(done, all); };
}

bool Progress::Show(std::uint64_t done, std::uint64_t all) {
  if (interrupted != 0) return false;
  const auto now = std::chrono::steady_clock::now();
  if (shown_ && now - last_ < kInterval && done < all) return true;
  last_ = now;
  shown_ = true;
  if (globals_.format == Format::kJson) {
    const Json event = {{"event", "progress"}, {"command", what_}, {"done_bytes", done}, {"all_bytes", all}};
    std::printf("%s\n", event.dump().c_str());
  } else if (terminal_) {
    const std::uint64_t cells = all == 0 ? kBarCells : kBarCells * std::min(done, all) / all;
    std::fprintf(stderr, "\r%s [%s%s] %s of %s\033[K", what_.c_str(), std::string(cells, '#').c_str(),
                 std::string(kBarCells - cells, '.').c_str(), HumanBytes(done).c_str(), HumanBytes(all).c_str());
    std::fflush(stderr);
  }
  return true;
}

}  // namespace kvant::tools
