// The buffered stream against what it stands for: the same bytes in the same order, descriptors beside theirs.
#include "protocol/buffered_stream.h"

#include <cstdint>
#include <cstring>
#include <memory>
#include <random>
#include <vector>

#include <fcntl.h>
#include <gtest/gtest.h>
#include <kj/async-io.h>
#include <kj/debug.h>
#include <kj/io.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

namespace kvant::wire {
namespace {

class BufferedStreamTest : public ::testing::Test {
 protected:
  BufferedStreamTest() {
    int ends[2];
    if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends) != 0) std::abort();
    auto& provider = *io_->lowLevelProvider;
    inner_ = std::make_unique<kj::Own<kj::AsyncCapabilityStream>>(provider.wrapUnixSocketFd(ends[0], kj::LowLevelAsyncIoProvider::TAKE_OWNERSHIP));
    peer_ = std::make_unique<kj::Own<kj::AsyncCapabilityStream>>(provider.wrapUnixSocketFd(ends[1], kj::LowLevelAsyncIoProvider::TAKE_OWNERSHIP));
    stream_ = std::make_unique<BufferedStream>(**inner_, [this] { ++noticed_; });
  }
  static std::vector<kj::byte> RandomBytes(std::mt19937_64& random, std::size_t n) {
    std::vector<kj::byte> bytes(n);
    for (auto& byte : bytes) byte = static_cast<kj::byte>(random());
    return bytes;
  }

  std::unique_ptr<kj::AsyncIoContext> io_ = std::make_unique<kj::AsyncIoContext>(kj::setupAsyncIo());
  std::unique_ptr<kj::Own<kj::AsyncCapabilityStream>> inner_;
  std::unique_ptr<kj::Own<kj::AsyncCapabilityStream>> peer_;
  std::unique_ptr<BufferedStream> stream_;
  std::size_t noticed_ = 0;
};

TEST_F(BufferedStreamTest, ReadsWhatWasSentWhateverTheSizes) {
  constexpr std::uint64_t kSeed = 11;
  SCOPED_TRACE(kSeed);
  std::mt19937_64 random(kSeed);
  for (int round = 0; round < 200; ++round) {
    const auto sent = RandomBytes(random, 1 + random() % 60000);
    auto writing = (*peer_)->write(sent.data(), sent.size()).eagerlyEvaluate(nullptr);
    std::vector<kj::byte> got(sent.size());
    for (std::size_t done = 0; done < sent.size();) {
      const std::size_t max = 1 + random() % (sent.size() - done);
      const std::size_t min = 1 + random() % max;
      const std::size_t read = stream_->tryRead(got.data() + done, min, max).wait(io_->waitScope);
      ASSERT_GE(read, min);
      ASSERT_LE(read, max);
      done += read;
    }
    writing.wait(io_->waitScope);
    ASSERT_EQ(got, sent) << "round " << round;
  }
  EXPECT_GT(noticed_, 0u);
}

TEST_F(BufferedStreamTest, WritesArriveInOrderWhateverTheSizes) {
  constexpr std::uint64_t kSeed = 12;
  SCOPED_TRACE(kSeed);
  std::mt19937_64 random(kSeed);
  for (int round = 0; round < 100; ++round) {
    std::vector<kj::byte> sent;
    std::vector<kj::byte> got;
    kj::Promise<void> last = kj::READY_NOW;
    for (int piece = 0; piece < 20; ++piece) {
      const auto bytes = RandomBytes(random, random() % 5000);
      sent.insert(sent.end(), bytes.begin(), bytes.end());
      const std::size_t cut = bytes.empty() ? 0 : random() % bytes.size();
      const kj::ArrayPtr<const kj::byte> pieces[2] = {kj::arrayPtr(bytes.data(), cut), kj::arrayPtr(bytes.data() + cut, bytes.size() - cut)};
      if (piece % 2 == 0) {
        stream_->write(bytes.data(), bytes.size()).wait(io_->waitScope);
      } else {
        stream_->write(kj::arrayPtr(pieces, 2)).wait(io_->waitScope);
      }
      if (random() % 4 == 0) io_->waitScope.poll();
    }
    got.resize(sent.size());
    (*peer_)->read(got.data(), got.size(), got.size()).wait(io_->waitScope);
    ASSERT_EQ(got, sent) << "round " << round;
  }
}

TEST_F(BufferedStreamTest, DescriptorsComeWithTheirBytesAndAfterEarlierOnes) {
  int file = ::open("/dev/null", O_RDONLY | O_CLOEXEC);
  ASSERT_GE(file, 0);
  struct stat expected {};
  ::fstat(file, &expected);
  const kj::byte before[3] = {1, 2, 3};
  const kj::byte with[2] = {4, 5};
  stream_->write(before, 3).wait(io_->waitScope);
  const kj::ArrayPtr<const kj::byte> none[1] = {kj::arrayPtr(with + 1, 1)};
  auto writing = stream_->writeWithFds(kj::arrayPtr(with, 1), kj::arrayPtr(none, 1), kj::arrayPtr(&file, 1)).eagerlyEvaluate(nullptr);
  kj::byte got[5] = {};
  kj::AutoCloseFd fds[4];
  (*peer_)->read(got, 3, 3).wait(io_->waitScope);
  const auto read = (*peer_)->tryReadWithFds(got + 3, 2, 2, fds, 4).wait(io_->waitScope);
  writing.wait(io_->waitScope);
  EXPECT_EQ(read.byteCount, 2u);
  ASSERT_EQ(read.capCount, 1u);
  struct stat status {};
  ASSERT_EQ(::fstat(fds[0], &status), 0);
  EXPECT_EQ(status.st_rdev, expected.st_rdev);
  const kj::byte all[5] = {1, 2, 3, 4, 5};
  EXPECT_EQ(std::memcmp(got, all, 5), 0);
  ::close(file);
}

TEST_F(BufferedStreamTest, DescriptorsThatAPeerSendsAreNotTaken) {
  int ends[2];
  ASSERT_EQ(::pipe2(ends, O_CLOEXEC), 0);
  const kj::byte bytes[4] = {1, 2, 3, 4};
  (*peer_)->writeWithFds(kj::arrayPtr(bytes, 4), nullptr, kj::arrayPtr(&ends[1], 1)).wait(io_->waitScope);
  ::close(ends[1]);
  kj::byte got[4];
  kj::AutoCloseFd fds[2];
  const auto read = stream_->tryReadWithFds(got, 4, 4, fds, 2).wait(io_->waitScope);
  EXPECT_EQ(read.byteCount, 4u);
  EXPECT_EQ(read.capCount, 0u);
  char byte;
  EXPECT_EQ(::read(ends[0], &byte, 1), 0);  // no one holds the other end of the pipe any more
  ::close(ends[0]);
}

TEST_F(BufferedStreamTest, APeerThatNeverReadsIsCutOff) {
  const std::vector<kj::byte> mebibyte(1 << 20);
  std::size_t accepted = 0;
  bool refused = false;
  while (!refused && accepted < 3 * BufferedStream::kMaxUnsentBytes) {
    try {
      stream_->write(mebibyte.data(), mebibyte.size()).wait(io_->waitScope);
      accepted += mebibyte.size();
    } catch (const kj::Exception& exception) {
      refused = true;
      EXPECT_EQ(exception.getType(), kj::Exception::Type::DISCONNECTED);
    }
  }
  EXPECT_TRUE(refused);
  EXPECT_GE(accepted, BufferedStream::kMaxUnsentBytes);
}

TEST_F(BufferedStreamTest, EndOfStreamIsAShortRead) {
  const kj::byte bytes[3] = {1, 2, 3};
  (*peer_)->write(bytes, 3).wait(io_->waitScope);
  *peer_ = nullptr;
  kj::byte got[8];
  EXPECT_EQ(stream_->tryRead(got, 8, 8).wait(io_->waitScope), 3u);
  EXPECT_EQ(stream_->tryRead(got, 1, 8).wait(io_->waitScope), 0u);
}

TEST_F(BufferedStreamTest, AWriteToAPeerThatIsGoneFailsTheNextOne) {
  *peer_ = nullptr;
  const kj::byte bytes[3] = {1, 2, 3};
  stream_->write(bytes, 3).wait(io_->waitScope);  // gathered only
  for (int i = 0; i < 10; ++i) io_->waitScope.poll();
  EXPECT_ANY_THROW(stream_->write(bytes, 3).wait(io_->waitScope));
}

}  // namespace
}  // namespace kvant::wire
