// Flags about what stays in memory, and for whom.
#pragma once

#include <string>
#include <vector>

#include <kvant/daemon.h>
#include <kvant/result.h>

namespace CLI {
class App;
}

namespace kvant::daemon {

struct RetentionFlags {
  /// `app` does not outlive this object.
  void AddTo(CLI::App& app);
  /// kInvalidArgument names the flag and the value.
  Result<void> Read(DaemonOptions& options) const;

  std::string eviction = "lru";
  int demote_to = 0;
  std::string ttl = "0";
  std::vector<std::string> tenants{};
  std::vector<std::string> quotas{};
};

}  // namespace kvant::daemon
