// Which uid is which tenant.
#pragma once

#include <map>
#include <string>
#include <utility>

#include <sys/types.h>

namespace kvant::daemon {

/// What configuration says of uids; those it does not name are a tenant each.
class TenantNames {
 public:
  TenantNames() = default;
  explicit TenantNames(std::map<uid_t, std::string> names) : names_(std::move(names)) {}

  [[nodiscard]] std::string Of(uid_t uid) const {
    const auto named = names_.find(uid);
    return named != names_.end() ? named->second : "uid-" + std::to_string(uid);
  }

 private:
  std::map<uid_t, std::string> names_;
};

}  // namespace kvant::daemon
