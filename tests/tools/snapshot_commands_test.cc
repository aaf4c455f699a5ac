// kvantctl snapshot and drain as they are typed: what they print, in tables and as JSON, and how they end.
#include <sys/resource.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <optional>
#include <sstream>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <kvant/client.h>

#include "tests/tools/processes.h"

namespace kvant::tests {
namespace {

using Json = nlohmann::json;
using ::testing::HasSubstr;

/// Standard output as one object a line.
std::vector<Json> Events(const Finished& finished) {
  std::vector<Json> events;
  std::istringstream lines(finished.out);
  for (std::string line; std::getline(lines, line);) events.push_back(Json::parse(line, nullptr, false));
  return events;
}

class SnapshotCommandsTest : public testing::Test {
 protected:
  void SetUp() override {
    std::string folder = (std::filesystem::temp_directory_path() / "kvant-commands-XXXXXX").string();
    ASSERT_NE(::mkdtemp(folder.data()), nullptr);
    folder_ = folder;
    daemon_.emplace(std::vector<std::string>{"--budget", "64MiB"});
    ASSERT_FALSE(daemon_->socket().empty()) << "kvantd did not come up";
    client_.emplace(Client::Connect(daemon_->socket(), {.arena_bytes = std::size_t{32} << 20}).value());
    Fill("first", 100);
    Fill("second", 40);
  }
  void TearDown() override {
    client_.reset();
    daemon_.reset();
    std::filesystem::remove_all(folder_);
  }

  /// Opens a store of that name, with a sequence of so many tokens; blocks of 16, the newest 16 stay raw.
  void Fill(const std::string& name, std::size_t tokens) {
    StoreSpec spec;
    spec.name = spec.model = spec.tokenizer = name;
    spec.layers = 1;
    spec.kv_heads = 1;
    spec.head_dim = 64;
    spec.block_tokens = 16;
    spec.sink_tokens = 0;
    spec.plan.keys = spec.plan.values = "f16";
    Store store = client_->OpenStore(spec).value();
    Sequence sequence = store.Open({}, {.recent_tokens = 16, .max_step_tokens = 4}).value();
    const std::vector<float> row(64, 0.5f);
    for (std::size_t i = 0; i < tokens; ++i) {
      const ConstTensorView view{row.data(), ElementType::kF32, 1, 1, 64, 64, 64};
      ASSERT_TRUE(sequence.Reserve(1));
      ASSERT_TRUE(sequence.Append(0, view, view));
      const auto token = static_cast<TokenId>(i);
      ASSERT_TRUE(sequence.Advance({&token, 1}));
    }
  }
  [[nodiscard]] Finished Run(std::vector<std::string> words) const {
    words.insert(words.begin(), {"--socket", daemon_->socket()});
    return RunProgram(std::string(KVANT_PROGRAM_DIR) + "/kvantctl", words);
  }
  [[nodiscard]] std::string File(const char* name = "saved.safetensors") const { return folder_ / name; }

  std::filesystem::path folder_;
  std::optional<RunningDaemon> daemon_;
  std::optional<Client> client_;
};

TEST_F(SnapshotCommandsTest, SaveLookAndRestore) {
  const Finished saved = Run({"snapshot", "save", File()});
  EXPECT_EQ(saved.exit_code, 0) << saved.err;
  EXPECT_THAT(saved.out, HasSubstr("saved 6 blocks of 2 stores, "));
  EXPECT_EQ(saved.err, "") << "a bar belongs on a terminal";

  const Finished info = Run({"snapshot", "info", File()});
  EXPECT_EQ(info.exit_code, 0) << info.err;
  EXPECT_THAT(info.out, HasSubstr("first"));
  EXPECT_THAT(info.out, HasSubstr("second"));
  const auto json = Events(Run({"snapshot", "info", File(), "-o", "json"}));
  ASSERT_FALSE(json.empty());

  const Finished list = Run({"snapshot", "list", folder_});
  EXPECT_EQ(list.exit_code, 0) << list.err;
  EXPECT_THAT(list.out, HasSubstr("saved.safetensors"));
  EXPECT_EQ(Run({"snapshot", "verify", File()}).exit_code, 0);

  const auto restored = Events(Run({"snapshot", "restore", File(), "-o", "json"}));
  ASSERT_FALSE(restored.empty());
  EXPECT_EQ(restored.back()["event"], "restored");
  EXPECT_EQ(restored.back()["present_blocks"], 6);
  EXPECT_EQ(restored.back()["restored_blocks"], 0);
}

TEST_F(SnapshotCommandsTest, OneStoreUnderAnotherNameInAnotherDaemon) {
  const auto saved = Events(Run({"snapshot", "save", File(), "--store", "first", "-o", "json"}));
  ASSERT_FALSE(saved.empty());
  EXPECT_EQ(saved.back()["event"], "saved");
  EXPECT_EQ(saved.back()["blocks"], 5);
  EXPECT_EQ(saved.back()["file"], File());
  EXPECT_EQ(saved.back()["bytes"], std::filesystem::file_size(File()));
  client_.reset();
  daemon_.emplace(std::vector<std::string>{"--budget", "64MiB"});
  const Finished restored = Run({"snapshot", "restore", File(), "--as", "yesterday"});
  EXPECT_EQ(restored.exit_code, 0) << restored.err;
  EXPECT_EQ(restored.out, "restored 5 blocks of 1 stores; 0 were there already\n");
  EXPECT_THAT(Run({"stores"}).out, HasSubstr("yesterday"));
  EXPECT_EQ(Run({"snapshot", "save", File("both"), "--store", "none"}).exit_code, 4);
}

TEST_F(SnapshotCommandsTest, WhatIsWrongWithAFileIsNamedAndHasAnExitCode) {
  ASSERT_EQ(Run({"snapshot", "save", File()}).exit_code, 0);
  EXPECT_EQ(Run({"snapshot", "restore", File(), "--as", "one"}).exit_code, 1) << "two stores cannot have one name";
  std::fstream bytes(File(), std::ios::in | std::ios::out | std::ios::binary);
  bytes.seekp(static_cast<std::streamoff>(std::filesystem::file_size(File()) / 2));
  bytes.write("damage", 6);
  bytes.close();
  const Finished verified = Run({"snapshot", "verify", File()});
  EXPECT_EQ(verified.exit_code, 1);
  EXPECT_THAT(verified.out + verified.err, HasSubstr("codes"));
  const Finished nothing = Run({"snapshot", "info", File("none")});
  EXPECT_EQ(nothing.exit_code, 4);
  EXPECT_THAT(nothing.err, HasSubstr(File("none")));
  EXPECT_EQ(Run({"snapshot", "save", File(), "--bogus"}).exit_code, 2);
}

TEST_F(SnapshotCommandsTest, DrainWaitsForTheEnd) {
  const Finished drained = Run({"drain", "-o", "json"});
  EXPECT_EQ(drained.exit_code, 0) << drained.err;
  EXPECT_EQ(Json::parse(drained.out, nullptr, false)["ended"], true);
  EXPECT_EQ(Run({"ping"}).exit_code, 3);
  EXPECT_EQ(Run({"drain"}).exit_code, 3);
}

TEST_F(SnapshotCommandsTest, DrainSaysWhetherTheBlocksAreSaved) {
  const std::string folder = File("state");
  std::filesystem::create_directory(folder);
  const std::string file = folder + "/state.safetensors";
  const auto start = [&] { daemon_.emplace(std::vector<std::string>{"--budget", "64MiB", "--state-dir", folder}); };
  start();
  const Finished saved = Run({"drain"});
  EXPECT_EQ(saved.exit_code, 0) << saved.err;
  EXPECT_THAT(saved.out, HasSubstr(" has ended, its blocks are in " + file + "\n"));
  EXPECT_EQ(saved.err, "");
  const auto bytes = std::filesystem::file_size(file);

  for (const bool json : {false, true}) {
    start();
    const rlimit limit{.rlim_cur = bytes / 2, .rlim_max = bytes / 2};
    ASSERT_EQ(::prlimit(daemon_->pid(), RLIMIT_FSIZE, &limit, nullptr), 0);
    const Finished failed = json ? Run({"drain", "-o", "json"}) : Run({"drain"});
    EXPECT_EQ(failed.exit_code, 9) << failed.out;
    EXPECT_THAT(failed.err, HasSubstr("the daemon has ended, but could not save its blocks to " + file + ": "));
    EXPECT_THAT(failed.err, HasSubstr("File too large"));
    if (json) {
      EXPECT_EQ(Json::parse(failed.out, nullptr, false)["saved"], false);
    }
    EXPECT_EQ(Run({"ping"}).exit_code, 3) << "it has ended all the same";
    EXPECT_EQ(std::filesystem::file_size(file), bytes);
  }
}

}  // namespace
}  // namespace kvant::tests
