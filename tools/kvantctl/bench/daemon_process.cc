#include "tools/kvantctl/bench/daemon_process.h"

#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <system_error>
#include <thread>

#include <kvant/client.h>

namespace kvant::tools {
namespace {

constexpr std::chrono::seconds kStartLimit(20);

Error Unreadable(const std::string& path) { return Error{ErrorCode::kSystem, path + ": cannot be read"}; }

}  // namespace

Result<std::unique_ptr<DaemonProcess>> DaemonProcess::Start(const std::vector<std::string>& arguments) {
  std::error_code failed;
  const auto program = std::filesystem::read_symlink("/proc/self/exe", failed).parent_path() / "kvantd";
  if (failed || !std::filesystem::exists(program)) {
    return Error{ErrorCode::kNotFound, program.string() + ": no kvantd beside this program; start one and give --socket"};
  }
  std::unique_ptr<DaemonProcess> daemon(new DaemonProcess);
  std::string directory = (std::filesystem::temp_directory_path() / "kvant-bench-XXXXXX").string();
  if (mkdtemp(directory.data()) == nullptr) return Error{ErrorCode::kSystem, "mkdtemp " + directory};
  daemon->directory_ = directory;
  daemon->socket_ = directory + "/kvantd.sock";

  std::vector<std::string> words = {program.string(), "--socket", daemon->socket_, "--log-level", "warn", "--holder", "off"};
  words.insert(words.end(), arguments.begin(), arguments.end());
  std::vector<char*> argv;
  for (std::string& word : words) argv.push_back(word.data());
  argv.push_back(nullptr);
  if (const int error = posix_spawn(&daemon->pid_, program.c_str(), nullptr, nullptr, argv.data(), environ); error != 0) {
    daemon->pid_ = -1;
    return Error{ErrorCode::kSystem, "start " + program.string() + ": " + std::generic_category().message(error)};
  }
  const auto end = std::chrono::steady_clock::now() + kStartLimit;
  while (!Client::Connect(daemon->socket_)) {
    if (std::chrono::steady_clock::now() > end || waitpid(daemon->pid_, nullptr, WNOHANG) != 0) {
      return Error{ErrorCode::kDeadlineExceeded, program.string() + ": did not come up at " + daemon->socket_};
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  return daemon;
}

DaemonProcess::~DaemonProcess() {
  if (pid_ > 0) {
    kill(pid_, SIGTERM);
    waitpid(pid_, nullptr, 0);
  }
  std::error_code ignored;
  std::filesystem::remove_all(directory_, ignored);
}

Result<Resident> ResidentBytes(std::uint64_t pid) {
  const std::string path = "/proc/" + std::to_string(pid) + "/smaps";
  std::ifstream file(path);
  Resident resident;
  bool arena = false;
  for (std::string line; std::getline(file, line);) {
    // A mapping's first line begins with its addresses in hex and may end with a name; "Rss:" is one of those that follow.
    if (line.starts_with("Rss:")) {
      const std::uint64_t bytes = std::stoull(line.substr(4)) * 1024;
      resident.all += bytes;
      if (arena) resident.arenas += bytes;
    } else if (line.find('-') < line.find(' ')) {
      arena = line.find("/memfd:kvant-arena") != std::string::npos;
    }
  }
  if (resident.all == 0) return Unreadable(path);
  return resident;
}

Result<Faults> PageFaults(std::uint64_t pid) {
  const std::string tasks = "/proc/" + std::to_string(pid) + "/task";
  Faults faults;
  std::error_code unreadable;
  for (const auto& task : std::filesystem::directory_iterator(tasks, unreadable)) {
    std::string line;
    std::getline(std::ifstream(task.path() / "stat"), line);
    // The name in parentheses, then: state, 6 numbers, minflt, cminflt, majflt.
    const std::size_t name_end = line.rfind(')');
    if (name_end == std::string::npos) continue;  // the thread has ended meanwhile
    std::istringstream fields(line.substr(name_end + 1));
    std::string skipped;
    for (int i = 0; i < 7; ++i) fields >> skipped;
    std::uint64_t minor = 0, of_children = 0, major = 0;
    fields >> minor >> of_children >> major;
    if (!fields) return Unreadable(task.path());
    (line.find("(kvant-worker)") != std::string::npos ? faults.background : faults.steps) += minor + major;
  }
  if (unreadable) return Unreadable(tasks);
  return faults;
}

}  // namespace kvant::tools
