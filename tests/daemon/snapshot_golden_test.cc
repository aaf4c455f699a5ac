// tests/golden/snapshot_v1.safetensors: a snapshot of format 1 with everything in it that the format has. It must stay
// readable, and what is written today must be the same bytes. KVANT_WRITE_GOLDEN=1 in the environment writes it anew: for a new
// version of the format, to a file of another name.
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "daemon/snapshot/state_dir.h"
#include "protocol/block_format.h"
#include "protocol/snapshot/reader.h"
#include "protocol/snapshot/verify.h"
#include "quantizers/artifact.h"
#include "tests/daemon/core_support.h"

namespace kvant::daemon {
namespace {

constexpr SequenceConfig kConfig{.recent_tokens = 20, .max_step_tokens = 24, .client = "test", .label = ""};
const std::string kGolden = KVANT_SOURCE_DIR "/tests/golden/snapshot_v1.safetensors";

std::string ReadFile(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

/// Rows as they are, sinks, two branches behind a common block, a state.
StoreSpec ExactSpec() { return SmallSpec("exact"); }

/// Planes of which one block has lost some, another codec for one head, and an artifact.
StoreSpec CodedSpec() {
  StoreSpec spec = SmallSpec("coded");
  spec.layers = 1;
  spec.block_tokens = 128;
  spec.sink_tokens = 0;
  spec.plan.keys = spec.plan.values = "turboquant_mse:bits=4,planes=1,gauge=none";
  spec.plan.overrides = {
      {.first_layer = 0, .last_layer = 0, .keys = "int8", .values = "int8", .first_head = 1, .last_head = 1}};
  spec.plan.artifact = quantizers::ArtifactImage(std::vector<quantizers::ExampleTensor>{{"unused", {2}, {0.5f, -1.0f}}});
  return spec;
}

const std::vector<std::byte> kState(100, std::byte{7});

void Grow(TestCore& core, TestSequence& sequence, const std::vector<std::uint32_t>& tokens) {
  while (sequence.tokens.size() < tokens.size()) {
    const std::size_t step = std::min<std::size_t>(kConfig.max_step_tokens, tokens.size() - sequence.tokens.size());
    sequence.Advance(std::span(tokens).subspan(sequence.tokens.size(), step));
    core.encode.RunAll();
  }
}

std::vector<std::uint32_t> Branch() {
  auto tokens = Tokens(70);
  for (std::size_t i = 20; i < tokens.size(); ++i) ++tokens[i];
  return tokens;
}

void Fill(TestCore& core) {
  const auto exact = core.stores.Open(ExactSpec(), "anna").value().store;
  {
    TestSequence sequence = TestSequence::Open(exact, {}, kConfig);
    const auto tokens = Tokens(70);
    Grow(core, sequence, {tokens.begin(), tokens.begin() + 32});
    NewState state = sequence.sequence->ReserveState(kState.size()).value();
    std::byte* const slot = state.slot->slab()->slot(state.slot->slot().slot);
    ASSERT_TRUE(state.slot->slab()->Populate(state.slot->slot().slot));
    std::memcpy(slot + protocol::PayloadOffset(16), kState.data(), kState.size());
    protocol::FinishSlot(slot, 16, state.info, state.tokens, kState.size());
    sequence.sequence->KeepState(state.block, state.slot);
    Grow(core, sequence, tokens);
  }
  {
    TestSequence sequence = TestSequence::Open(exact, {}, kConfig);
    Grow(core, sequence, Branch());
  }
  const auto coded = core.stores.Open(CodedSpec(), "bert").value().store;
  {
    TestSequence sequence = TestSequence::Open(coded, {}, kConfig);
    Grow(core, sequence, Tokens(450, 3));
  }
  ASSERT_EQ(coded->Demote({.sections = 1, .max_blocks = 1}).value().blocks, 1u);
}

struct SnapshotGoldenTest : testing::Test {
  const std::filesystem::path folder = std::filesystem::temp_directory_path() / ("kvant-golden-" + std::to_string(::getpid()));
  SnapshotGoldenTest() { std::filesystem::create_directories(folder); }
  ~SnapshotGoldenTest() override { std::filesystem::remove_all(folder); }
};

TEST_F(SnapshotGoldenTest, TheSameBlocksAreTheSameBytesAsEver) {
  TestCore core;
  Fill(core);
  ASSERT_FALSE(HasFatalFailure());
  const StateDir state = StateDir::Open(folder).value();
  ASSERT_TRUE(state.Save(StateToSave::Of(core.stores).stores, {}));
  if (std::getenv("KVANT_WRITE_GOLDEN") != nullptr) {
    std::filesystem::copy_file(state.file(), kGolden, std::filesystem::copy_options::overwrite_existing);
  }
  EXPECT_TRUE(ReadFile(state.file()) == ReadFile(kGolden));
}

TEST_F(SnapshotGoldenTest, AFileOfFormat1StaysReadable) {
  const auto reader = snapshot::SnapshotReader::Open(kGolden);
  ASSERT_TRUE(reader) << reader.error().message;
  EXPECT_EQ(reader->version(), 1u);
  ASSERT_EQ(reader->stores().size(), 2u);
  EXPECT_TRUE(snapshot::VerifyPayloads(*reader, {})->empty());
  EXPECT_EQ(reader->stores()[0].tenant, "bert") << "used last";
  EXPECT_EQ(reader->stores()[1].tenant, "anna");

  std::filesystem::copy_file(kGolden, folder / "state.safetensors");
  TestCore core;
  const auto restored = StateDir::Open(folder)->Restore(core.core, core.stores);
  ASSERT_TRUE(restored) << restored.error().message;
  EXPECT_EQ((*restored)->left_out, 0u);
  Store& exact = *core.stores.Find("exact", "anna").value();
  SequenceConfig config = kConfig;
  config.want_state = true;
  EXPECT_EQ(TestSequence::Open(exact.shared_from_this(), Tokens(70), config).sequence->length(), 32u);
  for (const auto& tokens : {Tokens(70), Branch()}) {
    TestSequence sequence = TestSequence::Open(exact.shared_from_this(), tokens, kConfig);
    EXPECT_GE(sequence.sequence->length(), 32u);
    EXPECT_EQ(sequence.Fault(), "") << "rows are not those that were written";
  }
  EXPECT_EQ(exact.Figures().state_bytes, kState.size());

  Store& coded = *core.stores.Find("coded", "bert").value();
  EXPECT_EQ(coded.spec().plan.artifact, CodedSpec().plan.artifact);
  std::vector<unsigned> sections;
  TestCore again;
  Fill(again);
  for (const Block* block : again.stores.Find("coded").value()->index().LongestPrefix(coded.identity(), Tokens(450, 3), 128)) {
    const Block* same = coded.index().Find(
        block->parent == nullptr
            ? nullptr
            : coded.index().LongestPrefix(coded.identity(), Tokens(450, 3), 128)[block->first_position / 128 - 1],
        block->chain, block->tokens);
    ASSERT_NE(same, nullptr);
    sections.push_back(same->codes().sections);
    ASSERT_EQ(same->codes().payload_bytes, block->codes().payload_bytes);
    EXPECT_EQ(std::memcmp(same->codes().payload, block->codes().payload, block->codes().payload_bytes), 0);
  }
  EXPECT_EQ(sections.size(), 3u);
  EXPECT_NE(sections.front(), sections.back()) << "one of them was demoted";
}

}  // namespace
}  // namespace kvant::daemon
