// The layout of segments against bytes that were made from SEGMENT.md alone (tests/golden/make_segments.py).
#include "protocol/segment_layout.h"

#include <algorithm>
#include <cstring>
#include <fstream>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <xxhash.h>

#include "protocol/block_format.h"
#include "protocol/digest.h"
#include "protocol/mapped_segment.h"

namespace kvant::protocol {
namespace {

std::vector<std::byte> Golden(const std::string& name) {
  std::ifstream file(std::string(KVANT_SOURCE_DIR) + "/tests/golden/" + name + ".hex");
  std::vector<std::byte> bytes;
  std::string line;
  while (std::getline(file, line)) {
    for (std::size_t i = 0; i + 1 < line.size(); i += 2) {
      bytes.push_back(static_cast<std::byte>(std::stoi(line.substr(i, 2), nullptr, 16)));
    }
  }
  return bytes;
}

Digest CountingDigest() {
  Digest digest;
  for (std::size_t i = 0; i < digest.size(); ++i) digest[i] = static_cast<std::uint8_t>(i);
  return digest;
}

constexpr std::uint64_t kBoot = 0x0123456789ABCDEF;

TEST(SegmentLayoutTest, SlabHeaderMatchesGoldenBytes) {
  const std::vector<std::byte> golden = Golden("slab_header");
  ASSERT_EQ(golden.size(), sizeof(SlabHeader));
  SlabHeader header{};
  header.magic = kSlabMagic;
  header.layout_version = kSegmentLayoutVersion;
  header.slab_index = 7;
  header.slab_bytes = 4096 + 2 * 4096;
  header.slot_bytes = 4096;
  header.slot_count = 2;
  header.block_tokens = 16;
  header.identity = CountingDigest();
  header.boot_token = kBoot;
  std::ranges::reverse_copy(header.identity, header.owner.begin());
  EXPECT_EQ(std::memcmp(&header, golden.data(), golden.size()), 0);
  EXPECT_TRUE(ReadSlabHeader(golden.data(), 4096 + 2 * 4096).has_value());
}

TEST(SegmentLayoutTest, SegmentsShorterThanTheirFirstPageAreRefused) {
  SlabHeader slab{.magic = kSlabMagic,
                  .layout_version = kSegmentLayoutVersion,
                  .slab_index = 0,
                  .slab_bytes = sizeof(SlabHeader),
                  .slot_bytes = 4096,
                  .slot_count = 1,
                  .block_tokens = 16,
                  .identity = {},
                  .boot_token = kBoot,
                  .owner = {}};
  EXPECT_EQ(ReadSlabHeader(reinterpret_cast<const std::byte*>(&slab), sizeof slab).error().code, ErrorCode::kCorrupt);
  ArenaHeader arena{kArenaMagic, kSegmentLayoutVersion, 0, sizeof(ArenaHeader), kBoot, 42};
  EXPECT_EQ(ReadArenaHeader(reinterpret_cast<const std::byte*>(&arena), sizeof arena).error().code, ErrorCode::kCorrupt);
}

TEST(SegmentLayoutTest, ArenaHeaderMatchesGoldenBytes) {
  const std::vector<std::byte> golden = Golden("arena_header");
  ASSERT_EQ(golden.size(), sizeof(ArenaHeader));
  const ArenaHeader header{kArenaMagic, kSegmentLayoutVersion, 0, 1 << 20, kBoot, 42};
  EXPECT_EQ(std::memcmp(&header, golden.data(), golden.size()), 0);
  EXPECT_TRUE(ReadArenaHeader(golden.data(), 1 << 20).has_value());
}

TEST(SegmentLayoutTest, BlockSlotMatchesGoldenBytes) {
  const std::vector<std::byte> golden = Golden("block_slot");
  constexpr std::uint32_t kTokens = 16;
  ASSERT_EQ(golden.size(), PayloadOffset(kTokens) + 100);

  std::vector<std::uint32_t> tokens;
  for (std::uint32_t i = 0; i < kTokens; ++i) tokens.push_back(1000 + 3 * i);
  std::vector<std::byte> slot(golden.size(), std::byte{0xEE});
  for (std::size_t i = 0; i < 100; ++i) slot[PayloadOffset(kTokens) + i] = static_cast<std::byte>(5 * i);
  FinishSlot(slot.data(), kTokens,
             {.kind = BlockKind::kCodes,
              .element_type = 0,
              .identity = CountingDigest(),
              .chain = ChainDigest(CountingDigest(), tokens),
              .parent = CountingDigest(),
              .first_position = 0,
              .generation = 9},
             tokens, 100);
  EXPECT_EQ(slot, golden);
  EXPECT_TRUE(VerifySlot(golden, kTokens).has_value());
}

TEST(SegmentLayoutTest, EveryFlippedBitOfASlotIsFound) {
  const std::vector<std::byte> golden = Golden("block_slot");
  for (std::size_t bit = 0; bit < golden.size() * 8; ++bit) {
    std::vector<std::byte> damaged = golden;
    damaged[bit / 8] ^= static_cast<std::byte>(1u << bit % 8);
    EXPECT_FALSE(VerifySlot(damaged, 16).has_value()) << "bit " << bit;
  }
}

TEST(SegmentLayoutTest, VerifyStaysInsideAHostileSlot) {
  const std::vector<std::byte> golden = Golden("block_slot");
  // A forger knows how to compute a checksum: only the sizes stand between the reader and the end of the slot.
  const auto forged = [&](std::uint64_t payload_bytes, std::uint32_t token_count) {
    std::vector<std::byte> slot = golden;
    BlockHeader header;
    std::memcpy(&header, slot.data(), sizeof header);
    header.payload_bytes = payload_bytes;
    header.token_count = token_count;
    std::memcpy(slot.data(), &header, sizeof header);
    std::vector<std::byte> text(slot.begin(), slot.begin() + offsetof(BlockHeader, header_checksum));
    const auto ids = slot.begin() + sizeof header;
    text.insert(text.end(), ids, ids + std::min<std::ptrdiff_t>(std::ptrdiff_t{4} * token_count, slot.end() - ids));
    header.header_checksum = XXH3_64bits(text.data(), text.size());
    std::memcpy(slot.data(), &header, sizeof header);
    return VerifySlot(slot, 16);
  };
  EXPECT_TRUE(forged(100, 16).has_value());
  EXPECT_THAT(forged(101, 16).error().message, testing::HasSubstr("payload of 101 bytes"));
  EXPECT_THAT(forged(~std::uint64_t{0} - 100, 16).error().message, testing::HasSubstr("payload of"));
  EXPECT_THAT(forged(100, 17).error().message, testing::HasSubstr("token count 17"));
  EXPECT_FALSE(VerifySlot(std::span(golden).first(10), 16).has_value());
}

TEST(SegmentLayoutTest, ClearedSlotIsNoBlock) {
  std::vector<std::byte> slot = Golden("block_slot");
  ClearSlot(slot.data());
  EXPECT_FALSE(VerifySlot(slot, 16).has_value());
}

TEST(SegmentLayoutTest, ChainDigestDependsOnParentAndEveryToken) {
  const std::vector<std::uint32_t> tokens = {1, 2, 3};
  const Digest chain = ChainDigest(CountingDigest(), tokens);
  EXPECT_NE(chain, ChainDigest(Digest{}, tokens));
  EXPECT_NE(chain, ChainDigest(CountingDigest(), std::vector<std::uint32_t>{1, 2, 4}));
  EXPECT_NE(chain, ChainDigest(CountingDigest(), std::vector<std::uint32_t>{1, 2}));
  EXPECT_EQ(DigestHex(CountingDigest()), "000102030405060708090a0b0c0d0e0f");
  EXPECT_EQ(ParseDigest("000102030405060708090a0b0c0d0e0f"), CountingDigest());
  for (const char* const text : {"", "000102030405060708090a0b0c0d0e0", "000102030405060708090a0b0c0d0e0f0",
                                 "000102030405060708090A0b0c0d0e0f", "000102030405060708090a0b0c0d0e0g"}) {
    EXPECT_EQ(ParseDigest(text), std::nullopt) << text;
  }
}

}  // namespace
}  // namespace kvant::protocol
