#include "protocol/mapped_segment.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstring>
#include <functional>
#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "protocol/memfd.h"

namespace kvant::protocol {
namespace {

using testing::HasSubstr;

constexpr std::size_t kBytes = 4096 + 2 * 4096;
constexpr std::uint64_t kBoot = 77;

SlabHeader GoodHeader() {
  SlabHeader header{};
  header.magic = kSlabMagic;
  header.layout_version = kSegmentLayoutVersion;
  header.slab_bytes = kBytes;
  header.slot_bytes = 4096;
  header.slot_count = 2;
  header.block_tokens = 16;
  header.identity.fill(5);
  header.boot_token = kBoot;
  return header;
}

UniqueFd SlabWith(const SlabHeader& header) {
  UniqueFd fd = CreateSealedMemfd("test-slab", kBytes).value();
  EXPECT_EQ(::pwrite(fd.get(), &header, sizeof header, 0), static_cast<ssize_t>(sizeof header));
  return fd;
}

SegmentExpectation Expected() {
  SegmentExpectation expected{
      .kind = SegmentKind::kSlab, .access = Access::kReadOnly, .bytes = kBytes, .boot_token = kBoot, .identity = Digest{}};
  expected.identity->fill(5);
  return expected;
}

void ExpectError(const Result<MappedSegment>& result, ErrorCode code, const std::string& text) {
  ASSERT_FALSE(result.has_value());
  EXPECT_EQ(result.error().code, code) << result.error().message;
  EXPECT_THAT(result.error().message, HasSubstr(text));
}

TEST(MappedSegmentTest, MapsAGoodSlabAndOutlivesTheDescriptor) {
  UniqueFd fd = SlabWith(GoodHeader());
  Result<MappedSegment> segment = MapSegment(ReopenReadOnly(fd.get()).value().get(), Expected());
  ASSERT_TRUE(segment.has_value()) << segment.error().message;
  ASSERT_EQ(segment->size(), kBytes);
  const char byte = 'x';
  ASSERT_EQ(::pwrite(fd.get(), &byte, 1, 5000), 1);
  EXPECT_EQ(static_cast<char>(segment->data()[5000]), 'x');
}

TEST(MappedSegmentTest, SegmentCannotBeResizedOrSealedAgain) {
  const UniqueFd fd = SlabWith(GoodHeader());
  EXPECT_NE(::ftruncate(fd.get(), 4096), 0);
  EXPECT_NE(::ftruncate(fd.get(), 1 << 20), 0);
  EXPECT_NE(::fcntl(fd.get(), F_ADD_SEALS, F_SEAL_WRITE), 0);
  struct stat status {};
  ASSERT_EQ(::fstat(fd.get(), &status), 0);
  EXPECT_EQ(status.st_mode & 0777, 0600u);
  EXPECT_NE(::fcntl(fd.get(), F_GETFD) & FD_CLOEXEC, 0);
}

TEST(MappedSegmentTest, ReadOnlyDescriptorMapsReadOnlyOnly) {
  const UniqueFd fd = SlabWith(GoodHeader());
  const UniqueFd read_only = ReopenReadOnly(fd.get()).value();
  EXPECT_EQ(::mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_SHARED, read_only.get(), 0), MAP_FAILED);
  SegmentExpectation writable = Expected();
  writable.access = Access::kReadWrite;
  ExpectError(MapSegment(read_only.get(), writable), ErrorCode::kSystem, "EACCES");
}

TEST(MappedSegmentTest, NullDescriptor) {
  ExpectError(MapSegment(-1, Expected()), ErrorCode::kInvalidArgument, "without a descriptor");
}

TEST(MappedSegmentTest, ClosedDescriptor) {
  const int fd = SlabWith(GoodHeader()).Release();
  ::close(fd);
  ExpectError(MapSegment(fd, Expected()), ErrorCode::kInvalidArgument, "EBADF");
}

TEST(MappedSegmentTest, NotAMemoryFile) {
  int ends[2];
  ASSERT_EQ(::pipe(ends), 0);
  ExpectError(MapSegment(ends[0], Expected()), ErrorCode::kCorrupt, "not a memory file");
  ::close(ends[0]);
  ::close(ends[1]);
}

TEST(MappedSegmentTest, WrongSize) {
  SegmentExpectation expected = Expected();
  expected.bytes = kBytes + 4096;
  ExpectError(MapSegment(SlabWith(GoodHeader()).get(), expected), ErrorCode::kCorrupt, "has 12288 bytes, expected 16384");
}

TEST(MappedSegmentTest, SmallerThanItsHeaderPage) {
  SegmentExpectation expected = Expected();
  expected.bytes.reset();
  ExpectError(MapSegment(CreateSealedMemfd("tiny", 100).value().get(), expected), ErrorCode::kCorrupt, "header page");
  ExpectError(MapSegment(CreateSealedMemfd("empty", 0).value().get(), expected), ErrorCode::kCorrupt, "header page");
}

TEST(MappedSegmentTest, Unsealed) {
  for (const int seals : {0, F_SEAL_SHRINK, F_SEAL_SHRINK | F_SEAL_GROW, F_SEAL_GROW | F_SEAL_SEAL}) {
    const UniqueFd fd(::memfd_create("unsealed", MFD_CLOEXEC | MFD_ALLOW_SEALING));
    ASSERT_EQ(::ftruncate(fd.get(), kBytes), 0);
    const SlabHeader header = GoodHeader();
    ASSERT_EQ(::pwrite(fd.get(), &header, sizeof header, 0), static_cast<ssize_t>(sizeof header));
    ASSERT_EQ(::fcntl(fd.get(), F_ADD_SEALS, seals), 0);
    ExpectError(MapSegment(fd.get(), Expected()), ErrorCode::kCorrupt, "not sealed");
  }
}

TEST(MappedSegmentTest, WrongMagic) {
  SlabHeader header = GoodHeader();
  header.magic = kArenaMagic;
  ExpectError(MapSegment(SlabWith(header).get(), Expected()), ErrorCode::kCorrupt, "magic");
  SegmentExpectation arena = Expected();
  arena.kind = SegmentKind::kArena;
  ExpectError(MapSegment(SlabWith(GoodHeader()).get(), arena), ErrorCode::kCorrupt, "arena magic");
}

TEST(MappedSegmentTest, OtherLayoutVersion) {
  SlabHeader header = GoodHeader();
  header.layout_version = kSegmentLayoutVersion + 1;
  ExpectError(MapSegment(SlabWith(header).get(), Expected()), ErrorCode::kVersionMismatch,
              "layout version " + std::to_string(kSegmentLayoutVersion + 1) + ", this side knows");
}

TEST(MappedSegmentTest, OtherDaemon) {
  SegmentExpectation expected = Expected();
  expected.boot_token = kBoot + 1;
  ExpectError(MapSegment(SlabWith(GoodHeader()).get(), expected), ErrorCode::kStaleDaemon, "boot 77, expected 78");
}

TEST(MappedSegmentTest, OtherIdentity) {
  SegmentExpectation expected = Expected();
  expected.identity->fill(6);
  ExpectError(MapSegment(SlabWith(GoodHeader()).get(), expected), ErrorCode::kIdentityMismatch, "05050505");
}

TEST(MappedSegmentTest, SlabSizesThatDoNotFit) {
  const std::function<void(SlabHeader&)> faults[] = {
      [](SlabHeader& h) { h.slab_bytes = kBytes * 2; }, [](SlabHeader& h) { h.slot_count = 3; },
      [](SlabHeader& h) { h.slot_count = 0; },          [](SlabHeader& h) { h.slot_bytes = 4096 + 32; },
      [](SlabHeader& h) { h.slot_bytes = 0; },          [](SlabHeader& h) { h.slot_bytes = ~std::uint64_t{63}; },
      [](SlabHeader& h) { h.block_tokens = 0; },        [](SlabHeader& h) { h.block_tokens = 0xFFFFFFFF; },
      [](SlabHeader& h) { h.block_tokens = 1008; },  // ids alone take 4032 + 128 bytes
  };
  for (const auto& fault : faults) {
    SlabHeader header = GoodHeader();
    fault(header);
    const UniqueFd fd = SlabWith(header);
    const Result<MappedSegment> segment = MapSegment(fd.get(), Expected());
    ASSERT_FALSE(segment.has_value());
    EXPECT_EQ(segment.error().code, ErrorCode::kCorrupt) << segment.error().message;
  }
}

TEST(MappedSegmentTest, ArenaSizeMustAgree) {
  const UniqueFd fd = CreateSealedMemfd("arena", kBytes).value();
  ArenaHeader header{kArenaMagic, kSegmentLayoutVersion, 0, kBytes, kBoot, 0};
  ASSERT_EQ(::pwrite(fd.get(), &header, sizeof header, 0), static_cast<ssize_t>(sizeof header));
  const SegmentExpectation expected{.kind = SegmentKind::kArena,
                                    .access = Access::kReadWrite,
                                    .bytes = kBytes,
                                    .boot_token = kBoot,
                                    .identity = std::nullopt};
  EXPECT_TRUE(MapSegment(fd.get(), expected).has_value());
  header.arena_bytes = kBytes + 1;
  ASSERT_EQ(::pwrite(fd.get(), &header, sizeof header, 0), static_cast<ssize_t>(sizeof header));
  ExpectError(MapSegment(fd.get(), expected), ErrorCode::kCorrupt, "arena says");
}

}  // namespace
}  // namespace kvant::protocol
