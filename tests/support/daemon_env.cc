#include "tests/support/daemon_env.h"

#include <cstdlib>
#include <filesystem>
#include <stdexcept>
#include <utility>

namespace kvant::testing {

DaemonEnv::DaemonEnv(DaemonOptions options) {
  std::string pattern = (std::filesystem::temp_directory_path() / "kvant-test-XXXXXX").string();
  if (::mkdtemp(pattern.data()) == nullptr) throw std::runtime_error("mkdtemp " + pattern);
  directory_ = pattern;
  socket_ = directory_ + "/kvantd.sock";
  options.socket = socket_;
  if (options.workers == 0) options.workers = 1;
  auto daemon = Daemon::Start(std::move(options));
  if (!daemon) throw std::runtime_error(daemon.error().message);
  daemon_ = std::move(*daemon);
}

DaemonEnv::~DaemonEnv() {
  daemon_.reset();
  std::error_code ignored;
  std::filesystem::remove_all(directory_, ignored);
}

Client DaemonEnv::Connect(ClientOptions options) const {
  if (options.arena_bytes == ClientOptions().arena_bytes) options.arena_bytes = std::size_t{32} << 20;
  auto client = Client::Connect("unix:" + socket_, options);
  if (!client) throw std::runtime_error(client.error().message);
  return std::move(*client);
}

Figures DaemonEnv::Stats() const {
  auto admin = Admin::Connect(socket_);
  if (!admin) throw std::runtime_error(admin.error().message);
  auto stats = admin->Stats();
  if (!stats) throw std::runtime_error(stats.error().message);
  return stats->figures;
}

void DaemonEnv::Stop() { daemon_.reset(); }

}  // namespace kvant::testing
