#include "daemon/holder/holder.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <optional>
#include <system_error>
#include <utility>
#include <vector>

#include <spdlog/spdlog.h>

#include "daemon/holder/fd_store.h"
#include "daemon/holder/held.h"

namespace kvant::daemon {
namespace {

using Clock = std::chrono::steady_clock;
using std::chrono::milliseconds;

constexpr milliseconds kFirstPause{10};
constexpr std::chrono::seconds kLongLife{10};
constexpr int kMostFailedStarts = 3;

sigset_t Signals(std::initializer_list<int> numbers) {
  sigset_t set;
  sigemptyset(&set);
  for (const int number : numbers) sigaddset(&set, number);
  return set;
}

std::string OwnPath() {
  char path[4096];
  const ssize_t bytes = ::readlink("/proc/self/exe", path, sizeof path);
  return bytes > 0 ? std::string(path, static_cast<std::size_t>(bytes)) : std::string();
}

std::string ErrnoText() { return std::generic_category().message(errno); }

class Holder {
 public:
  Holder(const HolderOptions& options, Listener listener, spdlog::logger& log)
      : options_(options), log_(log), path_(OwnPath()), holder_(::getpid()), listener_(std::move(listener)) {}

  int Run() {
    const sigset_t signals = Signals({SIGTERM, SIGINT, SIGUSR2, SIGHUP, SIGCHLD});
    ::sigprocmask(SIG_BLOCK, &signals, nullptr);
    signals_ = protocol::UniqueFd(::signalfd(-1, &signals, SFD_CLOEXEC | SFD_NONBLOCK));
    if (!signals_.valid()) {
      log_.error("the holder cannot hear signals error=\"{}\"", ErrnoText());
      return kExitFault;
    }
    for (;;) {
      if (worker_ < 0 && Clock::now() >= start_at_) Start();
      Wait();
      Listen();
      if (const auto code = PassSignals()) return *code;
    }
  }

 private:
  void Wait() {
    pollfd polled[2] = {{.fd = signals_.get(), .events = POLLIN, .revents = 0},
                        {.fd = channel_.get(), .events = POLLIN, .revents = 0}};  // -1 is passed over
    int timeout = -1;
    if (worker_ < 0) {
      const auto left = std::chrono::ceil<milliseconds>(start_at_ - Clock::now());
      timeout = static_cast<int>(std::max<milliseconds::rep>(left.count(), 0));
    }
    ::poll(polled, 2, timeout);
  }

  /// Starts a worker; it has died at once if that fails.
  void Start() {
    int ends[2] = {-1, -1};
    if (::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) != 0) return Failed("socketpair");
    protocol::UniqueFd theirs(ends[1]);
    channel_ = protocol::UniqueFd(ends[0]);
    ready_ = false;
    started_ = Clock::now();
    const pid_t child = ::fork();
    if (child == 0) Become(theirs.get());
    if (child < 0) return Failed("fork");
    worker_ = child;
    log_.info("worker started pid={} held={}", worker_, held_.all().size());
  }

  void Failed(const char* call) {
    log_.error("a worker cannot be started call={} error=\"{}\"", call, ErrnoText());
    channel_ = protocol::UniqueFd();
    start_at_ = Clock::now() + options_.longest_pause;
  }

  /// In the child. Descriptors 3 and up are the socket and what is held, as sd_listen_fds(3) has it; the last is the channel.
  [[noreturn]] void Become(int channel) {
    ::prctl(PR_SET_PDEATHSIG, SIGTERM);
    if (::getppid() != holder_) std::_Exit(kExitFault);  // died before that
    ::setpgid(0, 0);                                     // a terminal's Ctrl-C is for the holder, which passes it on
    std::vector<int> fds;
    if (listener_) fds.push_back(listener_->fd());
    for (const auto& [name, fd] : held_.all()) fds.push_back(fd.get());
    const int count = static_cast<int>(fds.size());
    fds.push_back(channel);
    for (int& fd : fds) fd = ::fcntl(fd, F_DUPFD_CLOEXEC, 3 + static_cast<int>(fds.size()));  // out of the way
    for (std::size_t i = 0; i < fds.size(); ++i) {
      if (fds[i] < 0 || ::dup2(fds[i], 3 + static_cast<int>(i)) < 0) {
        log_.error("a worker cannot be given its descriptors count={} error=\"{}\"", fds.size(), ErrnoText());
        std::_Exit(kExitFault);
      }
    }
    ::setenv("LISTEN_PID", std::to_string(::getpid()).c_str(), 1);
    ::setenv("LISTEN_FDS", std::to_string(count).c_str(), 1);
    ::setenv(FdStore::kHolderVariable, std::to_string(3 + count).c_str(), 1);
    const sigset_t child_ends = Signals({SIGCHLD});
    ::sigprocmask(SIG_UNBLOCK, &child_ends, nullptr);  // the others wait until the worker takes them
    ::execv(path_.c_str(), options_.argv);
    log_.error("a worker cannot be started path={} error=\"{}\"", path_, ErrnoText());
    std::_Exit(kExitFault);
  }

  /// All messages of the worker that are there.
  void Listen() {
    if (!channel_.valid()) return;
    while (auto told = ReceiveNotification(channel_.get())) {
      const Held::Heard heard = held_.Hear(told->text, std::move(told->fd));
      if (heard == Held::Heard::kReady) ready_ = true;
      if (heard == Held::Heard::kRefused || told->truncated) {
        log_.error("a descriptor of the worker's is not held, its memory will not outlive the worker held={}",
                   held_.all().size());
      }
    }
  }

  /// The exit code, if this is the end.
  std::optional<int> PassSignals() {
    signalfd_siginfo info;
    while (::read(signals_.get(), &info, sizeof info) == sizeof info) {
      const auto number = static_cast<int>(info.ssi_signo);
      if (number == SIGCHLD) {
        if (const auto code = Reap()) return code;
        continue;
      }
      if (number == SIGTERM || number == SIGINT) {
        stopping_ = true;
        listener_.reset();  // the worker has its own and drains; nobody new is to wait for nothing
        if (worker_ < 0) return kExitOk;
      }
      if (worker_ >= 0) ::kill(worker_, number);
    }
    return std::nullopt;
  }

  std::optional<int> Reap() {
    int status = 0;
    if (worker_ < 0 || ::waitpid(worker_, &status, WNOHANG) != worker_) return std::nullopt;
    Listen();  // what it said last
    channel_ = protocol::UniqueFd();
    const pid_t pid = std::exchange(worker_, -1);
    const int code = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
    if (stopping_) return code >= 0 ? code : kExitFault;
    if (code == kExitOk || code == kExitStateNotSaved) return code;
    if (code == kExitHandedOver) {
      log_.info("worker handed over pid={} held={}", pid, held_.all().size());
      start_at_ = Clock::now();
      return std::nullopt;
    }
    if (!was_ready_ && !ready_ && (code == kExitUsage || code == kExitCannotServe)) return code;  // it has said why
    was_ready_ = was_ready_ || ready_;
    return Mourn(pid, code, WIFSIGNALED(status) ? WTERMSIG(status) : 0);
  }

  std::optional<int> Mourn(pid_t pid, int code, int signal) {
    const auto lived = std::chrono::duration_cast<milliseconds>(Clock::now() - started_);
    failed_starts_ = ready_ ? 0 : failed_starts_ + 1;
    pause_ = lived >= kLongLife ? milliseconds(0) : std::min(std::max(2 * pause_, kFirstPause), options_.longest_pause);
    start_at_ = Clock::now() + pause_;
    log_.error("worker died pid={} signal={} exit_code={} lived_ms={} was_ready={} held={} pause_ms={}", pid, signal, code,
               lived.count(), ready_, held_.all().size(), pause_.count());
    if (failed_starts_ < kMostFailedStarts) return std::nullopt;
    if (held_.all().empty()) {
      log_.error("giving up: workers die before they are ready starts={}", failed_starts_);
      return kExitFault;
    }
    log_.error("workers die before they are ready: what was held is dropped, the next one starts empty starts={} held={}",
               failed_starts_, held_.all().size());
    held_.Clear();
    failed_starts_ = 0;
    return std::nullopt;
  }

  const HolderOptions options_;
  spdlog::logger& log_;
  const std::string path_;  // of the program
  const pid_t holder_;
  std::optional<Listener> listener_;  // empty once the end has begun
  protocol::UniqueFd signals_;
  protocol::UniqueFd channel_;  // to the worker
  Held held_;
  pid_t worker_ = -1;
  bool ready_ = false;      // this worker
  bool was_ready_ = false;  // any
  bool stopping_ = false;
  int failed_starts_ = 0;
  milliseconds pause_{0};
  Clock::time_point started_{};
  Clock::time_point start_at_{};
};

}  // namespace

int RunHolder(const HolderOptions& options, Listener listener, spdlog::logger& log) {
  return Holder(options, std::move(listener), log).Run();
}

}  // namespace kvant::daemon
