// Every refusal is counted once, under its reason; and none is written past the place that counts.
#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>
#include <set>
#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "daemon/serve/refusals.h"
#include "protocol/segment_layout.h"
#include "tests/daemon/session_fixture.h"

namespace kvant::daemon {
namespace {

using ::testing::ElementsAre;
using ::testing::Pair;

class RefusalCountTest : public SessionRpcTest {
 protected:
  /// What has been counted since the last look, by name.
  std::map<std::string, std::uint64_t> Counted() {
    auto hello = client_.bootstrap().adminRequest();
    FillHello(hello.initHello());
    auto admin = client_.Wait(hello.send()).getOk().getAdmin();
    auto answer = client_.Wait(admin.statsRequest().send());
    std::map<std::string, std::uint64_t> changed;
    for (unsigned i = 0; i < answer.getStats().getFigures().size(); ++i) {
      const std::string name = answer.getStats().getFigures()[i].getName().cStr();
      const std::uint64_t value = answer.getStats().getValues()[i];
      if (name.starts_with("refusals_") && value != before_[name]) changed[name] = value - before_[name];
      before_[name] = value;
    }
    return changed;
  }
  static void FillHello(wire::Hello::Builder hello, std::uint32_t version = wire::kProtocolVersion) {
    hello.setProtocolVersion(version);
    hello.setSegmentLayoutVersion(protocol::kSegmentLayoutVersion);
  }

 private:
  std::map<std::string, std::uint64_t> before_;
};

TEST_F(RefusalCountTest, EachIsCountedOnceUnderItsReason) {
  EXPECT_THAT(Counted(), ElementsAre());
  RefusedStore([] {
    StoreSpec spec = RpcSpec("bad");
    spec.layers = 0;
    return spec;
  }());
  EXPECT_THAT(Counted(), ElementsAre(Pair("refusals_invalid_argument", 1)));

  auto close = client_.session().closeRequest();
  close.setSequence(12345);
  client_.Wait(close.send());
  EXPECT_THAT(Counted(), ElementsAre(Pair("refusals_stale_daemon", 1))) << "a number that no sequence of this daemon's has";

  auto slabs = client_.session().slabsRequest();
  slabs.setStore(99);
  client_.Wait(slabs.send());
  EXPECT_THAT(Counted(), ElementsAre(Pair("refusals_not_found", 1)));

  auto arena = client_.session().createArenaRequest();
  arena.setBytes(std::uint64_t{1} << 60);
  client_.Wait(arena.send());
  EXPECT_THAT(Counted(), ElementsAre(Pair(::testing::AnyOf("refusals_no_room", "refusals_invalid_argument"), 1)));

  auto hello = client_.bootstrap().helloRequest();
  FillHello(hello.initHello(), 1);
  client_.Wait(hello.send());
  EXPECT_THAT(Counted(), ElementsAre(Pair("refusals_version", 1)));

  const auto state = client_.OpenSequence(store_, arena_, tail_);
  auto attend = GoodAttend(state.getSequence());
  attend.getItems()[0].setLayer(77);
  EXPECT_FALSE(Attend(attend));
  EXPECT_THAT(Counted(), ElementsAre(Pair("refusals_invalid_argument", 1)));

  auto advance = AdvanceRequest(client_, state.getSequence(), Tokens(tail_.capacity + 1));
  client_.Wait(advance.send());
  EXPECT_THAT(Counted(), ElementsAre(Pair("refusals_tail_full", 1)));
}

TEST(RefusalsTest, EveryCodeHasAReasonOfItsOwnThatSaysMoreThanFault) {
  std::set<ErrorCode> faults;
  for (std::uint16_t code = 1; code <= 18; ++code) {
    if (ReasonOf(static_cast<ErrorCode>(code)) == &Refusals::fault) faults.insert(static_cast<ErrorCode>(code));
  }
  EXPECT_THAT(faults, ElementsAre(ErrorCode::kDisconnected, ErrorCode::kDeadlineExceeded, ErrorCode::kWrongThread,
                                  ErrorCode::kSystem, ErrorCode::kInternal))
      << "those that a daemon answers for faults of its own, or never";
  EXPECT_EQ(ReasonOf(static_cast<ErrorCode>(999)), &Refusals::fault);
}

TEST(RefusalsTest, NoAnswerPassesTheCounterBy) {
  for (const auto& entry : std::filesystem::directory_iterator(KVANT_SOURCE_DIR "/daemon/serve")) {
    std::ifstream file(entry.path());
    const std::string text(std::istreambuf_iterator<char>(file), {});
    const std::string name = entry.path().filename();
    // connection.cc counts by itself, for it knows who may administer.
    if (name != "refusals.cc" && name != "connection.cc") {
      EXPECT_EQ(text.find("wire::WriteError("), std::string::npos) << name;
    }
    if (name != "refusals.cc") {
      EXPECT_EQ(text.find("wire::WriteStatus("), std::string::npos) << name;
    }
  }
}

}  // namespace
}  // namespace kvant::daemon
