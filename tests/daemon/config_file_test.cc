// kvantd's configuration file against a program with a few flags.
#include "daemon/program/config_file.h"

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <CLI/CLI.hpp>

namespace kvant::daemon {
namespace {

using ::testing::HasSubstr;
using ::testing::StartsWith;

class ConfigFileTest : public ::testing::Test {
 protected:
  ConfigFileTest() {
    app_.add_option("--config", config_)->configurable(false);
    app_.add_option("--budget", budget_);
    app_.add_option("--workers", workers_)->check(CLI::Range(0, 1024));
    app_.add_option("--share", share_);
    app_.add_option("--log-level", log_level_)->check(CLI::IsMember({"info", "warn"}));
    app_.add_option("--peer", peers_);
    app_.add_flag("--quiet", quiet_);
    std::string pattern = (std::filesystem::temp_directory_path() / "kvant-config-XXXXXX").string();
    if (::mkdtemp(pattern.data()) != nullptr) folder_ = pattern;
  }
  ~ConfigFileTest() override { std::filesystem::remove_all(folder_); }

  Result<void> Apply(const std::string& content, std::vector<std::string> arguments = {}) {
    std::ofstream(path(), std::ios::binary) << content;
    std::ranges::reverse(arguments);  // as CLI11 wants them
    app_.parse(arguments);
    return ApplyConfigFile(app_, path());
  }
  [[nodiscard]] std::string path() const { return (folder_ / "kvantd.toml").string(); }
  /// The error of a file, without its name.
  std::string ErrorOf(const std::string& content) {
    const auto applied = Apply(content);
    if (applied) return "no error";
    EXPECT_EQ(applied.error().code, ErrorCode::kInvalidArgument);
    EXPECT_THAT(applied.error().message, StartsWith(path() + ":"));
    return applied.error().message.substr(path().size() + 1);
  }

  CLI::App app_;
  std::filesystem::path folder_;
  std::string config_, budget_ = "512MiB", log_level_ = "info";
  int workers_ = 0;
  double share_ = 0;
  std::vector<std::string> peers_;
  bool quiet_ = false;
};

TEST_F(ConfigFileTest, ItsValuesAreThoseOfFlags) {
  const auto applied = Apply("# all\nbudget = \"8GiB\"\nworkers = 3\nshare = 0.25\npeer = ['a', \"b\"]\nquiet = true\n");
  ASSERT_TRUE(applied) << applied.error().message;
  EXPECT_EQ(budget_, "8GiB");
  EXPECT_EQ(workers_, 3);
  EXPECT_EQ(share_, 0.25);
  EXPECT_EQ(peers_, (std::vector<std::string>{"a", "b"}));
  EXPECT_TRUE(quiet_);
  EXPECT_EQ(log_level_, "info") << "what nobody sets keeps its default";
}

TEST_F(ConfigFileTest, FlagsGoBeforeTheFile) {
  ASSERT_TRUE(Apply("budget = \"8GiB\"\nworkers = 3\n", {"--budget", "1GiB"}));
  EXPECT_EQ(budget_, "1GiB");
  EXPECT_EQ(workers_, 3);
}

TEST_F(ConfigFileTest, AnUnknownKeyIsAnErrorThatNamesTheOneThatIsMeant) {
  EXPECT_EQ(ErrorOf("workers = 1\nbugdet = \"1GiB\"\n"), "2: unknown key bugdet; is budget meant?");
  EXPECT_EQ(ErrorOf("log_level = \"warn\"\n"), "1: unknown key log_level; is log-level meant?");
  EXPECT_EQ(ErrorOf("colour = 1\n"), "1: unknown key colour");
  EXPECT_EQ(ErrorOf("config = \"other\"\n"), "1: unknown key config");
  EXPECT_EQ(ErrorOf("help = true\n"), "1: unknown key help");
}

TEST_F(ConfigFileTest, AValueThatTheFlagRefusesIsAnError) {
  EXPECT_THAT(ErrorOf("\n\nworkers = 2000\n"), StartsWith("3: --workers"));
  EXPECT_THAT(ErrorOf("workers = \"many\"\n"), StartsWith("1: "));
  EXPECT_THAT(ErrorOf("log-level = \"loud\"\n"), StartsWith("1: --log-level"));
  EXPECT_THAT(ErrorOf("budget = [\"1GiB\", \"2GiB\"]\n"), StartsWith("1: "));
}

TEST_F(ConfigFileTest, WhatIsNoListOfFlagsIsAnError) {
  EXPECT_THAT(ErrorOf("budget = \n"), StartsWith("1: "));
  EXPECT_THAT(ErrorOf("budget = \"1GiB\"\nbudget = \"2GiB\"\n"), StartsWith("2: "));
  EXPECT_THAT(ErrorOf("[daemon]\nbudget = \"1GiB\"\n"), HasSubstr("daemon: a string, a number"));
  EXPECT_THAT(ErrorOf("budget = 1979-05-27\n"), HasSubstr("budget: a string, a number"));
  EXPECT_THAT(ErrorOf(std::string("budget = \"\0", 10)), StartsWith("1: "));
  EXPECT_EQ(ApplyConfigFile(app_, (folder_ / "missing").string()).error().code, ErrorCode::kNotFound);
  EXPECT_EQ(ApplyConfigFile(app_, folder_.string()).error().code, ErrorCode::kSystem) << "a directory";
  EXPECT_THAT(Apply(std::string((std::size_t{1} << 20) + 1, '#')).error().message, HasSubstr("larger than"));
}

TEST(NearestTest, FindsWhatAFewLettersMakeDifferent) {
  const std::vector<std::string> names = {"budget", "workers", "log-level", "lease"};
  EXPECT_EQ(Nearest("budgte", names), "budget");
  EXPECT_EQ(Nearest("worker", names), "workers");
  EXPECT_EQ(Nearest("loglevel", names), "log-level");
  EXPECT_EQ(Nearest("eviction", names), "");
  EXPECT_EQ(Nearest("", names), "");
  EXPECT_EQ(Nearest("budget", {}), "");
}

}  // namespace
}  // namespace kvant::daemon
