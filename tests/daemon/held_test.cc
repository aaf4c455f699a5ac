// The holder's table: what messages do to it.
#include "daemon/holder/held.h"

#include <fcntl.h>
#include <unistd.h>

#include <string>
#include <utility>

#include <gtest/gtest.h>

namespace kvant::daemon {
namespace {

using Heard = Held::Heard;

protocol::UniqueFd File() { return protocol::UniqueFd(::open("/dev/null", O_RDONLY | O_CLOEXEC)); }

TEST(HeldTest, StoresReplacesAndRemovesByName) {
  Held held;
  EXPECT_EQ(held.Hear("FDSTORE=1\nFDPOLL=0\nFDNAME=kvant-12", File()), Heard::kStored);
  EXPECT_EQ(held.Hear("FDNAME=kvant-13\nFDSTORE=1\n", File()), Heard::kStored);
  EXPECT_EQ(held.Hear("FDSTORE=1\nFDNAME=kvant-12", File()), Heard::kStored);
  EXPECT_EQ(held.all().size(), 2u);
  EXPECT_EQ(held.Hear("FDSTOREREMOVE=1\nFDNAME=kvant-12", {}), Heard::kRemoved);
  EXPECT_EQ(held.Hear("FDSTOREREMOVE=1\nFDNAME=unknown", {}), Heard::kRemoved);
  ASSERT_EQ(held.all().size(), 1u);
  EXPECT_EQ(held.all().begin()->first, "kvant-13");
}

TEST(HeldTest, ADescriptorThatIsNotHeldIsClosed) {
  Held held;
  const std::string long_name(65, 'a');
  for (const std::string& message : {std::string("FDSTORE=1"), std::string("FDSTORE=0\nFDNAME=a"), std::string("FDNAME=a"),
                                     std::string(), std::string("FDSTORE=1\nFDNAME=../a"), std::string("FDSTORE=1\nFDNAME="),
                                     "FDSTORE=1\nFDNAME=" + long_name, std::string("FDSTORE=1\nFDNAME=a\0b", 19)}) {
    protocol::UniqueFd file = File();
    const int number = file.get();
    EXPECT_EQ(held.Hear(message, std::move(file)), Heard::kRefused) << message;
    EXPECT_EQ(::fcntl(number, F_GETFD), -1) << message;
  }
  EXPECT_TRUE(held.all().empty());
}

TEST(HeldTest, HearsThatTheWorkerIsReadyAndNothingElse) {
  Held held;
  EXPECT_EQ(held.Hear("READY=1", {}), Heard::kReady);
  EXPECT_EQ(held.Hear("STATUS=serving\nREADY=1\n", {}), Heard::kReady);
  for (const char* message : {"", "\n", "READY=10", "XREADY=1", "READY", "WATCHDOG=1", "FDSTORE=1\nFDNAME=a"}) {
    EXPECT_EQ(held.Hear(message, {}), Heard::kNothing) << message;
  }
}

}  // namespace
}  // namespace kvant::daemon
