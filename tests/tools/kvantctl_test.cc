// kvantctl as an operator or a script meets it: a real kvantd, a real client that fills a store, exit codes and JSON.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <kvant/admin.h>
#include <kvant/client.h>
#include <signal.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <nlohmann/json.hpp>
#include <numeric>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "tests/tools/processes.h"

namespace kvant::tests {
namespace {

using Json = nlohmann::json;

constexpr std::uint32_t kHeadDim = 64;
constexpr std::uint32_t kBlockTokens = 16;
constexpr std::uint32_t kLayers = 2;
constexpr std::uint64_t kBlocks = 5;  // of 100 tokens, the newest 16 not among them
constexpr std::uint32_t kKvHeads = 2;

Finished Kvantctl(const std::vector<std::string>& arguments) {
  return RunProgram(std::string(KVANT_PROGRAM_DIR) + "/kvantctl", arguments);
}

std::vector<std::string> Concat(std::vector<std::string> words, const std::vector<std::string>& more) {
  words.insert(words.end(), more.begin(), more.end());
  return words;
}

StoreSpec Spec(const std::string& name) {
  StoreSpec spec;
  spec.name = name;
  spec.model = "model-digest";
  spec.tokenizer = "bytes";
  spec.layers = kLayers;
  spec.kv_heads = kKvHeads;
  spec.head_dim = kHeadDim;
  spec.block_tokens = kBlockTokens;
  spec.sink_tokens = 0;
  spec.plan.keys = "f16";
  spec.plan.values = "f16";
  return spec;
}

/// Adds tokens first, first + 1, ... until the sequence holds `length`, with rows around `mean`.
Result<void> Grow(Sequence& sequence, std::uint64_t length, float mean = 0.0f) {
  std::vector<float> rows(kKvHeads * kHeadDim);
  while (sequence.length() < length) {
    for (std::size_t i = 0; i < rows.size(); ++i) rows[i] = mean + std::sin(static_cast<float>(i + 7 * sequence.length()));
    if (auto reserved = sequence.Reserve(1); !reserved) return reserved.error();
    const ConstTensorView view{rows.data(), ElementType::kF32, 1, kKvHeads, kHeadDim, kKvHeads * kHeadDim, kHeadDim};
    for (std::size_t layer = 0; layer < kLayers; ++layer) {
      if (auto done = sequence.Append(layer, view, view); !done) return done;
    }
    const auto token = static_cast<TokenId>(sequence.length());
    if (auto done = sequence.Advance({&token, 1}); !done) return done;
  }
  return {};
}

/// A daemon and a client with one sequence of 100 tokens, whose first blocks are sealed.
class KvantctlTest : public testing::Test {
 protected:
  void SetUp() override {
    daemon_.emplace(std::vector<std::string>{"--budget", "64MiB"});
    ASSERT_FALSE(daemon_->socket().empty()) << "kvantd did not come up";
    ClientOptions options;
    options.name = "filler";
    options.arena_bytes = std::size_t{32} << 20;
    auto client = Client::Connect(daemon_->socket(), options);
    ASSERT_TRUE(client) << client.error().message;
    client_.emplace(std::move(*client));
    auto store = client_->OpenStore(Spec("test/store"));
    ASSERT_TRUE(store) << store.error().message;
    store_.emplace(std::move(*store));
    SequenceOptions sequence_options;
    sequence_options.recent_tokens = 16;
    sequence_options.label = "chat \xFF";  // not UTF-8
    auto sequence = store_->Open({}, sequence_options);
    ASSERT_TRUE(sequence) << sequence.error().message;
    sequence_.emplace(std::move(*sequence));
    const auto grown = Grow(*sequence_, 100);
    ASSERT_TRUE(grown) << grown.error().message;
    AwaitSealed(kBlocks);
  }

  /// Encoding goes on beside what follows: waits until all that is due is sealed.
  void AwaitSealed(std::uint64_t blocks) {
    const auto sealed = [this] { return CtlJson({"stores"})["stores"][0]["figures"]["blocks"].get<std::uint64_t>(); };
    for (int tries = 0; tries < 400 && sealed() < blocks; ++tries) std::this_thread::sleep_for(std::chrono::milliseconds(50));
    ASSERT_EQ(sealed(), blocks);
  }

  Finished Ctl(std::vector<std::string> arguments) {
    return Kvantctl(Concat(std::move(arguments), {"--socket", "unix:" + daemon_->socket()}));
  }

  Json CtlJson(std::vector<std::string> arguments) {
    const Finished finished = Ctl(Concat(std::move(arguments), {"-o", "json"}));
    EXPECT_EQ(finished.exit_code, 0) << finished.err;
    return Json::parse(finished.out, nullptr, false);
  }

  std::optional<RunningDaemon> daemon_;
  std::optional<Client> client_;
  std::optional<Store> store_;
  std::optional<Sequence> sequence_;
};

TEST_F(KvantctlTest, PingAnswersWithTimes) {
  const Json json = CtlJson({"ping", "--count", "3"});
  EXPECT_EQ(json["count"], 3);
  EXPECT_GT(json["min_ns"], 0);
  EXPECT_LE(json["min_ns"], json["median_ns"]);
  EXPECT_LE(json["median_ns"], json["max_ns"]);
  EXPECT_THAT(Ctl({"ping"}).out, testing::StartsWith("pong: 1 call"));
}

TEST_F(KvantctlTest, InfoNamesTheProcessAndItsBudget) {
  const Json json = CtlJson({"info"});
  EXPECT_EQ(json["pid"], daemon_->pid());
  EXPECT_EQ(json["budget_bytes"], 64U << 20);
  EXPECT_THAT(Ctl({"info"}).out, testing::HasSubstr("64.0 MiB"));
}

TEST_F(KvantctlTest, DoctorFindsNothingWrongUntilKeysShareAMeanThatTheirCodecCannotServe) {
  for (const Json& finding : CtlJson({"doctor"})["findings"])
    EXPECT_EQ(finding["severity"], "note");  // the machine may have its own
  StoreSpec spec = Spec("biased");
  spec.plan.keys = "int8";
  auto store = client_->OpenStore(spec);
  ASSERT_TRUE(store) << store.error().message;
  auto sequence = store->Open({}, {.recent_tokens = 16});
  ASSERT_TRUE(sequence) << sequence.error().message;
  const auto grown = Grow(*sequence, 100, 1000.0f);
  ASSERT_TRUE(grown) << grown.error().message;
  const Finished told = Ctl({"doctor"});
  EXPECT_EQ(told.exit_code, 1) << told.err;
  EXPECT_THAT(told.out, testing::StartsWith("wrong: Store \"biased\": "));
}

TEST_F(KvantctlTest, StatsAndStoresAgreeOnTheFigures) {
  // Pages are still being made for blocks to come: what lies between two equal answers is of one moment.
  Json stats = CtlJson({"stats"});
  Json stores;
  for (int tries = 0; tries < 50; ++tries) {
    stores = CtlJson({"stores"})["stores"];
    const Json again = CtlJson({"stats"});
    const bool quiet = again["figures"]["resident_bytes"] == stats["figures"]["resident_bytes"];
    stats = again;
    if (quiet) break;
  }
  ASSERT_EQ(stores.size(), 1U);
  EXPECT_EQ(stores[0]["name"], "test/store");
  EXPECT_EQ(stores[0]["keys"], "f16");
  const Json& figures = stores[0]["figures"];
  const std::uint64_t blocks = figures["blocks"];
  EXPECT_GE(blocks, 4U);  // (100 - 16 recent) / 16, less the slack
  EXPECT_EQ(figures["leased_blocks"], blocks);
  // As f16: blocks x tokens x layers x heads x 2 sides x head size x 2 bytes.
  EXPECT_EQ(figures["logical_f16_bytes"], blocks * kBlockTokens * kLayers * kKvHeads * 2 * kHeadDim * 2);
  EXPECT_EQ(stats["figures"]["stores"], 1);
  EXPECT_EQ(stats["figures"]["sequences"], 1);
  EXPECT_EQ(stats["figures"]["sealed_blocks"], blocks);
  EXPECT_GE(stats["figures"]["leases"], blocks);
  // One store is all there is, and each of its figures is the daemon's.
  for (const auto& [name, value] : figures.items()) EXPECT_EQ(stats["figures"][name], value) << name;
  EXPECT_THAT(Ctl({"stats"}).out, testing::AllOf(testing::HasSubstr("prefix hit tokens"),
                                                 testing::ContainsRegex("sealed_blocks +[0-9]+ +blocks enc")));
  EXPECT_THAT(Ctl({"stores"}).out, testing::HasSubstr("test/store"));
  EXPECT_THAT(Ctl({"inspect", "test/store"}).out, testing::ContainsRegex("deduplicated_blocks +0 +blocks that"));
}

TEST_F(KvantctlTest, SequencesAreListedAndInspected) {
  const Json list = CtlJson({"sequences"})["sequences"];
  ASSERT_EQ(list.size(), 1U);
  EXPECT_EQ(list[0]["id"], sequence_->id());
  EXPECT_EQ(list[0]["length"], 100);
  EXPECT_EQ(list[0]["client"], "filler");
  EXPECT_TRUE(CtlJson({"sequences", "--store", "another"})["sequences"].empty());

  const Json detail = CtlJson({"inspect", std::to_string(sequence_->id())})["sequence"];
  EXPECT_EQ(detail["length"], 100);
  ASSERT_FALSE(detail["blocks"].empty());
  std::uint64_t position = 0;
  for (const Json& block : detail["blocks"]) {
    EXPECT_EQ(block["first_position"], position);
    EXPECT_EQ(block["checksum_ok"], true);
    EXPECT_GE(block["leases"], 1);
    position += kBlockTokens;
  }
  EXPECT_EQ(detail["sealed_tokens"], position);
  EXPECT_EQ(CtlJson({"inspect", "test/store"})["store"]["model"], "model-digest");
}

// The numbers are those of the codecs' own descriptions, for 64 tokens of 64 numbers.
TEST_F(KvantctlTest, InspectSaysWhatTheBytesOfAStoreAre) {
  StoreSpec spec = Spec("mixed");
  spec.block_tokens = 64;
  spec.plan.keys = "turboquant_mse:bits=2";
  spec.plan.values = "int8";
  spec.plan.overrides = {{1, 1, "f16", "int8", 0, 0}};
  const auto opened = client_->OpenStore(spec);
  ASSERT_TRUE(opened) << opened.error().message;
  const Json codecs = CtlJson({"inspect", "mixed"})["store"]["codecs"];
  ASSERT_EQ(codecs.size(), 3U);
  EXPECT_EQ(codecs[0]["side"], "keys");
  EXPECT_EQ(codecs[0]["heads"], 3);
  const Json& lloyd = codecs[0]["form"];
  EXPECT_EQ(lloyd["family"], "scalar");
  EXPECT_EQ(lloyd["order"], "key_tiles");
  EXPECT_EQ(lloyd["bits"], 2);
  EXPECT_EQ(lloyd["rotated"], true);
  // The two levels of the best 4-level quantizer of a normal distribution: 0.4528 and 1.5104 (Max, 1960).
  ASSERT_EQ(lloyd["magnitudes"].size(), 2U);
  const double unit = lloyd["level_unit"];
  EXPECT_NEAR(lloyd["magnitudes"][1].get<double>() / lloyd["magnitudes"][0].get<double>(), 1.5104 / 0.4528, 0.05);
  EXPECT_GT(unit, 0);
  EXPECT_EQ(lloyd["scale_format"], "ufloat16");
  EXPECT_EQ(lloyd["scale_offset"], 64 * kHeadDim * 2 / 8);
  EXPECT_EQ(lloyd["part_bytes"], Json({64 * kHeadDim * 2 / 8 + 64 * 2 + 3 * kHeadDim}));
  EXPECT_EQ(codecs[1]["spec"], "f16@1");
  EXPECT_EQ(codecs[1]["heads"], 1);
  EXPECT_EQ(codecs[1]["form"]["family"], "raw");
  EXPECT_EQ(codecs[1]["form"]["order"], "rows");
  EXPECT_EQ(codecs[1]["form"]["bits"], 16);
  EXPECT_EQ(codecs[1]["form"]["magnitudes"], nullptr);
  EXPECT_EQ(codecs[2]["side"], "values");
  EXPECT_EQ(codecs[2]["spec"], "int8@1");
  EXPECT_EQ(codecs[2]["heads"], 4);
  EXPECT_EQ(codecs[2]["form"]["order"], "value_tiles");
  EXPECT_EQ(codecs[2]["form"]["first_level"], -128);
  EXPECT_EQ(codecs[2]["form"]["rotated"], false);

  const std::string table = Ctl({"inspect", "mixed"}).out;
  EXPECT_THAT(table,
              testing::ContainsRegex("keys +turboquant_mse@[0-9]+:bits=2[^ ]* +3 +scalar +key_tiles +2 +-.* ufloat16 at byte "
                                     "1024 +centred, rotated +1,344 bytes"));
  EXPECT_THAT(table, testing::ContainsRegex("keys +f16@1 +1 +raw +rows +16 +- +- +as they are +8,192 bytes"));
  EXPECT_THAT(table, testing::ContainsRegex("values +int8@1 +4 +scalar +value_tiles +8 +-"));
}

TEST_F(KvantctlTest, AStoreWhoseNameMovedOnIsListedByItsIdentity) {
  const std::string old = CtlJson({"stores"})["stores"][0]["identity"];
  StoreSpec spec = Spec("test/store");
  spec.model = "another-model";
  const auto opened = client_->OpenStore(spec);
  ASSERT_TRUE(opened) << opened.error().message;
  const Json stores = CtlJson({"stores"})["stores"];
  ASSERT_EQ(stores.size(), 2U);
  for (const Json& store : stores) EXPECT_EQ(store["name"], store["identity"] == old ? old : "test/store");
  EXPECT_EQ(CtlJson({"inspect", "test/store"})["store"]["model"], "another-model");
}

TEST_F(KvantctlTest, EvictTakesOnlyWhatNobodyHoldsAndOnlyWhenAsked) {
  EXPECT_EQ(Ctl({"evict"}).exit_code, 2);
  EXPECT_EQ(Ctl({"evict", "--store", ""}).exit_code, 2);
  EXPECT_EQ(Ctl({"evict", "--all", "--max-blocks", "-1"}).exit_code, 2);
  EXPECT_EQ(CtlJson({"evict", "--all"})["blocks"], 0);  // everything is leased
  const std::uint64_t blocks = CtlJson({"stores"})["stores"][0]["figures"]["blocks"];
  sequence_.reset();
  EXPECT_EQ(CtlJson({"evict", "--store", "test/store", "--dry-run"})["blocks"], blocks);
  EXPECT_EQ(CtlJson({"stores"})["stores"][0]["figures"]["blocks"], blocks);
  const Json one = CtlJson({"evict", "--store", "test/store", "--max-blocks", "1"});
  EXPECT_EQ(one["blocks"], 1);
  EXPECT_GT(one["bytes"], 0);
  EXPECT_EQ(CtlJson({"stores"})["stores"][0]["figures"]["blocks"], blocks - 1);
  EXPECT_EQ(CtlJson({"evict", "--all"})["blocks"], blocks - 1);
  EXPECT_EQ(CtlJson({"stats"})["figures"]["evicted_blocks"], blocks);
}

TEST_F(KvantctlTest, EvictFindsBlocksByAgeSizeAndChain) {
  constexpr std::uint64_t blocks = kBlocks;
  sequence_.reset();
  std::vector<TokenId> tokens(100);
  std::iota(tokens.begin(), tokens.end(), TokenId{0});
  sequence_.emplace(store_->Open(tokens, {}).value());  // holds all that is sealed
  const std::string id = std::to_string(sequence_->id());
  const Json detail = CtlJson({"inspect", id})["sequence"];
  ASSERT_EQ(detail["blocks"].size(), blocks);
  const std::string second = detail["blocks"][1]["chain"];
  EXPECT_EQ(CtlJson({"evict", "--sequence", id, "--dry-run"})["held"], blocks);
  sequence_.reset();
  EXPECT_EQ(CtlJson({"evict", "--all", "--idle", "1h"})["blocks"], 0);
  EXPECT_EQ(CtlJson({"evict", "--store", "test/store", "--chain", second, "--dry-run"})["blocks"], blocks - 1);
  EXPECT_EQ(CtlJson({"evict", "--all", "--max-bytes", "1", "--dry-run"})["blocks"], 1);
  EXPECT_EQ(Ctl({"evict", "--all", "--idle", "5"}).exit_code, 2);
  EXPECT_EQ(Ctl({"evict", "--all", "--max-bytes", "5MB"}).exit_code, 2);
  EXPECT_EQ(Ctl({"evict", "--tenant", "nobody"}).exit_code, 4);
  EXPECT_EQ(CtlJson({"evict", "--store", "test/store", "--chain", second})["blocks"], blocks - 1);
  EXPECT_EQ(CtlJson({"stores"})["stores"][0]["figures"]["blocks"], 1);
}

TEST_F(KvantctlTest, PinsKeepBlocksUntilTheyAreTakenOff) {
  const std::uint64_t blocks = CtlJson({"stores"})["stores"][0]["figures"]["blocks"];
  sequence_.reset();
  EXPECT_EQ(Ctl({"pin"}).exit_code, 2);
  EXPECT_EQ(Ctl({"pin", "--store", "test/store", "--for", "5"}).exit_code, 2);
  EXPECT_EQ(Ctl({"pin", "--store", "no-such-store"}).exit_code, 4);
  const Json pin = CtlJson({"pin", "--store", "test/store", "--for", "30m"});
  EXPECT_EQ(pin["blocks"], blocks);
  EXPECT_EQ(CtlJson({"pin", "--list"})["pins"].size(), 1U);
  EXPECT_THAT(Ctl({"pin", "--list"}).out, testing::HasSubstr("test/store"));
  EXPECT_EQ(CtlJson({"evict", "--all"})["blocks"], 0);
  EXPECT_EQ(CtlJson({"stats"})["figures"]["pinned_blocks"], blocks);
  const std::string number = std::to_string(pin["id"].get<std::uint64_t>());
  EXPECT_EQ(Ctl({"unpin", number}).exit_code, 0);
  EXPECT_EQ(Ctl({"unpin", number}).exit_code, 4);
  EXPECT_EQ(CtlJson({"evict", "--all"})["blocks"], blocks);
}

TEST_F(KvantctlTest, QuotasAreSetShownAndKept) {
  const Json before = CtlJson({"quota", "list"})["quotas"];
  ASSERT_EQ(before.size(), 2U);  // the tenant and its store
  const std::string tenant = before[0]["tenant"];
  EXPECT_EQ(before[0]["limit_bytes"], nullptr);
  EXPECT_EQ(Ctl({"quota"}).exit_code, 2);
  EXPECT_EQ(Ctl({"quota", "set"}).exit_code, 2);
  EXPECT_EQ(Ctl({"quota", "set", "--store", "no-such-store", "--bytes", "1MiB"}).exit_code, 4);
  EXPECT_EQ(CtlJson({"quota", "set", "--tenant", tenant, "--bytes", "256MiB"})["quotas"][0]["limit_bytes"], 256 << 20);
  EXPECT_EQ(CtlJson({"quota", "set", "--store", "test/store", "--ttl", "1h"})["quotas"][0]["ttl_ms"], 3600 * 1000);
  EXPECT_EQ(CtlJson({"quota", "get", "--store", "test/store"})["quotas"][0]["limit_bytes"], nullptr);
  EXPECT_EQ(CtlJson({"quota", "get", "--tenant", tenant})["quotas"][0]["limit_bytes"], 256 << 20);
  EXPECT_EQ(CtlJson({"quota", "set", "--tenant", tenant, "--bytes", "none"})["quotas"][0]["limit_bytes"], nullptr);
  EXPECT_EQ(Ctl({"quota", "get", "--tenant", "nobody"}).exit_code, 4);
}

TEST_F(KvantctlTest, DropEndsAStoreUnlessSequencesOfItAreOpen) {
  EXPECT_EQ(Ctl({"drop"}).exit_code, 2);
  EXPECT_EQ(Ctl({"drop", "no-such-store"}).exit_code, 4);
  const Finished refused = Ctl({"drop", "test/store"});
  EXPECT_EQ(refused.exit_code, 8);
  EXPECT_THAT(refused.err, testing::HasSubstr("test/store: 1 sequences of it are open"));
  const Json figures = CtlJson({"stores"})["stores"][0]["figures"];
  ASSERT_GE(figures["blocks"], 4U);
  sequence_.reset();

  const Json dropped = CtlJson({"drop", "test/store"});
  EXPECT_EQ(dropped["store"], "test/store");
  EXPECT_EQ(dropped["blocks"], figures["blocks"]);
  EXPECT_GE(dropped["bytes"], figures["compressed_bytes"]);
  EXPECT_TRUE(CtlJson({"stores"})["stores"].empty());
  const Json now = CtlJson({"stats"})["figures"];
  EXPECT_EQ(now["resident_bytes"], 0);
  EXPECT_EQ(now["sealed_blocks"], figures["blocks"]);  // counters outlive what they counted
  EXPECT_EQ(Ctl({"drop", "test/store"}).exit_code, 4);

  const auto stale = store_->Open({}, {});
  ASSERT_FALSE(stale);
  EXPECT_EQ(stale.error().code, ErrorCode::kNotFound);
  EXPECT_THAT(stale.error().message, testing::HasSubstr("was dropped"));
  const auto again = client_->OpenStore(Spec("test/store"));
  ASSERT_TRUE(again) << again.error().message;
  EXPECT_TRUE(again->info().created);
  EXPECT_EQ(Ctl({"drop", CtlJson({"stores"})["stores"][0]["identity"].get<std::string>()}).exit_code, 0);
}

TEST_F(KvantctlTest, WhatIsNotThereHasItsOwnExitCode) {
  EXPECT_EQ(Ctl({"inspect", "999999999"}).exit_code, 4);                             // another daemon's
  EXPECT_EQ(Ctl({"inspect", std::to_string(sequence_->id() + 1000)}).exit_code, 4);  // this daemon's, but never given
  EXPECT_EQ(Ctl({"inspect", "no-such-store"}).exit_code, 4);
  EXPECT_EQ(Ctl({"evict", "--store", "no-such-store"}).exit_code, 4);
}

TEST_F(KvantctlTest, NamesThatClientsChooseCannotForgeALineOrDriveTheTerminal) {
  const std::string evil = "a\nb\x1b[2J\u009b31m\u202edcba\u2066";
  SequenceOptions options;
  options.recent_tokens = 16;
  options.label = evil;
  const auto sequence = store_->Open({}, options);
  ASSERT_TRUE(sequence) << sequence.error().message;
  const auto ascii = [](const std::string& text) {
    return std::all_of(text.begin(), text.end(), [](char c) { return c == '\n' || (c >= 0x20 && c < 0x7F); });
  };
  for (const Finished& finished : {Ctl({"sequences"}), Ctl({"inspect", std::to_string(sequence->id())})}) {
    EXPECT_EQ(finished.exit_code, 0);
    EXPECT_THAT(finished.out, testing::HasSubstr(R"(a\nb\x1b[2J\u009b31m\u202edcba\u2066)"));
    EXPECT_TRUE(ascii(finished.out)) << finished.out;
  }
  const Finished json = Ctl({"sequences", "-o", "json"});
  EXPECT_TRUE(ascii(json.out)) << json.out;
  std::vector<std::string> labels;  // in no order: ids are random
  const Json listed = Json::parse(json.out);
  for (const Json& row : listed["sequences"]) labels.push_back(row["label"]);
  EXPECT_THAT(labels, testing::Contains(evil));
  const Finished absent = Ctl({"evict", "--store", "\x1b[2J"});  // the daemon's error has the name in it
  EXPECT_EQ(absent.exit_code, 4);
  EXPECT_TRUE(ascii(absent.err)) << absent.err;
}

TEST_F(KvantctlTest, OutputThatDoesNotArriveIsAFailure) {
  for (const std::vector<std::string>& arguments :
       {std::vector<std::string>{"stats"}, {"codecs"}, {"stores", "-o", "json"}, {"--help"}, {"--version"}}) {
    const Finished finished = RunProgram(std::string(KVANT_PROGRAM_DIR) + "/kvantctl",
                                         Concat(arguments, {"--socket", daemon_->socket()}), "/dev/full");
    EXPECT_EQ(finished.exit_code, 1) << arguments[0];
    EXPECT_THAT(finished.err, testing::HasSubstr("cannot write to standard output")) << arguments[0];
  }
}

TEST_F(KvantctlTest, AStoppedDaemonTimesOut) {
  ASSERT_EQ(kill(daemon_->pid(), SIGSTOP), 0);
  const Finished finished = Ctl({"stats", "--timeout", "0.3", "-o", "json"});
  ASSERT_EQ(kill(daemon_->pid(), SIGCONT), 0);
  EXPECT_EQ(finished.exit_code, 6);
  const Json error = Json::parse(finished.err, nullptr, false);
  EXPECT_EQ(error["error"]["code"], "deadline_exceeded");
  EXPECT_EQ(error["error"]["exit_code"], 6);
}

TEST(KvantctlCommandLineTest, NoDaemonHasItsOwnExitCodeAndNamesTheSocket) {
  const Finished finished = Kvantctl({"ping", "--socket", "/nonexistent/kvantd.sock"});
  EXPECT_EQ(finished.exit_code, 3);
  EXPECT_THAT(finished.err, testing::HasSubstr("/nonexistent/kvantd.sock"));
  EXPECT_TRUE(finished.out.empty());
}

TEST(KvantctlCommandLineTest, WrongUsageIsTwoAndHelpIsZero) {
  EXPECT_EQ(Kvantctl({}).exit_code, 2);
  EXPECT_EQ(Kvantctl({"no-such-command"}).exit_code, 2);
  // A daemon that nobody could reach must not come up: a script's variable was not set.
  const Finished nowhere = RunProgram("/usr/bin/timeout", {"10", std::string(KVANT_PROGRAM_DIR) + "/kvantd", "--socket", ""});
  EXPECT_EQ(nowhere.exit_code, 2);
  EXPECT_THAT(nowhere.err, testing::HasSubstr("--socket"));
  EXPECT_EQ(Kvantctl({"stats", "-o", "xml"}).exit_code, 2);
  for (const char* timeout : {"-1", "nan", "-nan", "inf", "1e400", "1s"}) {
    EXPECT_EQ(Kvantctl({"ping", "--timeout", timeout}).exit_code, 2) << timeout;
  }
  EXPECT_EQ(Kvantctl({"ping", "--count", "-1"}).exit_code, 2);
  EXPECT_EQ(Kvantctl({"codecs", "--head-dim", "100"}).exit_code, 2);
  const Finished help = Kvantctl({"--help"});
  EXPECT_EQ(help.exit_code, 0);
  EXPECT_THAT(help.out, testing::HasSubstr("Exit codes: 0 ok"));
}

TEST(KvantctlCommandLineTest, CodecsMeasuresWhatACommonPartOfKeysCosts) {
  const Finished finished = Kvantctl({"codecs", "--head-dim", "64", "--measure", "-o", "json"});
  ASSERT_EQ(finished.exit_code, 0) << finished.err;
  const Json json = Json::parse(finished.out, nullptr, false);
  std::size_t compared = 0;
  for (const Json& codec : json["codecs"]) {
    for (const Json& variant : codec["variants"]) {
      if (!variant["keys"].contains("measured") || variant["keys"]["expected_error"].is_null()) continue;
      const Json& measured = variant["keys"]["measured"];
      const double declared = variant["keys"]["expected_error"], error = measured["score_error"];
      const std::string spec = variant["spec"];
      EXPECT_GT(measured["encode_ns"], 0.0) << spec;
      EXPECT_GT(measured["attend_ns"], 0.0) << spec;
      if (declared > 1e-3) {  // 4 queries and 128 keys leave some 20 %; below, rounding of queries shows
        EXPECT_NEAR(error / declared, 1.0, 0.35) << spec;
        ++compared;
      }
      if (spec == "turboquant_mse:bits=4") {
        EXPECT_LT(measured["biased_score_error"], 1.5 * error);
      }
      if (spec == "int8") {
        EXPECT_GT(measured["biased_score_error"], 100 * error);
      }
    }
  }
  EXPECT_GT(compared, 20U);
}

TEST(KvantctlCommandLineTest, CodecsGivesRealSizesWithoutADaemon) {
  const Finished finished = Kvantctl({"codecs", "-o", "json"});
  ASSERT_EQ(finished.exit_code, 0) << finished.err;
  const Json json = Json::parse(finished.out, nullptr, false);
  const auto bits_of = [&](const std::string& spec) -> double {
    for (const Json& codec : json["codecs"]) {
      for (const Json& variant : codec["variants"]) {
        if (variant["spec"] == spec) return variant["keys"]["bits_per_element"];
      }
    }
    return -1.0;
  };
  EXPECT_EQ(bits_of("f32"), 32.0);
  EXPECT_EQ(bits_of("f16"), 16.0);
  EXPECT_EQ(bits_of("turboquant_mse:bits=4"), 4.125 + 24.0 / 128);  // 4 bits and a 16-bit scale per 128 numbers
  EXPECT_EQ(bits_of("turboquant_mse:bits=2"), 2.125 + 24.0 / 128);
  EXPECT_THAT(Kvantctl({"codecs"}).out, testing::HasSubstr("turboquant_mse:bits"));
}

}  // namespace
}  // namespace kvant::tests
