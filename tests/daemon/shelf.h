// A keeper inside the test's own process.
#pragma once

#include <sys/stat.h>
#include <unistd.h>

#include <cstddef>
#include <map>
#include <vector>

#include "daemon/memory/keeper.h"
#include "protocol/memfd.h"

namespace kvant::daemon {

/// Holds descriptors by the number of their file, as a holder does.
class Shelf final : public Keeper {
 public:
  void Keep(int segment) noexcept override { held_[Number(segment)] = protocol::UniqueFd(::dup(segment)); }
  void Release(int segment) noexcept override { held_.erase(Number(segment)); }
  [[nodiscard]] std::size_t size() const { return held_.size(); }
  [[nodiscard]] std::vector<protocol::UniqueFd> Copies() const {
    std::vector<protocol::UniqueFd> copies;
    for (const auto& [number, fd] : held_) copies.emplace_back(::dup(fd.get()));
    return copies;
  }

 private:
  static ino_t Number(int fd) {
    struct stat status {};
    ::fstat(fd, &status);
    return status.st_ino;
  }
  std::map<ino_t, protocol::UniqueFd> held_;
};

}  // namespace kvant::daemon
