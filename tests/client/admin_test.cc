// The admin side of the client library: lists that come in several pages arrive whole.
#include <set>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include <kvant/admin.h>
#include <kvant/client.h>

#include "tests/support/conversation.h"
#include "tests/support/daemon_env.h"

namespace kvant::testing {
namespace {

TEST(AdminClientTest, EverySequenceIsListedOnceOverSeveralPages) {
  constexpr std::size_t kReaders = 3000;  // of at least 160 bytes each: two pages
  DaemonOptions options;
  options.budget_bytes = std::size_t{256} << 20;
  DaemonEnv env(options);
  const FakeModel model{ModelShape{}};
  Client client = env.Connect();
  Store store = client.OpenStore(SpecOf(model.shape(), "int8", "int8")).value();
  Sequence source = store.Open({}, {.recent_tokens = 16, .max_step_tokens = 64, .label = "source"}).value();
  std::vector<Sequence> readers;
  std::set<SequenceId> wanted = {source.id()};
  for (std::size_t i = 0; i < kReaders; ++i) {
    readers.push_back(store.Read(source.id()).value());
    wanted.insert(readers.back().id());
  }
  ASSERT_EQ(wanted.size(), kReaders + 1);
  auto admin = Admin::Connect(env.socket()).value();
  const std::vector<SequenceRow> rows = admin.Sequences().value();
  EXPECT_EQ(rows.size(), wanted.size());
  for (const SequenceRow& row : rows) EXPECT_EQ(wanted.erase(row.id), 1u) << row.id;
  EXPECT_EQ(admin.Stats().value().figures.Find("sequences"), kReaders + 1);
}

TEST(AdminClientTest, EveryStoreIsListedOnceOverSeveralPages) {
  constexpr std::size_t kStores = 100;
  DaemonOptions options;
  options.budget_bytes = std::size_t{256} << 20;
  DaemonEnv env(options);
  const FakeModel model{ModelShape{}};
  Client client = env.Connect();
  std::vector<Store> stores;
  std::set<std::string> wanted;
  for (std::size_t i = 0; i < kStores; ++i) {
    StoreSpec spec = SpecOf(model.shape(), "f32", "f32");
    spec.name = "store/" + std::to_string(i);
    spec.model = std::string(4000, 'm') + std::to_string(i);  // 100 of them: two pages
    wanted.insert(spec.name);
    stores.push_back(client.OpenStore(spec).value());
  }
  auto admin = Admin::Connect(env.socket()).value();
  const std::vector<StoreRow> rows = admin.Stores().value();
  for (const StoreRow& row : rows) {
    EXPECT_EQ(wanted.erase(row.name), 1u) << row.name;
    EXPECT_EQ(row.figures.Find("blocks"), 0u);
    EXPECT_FALSE(row.figures.Find("no such figure"));
  }
  EXPECT_TRUE(wanted.empty());
}

}  // namespace
}  // namespace kvant::testing
