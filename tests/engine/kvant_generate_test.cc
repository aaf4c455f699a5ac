// kvant-generate as users run it: a real kvantd, several processes, options, JSON, exit codes.
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "protocol/socket_address.h"
#include "tests/engine/byte_model.h"
#include "tests/engine/process.h"

namespace kvant::examples {
namespace {

using ::testing::HasSubstr;
using Json = nlohmann::json;

std::string Program(const char* name) { return std::string(KVANT_PROGRAM_DIR "/") + name; }

/// A kvantd in a folder of its own, and kvant-generate against it.
class KvantGenerateTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string folder = (std::filesystem::temp_directory_path() / "kvant_engine_XXXXXX").string();
    ASSERT_NE(mkdtemp(folder.data()), nullptr);
    folder_ = folder;
  }
  void TearDown() override {
    daemon_.reset();
    std::filesystem::remove_all(folder_);
  }

  void StartDaemon() {
    daemon_ = std::make_unique<Process>(
        std::vector<std::string>{Program("kvantd"), "--socket", Socket(), "--budget", "64MiB", "--holder", "off"}, "");
    const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(20);
    while (!protocol::ConnectUnixSocket(Socket())) {
      ASSERT_TRUE(daemon_->Running()) << daemon_->Errors();
      ASSERT_LT(std::chrono::steady_clock::now(), end);
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    }
  }

  [[nodiscard]] std::string Socket() const { return (folder_ / "kvantd.sock").string(); }
  [[nodiscard]] std::string File(const char* name, const std::string& content) const {
    const std::string path = (folder_ / name).string();
    std::ofstream(path, std::ios::binary) << content;
    return path;
  }

  [[nodiscard]] std::vector<std::string> Arguments(const std::vector<std::string>& more) const {
    std::vector<std::string> arguments = {Program("kvant-generate"), "--model", ModelFolder(), "--socket", Socket()};
    arguments.insert(arguments.end(), more.begin(), more.end());
    return arguments;
  }
  [[nodiscard]] Finished Run(const std::vector<std::string>& more, const std::string& input = {}) const {
    return RunProgram(Arguments(more), input);
  }
  [[nodiscard]] Json RunJson(std::vector<std::string> more, const std::string& input = {}) const {
    more.insert(more.end(), {"-o", "json"});
    const Finished finished = Run(more, input);
    EXPECT_EQ(finished.status, 0) << finished.errors;
    return Json::parse(finished.output, nullptr, false);
  }

  std::filesystem::path folder_;
  std::unique_ptr<Process> daemon_;
};

TEST_F(KvantGenerateTest, SeveralProcessesShareAStoreAndWriteTheExactText) {
  StartDaemon();
  const std::string prompt = ProjectText({"protocol/include/kvant/result.h"}, 1150);
  const std::string file = File("prompt.txt", prompt);
  const std::vector<std::string> common = {"--keys", "f32", "--values", "f32", "--max-tokens", "40"};
  const auto with = [&](std::vector<std::string> more) {
    more.insert(more.end(), common.begin(), common.end());
    return more;
  };
  const Json exact = RunJson(with({"--exact", "--prompt-file", file}));
  const Json first = RunJson(with({"--prompt-file", file}));
  const Json second = RunJson(with({"--placement", "local"}), prompt);  // from stdin
  const Json third = RunJson(with({"--prompt", prompt}));

  EXPECT_EQ(exact["placement"], "exact");
  EXPECT_EQ(first["placement"], "service");
  EXPECT_EQ(second["placement"], "local");
  for (const Json& json : {first, second, third}) {
    EXPECT_EQ(json["text"], exact["text"]);
    EXPECT_EQ(json["prompt_tokens"], 1150);
    EXPECT_EQ(json["generated_tokens"], 40);
    EXPECT_NEAR(json["nll_per_token"].get<double>(), exact["nll_per_token"].get<double>(), 1e-5);
    EXPECT_GT(json["ttft_ms"], 0.0);
    EXPECT_GT(json["tokens_per_second"], 0.0);
    EXPECT_EQ(json["bytes_copied"], 0);
    EXPECT_EQ(json["store"], first["store"]);
  }
  EXPECT_EQ(first["prefix_hit_tokens"], 0);
  EXPECT_EQ(second["prefix_hit_tokens"], 1024);  // (1150 + 39 - 64 recent) / 128 blocks
  EXPECT_EQ(third["prefix_hit_tokens"], 1024);

  const Finished text = Run(with({"--prompt-file", file, "-o", "text"}));
  EXPECT_EQ(text.status, 0);
  EXPECT_EQ(text.output, exact["text"].get<std::string>() + "\n");
  EXPECT_THAT(text.errors, HasSubstr("1024 of them from shared blocks"));
}

TEST_F(KvantGenerateTest, AForkContinuesAnotherProcessesLiveSequence) {
  StartDaemon();
  const std::string prompt = ProjectText({"protocol/include/kvant/result.h"}, 600);
  const std::vector<std::string> plan = {"--keys", "f32", "--values", "f32", "--max-tokens", "20", "-o", "json"};
  std::vector<std::string> hold = {"--prompt", prompt, "--hold-on-stdin", "--seq-label", "source"};
  hold.insert(hold.end(), plan.begin(), plan.end());
  Process source(Arguments(hold), "");
  ASSERT_TRUE(source.WaitForOutput("\n}\n", std::chrono::seconds(60))) << source.Errors();
  const auto id = Json::parse(source.Output())["sequence_id"].get<std::uint64_t>();

  const Json fork = RunJson({"--fork-from", std::to_string(id), "--fork-at", "450", "--prompt", "// And now", "--keys", "f32",
                             "--values", "f32", "--max-tokens", "20"});
  EXPECT_EQ(fork["forked_tokens"], 450);
  EXPECT_EQ(fork["prompt_tokens"], 10);
  const Json whole = RunJson({"--exact", "--prompt", prompt.substr(0, 450) + "// And now", "--max-tokens", "20"});
  EXPECT_EQ(fork["text"], whole["text"]);
  EXPECT_TRUE(source.Running());
  source.CloseInput();
  EXPECT_EQ(source.Wait(), 0);

  const Finished gone = Run({"--fork-from", std::to_string(id), "--prompt", "x", "--keys", "f32", "--values", "f32"});
  EXPECT_EQ(gone.status, 4) << gone.errors;
}

TEST_F(KvantGenerateTest, ScoresATextAndHonoursSkip) {
  const std::string file = File("text.txt", ProjectText({"LICENSE"}, 1024));
  const Json exact = RunJson({"--exact", "--score", file});
  EXPECT_NEAR(exact["nll_per_token"].get<double>(), 0.652445700, 2e-6);
  EXPECT_EQ(exact["scored_tokens"], 1023);
  StartDaemon();
  const Json kvant = RunJson({"--keys", "f32", "--values", "f32", "--score", file, "--score-skip", "512"});
  EXPECT_NEAR(kvant["nll_per_token"].get<double>(), 0.810402844, 1e-5);
  EXPECT_EQ(kvant["scored_tokens"], 512);
  for (const char* field : {"text", "prompt_tokens", "prefix_hit_tokens", "generated_tokens", "ttft_ms", "tokens_per_second"}) {
    EXPECT_TRUE(kvant.contains(field)) << field;
  }
}

TEST_F(KvantGenerateTest, CalibratesAndComparesInsideOneProcess) {
  const std::string text = File("text.txt", ProjectText({"LICENSE"}, 1024));
  const std::string means = (folder_ / "means.safetensors").string();
  const std::vector<std::string> model = {Program("kvant-generate"), "--model", ModelFolder(), "-o", "json"};
  const auto run = [&](std::vector<std::string> more) {
    more.insert(more.begin(), model.begin(), model.end());
    const Finished finished = RunProgram(more);
    EXPECT_EQ(finished.status, 0) << finished.errors;
    return Json::parse(finished.output, nullptr, false);
  };
  EXPECT_EQ(run({"--calibrate", text, "--artifact-out", means, "--window", "512"})["tokens"], 1024);
  const std::string codec = "turboquant_mse:bits=4,center=1";
  const Json compared = run({"--compare-exact", text, "--window", "1024", "--max-step", "64", "--block-tokens", "64",
                             "--socket", "embedded:", "--artifact", means, "--keys", codec, "--values", codec});
  EXPECT_EQ(compared["compared_tokens"], 768);  // the last three quarters
  EXPECT_GT(compared["kl_per_token"], 0.0);
  EXPECT_LT(compared["kl_per_token"], 0.01);
  EXPECT_EQ(compared["windows"], 1);
}

TEST_F(KvantGenerateTest, FailuresHaveDocumentedExitCodesAndNameTheirObject) {
  const Finished nobody = Run({"--prompt", "x"});
  EXPECT_EQ(nobody.status, 3);
  EXPECT_THAT(nobody.errors, HasSubstr(Socket()));
  EXPECT_EQ(nobody.output, "");

  EXPECT_EQ(RunProgram({Program("kvant-generate"), "--prompt", "x"}).status, 2);  // no --model
  EXPECT_EQ(Run({"--exact", "--fork-from", "1", "--prompt", "x"}).status, 2);
  EXPECT_EQ(Run({"--placement", "moon", "--prompt", "x"}).status, 2);
  EXPECT_EQ(RunProgram({Program("kvant-generate"), "--help"}).status, 0);
  for (const char* size : {"512MB", "512m", "-1", "1e9", "99999999999TiB"}) {
    const Finished refused = Run({"--embedded-budget", size, "--prompt", "x"});
    EXPECT_EQ(refused.status, 2) << size;
    EXPECT_THAT(refused.errors, HasSubstr("embedded-budget")) << size;
  }
  for (const char* option : {"--max-tokens", "--seed", "--fork-from", "--block-tokens", "--sinks", "--recent", "--skip",
                             "--window", "--windows", "--max-step", "--threads"}) {
    for (const char* number : {"-1", "", "1.5", "99999999999999999999999"}) {
      const Finished refused = Run({option, number, "--prompt", "x"});
      EXPECT_EQ(refused.status, 2) << option << " " << number;
      EXPECT_THAT(refused.errors, HasSubstr(option + 2)) << option << " " << number;
    }
  }

  const Finished absent = RunProgram({Program("kvant-generate"), "--model", "/nonexistent", "--exact", "--prompt", "x"});
  EXPECT_EQ(absent.status, 4);
  EXPECT_THAT(absent.errors, HasSubstr("/nonexistent/config.json"));

  StartDaemon();
  const Finished codec = Run({"--keys", "nocodec", "--prompt", "x"});
  EXPECT_EQ(codec.status, 1);
  EXPECT_THAT(codec.errors, HasSubstr("nocodec"));
  EXPECT_EQ(Run({"--fork-from", "12345", "--prompt", "x"}).status, 4);
}

TEST_F(KvantGenerateTest, NumbersThatAreNoneAreRefused) {
  for (const char* option : {"--temperature", "--top-p", "--hold"}) {
    for (const char* number : {"nan", "inf", "-1", "", "1e23"}) {
      EXPECT_EQ(Run({option, number, "--exact", "--prompt", "x"}).status, 2) << option << " " << number;
    }
  }
}

TEST_F(KvantGenerateTest, HelpIsText) {
  for (const char* program : {"kvant-generate", "kvantd"}) {
    const Finished help = RunProgram({Program(program), "--help"});
    EXPECT_EQ(help.status, 0);
    EXPECT_THAT(help.output, HasSubstr("--socket"));
    for (const char c : help.output) ASSERT_TRUE(c == '\n' || (c >= ' ' && c <= '~')) << program << ": " << help.output;
  }
  const Finished help = RunProgram({Program("kvant-generate"), "--help"});
  EXPECT_THAT(help.output, HasSubstr("--placement PLACE:{local,service}"));
  for (const char* option : {"--placement", "--tail-type", "-o"}) {
    EXPECT_EQ(Run({option, "1", "--exact", "--prompt", "x"}).status, 2) << option << ": values have names";
  }
}

TEST_F(KvantGenerateTest, OutputThatDoesNotArriveIsAFailure) {
  const std::string program = Program("kvant-generate");
  const std::string generate = program + " --model " + ModelFolder() + " --exact --prompt x --max-tokens 2";
  for (const std::string& command : {program + " --help", generate, generate + " -o json"}) {
    const Finished finished = RunProgram({"/bin/sh", "-c", command + " >/dev/full"});
    EXPECT_EQ(finished.status, 1) << command;
    EXPECT_THAT(finished.errors, HasSubstr("cannot write to standard output")) << command;
  }
}

TEST_F(KvantGenerateTest, BytesThatAreNotUtf8DoNotBreakTheJson) {
  StartDaemon();
  const Json json = RunJson({"--max-tokens", "30", "--temperature", "50", "--seed", "3"}, "\xff\xfe bytes \xc3");
  EXPECT_EQ(json["prompt_tokens"], 10);
  EXPECT_TRUE(json["text"].is_string());
  EXPECT_EQ(json["text"], RunJson({"--max-tokens", "30", "--temperature", "50", "--seed", "3"}, "\xff\xfe bytes \xc3")["text"]);
}

TEST_F(KvantGenerateTest, TheNextDaysDaemonFindsYesterdaysPromptInTheFolder) {
  const auto text = [](std::size_t size) {
    return ProjectText({"protocol/include/kvant/result.h", "client/include/kvant/client.h"}, size);
  };
  const std::string prompt = File("prompt", text(1150)), longer = File("longer", text(1700));
  const std::string other = File("other", ProjectText({"client/include/kvant/client.h"}, 1700));
  const std::string cache = (folder_ / "prompts").string();
  const std::vector<std::string> common = {"--keys", "f32", "--values", "f32", "--max-tokens", "24", "--cache-dir", cache};
  const auto run = [&](const std::string& file, std::vector<std::string> more = {}) {
    daemon_.reset();
    StartDaemon();  // every day another one
    more.insert(more.end(), common.begin(), common.end());
    more.insert(more.end(), {"--prompt-file", file});
    return RunJson(more);
  };
  const auto files = [&] {
    std::vector<std::filesystem::path> found;
    for (const auto& entry : std::filesystem::recursive_directory_iterator(cache)) {
      if (entry.is_regular_file()) found.push_back(entry.path());
    }
    return found;
  };
  const Json first = run(prompt);
  EXPECT_EQ(first["cached_tokens"], 0);
  ASSERT_EQ(files().size(), 1u);
  const Json second = run(prompt);
  EXPECT_EQ(second["cached_tokens"], 1024);  // (1150 + 23 - 64 recent) / 128 blocks
  EXPECT_EQ(second["prefix_hit_tokens"], 1024);
  EXPECT_EQ(second["text"], first["text"]);
  EXPECT_EQ(files().size(), 1u);

  // A prompt that goes on takes the place of its beginning.
  const Json third = run(longer);
  EXPECT_EQ(third["cached_tokens"], 1024);
  ASSERT_EQ(files().size(), 1u);
  const Json fourth = run(longer);
  EXPECT_EQ(fourth["cached_tokens"], 1536);
  EXPECT_EQ(fourth["text"], third["text"]);
  EXPECT_EQ(run(prompt)["cached_tokens"], 1024) << "the beginning of a longer one";
  EXPECT_EQ(files().size(), 1u);

  // A damaged file is put aside, and the prompt computed.
  const std::uintmax_t size = std::filesystem::file_size(files().front());
  {
    std::fstream bytes(files().front(), std::ios::in | std::ios::out | std::ios::binary);
    bytes.seekp(static_cast<std::streamoff>(size / 2));
    bytes.write("damage", 6);
  }
  const Json fifth = run(longer);
  EXPECT_EQ(fifth["cached_tokens"], 0);
  EXPECT_EQ(fifth["text"], third["text"]);
  const auto damaged = [](const std::filesystem::path& file) { return file.extension() == ".damaged"; };
  ASSERT_EQ(files().size(), 2u);
  EXPECT_EQ(std::ranges::count_if(files(), damaged), 1);

  // The budget holds, whatever has to go; what can never fit is said, and the text is written all the same.
  (void)run(other, {"--cache-budget", std::to_string(2 * size + size / 2)});
  ASSERT_EQ(files().size(), 2u);
  EXPECT_EQ(std::ranges::count_if(files(), damaged), 0) << "those go first";
  EXPECT_EQ(run(longer, {"--cache-budget", std::to_string(size + size / 2)})["cached_tokens"], 1536);
  (void)run(prompt);
  (void)run(File("third", ProjectText({"client/include/kvant/admin.h"}, 1700)),
            {"--cache-budget", std::to_string(2 * size + size / 2)});
  ASSERT_EQ(files().size(), 2u);
  EXPECT_EQ(run(longer)["cached_tokens"], 1536) << "used last";
  EXPECT_EQ(run(other, {"--cache-budget", "10KiB"})["cached_tokens"], 0) << "used longest ago";
  const Finished small =
      Run({"--prompt-file", prompt, "--max-tokens", "1", "--cache-dir", cache + "-2", "--cache-budget", "10KiB"});
  EXPECT_EQ(small.status, 0);
  EXPECT_THAT(small.errors, HasSubstr("does not fit into its budget of 10240"));
  EXPECT_EQ(Run({"--prompt", "x", "--exact", "--cache-dir", cache}).status, 2);
}

}  // namespace
}  // namespace kvant::examples
