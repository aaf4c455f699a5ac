// Addresses as users write them. Binding and connecting are tested with the daemon's listener.
#include "protocol/socket_address.h"

#include <string>
#include <string_view>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace kvant::protocol {
namespace {

using ::testing::HasSubstr;

TEST(SocketAddressTest, BothFormsNameAPath) {
  EXPECT_EQ(*ParseSocketPath("/run/kvant/kvantd.sock"), "/run/kvant/kvantd.sock");
  EXPECT_EQ(*ParseSocketPath("unix:/run/kvant/kvantd.sock"), "/run/kvant/kvantd.sock");
  EXPECT_EQ(*ParseSocketPath("unix:relative.sock"), "relative.sock");
  EXPECT_EQ(*ParseSocketPath("unix:unix:x"), "unix:x");
}

TEST(SocketAddressTest, PathsThatNoSocketCanHaveAreRefused) {
  EXPECT_EQ(ParseSocketPath("").error().code, ErrorCode::kInvalidArgument);
  EXPECT_EQ(ParseSocketPath("unix:").error().code, ErrorCode::kInvalidArgument);
  EXPECT_EQ(ParseSocketPath(std::string_view("a\0b", 3)).error().code, ErrorCode::kInvalidArgument);
  EXPECT_TRUE(ParseSocketPath(std::string(107, 'p')));
  const Error error = ParseSocketPath(std::string(108, 'p')).error();
  EXPECT_THAT(error.message, HasSubstr("108 bytes"));
  EXPECT_THAT(error.message, HasSubstr("107"));
}

}  // namespace
}  // namespace kvant::protocol
