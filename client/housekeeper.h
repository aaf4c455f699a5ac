// A client's one background thread. It counts the arena's heartbeat up, so that the daemon can tell an idle client from a hung
// one, and maps pages of slabs before attention comes to them, so that the engine's thread meets no page fault.
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

namespace kvant::client {

class Housekeeper {
 public:
  /// `heartbeat` must outlive this.
  Housekeeper(std::uint64_t* heartbeat, std::chrono::milliseconds interval);
  ~Housekeeper();
  Housekeeper(const Housekeeper&) = delete;
  Housekeeper& operator=(const Housekeeper&) = delete;

  /// Maps the pages of [begin, begin + bytes) soon. `mapping` keeps that memory mapped until then.
  void MapPages(std::shared_ptr<const void> mapping, const std::byte* begin, std::size_t bytes);

 private:
  struct Range {
    std::shared_ptr<const void> mapping;  // shared with the sequences that look into it
    const std::byte* begin;
    std::size_t bytes;
  };
  void Run(std::uint64_t* heartbeat, std::chrono::milliseconds interval);

  std::mutex mutex_;  // guards the two below
  bool ending_ = false;
  std::vector<Range> ranges_;
  std::condition_variable wake_;
  std::thread thread_;
};

}  // namespace kvant::client
