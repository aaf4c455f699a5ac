// What the worker's side of a descriptor store says when nobody takes what it sends.
#include "daemon/holder/fd_store.h"

#include <cstdlib>
#include <memory>
#include <sstream>
#include <string>
#include <utility>

#include <gtest/gtest.h>
#include <spdlog/sinks/ostream_sink.h>
#include <spdlog/spdlog.h>
#include <sys/socket.h>
#include <unistd.h>

namespace kvant::daemon {
namespace {

std::size_t Lines(const std::string& text) {
  std::size_t lines = 0;
  for (const char letter : text) lines += letter == '\n' ? 1 : 0;
  return lines;
}

TEST(FdStoreTest, OfFailuresInARowTheFirstIsLogged) {
  std::ostringstream text;
  int ends[2];
  ASSERT_EQ(::socketpair(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends), 0);
  ASSERT_EQ(::setenv(FdStore::kHolderVariable, std::to_string(ends[0]).c_str(), 1), 0);
  auto log = std::make_shared<spdlog::logger>("test", std::make_shared<spdlog::sinks::ostream_sink_mt>(text));
  auto store = FdStore::Connect(FdStore::Where::kHolder, std::move(log));
  ASSERT_TRUE(store) << store.error().message;
  EXPECT_EQ(std::getenv(FdStore::kHolderVariable), nullptr);
  // A peer that reads nothing: its queue is full at some point.
  for (int i = 0; i < 10000; ++i) (*store)->Release(STDIN_FILENO);
  EXPECT_EQ(Lines(text.str()), 1U) << text.str();
  char message[256];
  while (::recv(ends[1], message, sizeof message, 0) > 0) {
  }
  (*store)->Alive();  // taken
  EXPECT_EQ(Lines(text.str()), 1U);
  ::close(ends[1]);
  for (int i = 0; i < 3; ++i) (*store)->Alive();
  EXPECT_EQ(Lines(text.str()), 2U) << text.str();
}

}  // namespace
}  // namespace kvant::daemon
