// Snapshots: saved from one daemon, restored into another, where attention says the same, bit for bit.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <optional>
#include <regex>
#include <span>
#include <string>
#include <vector>

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <kvant/admin.h>
#include <kvant/client.h>

#include "protocol/digest.h"
#include "quantizers/safetensors.h"
#include "tests/support/conversation.h"
#include "tests/support/daemon_env.h"

namespace kvant::testing {
namespace {

using ::testing::HasSubstr;

constexpr std::uint32_t kBlock = 64;
constexpr std::uint32_t kMaxStep = 64;
constexpr std::size_t kPrompt = 1000;  // 15 blocks and a rest

std::string ReadFile(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

void WriteFile(const std::string& path, const std::string& bytes) {
  std::ofstream(path, std::ios::binary | std::ios::trunc).write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
}

class SnapshotTest : public ::testing::Test {
 protected:
  SnapshotTest() : folder_(std::filesystem::temp_directory_path() / ("kvant-snapshot-" + std::to_string(::getpid()))) {
    std::filesystem::create_directories(folder_);
  }
  ~SnapshotTest() override { std::filesystem::remove_all(folder_); }

  [[nodiscard]] std::string Path(const std::string& name = "saved.safetensors") const { return (folder_ / name).string(); }
  [[nodiscard]] Store Open(Client& client, const std::string& keys = "turboquant_mse:bits=4") const {
    return client.OpenStore(SpecOf(model_.shape(), keys, keys, kBlock)).value();
  }
  /// Feeds the prompt up to `length` tokens into a new sequence, which is closed then.
  void Fill(Client& client, Store& store, std::size_t length = kPrompt) const {
    Conversation talk(client, store.Open({}, Options()).value(), model_, {}, kMaxStep);
    talk.Feed(std::span(tokens_).first(length), 32);
  }
  /// What attention says of 20 more tokens behind the longest sealed prefix; `hits` gets how long that was.
  std::vector<float> Answer(Client& client, Store& store, std::uint64_t& hits) const {
    auto sequence = store.Open(tokens_, Options());
    EXPECT_TRUE(sequence) << sequence.error().message;
    hits = sequence->prefix_hit_tokens();
    std::vector<TokenId> held(tokens_.begin(), tokens_.begin() + static_cast<std::ptrdiff_t>(hits));
    Conversation talk(client, *std::move(sequence), model_, std::move(held), kMaxStep);
    return talk.Feed(std::span(tokens_).subspan(hits, 20), 20);
  }
  [[nodiscard]] static SequenceOptions Options() {
    return {.placement = Placement::kService, .recent_tokens = 16, .max_step_tokens = kMaxStep};
  }
  [[nodiscard]] std::size_t Files() const {
    return static_cast<std::size_t>(std::distance(std::filesystem::directory_iterator(folder_), {}));
  }

  const std::filesystem::path folder_;
  const FakeModel model_{ModelShape{}};
  const std::vector<TokenId> tokens_ = RandomTokens(kPrompt, 7);
};

TEST_F(SnapshotTest, AnotherDaemonAnswersTheSameAfterwards) {
  std::uint64_t hits_before = 0;
  std::vector<float> before;
  {
    const DaemonEnv daemon;
    Client client = daemon.Connect();
    Store store = Open(client);
    Fill(client, store);
    before = Answer(client, store, hits_before);
    const auto saved = store.Save(Path());
    ASSERT_TRUE(saved) << saved.error().message;
    EXPECT_EQ(saved->blocks, hits_before / kBlock);
    EXPECT_EQ(saved->bytes, std::filesystem::file_size(Path()));
  }
  ASSERT_GT(hits_before, 800U);
  EXPECT_EQ(Files(), 1U) << "something was left behind";
  const auto damaged = VerifySnapshot(Path());
  ASSERT_TRUE(damaged) << damaged.error().message;
  EXPECT_TRUE(damaged->empty());

  const DaemonEnv daemon;
  Client client = daemon.Connect();
  const auto restored = client.RestoreSnapshot(Path());
  ASSERT_TRUE(restored) << restored.error().message;
  EXPECT_EQ(restored->restored, hits_before / kBlock);
  Store store = Open(client);
  std::uint64_t hits = 0;
  EXPECT_EQ(Answer(client, store, hits), before);
  EXPECT_EQ(hits, hits_before);

  const auto again = store.Load(Path());
  ASSERT_TRUE(again) << again.error().message;
  EXPECT_EQ(again->restored, 0U);
  EXPECT_EQ(again->present, hits_before / kBlock);
}

TEST_F(SnapshotTest, StatesAndHalfOfTheBlocksThatAreThere) {
  const std::vector<std::byte> state(100'003, std::byte{42});
  {
    const DaemonEnv daemon;
    Client client = daemon.Connect();
    Store store = Open(client, "int8");
    Conversation talk(client, store.Open({}, Options()).value(), model_, {}, kMaxStep);
    talk.Feed(std::span(tokens_).first(512), 64);
    ASSERT_TRUE(talk.sequence().PutState(state));
    talk.Feed(std::span(tokens_).subspan(512), 64);
    ASSERT_TRUE(store.Save(Path()));
  }
  const DaemonEnv daemon;
  Client client = daemon.Connect();
  Store store = Open(client, "int8");
  Fill(client, store, 500);
  const auto loaded = store.Load(Path());
  ASSERT_TRUE(loaded) << loaded.error().message;
  EXPECT_EQ(loaded->present, 7U);  // 500 tokens less 16 recent ones
  EXPECT_EQ(loaded->restored, 8U);
  SequenceOptions options = Options();
  options.want_state = true;
  auto sequence = store.Open(tokens_, options);
  ASSERT_TRUE(sequence);
  EXPECT_EQ(sequence->length(), 512U);
  std::vector<std::byte> copy(state.size());
  ASSERT_TRUE(sequence->CopyState(copy));
  EXPECT_TRUE(copy == state);
}

TEST_F(SnapshotTest, DamageIsNamedAndLeavesTheDaemonEmpty) {
  const DaemonEnv daemon;
  Client client = daemon.Connect();
  {
    Store store = Open(client);
    Fill(client, store);
    ASSERT_TRUE(store.Save(Path()));
  }
  const std::string good = ReadFile(Path());
  auto admin = Admin::Connect(daemon.socket());
  ASSERT_TRUE(admin->Evict({}));
  // The digest is the last thing in the file, the payloads stand before it: a byte in the middle is one of codes.
  std::string bad = good;
  bad[bad.size() / 2] = static_cast<char>(bad[bad.size() / 2] ^ 1);
  WriteFile(Path(), bad);
  const auto damaged = VerifySnapshot(Path());
  ASSERT_TRUE(damaged) << damaged.error().message;
  ASSERT_EQ(damaged->size(), 1U);
  EXPECT_EQ(damaged->front().what, "codes");
  const auto restored = client.RestoreSnapshot(Path());
  ASSERT_FALSE(restored);
  EXPECT_EQ(restored.error().code, ErrorCode::kCorrupt);
  EXPECT_THAT(restored.error().message, HasSubstr("at position " + std::to_string(damaged->front().position)));
  EXPECT_EQ(daemon.Stats().Find("blocks"), 0U);

  // A flipped bit anywhere, and every length: refused or named, never taken for whole. Steps of a prime reach every part.
  for (std::size_t at = 0; at < good.size(); at += good.size() / 211) {
    bad = good;
    bad[at] = static_cast<char>(bad[at] ^ 0x10);
    WriteFile(Path(), bad);
    const auto found = VerifySnapshot(Path());
    EXPECT_TRUE(!found || !found->empty()) << "byte " << at << " of " << good.size();
    WriteFile(Path(), good.substr(0, at));
    EXPECT_FALSE(VerifySnapshot(Path())) << "cut at " << at;
  }
  std::string future = good;
  const std::size_t reader = future.find("\"minimum_reader\":\"1\"");
  ASSERT_NE(reader, std::string::npos);
  future[reader + 18] = '9';
  WriteFile(Path(), future);
  EXPECT_EQ(VerifySnapshot(Path()).error().code, ErrorCode::kVersionMismatch);
}

/// Codes of another block, or of another store, where a block's should be: whole bytes with a checksum that is not theirs.
TEST_F(SnapshotTest, SwappedBlocksAreNamedAndNothingOfTheFileComesIn) {
  DaemonEnv daemon;
  Client client = daemon.Connect();
  Store store = Open(client), other = Open(client, "int8");
  Fill(client, store);
  Fill(client, other, 500);
  const std::string other_path = Path("other.safetensors");
  ASSERT_TRUE(store.Save(Path()));
  ASSERT_TRUE(other.Save(other_path));
  const std::string good = ReadFile(Path()), foreign = ReadFile(other_path);
  constexpr std::size_t kBytes = 2048;  // less than a block has
  const std::size_t first = good.size() / 3, second = good.size() * 2 / 3;
  std::string within = good, from_another = good;
  std::swap_ranges(within.begin() + static_cast<std::ptrdiff_t>(first),
                   within.begin() + static_cast<std::ptrdiff_t>(first + kBytes),
                   within.begin() + static_cast<std::ptrdiff_t>(second));
  foreign.copy(from_another.data() + first, kBytes, foreign.size() / 2);
  ASSERT_TRUE(Admin::Connect(daemon.socket())->Evict({}));
  for (const auto& [bytes, damaged] : {std::pair(&within, 2U), {&from_another, 1U}}) {
    WriteFile(Path(), *bytes);
    const auto found = VerifySnapshot(Path());
    ASSERT_TRUE(found) << found.error().message;
    EXPECT_GE(found->size(), damaged);
    EXPECT_EQ(client.RestoreSnapshot(Path()).error().code, ErrorCode::kCorrupt);
    EXPECT_EQ(daemon.Stats().Find("blocks"), 0U);
    EXPECT_EQ(daemon.Stats().Find("leases"), 0U);
  }
  // A file of one store is no file of another's, under its own name or a given one.
  WriteFile(Path(), good);
  EXPECT_EQ(other.Load(Path()).error().code, ErrorCode::kIdentityMismatch);
  EXPECT_EQ(daemon.Stats().Find("blocks"), 0U);
  std::string future = good;
  future[future.find("\"minimum_reader\":\"1\"") + 18] = '9';
  WriteFile(Path(), future);
  EXPECT_EQ(client.RestoreSnapshot(Path()).error().code, ErrorCode::kVersionMismatch);
  EXPECT_EQ(daemon.Stats().Find("blocks"), 0U);
}

TEST_F(SnapshotTest, ARestoreThatFailsHoldsNothingOfWhatWasThere) {
  const DaemonEnv daemon;
  Client client = daemon.Connect();
  Store store = Open(client);
  Fill(client, store);
  ASSERT_TRUE(store.Save(Path()));
  auto admin = Admin::Connect(daemon.socket());
  ASSERT_TRUE(admin->Evict({}));
  Fill(client, store, 500);
  const auto there = daemon.Stats().Find("blocks");
  std::string bad = ReadFile(Path());
  bad[bad.size() * 3 / 4] = static_cast<char>(bad[bad.size() * 3 / 4] ^ 1);  // of a block that is not there
  WriteFile(Path(), bad);
  ASSERT_FALSE(client.RestoreSnapshot(Path()));
  EXPECT_EQ(daemon.Stats().Find("blocks"), there);
  EXPECT_EQ(daemon.Stats().Find("leases"), 0U);
}

TEST_F(SnapshotTest, AnIndexWhoseDigestIsRightAndWhoseBlocksAreNotIsRefused) {
  {
    const DaemonEnv daemon;
    Client client = daemon.Connect();
    Store store = Open(client);
    Fill(client, store);
    ASSERT_TRUE(store.Save(Path()));
  }
  const std::string good = ReadFile(Path());
  /// Changes one number of a table, and the digest with it.
  const auto forge = [&](const char* column, std::size_t row, auto value) {
    std::string bad = good;
    const std::span<std::byte> image(reinterpret_cast<std::byte*>(bad.data()), bad.size());
    const auto tensors = quantizers::Safetensors::Read(image, "forged").value();
    const auto offset = [&](const std::string& name) {
      return static_cast<std::size_t>(tensors.Find(name)->bytes.data() - image.data());
    };
    std::memcpy(&image[offset(std::string("store.0.") + column) + row * sizeof value], &value, sizeof value);
    const std::size_t index = std::min(offset("store.0.codes"), offset("store.0.extra"));
    const auto digest = protocol::DigestOf(std::span<const std::byte>(image).first(index));
    std::memcpy(&image[offset("digest")], digest.data(), digest.size());
    WriteFile(Path(), bad);
    return VerifySnapshot(Path());
  };
  EXPECT_TRUE(forge("parents", 1, std::int64_t{0})) << "as it was: the digest is made as the writer makes it";
  for (const auto& found : {forge("parents", 1, std::int64_t{5}), forge("parents", 2, std::int64_t{0}),
                            forge("parents", 1, std::int64_t{-7}), forge("tokens", 3, std::uint32_t{77777}),
                            forge("positions", 1, std::uint64_t{1} << 40), forge("chains", 1, std::uint64_t{0})}) {
    ASSERT_FALSE(found);
    EXPECT_EQ(found.error().code, ErrorCode::kCorrupt) << found.error().message;
  }
}

TEST_F(SnapshotTest, ABudgetThatIsTooSmallIsToldByHowMuch) {
  {
    const DaemonEnv daemon;
    Client client = daemon.Connect();
    Store store = Open(client, "f16");
    Fill(client, store);
    ASSERT_TRUE(store.Save(Path()));
  }
  DaemonOptions options;
  options.budget_bytes = std::size_t{1} << 20;
  const DaemonEnv daemon(options);
  Client client = daemon.Connect();
  const auto restored = client.RestoreSnapshot(Path());
  ASSERT_FALSE(restored);
  EXPECT_EQ(restored.error().code, ErrorCode::kStoreFull);
  EXPECT_THAT(restored.error().message, HasSubstr("bytes are missing"));
  std::smatch figures;
  ASSERT_TRUE(std::regex_search(
      restored.error().message, figures,
      std::regex("they need (\\d+) bytes, (\\d+) of the budget of (\\d+) bytes are free: (\\d+) bytes are missing")))
      << restored.error().message;
  EXPECT_EQ(std::stoull(figures[1]), std::stoull(figures[2]) + std::stoull(figures[4]));
  EXPECT_EQ(std::stoull(figures[3]), options.budget_bytes);
  EXPECT_EQ(daemon.Stats().Find("blocks"), 0U);
}

TEST_F(SnapshotTest, AFailedSaveLeavesTheOldFile) {
  const DaemonEnv daemon;
  Client client = daemon.Connect();
  Store store = Open(client);
  Fill(client, store, 500);
  ASSERT_TRUE(store.Save(Path()));
  const std::string old = ReadFile(Path());
  Fill(client, store);

  const auto cancelled = store.Save(Path(), std::nullopt, [](std::uint64_t, std::uint64_t) { return false; });
  ASSERT_FALSE(cancelled);
  EXPECT_EQ(cancelled.error().code, ErrorCode::kUnavailable);
  rlimit before{};
  ASSERT_EQ(::getrlimit(RLIMIT_FSIZE, &before), 0);
  const rlimit small{.rlim_cur = old.size() / 2, .rlim_max = before.rlim_max};
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &small), 0);
  const auto full = store.Save(Path());
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &before), 0);
  ASSERT_FALSE(full);
  EXPECT_EQ(full.error().code, ErrorCode::kSystem);
  EXPECT_TRUE(ReadFile(Path()) == old);
  EXPECT_EQ(Files(), 1U);
  EXPECT_FALSE(store.Save(Path("no/such/folder")));

  // What a killed process left is taken over, what a live one writes is not.
  const std::string partial = Path(".saved.safetensors.kvant-partial");
  WriteFile(partial, "left behind");
  const int other = ::open(partial.c_str(), O_RDWR | O_CLOEXEC);
  ASSERT_EQ(::flock(other, LOCK_EX), 0);
  EXPECT_EQ(store.Save(Path()).error().code, ErrorCode::kUnavailable);
  ::close(other);
  const auto saved = store.Save(Path());
  ASSERT_TRUE(saved) << saved.error().message;
  EXPECT_EQ(Files(), 1U);
  EXPECT_TRUE(VerifySnapshot(Path())->empty());
}

}  // namespace
}  // namespace kvant::testing
