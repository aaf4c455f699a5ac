#include "daemon/kept_state.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <string>
#include <utility>

#include <spdlog/spdlog.h>

#include "protocol/segment_layout.h"

namespace kvant::daemon {
namespace {

using Clock = std::chrono::steady_clock;

/// "KVNTMARK".
constexpr std::uint64_t kMark = 0x4B52'414D'544E'564BULL;

bool IsMark(int fd) {
  std::uint64_t magic = 0;
  return ::pread(fd, &magic, sizeof magic, 0) == static_cast<ssize_t>(sizeof magic) && magic == kMark;
}

std::chrono::milliseconds Since(Clock::time_point begin) {
  return std::chrono::duration_cast<std::chrono::milliseconds>(Clock::now() - begin);
}

}  // namespace

KeptState::KeptState(StateDir dir, Core& core, StoreTable& stores, JobRunner& jobs, std::shared_ptr<spdlog::logger> log)
    : dir_(std::move(dir)), core_(core), stores_(stores), jobs_(jobs), log_(std::move(log)) {}

KeptState::~KeptState() {
  if (core_.keeper != nullptr && mark_.valid()) core_.keeper->Release(mark_.get());
}

void KeptState::TakeMark(std::vector<int>& segments) {
  const auto mark = std::ranges::find_if(segments, IsMark);
  if (mark == segments.end()) return;
  mark_ = protocol::UniqueFd(*mark);
  segments.erase(mark);
}

/// Without one a successor would read the file again: blocks that somebody evicted meanwhile would be back, nothing worse.
void KeptState::LeaveMark() {
  if (core_.keeper == nullptr) return;
  auto mark = protocol::CreateSealedMemfd("kvant-state-read", protocol::kPageBytes);
  if (!mark || ::pwrite(mark->get(), &kMark, sizeof kMark, 0) != static_cast<ssize_t>(sizeof kMark)) return;
  mark_ = *std::move(mark);
  core_.keeper->Keep(mark_.get());
}

void KeptState::Restore() {
  if (mark_.valid()) {
    if (log_) log_->info("state file not read, what was held is newer file={}", dir_.file());
    return;
  }
  const auto begin = Clock::now();
  const auto restored = dir_.Restore(core_, stores_);
  LeaveMark();
  if (restored && *restored && log_) {
    log_->info("state restored file={} blocks={} left_out={} took_ms={}", dir_.file(), (*restored)->blocks,
               (*restored)->left_out, Since(begin).count());
  }
  if (restored) return;
  const auto aside = dir_.SetAside();
  if (!aside) not_to_be_replaced_ = aside.error();
  if (!log_) return;
  log_->error("state not restored, the daemon begins empty kept={} reason=\"{}\"", aside ? *aside : dir_.file(),
              restored.error().message);
  if (!aside) log_->error("state cannot be set aside and will not be saved reason=\"{}\"", aside.error().message);
}

void KeptState::Save(std::chrono::milliseconds timeout, std::function<void()> done) {
  saving_ = std::make_unique<Saving>();
  const auto begin = Clock::now();
  if (not_to_be_replaced_) {
    saving_->outcome = *not_to_be_replaced_;
    Saved(Since(begin));
    return done();
  }
  saving_->state = StateToSave::Of(stores_);
  jobs_.Submit(
      [this, saving = saving_.get(), begin, timeout] {
        saving->outcome = dir_.Save(saving->state.stores,
                                    [&](std::uint64_t, std::uint64_t) { return !cancelled_.load() && Since(begin) < timeout; });
        if (saving->outcome || saving->outcome.error().code != ErrorCode::kUnavailable || Since(begin) < timeout) return;
        saving->outcome = Error{ErrorCode::kDeadlineExceeded,
                                "save state: not done after " + std::to_string(timeout.count()) + " ms (--save-timeout)"};
      },
      [this, begin, done = std::move(done)] {
        Saved(Since(begin));
        done();
      });
}

/// The leases end here, on the loop thread.
void KeptState::Saved(std::chrono::milliseconds took) {
  saving_->state = {};
  saving_->ended = true;
  const auto fault = Fault();
  if (fault) {
    core_.events.Tell("state_not_saved", {{"file", dir_.file()}, {"reason", fault->message}});
  } else {
    core_.events.Tell("state_saved", {{"file", dir_.file()}, {"blocks", saving_->outcome->blocks}});
  }
  if (!log_) return;
  if (fault) {
    log_->error("state not saved, the old file stays as it was file={} reason=\"{}\"", dir_.file(), fault->message);
  } else {
    log_->info("state saved file={} stores={} blocks={} bytes={} took_ms={}", dir_.file(), saving_->outcome->stores,
               saving_->outcome->blocks, saving_->outcome->bytes, took.count());
  }
}

std::optional<Error> KeptState::Fault() const {
  if (saving_ == nullptr) return std::nullopt;
  if (!saving_->ended) return Error{ErrorCode::kUnavailable, "save state: the daemon was told to end at once"};
  if (!saving_->outcome) return saving_->outcome.error();
  return std::nullopt;
}

}  // namespace kvant::daemon
