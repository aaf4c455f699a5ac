#include "daemon/store/store_table.h"

#include <functional>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/daemon/core_support.h"

namespace kvant::daemon {
namespace {

using testing::HasSubstr;

TEST(StoreTableTest, SecondOpenAttaches) {
  TestCore core;
  const OpenedStore created = core.stores.Open(SmallSpec()).value();
  const OpenedStore attached = core.stores.Open(SmallSpec()).value();
  EXPECT_TRUE(created.created);
  EXPECT_FALSE(attached.created);
  EXPECT_EQ(created.store, attached.store);
  EXPECT_EQ(core.stores.Find("small").value(), created.store.get());
  EXPECT_EQ(core.stores.Find("large").error().code, ErrorCode::kNotFound);
}

TEST(StoreTableTest, EveryFieldTakesPartAndIsNamed) {
  struct Change {
    const char* named;
    std::function<void(StoreSpec&)> apply;
  };
  const Change changes[] = {
      {"model differs: the store has 'model-digest', asked for 'm2'", [](StoreSpec& s) { s.model = "m2"; }},
      {"tokenizer differs: the store has 'bytes', asked for 't2'", [](StoreSpec& s) { s.tokenizer = "t2"; }},
      {"adapter differs: the store has '', asked for 'lora'", [](StoreSpec& s) { s.adapter = "lora"; }},
      {"salt differs: the store has '(hidden)', asked for '(hidden)'", [](StoreSpec& s) { s.salt = "x"; }},
      {"rope.pairing differs: the store has 'none', asked for 'half_split'",
       [](StoreSpec& s) { s.rope.pairing = RopePairing::kHalfSplit; }},
      {"rope.theta differs: the store has '10000', asked for '10000.000000000002'",
       [](StoreSpec& s) { s.rope.theta = 10000.000000000002; }},
      {"rope.rotary_dims differs: the store has '0', asked for '8'", [](StoreSpec& s) { s.rope.rotary_dims = 8; }},
      {"layers differs: the store has '2', asked for '3'", [](StoreSpec& s) { s.layers = 3; }},
      {"kv_heads differs: the store has '2', asked for '1'", [](StoreSpec& s) { s.kv_heads = 1; }},
      {"head_dim differs: the store has '16', asked for '32'", [](StoreSpec& s) { s.head_dim = 32; }},
      {"dtype differs: the store has 'f32', asked for 'bf16'", [](StoreSpec& s) { s.dtype = ElementType::kBF16; }},
      {"block_tokens differs: the store has '16', asked for '32'", [](StoreSpec& s) { s.block_tokens = 32; }},
      {"sink_tokens differs: the store has '4', asked for '0'", [](StoreSpec& s) { s.sink_tokens = 0; }},
      {"plan layer 0 differs", [](StoreSpec& s) { s.plan.keys = "f16"; }},
      {"plan layer 0 differs", [](StoreSpec& s) { s.plan.values = "bf16"; }},
      {"plan layer 1 differs",
       [](StoreSpec& s) {
         s.plan.overrides.push_back({1, 1, "f16", "f32"});
       }},
  };
  TestCore core;
  const auto store = core.stores.Open(SmallSpec()).value().store;
  for (const Change& change : changes) {
    StoreSpec spec = SmallSpec();
    change.apply(spec);
    const Result<OpenedStore> opened = core.stores.Open(spec);
    ASSERT_FALSE(opened.has_value()) << change.named;
    EXPECT_EQ(opened.error().code, ErrorCode::kIdentityMismatch) << opened.error().message;
    EXPECT_THAT(opened.error().message, HasSubstr(change.named));
    // And as a store of its own it would have another digest.
    spec.name = "other";
    const auto fields = IdentityFields(*quantizers::Plan::Make(core.codecs, spec).value());
    StoreSpec same = SmallSpec("other");
    EXPECT_NE(IdentityDigest(fields), IdentityDigest(IdentityFields(*quantizers::Plan::Make(core.codecs, same).value())));
  }
}

TEST(StoreTableTest, ValuesCannotImitateFields) {
  EXPECT_NE(CanonicalIdentity({{"a", "x"}, {"b", "y"}}), CanonicalIdentity({{"a", "x\nb 1:y"}}));
  EXPECT_EQ(CanonicalIdentity({{"a", "xyz"}}), "a 3:xyz\n");
}

TEST(StoreTableTest, OverridesThatSayTheSameAreTheSameIdentity) {
  TestCore core;
  const auto store = core.stores.Open(SmallSpec()).value().store;
  StoreSpec spec = SmallSpec();
  spec.plan.overrides.push_back({0, 1, "f32", "f32"});
  EXPECT_TRUE(core.stores.Open(spec).has_value());
}

TEST(StoreTableTest, BudgetSmallerThanOneBlockIsRefused) {
  TestCore core(Budget::kMinimumBytes);
  StoreSpec spec = SmallSpec("huge");
  spec.layers = 32;
  spec.kv_heads = 8;
  spec.head_dim = 128;
  const Result<OpenedStore> opened = core.stores.Open(spec);
  ASSERT_FALSE(opened.has_value());
  EXPECT_EQ(opened.error().code, ErrorCode::kStoreFull);
  EXPECT_THAT(opened.error().message, HasSubstr("one block needs"));
  EXPECT_EQ(core.budget.metadata_bytes(), 0u);
}

TEST(StoreTableTest, AStoreNobodyUsesMakesRoomForAnother) {
  TestCore core(Budget::kMinimumBytes);
  std::size_t opened = 0;
  for (int i = 0; i < 200; ++i) opened += core.stores.Open(SmallSpec("store" + std::to_string(i))).has_value() ? 1 : 0;
  EXPECT_EQ(opened, 200u);
  EXPECT_LE(core.budget.metadata_bytes(), core.budget.limit());
}

TEST(StoreTableTest, BadSpecIsRefusedBeforeAnythingIsMade) {
  TestCore core;
  StoreSpec spec = SmallSpec();
  spec.plan.keys = "no_such_codec";
  EXPECT_FALSE(core.stores.Open(spec).has_value());
  EXPECT_TRUE(core.stores.stores().empty());
  EXPECT_EQ(core.budget.metadata_bytes(), 0u);
}

}  // namespace
}  // namespace kvant::daemon
