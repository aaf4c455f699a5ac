#include "protocol/message_socket.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include <capnp/serialize.h>
#include <fcntl.h>
#include <kj/debug.h>
#include <sys/socket.h>

namespace kvant::wire {
namespace {

constexpr std::size_t kWord = sizeof(capnp::word);
/// Most messages are a few hundred bytes.
constexpr std::size_t kUsualBytes = 16384;
/// What a message that is being served takes beside its own bytes, about: the call, its promises, its answer.
constexpr std::size_t kCallBytes = 2048;
/// What Cap'n Proto's own readers allow.
constexpr std::uint64_t kMaxSegments = 512;

void SetNonBlocking(int fd) {
  int flags = 0;
  KJ_SYSCALL(flags = ::fcntl(fd, F_GETFL));
  KJ_SYSCALL(::fcntl(fd, F_SETFL, flags | O_NONBLOCK));
}

}  // namespace

MessageSocket::MessageSocket(EventLoop& loop, kj::AutoCloseFd socket, std::size_t max_fds,
                             std::shared_ptr<MessageMemory::Account> account)
    : loop_(loop),
      account_(std::move(account)),
      socket_(kj::mv(socket)),
      max_fds_(max_fds),
      observer_(loop.port(), socket_, kj::UnixEventPort::FdObserver::OBSERVE_READ_WRITE),
      in_(kj::heapArray<capnp::word>(kUsualBytes / kWord)),
      control_(max_fds == 0 ? 0 : CMSG_SPACE(max_fds * sizeof(int))) {
  SetNonBlocking(socket_);
  readable_ = WatchReadable().eagerlyEvaluate(nullptr);
  loop_.Add(*this);
  if (account_ != nullptr) account_->SetCut([this] { Cut(); });
}

MessageSocket::~MessageSocket() noexcept(false) {
  loop_.Remove(*this);
  if (account_ == nullptr) return;
  account_->SetCut(nullptr);
  account_->Give(counted_);
}

kj::Promise<kj::Maybe<capnp::MessageReaderAndFds>> MessageSocket::tryReadMessage(kj::ArrayPtr<kj::AutoCloseFd> fd_space,
                                                                                 capnp::ReaderOptions options,
                                                                                 kj::ArrayPtr<capnp::word>) {
  Reader reader{{}, fd_space, options};
  Message message = ReadMessage(reader);
  if (message != nullptr || ended_) return kj::mv(message);
  auto pair = kj::newPromiseAndFulfiller<Message>();
  reader.fulfiller = kj::mv(pair.fulfiller);
  reader_ = kj::mv(reader);
  return kj::mv(pair.promise);
}

kj::Promise<void> MessageSocket::WatchReadable() {
  return observer_.whenBecomesReadable().then([this] {
    drained_ = false;
    Receive();
    return WatchReadable();
  });
}

bool MessageSocket::Receive() {
  KJ_IF_MAYBE (reader, reader_) {
    if (!reader->fulfiller->isWaiting()) {  // the reader has given up
      reader_ = nullptr;
      return false;
    }
    drained_ = false;
    const auto failure = kj::runCatchingExceptions([&] {
      Message message = ReadMessage(*reader);
      if (message != nullptr || ended_) {
        reader->fulfiller->fulfill(kj::mv(message));
        reader_ = nullptr;
      }
    });
    KJ_IF_MAYBE (exception, failure) {
      reader->fulfiller->reject(kj::cp(*exception));
      reader_ = nullptr;
    }
    return reader_ == nullptr;
  }
  return false;
}

MessageSocket::Message MessageSocket::ReadMessage(Reader& reader) {
  for (;;) {
    const std::size_t words = FrameWords(reader.options);
    if (words != 0 && words * kWord <= in_end_ - in_begin_) return TakeFrame(words, reader);
    if (ended_) {
      if (in_begin_ == in_end_) return nullptr;
      kj::throwFatalException(KJ_EXCEPTION(DISCONNECTED, "the connection ended within a message"));
    }
    if (drained_) return nullptr;
    ReceiveSome(words * kWord);
  }
}

/// Words of the frame at in_begin_; 0 if not all of its header is there.
std::size_t MessageSocket::FrameWords(const capnp::ReaderOptions& options) const {
  const std::size_t have = in_end_ - in_begin_;
  if (have < kWord) return 0;
  const auto* header = reinterpret_cast<const kj::byte*>(in_.begin()) + in_begin_;
  const auto number = [header](std::uint64_t i) {
    std::uint32_t little_endian;
    std::memcpy(&little_endian, header + i * sizeof(little_endian), sizeof(little_endian));
    return std::uint64_t{little_endian};
  };
  const std::uint64_t segments = number(0) + 1;
  KJ_REQUIRE(segments < kMaxSegments, "a message of too many segments", segments);
  std::uint64_t words = segments / 2 + 1;
  if (have < words * kWord) return 0;
  for (std::uint64_t i = 0; i < segments; ++i) words += number(1 + i);
  KJ_REQUIRE(words <= options.traversalLimitInWords, "a message that is too large", words, options.traversalLimitInWords);
  return words;
}

capnp::MessageReaderAndFds MessageSocket::TakeFrame(std::size_t words, Reader& reader) {
  const std::size_t bytes = words * kWord;
  kj::Array<capnp::word> frame;
  if (bytes > kUsualBytes && in_begin_ == 0 && in_end_ == bytes) {  // a large message that fills the buffer takes it along
    frame = kj::mv(in_);
    in_ = kj::heapArray<capnp::word>(kUsualBytes / kWord);
  } else {
    frame = kj::heapArray<capnp::word>(words);
    std::memcpy(frame.begin(), in_.begin() + in_begin_ / kWord, bytes);
  }
  in_begin_ += bytes;
  const std::uint64_t taken = received_ - (in_end_ - in_begin_);
  if (in_begin_ == in_end_) {
    in_begin_ = in_end_ = 0;
    if (in_.size() * kWord > kKeptBytes) in_ = kj::heapArray<capnp::word>(kUsualBytes / kWord);
  }
  Recount();
  std::size_t fds = 0;
  if (!in_fds_.empty() && in_fds_.front().end <= taken) {
    for (kj::AutoCloseFd& fd : in_fds_.front().fds) {
      if (fds < reader.fd_space.size()) reader.fd_space[fds++] = kj::mv(fd);
    }
    in_fds_.pop_front();
  }
  const std::size_t held = frame.size() * kWord + kCallBytes;
  kj::Own<capnp::MessageReader> message = kj::heap<capnp::FlatArrayMessageReader>(frame.slice(0, words), reader.options)
                                              .attach(kj::mv(frame), CountedBytes(account_, held));
  KJ_IF_MAYBE (exception, broken_) {
    if (account_ != nullptr && ended_) kj::throwFatalException(kj::cp(*exception));  // cut off just now
  }
  if (check_ != nullptr) check_(*message);
  return {kj::mv(message), reader.fd_space.slice(0, fds)};
}

/// Ends the connection at once, without what has come or was to go.
void MessageSocket::Cut() {
  in_ = kj::heapArray<capnp::word>(1);
  in_begin_ = in_end_ = 0;
  ended_ = true;
  Break(KJ_EXCEPTION(DISCONNECTED, "of what all connections may hold in messages this one held most"));
}

/// Tells the account what the buffers hold beyond the usual. Whoever calls this while it grows looks at broken_ afterwards.
void MessageSocket::Recount() {
  if (account_ == nullptr) return;
  const auto beyond = [](std::size_t bytes) { return bytes > kUsualBytes ? bytes - kUsualBytes : 0; };
  const std::size_t before = std::exchange(counted_, beyond(in_.size() * kWord) + beyond(out_.capacity()));
  if (counted_ > before) {
    account_->Take(counted_ - before);
  } else {
    account_->Give(before - counted_);
  }
}

/// `frame_bytes`: of the message that is coming in, if its header is there.
void MessageSocket::MakeRoom(std::size_t frame_bytes) {
  const std::size_t have = in_end_ - in_begin_;
  auto* bytes = reinterpret_cast<kj::byte*>(in_.begin());
  if (in_begin_ != 0) {
    std::memmove(bytes, bytes + in_begin_, have);
    in_begin_ = 0;
    in_end_ = have;
  }
  if (have < in_.size() * kWord) return;
  // Grows with what has come, not with what a header claims.
  std::size_t words = 2 * in_.size();
  if (frame_bytes > have && frame_bytes / kWord < words) words = frame_bytes / kWord;
  auto larger = kj::heapArray<capnp::word>(words);
  std::memcpy(larger.begin(), in_.begin(), have);
  in_ = kj::mv(larger);
  Recount();
  KJ_IF_MAYBE (exception, broken_) {
    if (account_ != nullptr) kj::throwFatalException(kj::cp(*exception));
  }
}

void MessageSocket::ReceiveSome(std::size_t frame_bytes) {
  if (in_end_ == in_.size() * kWord) MakeRoom(frame_bytes);
  iovec piece{reinterpret_cast<kj::byte*>(in_.begin()) + in_end_, in_.size() * kWord - in_end_};
  msghdr header{};
  header.msg_iov = &piece;
  header.msg_iovlen = 1;
  header.msg_control = control_.empty() ? nullptr : control_.data();
  header.msg_controllen = control_.size();
  ssize_t n = -1;
  do {
    n = ::recvmsg(socket_, &header, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
  } while (n < 0 && errno == EINTR);
  if (n < 0) {
    const int error = errno;
    if (error == EAGAIN || error == EWOULDBLOCK) {
      drained_ = true;
      return;
    }
    ended_ = true;
    if (error != ECONNRESET) KJ_FAIL_SYSCALL("recvmsg", error);
    return;
  }
  if (n == 0) {
    ended_ = true;
    return;
  }
  in_end_ += static_cast<std::size_t>(n);
  received_ += static_cast<std::size_t>(n);
  // Descriptors, taken or not, end a read before all is read.
  const bool with_fds = header.msg_controllen != 0 || (header.msg_flags & MSG_CTRUNC) != 0;
  if (header.msg_controllen != 0) TakeFds(header);
  // And when the end has been announced, nothing will announce it again.
  const kj::Maybe<bool> end_hint = observer_.atEndHint();
  const bool end_announced = end_hint.orDefault(false);
  drained_ = static_cast<std::size_t>(n) < piece.iov_len && !with_fds && !end_announced;
}

void MessageSocket::TakeFds(const msghdr& header) {
  ReceivedFds received{received_, {}};
  for (const cmsghdr* part = CMSG_FIRSTHDR(&header); part != nullptr;
       part = CMSG_NXTHDR(const_cast<msghdr*>(&header), const_cast<cmsghdr*>(part))) {
    if (part->cmsg_level != SOL_SOCKET || part->cmsg_type != SCM_RIGHTS) continue;
    const std::size_t count = (part->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    for (std::size_t i = 0; i < count; ++i) {
      int fd = -1;
      std::memcpy(&fd, CMSG_DATA(part) + i * sizeof(int), sizeof(fd));
      received.fds.add(fd);
    }
  }
  if (!received.fds.empty()) in_fds_.push_back(std::move(received));
}

}  // namespace kvant::wire
