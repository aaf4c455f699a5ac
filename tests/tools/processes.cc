#include "tests/tools/processes.h"

#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <thread>

#include "protocol/socket_address.h"

namespace kvant::tests {
namespace {

pid_t Spawn(const std::string& program, const std::vector<std::string>& arguments, const std::string& out,
            const std::string& err) {
  std::vector<std::string> words = {program};
  words.insert(words.end(), arguments.begin(), arguments.end());
  std::vector<char*> argv;
  for (std::string& word : words) argv.push_back(word.data());
  argv.push_back(nullptr);
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0);
  posix_spawn_file_actions_addopen(&actions, 1, out.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600);
  posix_spawn_file_actions_addopen(&actions, 2, err.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600);
  pid_t pid = -1;
  if (posix_spawn(&pid, program.c_str(), &actions, nullptr, argv.data(), environ) != 0) pid = -1;
  posix_spawn_file_actions_destroy(&actions);
  return pid;
}

std::string ReadAll(const std::string& path) {
  std::ostringstream text;
  text << std::ifstream(path, std::ios::binary).rdbuf();
  return text.str();
}

std::string MakeDirectory() {
  std::string name = "/tmp/kvant-tools-XXXXXX";
  return mkdtemp(name.data()) == nullptr ? std::string() : name;
}

}  // namespace

Finished RunProgram(const std::string& program, const std::vector<std::string>& arguments, const std::string& out_path) {
  Finished finished;
  const std::string directory = MakeDirectory();
  const pid_t pid = Spawn(program, arguments, out_path.empty() ? directory + "/out" : out_path, directory + "/err");
  int status = 0;
  if (pid > 0 && waitpid(pid, &status, 0) == pid && WIFEXITED(status)) finished.exit_code = WEXITSTATUS(status);
  if (out_path.empty()) finished.out = ReadAll(directory + "/out");
  finished.err = ReadAll(directory + "/err");
  std::filesystem::remove_all(directory);
  return finished;
}

RunningDaemon::RunningDaemon(const std::vector<std::string>& arguments) : directory_(MakeDirectory()) {
  const std::string path = directory_ + "/kvantd.sock";
  std::vector<std::string> words = {"--socket", path, "--holder", "off"};
  words.insert(words.end(), arguments.begin(), arguments.end());
  pid_ = Spawn(std::string(KVANT_PROGRAM_DIR) + "/kvantd", words, directory_ + "/out", directory_ + "/err");
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(10);
  while (pid_ > 0 && std::chrono::steady_clock::now() < deadline) {
    if (protocol::ConnectUnixSocket(path)) {
      socket_ = path;
      return;
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
}

RunningDaemon::~RunningDaemon() {
  if (pid_ > 0) {
    kill(pid_, SIGKILL);
    waitpid(pid_, nullptr, 0);
  }
  std::filesystem::remove_all(directory_);
}

}  // namespace kvant::tests
