#include "daemon/store/store_table.h"

#include <algorithm>
#include <functional>
#include <memory>
#include <set>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "protocol/digest.h"
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

TEST(StoreTableTest, ItsEndIsThatOfItsStores) {
  std::weak_ptr<Store> store;
  std::weak_ptr<Tenant> tenant;
  {
    TestCore core;
    store = core.stores.Open(SmallSpec()).value().store;
    tenant = core.stores.FindTenant(StoreTable::kNobody);
    ASSERT_FALSE(store.expired() || tenant.expired());
  }
  EXPECT_TRUE(store.expired());
  EXPECT_TRUE(tenant.expired());
}

/// With a scaling, so that its numbers can be changed one by one.
StoreSpec RotarySpec() {
  StoreSpec spec = SmallSpec();
  spec.rope = {RopePairing::kHalfSplit, 10000.0, 0, RopeYarn{.factor = 4, .original_positions = 8192}};
  return spec;
}

RopeYarn& Yarn(StoreSpec& spec) { return std::get<RopeYarn>(spec.rope.scaling); }

TEST(StoreTableTest, EveryFieldTakesPartAndIsNamedToOperatorsAlone) {
  struct Change {
    const char* named;
    std::function<void(StoreSpec&)> apply;
  };
  const Change changes[] = {
      {"model: the store has 'model-digest', asked for 'm2'", [](StoreSpec& s) { s.model = "m2"; }},
      {"tokenizer: the store has 'bytes', asked for 't2'", [](StoreSpec& s) { s.tokenizer = "t2"; }},
      {"adapter: the store has '', asked for 'lora'", [](StoreSpec& s) { s.adapter = "lora"; }},
      {"salt: the store has (hidden), asked for (hidden)", [](StoreSpec& s) { s.salt = "x"; }},
      {"rope.pairing: the store has 'half_split', asked for 'adjacent'",
       [](StoreSpec& s) { s.rope.pairing = RopePairing::kAdjacent; }},
      {"rope.theta: the store has '10000', asked for '10000.000000000002'",
       [](StoreSpec& s) { s.rope.theta = 10000.000000000002; }},
      {"rope.rotary_dims: the store has '16', asked for '8'", [](StoreSpec& s) { s.rope.rotary_dims = 8; }},
      {"rope.scaling: the store has 'yarn', asked for 'none'", [](StoreSpec& s) { s.rope.scaling = {}; }},
      {"rope.scaling: the store has 'yarn', asked for 'linear'", [](StoreSpec& s) { s.rope.scaling = RopeLinear{4}; }},
      {"rope.context_tokens: the store has nothing, asked for '3'",
       [](StoreSpec& s) {
         s.rope.scaling = RopeDynamic{4, 8192, 3};
       }},
      {"rope.low_freq_factor: the store has nothing, asked for '1'",
       [](StoreSpec& s) {
         s.rope.scaling = RopeLlama3{4, 8192};
       }},
      {"rope.long_factors: the store has nothing, asked for '1,1,1,1,1,1,1,2'",
       [](StoreSpec& s) {
         s.rope.scaling = RopeLong{4, 8192, 1, {1, 1, 1, 1, 1, 1, 1, 1}, {1, 1, 1, 1, 1, 1, 1, 2}};
       }},
      {"rope.factor: the store has '4', asked for '5'", [](StoreSpec& s) { Yarn(s).factor = 5; }},
      {"rope.original_positions: the store has '8192', asked for '1'", [](StoreSpec& s) { Yarn(s).original_positions = 1; }},
      {"rope.beta_fast: the store has '32', asked for '33'", [](StoreSpec& s) { Yarn(s).beta_fast = 33; }},
      {"rope.beta_slow: the store has '1', asked for '2'", [](StoreSpec& s) { Yarn(s).beta_slow = 2; }},
      {"rope.truncate: the store has 'true', asked for 'false'", [](StoreSpec& s) { Yarn(s).truncate = false; }},
      {"rope.attention_factor: the store has '0', asked for '1'", [](StoreSpec& s) { Yarn(s).attention_factor = 1; }},
      {"layers: the store has '2', asked for '3'", [](StoreSpec& s) { s.layers = 3; }},
      {"kv_heads: the store has '2', asked for '1'", [](StoreSpec& s) { s.kv_heads = 1; }},
      {"head_dim: the store has '16', asked for '32'", [](StoreSpec& s) { s.head_dim = 32; }},
      {"dtype: the store has 'f32', asked for 'bf16'", [](StoreSpec& s) { s.dtype = ElementType::kBF16; }},
      {"block_tokens: the store has '16', asked for '32'", [](StoreSpec& s) { s.block_tokens = 32; }},
      {"sink_tokens: the store has '4', asked for '0'", [](StoreSpec& s) { s.sink_tokens = 0; }},
      {"plan layer 0: ", [](StoreSpec& s) { s.plan.keys = "f16"; }},
      {"plan layer 0: ", [](StoreSpec& s) { s.plan.values = "bf16"; }},
      {"plan layer 1: ",
       [](StoreSpec& s) {
         s.plan.overrides.push_back({1, 1, "f16", "f32"});
       }},
  };
  TestCore core;
  std::string told;
  core.core.notify = [&told](std::string_view event) { told = event; };
  const auto store = core.stores.Open(RotarySpec()).value().store;
  for (const Change& change : changes) {
    StoreSpec spec = RotarySpec();
    change.apply(spec);
    told.clear();
    const Result<OpenedStore> opened = core.stores.Open(spec);
    ASSERT_TRUE(opened.has_value()) << change.named << ": " << opened.error().message;
    EXPECT_TRUE(opened->relabelled) << change.named;
    EXPECT_NE(opened->store, store) << change.named;
    EXPECT_THAT(told, HasSubstr(change.named));
    ASSERT_TRUE(core.stores.Open(RotarySpec())->relabelled);
    // And as a store of its own it has another digest.
    const auto fields = IdentityFields(*quantizers::Plan::Make(core.codecs, spec).value());
    EXPECT_NE(IdentityDigest(fields), store->identity()) << change.named;
  }
}

TEST(StoreTableTest, TheNameIsNoPartOfTheIdentity) {
  TestCore core;
  const auto digest = [&](const char* name) {
    return IdentityDigest(IdentityFields(*quantizers::Plan::Make(core.codecs, SmallSpec(name)).value()));
  };
  EXPECT_EQ(digest("small"), digest("other"));
}

TEST(StoreTableTest, RotaryDimsThatSayTheSameAreTheSameIdentity) {
  TestCore core;
  StoreSpec spec = RotarySpec();
  const auto store = core.stores.Open(spec).value().store;
  spec.rope.rotary_dims = spec.head_dim;
  EXPECT_TRUE(core.stores.Open(spec).has_value());
}

TEST(StoreTableTest, KeyStagesAreOtherIdentities) {
  const std::vector<IdentityField> after = {{"key_stage", "after_rope"}};
  const std::vector<IdentityField> before = {{"key_stage", "before_rope"}};
  EXPECT_EQ(IdentityDifference(after, before), "key_stage: the store has 'after_rope', asked for 'before_rope'");
  TestCore core;
  const auto fields = IdentityFields(*quantizers::Plan::Make(core.codecs, SmallSpec()).value());
  EXPECT_TRUE(std::any_of(fields.begin(), fields.end(), [](const IdentityField& f) { return f.name == "key_stage"; }));
}

TEST(StoreTableTest, DifferencesForgeNoLogLines) {
  const std::string text = IdentityDifference({{"model", "a\nb\x1b'\\"}}, {{"model", std::string(100, 'x')}});
  EXPECT_EQ(text, "model: the store has 'a\\x0ab\\x1b\\x27\\x5c', asked for '" + std::string(80, 'x') + "...'");
}

TEST(StoreTableTest, DifferencesOfLongPlansAreAFew) {
  std::vector<IdentityField> ours, theirs;
  for (int i = 0; i < 20000; ++i) {
    ours.push_back({"plan layer " + std::to_string(i), "int8"});
    theirs.push_back({"plan layer " + std::to_string(i), "f16"});
  }
  const std::string text = IdentityDifference(ours, theirs);
  ASSERT_LT(text.size(), 2000u);
  EXPECT_THAT(text, HasSubstr("plan layer 15: the store has 'int8', asked for 'f16'; and 19984 more"));
}

TEST(StoreTableTest, SpellingsTellOverridesApart) {
  StoreSpec spec = SmallSpec();
  std::set<protocol::Digest> spellings = {SpellingDigest(spec)};
  const LayerPlan entries[] = {{0, 1, "f16", "f32"}, {0, 0, "f16", "f32"},       {1, 1, "f16", "f32"},
                               {0, 1, "f32", "f16"}, {0, 1, "f16", "f32", 0, 0}, {0, 1, "f16", "f32", 1, 1}};
  for (const LayerPlan& entry : entries) {
    spec.plan.overrides = {entry};
    EXPECT_TRUE(spellings.insert(SpellingDigest(spec)).second);
  }
  spec.plan.overrides.push_back(entries[0]);
  EXPECT_TRUE(spellings.insert(SpellingDigest(spec)).second);
}

TEST(StoreTableTest, SpellingsOfAStoreAreAFew) {
  TestCore core;
  const auto store = core.stores.Open(SmallSpec()).value().store;
  for (std::uint32_t layer = 0; layer < 40; ++layer) {
    StoreSpec spec = SmallSpec();  // says f32, f32 once more each time
    spec.plan.overrides.assign(layer, {0, 1, "f32", "f32"});
    EXPECT_EQ(core.stores.Open(spec).value().store, store);
  }
  EXPECT_EQ(store->spellings().size(), Store::kMaxSpellings);
  StoreSpec last = SmallSpec();
  last.plan.overrides.assign(39, {0, 1, "f32", "f32"});
  EXPECT_TRUE(core.stores.OpenKnown(*core.stores.FindTenant(StoreTable::kNobody), SpellingDigest(last), last.name));
  EXPECT_FALSE(core.stores.OpenKnown(*core.stores.FindTenant(StoreTable::kNobody), SpellingDigest(SmallSpec()), last.name))
      << "the table must forget it, too";
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
  spec.head_dim = 64;
  spec.block_tokens = 1024;
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

TEST(StoreTableTest, ANameMeansTheIdentityItWasLastOpenedWith) {
  TestCore core;
  StoreSpec spec = SmallSpec("chat");
  const OpenedStore first = core.stores.Open(spec).value();
  EXPECT_FALSE(first.relabelled);
  spec.model = "another";
  const OpenedStore second = core.stores.Open(spec).value();
  EXPECT_TRUE(second.created);
  EXPECT_TRUE(second.relabelled);
  EXPECT_NE(first.store, second.store);
  EXPECT_EQ(core.stores.Find("chat").value(), second.store.get());
  // The first answers to its identity, and takes its name back when it is opened again.
  const std::string hex = protocol::DigestHex(first.store->identity());
  EXPECT_EQ(first.store->name(), hex);
  EXPECT_EQ(core.stores.Find(hex).value(), first.store.get());
  const OpenedStore again = core.stores.Open(SmallSpec("chat")).value();
  EXPECT_EQ(again.store, first.store);
  EXPECT_TRUE(again.relabelled);
  EXPECT_EQ(first.store->name(), "chat");
}

TEST(StoreTableTest, NamesOfAStoreAreAFew) {
  TestCore core;
  StoreSpec spec = SmallSpec();
  const auto store = core.stores.Open(spec).value().store;
  store->AddName("a0");
  for (std::size_t i = 1; i < 3 * Store::kMaxNames; ++i) store->AddName("a" + std::to_string(i));
  EXPECT_EQ(store->names().size(), Store::kMaxNames);
  EXPECT_EQ(store->name(), "a" + std::to_string(3 * Store::kMaxNames - 1));
}

TEST(StoreTableTest, AnEmptyStoreGoesWhenItsLastOpenerClosesIt) {
  TestCore core;
  OpenedStore one = core.stores.Open(SmallSpec()).value();
  OpenedStore two = core.stores.Open(SmallSpec()).value();
  core.stores.Close(std::move(one.store));
  EXPECT_EQ(core.stores.stores().size(), 1u);
  core.stores.Close(std::move(two.store));
  EXPECT_TRUE(core.stores.stores().empty());
  EXPECT_EQ(core.stores.Find("small").error().code, ErrorCode::kNotFound);
  EXPECT_EQ(core.budget.metadata_bytes() + core.budget.slab_bytes(), 0u);
}

TEST(StoreTableTest, ThousandsOfNamesFitASmallBudgetAlthoughAllAreOpen) {
  TestCore core(std::size_t{16} << 20);
  for (int i = 0; i < 3000; ++i) {
    StoreSpec spec = SmallSpec("store" + std::to_string(i));
    spec.salt = std::to_string(i);
    const auto opened = core.stores.Open(spec);
    ASSERT_TRUE(opened.has_value()) << i << ": " << opened.error().message;
    ASSERT_LE(core.budget.metadata_bytes() + core.budget.slab_bytes(), core.budget.limit());
  }
  EXPECT_LT(core.stores.stores().size(), 1000u);
}

// What stays when room runs out is what was used last: a store that has lost its blocks goes before the blocks of later ones.
TEST(StoreTableTest, EmptyStoresDoNotOutliveLaterBlocks) {
  TestCore core(std::size_t{4} << 20);
  const SequenceConfig config{.recent_tokens = 0, .max_step_tokens = 64, .client = "test", .label = ""};
  std::vector<std::shared_ptr<Store>> open;  // the client closes none
  while (core.stores.stores().size() == open.size()) {
    ASSERT_LT(open.size(), 2000u);
    StoreSpec spec = SmallSpec("store" + std::to_string(open.size()));
    spec.salt = std::to_string(open.size());
    open.push_back(core.stores.Open(spec).value().store);
    TestSequence sequence = TestSequence::Open(open.back(), {}, config);
    sequence.Advance(Tokens(64));
    core.encode.RunAll();
  }
  core.populate.RunAll();
  std::size_t empty = 0;
  for (const Store* store : core.stores.stores()) empty += store->index().size() == 0 ? 1 : 0;
  EXPECT_LE(empty, 1u) << "of " << core.stores.stores().size();
  EXPECT_GT(core.stores.stores().size(), 20u);
}

TEST(StoreTableTest, DropTakesAStoreWithItsBlocksUnlessSequencesAreOpen) {
  TestCore core;
  OpenedStore opened = core.stores.Open(SmallSpec()).value();
  const SequenceConfig config{.recent_tokens = 0, .max_step_tokens = 64, .client = "test", .label = ""};
  {
    TestSequence sequence = TestSequence::Open(opened.store, {}, config);
    sequence.Advance(Tokens(64));
    core.encode.RunAll();
    const auto refused = core.stores.Drop("small");
    ASSERT_FALSE(refused.has_value());
    EXPECT_EQ(refused.error().code, ErrorCode::kUnavailable);
    EXPECT_THAT(refused.error().message, HasSubstr("1 sequences of it are open"));
  }
  core.populate.RunAll();
  EXPECT_FALSE(opened.store->dropped());
  EXPECT_EQ(core.stores.Drop("small").value().blocks, 4u);
  EXPECT_TRUE(opened.store->dropped());
  EXPECT_TRUE(core.stores.stores().empty());
  EXPECT_EQ(core.stores.Drop("small").error().code, ErrorCode::kNotFound);
  EXPECT_TRUE(core.stores.Open(SmallSpec()).value().created);
  core.stores.Close(std::move(opened.store));  // the old one: no fault, and the new one stays
  EXPECT_EQ(core.stores.stores().size(), 1u);
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
