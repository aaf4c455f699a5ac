// A disk that is full, and one that cannot be written, under everything that saves: the reason is said, the old file stays,
// nothing is left behind, and the daemon goes on.
#include <sched.h>
#include <sys/mount.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <kvant/admin.h>
#include <kvant/prompt_cache.h>
#include <kvant/snapshot.h>

#include "tests/integration/sealed_reader.h"
#include "tests/support/child.h"

namespace kvant::testing {
namespace {

using ::testing::HasSubstr;

/// Holds two snapshots of one text, the old one and the new one.
constexpr const char* kDiskOptions = "size=400k";
const std::vector<TokenId> kText = RandomTokens(kTextTokens, 1);

/// A file system of its own, which no process outside this test sees.
class FullFileSystemTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (::geteuid() != 0) GTEST_SKIP() << "only root may mount";
    if (::unshare(CLONE_NEWNS) != 0 || ::mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0 ||
        ::mount("none", disk_.c_str(), "tmpfs", 0, kDiskOptions) != 0) {
      GTEST_SKIP() << "no name space may be made here";
    }
    std::filesystem::create_directory(disk_ / "state");
  }
  void TearDown() override {
    daemon_.reset();
    ::umount2(disk_.c_str(), MNT_DETACH);
    std::filesystem::remove_all(disk_);
  }

  [[nodiscard]] static std::filesystem::path NewFolder() {
    auto folder = std::filesystem::temp_directory_path() / ("kvant-full-disk-" + std::to_string(::getpid()));
    std::filesystem::create_directories(folder);
    return folder;
  }
  void Start(std::vector<std::string> arguments = {"--budget", "64MiB"}) {
    daemon_ = std::make_unique<KvantdProcess>(std::move(arguments));
  }
  /// What is left of the disk is taken by a file, or given back.
  void FillDisk() const {
    std::ofstream rest(disk_ / "rest", std::ios::binary);
    const std::vector<char> page(4096, 'x');
    while (rest.write(page.data(), 4096) && rest.flush()) continue;
  }
  void FreeDisk() const { std::filesystem::remove(disk_ / "rest"); }
  void MakeReadOnly() const { ASSERT_EQ(::mount(nullptr, disk_.c_str(), nullptr, MS_REMOUNT | MS_RDONLY, kDiskOptions), 0); }
  struct Ended {
    int code = 0;
    std::string said;  ///< both outputs
  };
  [[nodiscard]] Ended Kvantctl(const std::string& words) {
    Child child({"/bin/sh", "-c", KVANT_PROGRAM_DIR "/kvantctl --socket " + daemon_->socket() + " " + words + " 2>&1"});
    Ended ended;
    while (const auto line = child.ReadLine()) ended.said += *line + "\n";
    ended.code = child.Wait();
    return ended;
  }
  [[nodiscard]] std::vector<std::string> Files(const std::filesystem::path& folder) const {
    std::vector<std::string> names;
    for (const auto& entry : std::filesystem::directory_iterator(folder)) names.push_back(entry.path().filename());
    std::ranges::sort(names);
    return names;
  }

  const std::filesystem::path disk_ = NewFolder();
  std::unique_ptr<KvantdProcess> daemon_;
};

TEST_F(FullFileSystemTest, ASnapshot) {
  Start();
  SealedReader writer(daemon_->socket());
  writer.Write(kText);
  const std::string file = disk_ / "saved.safetensors";
  ASSERT_EQ(Kvantctl("snapshot save " + file).code, 0);
  const auto bytes = std::filesystem::file_size(file);
  FillDisk();
  const Ended full = Kvantctl("snapshot save " + file);
  EXPECT_EQ(full.code, 1);
  EXPECT_THAT(full.said, HasSubstr("No space left on device"));
  EXPECT_THAT(full.said, HasSubstr(file));
  EXPECT_EQ(std::filesystem::file_size(file), bytes);
  EXPECT_TRUE(VerifySnapshot(file)->empty());
  EXPECT_THAT(Files(disk_), ::testing::ElementsAre("rest", "saved.safetensors", "state"));
  FreeDisk();
  EXPECT_EQ(Kvantctl("snapshot save " + file).code, 0);
  MakeReadOnly();
  const Ended refused = Kvantctl("snapshot save " + file);
  EXPECT_EQ(refused.code, 1);
  EXPECT_THAT(refused.said, HasSubstr("Read-only file system"));
  EXPECT_EQ(Kvantctl("snapshot restore " + file).code, 0) << "reading needs no writing";
  EXPECT_TRUE(writer.client().Ping()) << "the daemon is as it was";
}

TEST_F(FullFileSystemTest, AStateDirectory) {
  const std::string file = disk_ / "state" / "state.safetensors";
  const std::vector<std::string> arguments = {"--budget", "64MiB", "--state-dir", disk_ / "state"};
  Start(arguments);
  SealedReader(daemon_->socket()).Write(kText);
  ASSERT_EQ(Kvantctl("drain").code, 0);
  EXPECT_EQ(daemon_->child().Wait(), 0);
  const auto bytes = std::filesystem::file_size(file);
  for (const bool read_only : {false, true}) {
    if (read_only) {
      FreeDisk();
      MakeReadOnly();
    } else {
      FillDisk();
    }
    Start(arguments);
    EXPECT_GE(Admin::Connect(daemon_->socket())->Stats()->figures.Find("blocks"), 5u) << "what was saved is served";
    const Ended drained = Kvantctl("drain");
    EXPECT_EQ(drained.code, 9);
    EXPECT_THAT(drained.said, HasSubstr(read_only ? "Read-only file system" : "No space left on device"));
    EXPECT_THAT(drained.said, HasSubstr("could not save its blocks to " + file));
    EXPECT_EQ(daemon_->child().Wait(), 5);
    EXPECT_EQ(std::filesystem::file_size(file), bytes);
    EXPECT_TRUE(VerifySnapshot(file)->empty());
    EXPECT_EQ(Files(disk_ / "state"), std::vector<std::string>{"state.safetensors"});
  }
}

TEST_F(FullFileSystemTest, APromptCache) {
  const StoreSpec spec = SpecOf(ModelShape{}, "turboquant_mse:bits=4", "turboquant_mse:bits=4");
  const std::string folder = disk_ / "prompts";
  const std::vector<TokenId> other = RandomTokens(kTextTokens, 2);
  Start();
  SealedReader writer(daemon_->socket());
  Client client = Client::Connect(daemon_->socket()).value();
  Store store = client.OpenStore(spec).value();
  PromptCache cache = PromptCache::Open(folder, 1 << 20).value();
  const auto save = [&](const std::vector<TokenId>& text) {
    writer.Write(text);
    const auto found = store.Open(text, {.recent_tokens = 16, .max_step_tokens = 64}).value();
    return cache.Save(store, found.id(), text);
  };
  const auto first = save(kText);
  ASSERT_TRUE(first) << first.error().message;
  const std::uint64_t saved = first->blocks * 64;
  ASSERT_GE(saved, 320u);
  FillDisk();
  const auto full = save(other);
  ASSERT_FALSE(full);
  EXPECT_EQ(full.error().code, ErrorCode::kSystem);
  EXPECT_THAT(full.error().message, HasSubstr("No space left on device"));
  ASSERT_TRUE(Admin::Connect(daemon_->socket())->Evict({}));
  EXPECT_EQ(cache.Load(store, other)->tokens, 0u);
  EXPECT_EQ(cache.Load(store, kText)->tokens, saved);
  FreeDisk();
  MakeReadOnly();
  ASSERT_TRUE(Admin::Connect(daemon_->socket())->Evict({}));
  EXPECT_EQ(cache.Load(store, kText)->tokens, saved) << "reading needs no writing";
  EXPECT_THAT(save(other).error().message, HasSubstr("Read-only file system"));
  EXPECT_TRUE(PromptCache::Open(folder, 1 << 20)) << "it is there";
  EXPECT_THAT(PromptCache::Open(disk_ / "new", 1 << 20).error().message, HasSubstr("Read-only file system"));
}

}  // namespace
}  // namespace kvant::testing
