// Manifests against bytes that were made from SEGMENT.md alone (tests/golden/make_segments.py).
#include "protocol/manifest.h"

#include <cstring>
#include <fstream>
#include <string>
#include <vector>

#include <gtest/gtest.h>

namespace kvant::wire {
namespace {

std::vector<std::byte> Golden() {
  std::ifstream file(std::string(KVANT_SOURCE_DIR) + "/tests/golden/manifest.hex");
  std::vector<std::byte> bytes;
  std::string line;
  while (std::getline(file, line)) {
    for (std::size_t i = 0; i + 1 < line.size(); i += 2) {
      bytes.push_back(static_cast<std::byte>(std::stoi(line.substr(i, 2), nullptr, 16)));
    }
  }
  return bytes;
}

TEST(ManifestTest, ReadsGoldenBytes) {
  const Result<Manifest> manifest = ReadManifest(Golden());
  ASSERT_TRUE(manifest) << manifest.error().message;
  EXPECT_EQ(manifest->spec.name, "n");
  EXPECT_EQ(manifest->spec.head_dim, 64u);
  EXPECT_EQ(manifest->spec.plan.overrides.size(), 1u);
  EXPECT_EQ(manifest->plan, "artifact none\n");
  EXPECT_EQ(manifest->boot_token, 0x0123456789ABCDEFu);
  EXPECT_EQ(manifest->identity[15], 15);
  ASSERT_EQ(manifest->spec.plan.artifact.size(), 70u);
  EXPECT_EQ(manifest->spec.plan.artifact[69], std::byte{69});
}

TEST(ManifestTest, WritesTheSameLayout) {
  const std::vector<std::byte> golden = Golden();
  const std::vector<std::byte> written = WriteManifest(*ReadManifest(golden));
  ASSERT_EQ(written.size(), golden.size());
  protocol::ManifestHeader ours;
  protocol::ManifestHeader theirs;
  std::memcpy(&ours, written.data(), sizeof ours);
  std::memcpy(&theirs, golden.data(), sizeof theirs);
  EXPECT_EQ(std::memcmp(&ours, &theirs, offsetof(protocol::ManifestHeader, spec_bytes)), 0);
  // The schema compiler's encoder and ours may order the texts of a message differently, and the artifact's place is not kept.
  const Result<Manifest> again = ReadManifest(written);
  ASSERT_TRUE(again) << again.error().message;
  EXPECT_EQ(again->spec.plan.keys + again->spec.plan.values, "kv");
  EXPECT_EQ(again->plan, "artifact none\n");
  EXPECT_EQ(again->spec.plan.artifact, ReadManifest(golden)->spec.plan.artifact);
}

}  // namespace
}  // namespace kvant::wire
