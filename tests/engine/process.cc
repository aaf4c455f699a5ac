#include "tests/engine/process.h"

#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <stdexcept>
#include <thread>

#include <fcntl.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

extern char** environ;

namespace kvant::examples {
namespace {

std::string FileText(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

}  // namespace

Process::Process(const std::vector<std::string>& arguments, const std::string& input_at_start) {
  folder_ = (std::filesystem::temp_directory_path() / "kvant_process_XXXXXX").string();
  if (mkdtemp(folder_.data()) == nullptr) throw std::runtime_error("mkdtemp " + folder_);
  int input[2];
  if (pipe2(input, O_CLOEXEC) != 0) throw std::runtime_error("pipe2");
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_adddup2(&actions, input[0], 0);
  posix_spawn_file_actions_addopen(&actions, 1, (folder_ + "/out").c_str(), O_CREAT | O_WRONLY, 0600);
  posix_spawn_file_actions_addopen(&actions, 2, (folder_ + "/err").c_str(), O_CREAT | O_WRONLY, 0600);
  std::vector<char*> argv;
  for (const std::string& argument : arguments) argv.push_back(const_cast<char*>(argument.c_str()));
  argv.push_back(nullptr);
  const int failed = posix_spawn(&pid_, argv[0], &actions, nullptr, argv.data(), environ);
  posix_spawn_file_actions_destroy(&actions);
  close(input[0]);
  input_ = input[1];
  if (failed != 0) throw std::runtime_error("cannot start " + arguments[0]);
  std::signal(SIGPIPE, SIG_IGN);  // a program that ends without reading its input is fine
  for (std::size_t at = 0; at < input_at_start.size();) {
    const ssize_t written = write(input_, input_at_start.data() + at, input_at_start.size() - at);
    if (written <= 0) break;
    at += static_cast<std::size_t>(written);
  }
}

Process::~Process() {
  CloseInput();
  if (Running()) {
    Signal(SIGKILL);
    Wait();
  }
  std::error_code ignored;
  std::filesystem::remove_all(folder_, ignored);
}

void Process::CloseInput() {
  if (input_ >= 0) close(input_);
  input_ = -1;
}

bool Process::Running() {
  if (status_ >= 0) return false;
  int status = 0;
  if (waitpid(pid_, &status, WNOHANG) != pid_) return true;
  status_ = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  return false;
}

int Process::Wait() {
  if (status_ >= 0) return status_;
  int status = 0;
  while (waitpid(pid_, &status, 0) < 0 && errno == EINTR) {
  }
  status_ = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  return status_;
}

bool Process::WaitForOutput(const std::string& text, std::chrono::seconds limit) {
  const auto end = std::chrono::steady_clock::now() + limit;
  while (std::chrono::steady_clock::now() < end) {
    if (Output().find(text) != std::string::npos) return true;
    if (!Running()) return Output().find(text) != std::string::npos;
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  return false;
}

void Process::Signal(int signal) const { kill(pid_, signal); }

std::string Process::Output() const { return FileText(folder_ + "/out"); }

std::string Process::Errors() const { return FileText(folder_ + "/err"); }

Finished RunProgram(const std::vector<std::string>& arguments, const std::string& input) {
  Process process(arguments, input);
  process.CloseInput();
  Finished finished;
  finished.status = process.Wait();
  finished.output = process.Output();
  finished.errors = process.Errors();
  return finished;
}

}  // namespace kvant::examples
