// What operators are told of a connection.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <string>

#include <sys/types.h>

namespace kvant::daemon {

class Session;

/// Who is at the other end, by the kernel's word at the time it connected.
struct Peer {
  pid_t pid = 0;
  uid_t uid = static_cast<uid_t>(-1);
};

/// Made by the connection, written by what serves it; calls that outlive the connection keep it. Loop thread.
struct ClientRecord {
  std::uint64_t connection = 0;
  Peer peer;
  std::chrono::steady_clock::time_point connected = std::chrono::steady_clock::now();
  std::string name{};                      ///< as it said at hello; empty until then
  std::string tenant{};                    ///< of its session; empty until then
  bool admin = false;                      ///< has been given the admin capability
  std::weak_ptr<const Session> session{};  ///< what it holds
  std::uint64_t calls = 0;
  std::uint64_t refused = 0;  ///< calls
  std::chrono::steady_clock::time_point last_call = std::chrono::steady_clock::now();
  std::chrono::nanoseconds silent{0};  ///< time that counts since one of its heartbeats moved; at `lease` it is dropped
};

}  // namespace kvant::daemon
