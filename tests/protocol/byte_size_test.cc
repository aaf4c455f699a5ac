// Sizes as operators write them.
#include "protocol/byte_size.h"

#include <cstdint>
#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace kvant::protocol {
namespace {

using ::testing::HasSubstr;

TEST(ByteSizeTest, ReadsBinaryUnits) {
  EXPECT_EQ(*ParseByteSize("4096"), 4096u);
  EXPECT_EQ(*ParseByteSize("7B"), 7u);
  EXPECT_EQ(*ParseByteSize("64KiB"), 65536u);
  EXPECT_EQ(*ParseByteSize("512MiB"), std::uint64_t{512} << 20);
  EXPECT_EQ(*ParseByteSize("1.5GiB"), std::uint64_t{3} << 29);
  EXPECT_EQ(*ParseByteSize("2TiB"), std::uint64_t{2} << 40);
}

TEST(ByteSizeTest, RefusesWhatIsAmbiguousOrSenseless) {
  for (const char* text :
       {"", "MiB", "-1MiB", "512MB", "512M", "512 MiB", "1e3", "nan", "inf", "0x10", "9999999TiB", "1MiBs"}) {
    auto parsed = ParseByteSize(text);
    EXPECT_FALSE(parsed) << text;
    if (!parsed) {
      EXPECT_THAT(parsed.error().message, HasSubstr("\"" + std::string(text) + "\""));
    }
  }
}

}  // namespace
}  // namespace kvant::protocol
