// The admin side of the client library: lists that come in several pages arrive whole.
#include <algorithm>
#include <cmath>
#include <random>
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

constexpr std::uint32_t kBlock = 64;
constexpr std::uint32_t kDim = 64;

StoreSpec KeySpec(const std::string& name, const std::string& codec) {
  StoreSpec spec;
  spec.name = name;
  spec.model = spec.tokenizer = name;
  spec.layers = 1;
  spec.kv_heads = 1;
  spec.head_dim = kDim;
  spec.block_tokens = kBlock;
  spec.plan.keys = spec.plan.values = codec;
  return spec;
}

/// Appends normal rows, the keys beside a bias of that norm, until some blocks are sealed.
void FeedBiasedKeys(Store& store, float bias_norm) {
  Sequence sequence = store.Open({}, {.recent_tokens = 16, .max_step_tokens = kBlock}).value();
  std::mt19937 random(1);
  std::normal_distribution<float> normal;
  std::vector<float> keys(kBlock * kDim);
  std::vector<float> values(kBlock * kDim);
  const std::vector<TokenId> tokens(kBlock, 7);
  for (int block = 0; block < 10; ++block) {
    for (float& key : keys) key = normal(random) + bias_norm / std::sqrt(static_cast<float>(kDim));
    for (float& value : values) value = normal(random);
    const auto view = [](const std::vector<float>& rows) {
      return ConstTensorView{rows.data(), ElementType::kF32, kBlock, 1, kDim, kDim, kDim};
    };
    ASSERT_TRUE(sequence.Reserve(kBlock));
    ASSERT_TRUE(sequence.Append(0, view(keys), view(values)));
    const auto advanced = sequence.Advance(tokens);
    ASSERT_TRUE(advanced) << advanced.error().message;
  }
}

TEST(AdminClientTest, KeysThatTheirCodecCannotServeAreSaidToBe) {
  DaemonEnv env;
  Client client = env.Connect();
  auto admin = Admin::Connect(env.socket()).value();
  struct Case {
    const char* codec;
    float bias_norm;
    bool unfit;
  };
  for (const Case& c :
       {Case{"turboquant_mse:bits=4", 0.0f, false}, Case{"turboquant_mse:bits=4", 605.0f, false},
        Case{"turboquant_mse:bits=4,gauge=none", 605.0f, true}, Case{"int8", 605.0f, true}, Case{"f32", 605.0f, false}}) {
    SCOPED_TRACE(c.codec + std::string(" ") + std::to_string(c.bias_norm));
    const std::string name = std::string(c.codec) + "/" + std::to_string(static_cast<int>(c.bias_norm));
    Store store = client.OpenStore(KeySpec(name, c.codec)).value();
    FeedBiasedKeys(store, c.bias_norm);
    EXPECT_EQ(!store.info().warning.empty(), c.unfit) << store.info().warning;
    const std::vector<StoreRow> rows = admin.Stores().value();
    const auto row = std::find_if(rows.begin(), rows.end(), [&](const StoreRow& r) { return r.name == name; });
    ASSERT_NE(row, rows.end());
    EXPECT_EQ(row->figures.Find("unfit_key_heads"), c.unfit ? 1u : 0u);
    EXPECT_EQ(row->warning.empty(), !c.unfit);  // its figures are of all blocks by now
    ASSERT_EQ(row->key_heads.size(), c.bias_norm > 0 ? 1u : 0u);
    if (c.bias_norm > 0) {
      EXPECT_NEAR(row->key_heads[0].mean_share, 605.0 * 605 / (605.0 * 605 + kDim), 1e-4);
    }
    // Whoever opens the store later is told at once.
    Client other = env.Connect();
    EXPECT_EQ(other.OpenStore(KeySpec(name, c.codec)).value().info().warning, row->warning);
  }
}

}  // namespace
}  // namespace kvant::testing
