// Messages over a socket: the same messages in the same order whatever their sizes, descriptors beside theirs, hostile bytes
// refused.
#include "protocol/message_socket.h"

#include <chrono>
#include <climits>
#include <cstdint>
#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include <fcntl.h>
#include <gtest/gtest.h>
#include <kj/debug.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

namespace kvant::wire {
namespace {

using Words = std::vector<std::uint64_t>;
using Segments = std::vector<Words>;

class MessageSocketTest : public ::testing::Test {
 protected:
  static constexpr std::size_t kMaxFds = 2;

  MessageSocketTest() {
    int ends[2];
    if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) != 0) std::abort();
    socket_ = std::make_unique<MessageSocket>(loop_, kj::AutoCloseFd(ends[0]), kMaxFds);
    raw_ = ends[1];
  }
  ~MessageSocketTest() noexcept override {
    if (raw_ >= 0) ::close(raw_);
  }

  /// The other end, as a socket of the same kind; before that it is `raw_`.
  MessageSocket& Peer(std::size_t max_fds = kMaxFds) {
    peer_ = std::make_unique<MessageSocket>(loop_, kj::AutoCloseFd(std::exchange(raw_, -1)), max_fds);
    return *peer_;
  }
  static Segments RandomMessage(std::mt19937_64& random, std::size_t most_words) {
    Segments segments(1 + random() % 4);
    for (Words& segment : segments) {
      segment.resize(1 + random() % most_words);
      for (std::uint64_t& word : segment) word = random();
    }
    return segments;
  }
  void Write(MessageSocket& to, const Segments& segments, kj::ArrayPtr<const int> fds = nullptr) {
    std::vector<kj::ArrayPtr<const capnp::word>> pieces;
    for (const Words& segment : segments) {
      pieces.push_back(kj::arrayPtr(reinterpret_cast<const capnp::word*>(segment.data()), segment.size()));
    }
    to.writeMessage(fds, kj::arrayPtr(pieces.data(), pieces.size())).wait(loop_.wait_scope());
  }
  static Segments SegmentsOf(capnp::MessageReader& reader) {
    Segments segments;
    for (unsigned i = 0;; ++i) {
      const auto segment = reader.getSegment(i);
      if (segment == nullptr) return segments;
      const auto* words = reinterpret_cast<const std::uint64_t*>(segment.begin());
      segments.emplace_back(words, words + segment.size());
    }
  }
  /// Both ends see the end of the connection, whatever may have been sent before.
  void ExpectEnded() {
    bool ended = false;
    const auto reading = socket_->tryReadMessage(nullptr, capnp::ReaderOptions(), nullptr)
                             .then([&](kj::Maybe<capnp::MessageReaderAndFds>&& message) { ended = message == nullptr; })
                             .eagerlyEvaluate(nullptr);
    static_cast<void>(loop_.RunUntil([&] { return ended; }, std::chrono::steady_clock::now() + std::chrono::seconds(10)));
    EXPECT_TRUE(ended);
    std::vector<char> bytes(1 << 20);
    ssize_t n = 0;
    while ((n = ::recv(raw_, bytes.data(), bytes.size(), MSG_DONTWAIT)) > 0) {
    }
    EXPECT_EQ(n, 0);
  }
  struct Got {
    Segments segments;
    std::size_t fds = 0;
  };
  Got Read(MessageSocket& from, kj::ArrayPtr<kj::AutoCloseFd> fd_space = nullptr) {
    auto message = from.tryReadMessage(fd_space, capnp::ReaderOptions(), nullptr).wait(loop_.wait_scope());
    auto& got = KJ_REQUIRE_NONNULL(message);
    return {SegmentsOf(*got.reader), got.fds.size()};
  }
  /// Sends bytes past the peer's back.
  void SendRaw(const void* bytes, std::size_t size) const {
    ASSERT_EQ(::send(raw_, bytes, size, MSG_NOSIGNAL), static_cast<ssize_t>(size));
  }

  EventLoop loop_;
  std::unique_ptr<MessageSocket> socket_;
  std::unique_ptr<MessageSocket> peer_;
  int raw_ = -1;
};

TEST_F(MessageSocketTest, MessagesArriveInOrderWhateverTheirSizes) {
  constexpr std::uint64_t kSeed = 11;
  SCOPED_TRACE(kSeed);
  std::mt19937_64 random(kSeed);
  MessageSocket& peer = Peer();
  for (int round = 0; round < 60; ++round) {
    std::vector<Segments> sent;
    for (std::size_t i = 0; i < 1 + random() % 20; ++i) {
      // Beyond the reader's buffer, and together beyond what the kernel takes at once.
      sent.push_back(RandomMessage(random, i % 4 == 0 ? 20000 : 50));
      Write(*socket_, sent.back());
    }
    for (std::size_t i = 0; i < sent.size(); ++i) ASSERT_EQ(Read(peer).segments, sent[i]) << "round " << round << ", " << i;
  }
}

TEST_F(MessageSocketTest, WhatOneTurnWritesLeavesAtOnceWhenTheLoopIsIdle) {
  const auto pieces = kj::arr(kj::ArrayPtr<const capnp::word>());
  auto first = socket_->writeMessage(nullptr, pieces.asPtr());
  auto second = socket_->writeMessage(nullptr, pieces.asPtr());
  char bytes[64];
  EXPECT_EQ(::recv(raw_, bytes, sizeof(bytes), MSG_DONTWAIT), -1);  // gathered only
  loop_.wait_scope().poll();
  EXPECT_EQ(::recv(raw_, bytes, sizeof(bytes), MSG_DONTWAIT), 16);
}

TEST_F(MessageSocketTest, DescriptorsComeWithTheirMessageAlone) {
  const int file = ::open("/dev/null", O_RDONLY | O_CLOEXEC);
  ASSERT_GE(file, 0);
  struct stat expected {};
  ::fstat(file, &expected);
  const Segments message = {{1, 2, 3}};
  const int two[2] = {file, file};
  Write(*socket_, message);
  Write(*socket_, message, kj::arrayPtr(&file, 1));
  Write(*socket_, message, two);
  Write(*socket_, message);
  ::close(file);  // the socket has its own
  MessageSocket& peer = Peer();
  kj::AutoCloseFd fds[kMaxFds];
  EXPECT_EQ(Read(peer, fds).fds, 0u);
  EXPECT_EQ(Read(peer, fds).fds, 1u);
  struct stat status {};
  EXPECT_EQ(::fstat(fds[0], &status), 0);
  EXPECT_EQ(status.st_rdev, expected.st_rdev);
  EXPECT_NE(::fcntl(fds[0], F_GETFD) & FD_CLOEXEC, 0);
  EXPECT_EQ(Read(peer, fds).fds, 2u);
  EXPECT_EQ(Read(peer, fds).fds, 0u);
}

/// A pipe whose writing end goes with a message; true if the reader of the pipe then finds nobody at that end.
TEST_F(MessageSocketTest, DescriptorsBeyondTheLimitAreClosed) {
  for (const std::size_t space : {std::size_t{0}, std::size_t{1}}) {
    int ends[2];
    ASSERT_EQ(::pipe2(ends, O_CLOEXEC | O_NONBLOCK), 0);
    int peers[2];
    ASSERT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, peers), 0);
    MessageSocket from(loop_, kj::AutoCloseFd(peers[0]), 0);
    MessageSocket to(loop_, kj::AutoCloseFd(peers[1]), space == 0 ? 0 : kMaxFds);
    const int null = ::open("/dev/null", O_RDONLY | O_CLOEXEC);
    const int fds[2] = {null, ends[1]};
    Write(from, {{7}}, fds);
    Write(from, {{8}});
    ::close(ends[1]);
    ::close(null);
    kj::AutoCloseFd taken[1];
    EXPECT_EQ(Read(to, kj::arrayPtr(taken, space)).fds, space);
    char byte;
    EXPECT_EQ(::read(ends[0], &byte, 1), 0) << "somebody holds the other end of the pipe";
    EXPECT_EQ(Read(to).segments, (Segments{{8}}));  // a read that descriptors cut short was not the last one
    ::close(ends[0]);
  }
}

TEST_F(MessageSocketTest, APeerThatNeverReadsIsCutOff) {
  const Words mebibyte(std::size_t{1} << 17);
  const auto piece = kj::arrayPtr(reinterpret_cast<const capnp::word*>(mebibyte.data()), mebibyte.size());
  std::size_t accepted = 0;
  bool refused = false;
  while (!refused && accepted < 3 * MessageSocket::kMaxUnsentBytes) {
    try {
      socket_->writeMessage(nullptr, kj::arrayPtr(&piece, 1)).wait(loop_.wait_scope());
      loop_.wait_scope().poll();
      accepted += 8 * mebibyte.size();
    } catch (const kj::Exception& exception) {
      refused = true;
      EXPECT_EQ(exception.getType(), kj::Exception::Type::DISCONNECTED);
    }
  }
  EXPECT_TRUE(refused);
  EXPECT_GE(accepted + 8 * mebibyte.size(), MessageSocket::kMaxUnsentBytes);
  ExpectEnded();
}

TEST_F(MessageSocketTest, AMessageCountsFromItsFirstBytesUntilItHasBeenServed) {
  const auto memory = std::make_shared<MessageMemory>(std::size_t{1} << 20);
  const auto account = std::make_shared<MessageMemory::Account>(memory);
  peer_ = std::make_unique<MessageSocket>(loop_, kj::AutoCloseFd(std::exchange(raw_, -1)), kMaxFds, account);
  EXPECT_EQ(account->bytes(), 0u);
  constexpr std::size_t kWords = 40'000;
  Write(*socket_, {Words(kWords)});
  auto message = peer_->tryReadMessage(nullptr, capnp::ReaderOptions(), nullptr).wait(loop_.wait_scope());
  EXPECT_GE(account->bytes(), kWords * 8);
  EXPECT_LE(account->bytes(), kWords * 8 + MessageMemory::kFreeBytes);
  message = nullptr;
  EXPECT_LE(account->bytes(), MessageMemory::kFreeBytes);
  Write(*peer_, {Words(kWords)});
  EXPECT_GE(account->bytes(), kWords * 8 - 16384);  // every socket has a buffer
  peer_.reset();
  EXPECT_EQ(account->bytes(), 0u);
}

TEST_F(MessageSocketTest, WhoTakesAllThereIsForMessagesIsCutOff) {
  const auto memory = std::make_shared<MessageMemory>(std::size_t{256} << 10);
  const auto account = std::make_shared<MessageMemory::Account>(memory);
  peer_ = std::make_unique<MessageSocket>(loop_, kj::AutoCloseFd(std::exchange(raw_, -1)), kMaxFds, account);
  Write(*socket_, {Words(100'000)});
  bool ended = false;
  const auto reading = peer_->tryReadMessage(nullptr, capnp::ReaderOptions(), nullptr)
                           .then([&](kj::Maybe<capnp::MessageReaderAndFds>&& message) { ended = message == nullptr; },
                                 [&](kj::Exception&&) { ended = true; })
                           .eagerlyEvaluate(nullptr);
  static_cast<void>(loop_.RunUntil([&] { return ended; }, std::chrono::steady_clock::now() + std::chrono::seconds(10)));
  EXPECT_TRUE(ended);
  EXPECT_LE(account->bytes(), MessageMemory::kFreeBytes);
}

TEST_F(MessageSocketTest, AMessageThatCannotBeSentEndsTheConnection) {
  const int closed = INT_MAX;
  try {
    Write(*socket_, {{1, 2, 3}}, kj::arrayPtr(&closed, 1));
    ADD_FAILURE() << "a descriptor that is none was duplicated";
  } catch (const kj::Exception& exception) {
    EXPECT_EQ(exception.getType(), kj::Exception::Type::DISCONNECTED);
    EXPECT_NE(std::string(exception.getDescription().cStr()).find("descriptor"), std::string::npos);
  }
  ExpectEnded();
}

TEST_F(MessageSocketTest, EndOfTheConnectionIsNoMessage) {
  const std::uint64_t whole[2] = {std::uint64_t{1} << 32, 5};
  SendRaw(whole, sizeof(whole));
  ::close(std::exchange(raw_, -1));
  EXPECT_EQ(Read(*socket_).segments, (Segments{{5}}));
  for (int i = 0; i < 2; ++i) {
    const auto message = socket_->tryReadMessage(nullptr, capnp::ReaderOptions(), nullptr).wait(loop_.wait_scope());
    EXPECT_TRUE(message == nullptr);
  }
}

TEST_F(MessageSocketTest, EndWithinAMessageIsADisconnect) {
  const std::uint64_t half = std::uint64_t{2} << 32;
  SendRaw(&half, sizeof(half));
  ::close(std::exchange(raw_, -1));
  try {
    socket_->tryReadMessage(nullptr, capnp::ReaderOptions(), nullptr).wait(loop_.wait_scope());
    ADD_FAILURE() << "half a message was taken";
  } catch (const kj::Exception& exception) {
    EXPECT_EQ(exception.getType(), kj::Exception::Type::DISCONNECTED);
  }
}

TEST_F(MessageSocketTest, HeadersThatClaimTooMuchAreRefused) {
  for (const std::uint64_t header : {std::uint64_t{0xFFFFFFFF}, std::uint64_t{600}, std::uint64_t{0xFFFFFFFF} << 32}) {
    int ends[2];
    ASSERT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
    MessageSocket to(loop_, kj::AutoCloseFd(ends[0]), 0);
    ASSERT_EQ(::send(ends[1], &header, sizeof(header), MSG_NOSIGNAL), 8);
    EXPECT_ANY_THROW(to.tryReadMessage(nullptr, capnp::ReaderOptions(), nullptr).wait(loop_.wait_scope())) << header;
    ::close(ends[1]);
  }
}

TEST_F(MessageSocketTest, AWriteToAPeerThatIsGoneFailsTheNextOne) {
  ::close(std::exchange(raw_, -1));
  const kj::ArrayPtr<const capnp::word> nothing;
  socket_->writeMessage(nullptr, kj::arrayPtr(&nothing, 1)).wait(loop_.wait_scope());  // gathered only
  loop_.wait_scope().poll();
  EXPECT_ANY_THROW(socket_->writeMessage(nullptr, kj::arrayPtr(&nothing, 1)).wait(loop_.wait_scope()));
}

TEST_F(MessageSocketTest, EndComesBehindTheLastByte) {
  Segments large = {Words(std::size_t{1} << 17, 9)};
  Write(*socket_, large);
  socket_->end().wait(loop_.wait_scope());
  MessageSocket& peer = Peer();
  EXPECT_EQ(Read(peer).segments, large);
  EXPECT_TRUE(peer.tryReadMessage(nullptr, capnp::ReaderOptions(), nullptr).wait(loop_.wait_scope()) == nullptr);
}

}  // namespace
}  // namespace kvant::wire
