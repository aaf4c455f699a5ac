// The writing half of MessageSocket.
#include <cerrno>
#include <cstddef>
#include <cstring>
#include <utility>

#include <fcntl.h>
#include <kj/debug.h>
#include <sys/socket.h>

#include "protocol/message_socket.h"

namespace kvant::wire {
namespace {

template <typename T>
void Append(std::vector<kj::byte>& to, const T* data, std::size_t count) {
  const auto* bytes = reinterpret_cast<const kj::byte*>(data);
  to.insert(to.end(), bytes, bytes + count * sizeof(T));
}

}  // namespace

kj::Promise<void> MessageSocket::writeMessage(kj::ArrayPtr<const int> fds,
                                              kj::ArrayPtr<const kj::ArrayPtr<const capnp::word>> segments) {
  KJ_IF_MAYBE (exception, broken_) return kj::cp(*exception);
  KJ_REQUIRE(segments.size() > 0 && !ending_, "nothing to write, or the connection has been ended");
  SentFds sent;
  for (const int fd : fds) {
    const int copy = ::fcntl(fd, F_DUPFD_CLOEXEC, 0);  // the caller keeps its own for no longer than this call
    if (copy < 0) return Break(KJ_EXCEPTION(DISCONNECTED, "duplicate a descriptor to send", fds.size(), ::strerror(errno)));
    sent.fds.add(copy);
  }
  DropSent();
  const std::size_t begin = out_.size();
  const auto count = static_cast<std::uint32_t>(segments.size() - 1);
  Append(out_, &count, 1);
  for (const auto& segment : segments) {
    const auto words = static_cast<std::uint32_t>(segment.size());
    Append(out_, &words, 1);
  }
  if (segments.size() % 2 == 0) out_.resize(out_.size() + sizeof(std::uint32_t));
  for (const auto& segment : segments) Append(out_, segment.begin(), segment.size());
  if (fds.size() != 0) {
    sent.begin = begin;
    sent.end = out_.size();
    out_fds_.push_back(std::move(sent));
  }
  if (out_.size() - sent_ > kMaxUnsentBytes) {
    return Break(KJ_EXCEPTION(DISCONNECTED, "the peer does not read its answers", out_.size() - sent_));
  }
  Recount();
  KJ_IF_MAYBE (exception, broken_) return kj::cp(*exception);
  return kj::READY_NOW;
}

/// Cap'n Proto drops what a failed write says and waits for the reading half to end: so that ends, for the peer too.
kj::Exception MessageSocket::Break(kj::Exception&& why) {
  out_.clear();
  out_.shrink_to_fit();
  out_fds_.clear();
  sent_ = 0;
  ::shutdown(socket_, SHUT_RDWR);
  broken_ = kj::cp(why);
  Recount();
  return kj::mv(why);
}

/// A peer that reads slowly but steadily must not make `out_` grow for ever.
void MessageSocket::DropSent() {
  constexpr std::size_t kWorthMoving = std::size_t{1} << 20;
  if (sent_ < kWorthMoving) return;
  out_.erase(out_.begin(), out_.begin() + static_cast<std::ptrdiff_t>(sent_));
  for (SentFds& fds : out_fds_) {
    fds.begin -= sent_;
    fds.end -= sent_;
  }
  sent_ = 0;
}

kj::Promise<void> MessageSocket::writeMessages(kj::ArrayPtr<kj::ArrayPtr<const kj::ArrayPtr<const capnp::word>>> messages) {
  kj::Promise<void> written = kj::READY_NOW;
  for (const auto& segments : messages) written = writeMessage(nullptr, segments);
  return written;
}

void MessageSocket::Flush() {
  if (sent_ == out_.size() || blocked_ || broken_ != nullptr) return;
  while (sent_ < out_.size()) {
    if (SendSome()) continue;
    // A continuation may not replace the promise that runs it.
    if (blocked_ && !std::exchange(watching_writable_, true)) writable_ = WatchWritable().eagerlyEvaluate(nullptr);
    return;
  }
  out_.clear();
  sent_ = 0;
  if (out_.capacity() > kKeptBytes) out_.shrink_to_fit();
  Recount();
  if (ending_) ::shutdown(socket_, SHUT_WR);
}

kj::Promise<void> MessageSocket::WatchWritable() {
  return observer_.whenBecomesWritable().then([this]() -> kj::Promise<void> {
    blocked_ = false;
    Flush();
    if (blocked_) return WatchWritable();
    watching_writable_ = false;
    return kj::READY_NOW;
  });
}

bool MessageSocket::SendSome() {
  std::size_t end = out_.size();
  msghdr header{};
  std::vector<kj::byte> control;
  const bool with_fds = !out_fds_.empty() && out_fds_.front().begin == sent_;
  if (with_fds) {
    const auto& fds = out_fds_.front().fds;
    end = out_fds_.front().end;
    control.resize(CMSG_SPACE(fds.size() * sizeof(int)));
    header.msg_control = control.data();
    header.msg_controllen = control.size();
    cmsghdr* part = CMSG_FIRSTHDR(&header);
    part->cmsg_level = SOL_SOCKET;
    part->cmsg_type = SCM_RIGHTS;
    part->cmsg_len = CMSG_LEN(fds.size() * sizeof(int));
    for (std::size_t i = 0; i < fds.size(); ++i) {
      const int fd = fds[i];
      std::memcpy(CMSG_DATA(part) + i * sizeof(int), &fd, sizeof(fd));
    }
  } else if (!out_fds_.empty()) {
    end = out_fds_.front().begin;
  }
  iovec piece{out_.data() + sent_, end - sent_};
  header.msg_iov = &piece;
  header.msg_iovlen = 1;
  ssize_t n = -1;
  do {
    n = ::sendmsg(socket_, &header, MSG_DONTWAIT | MSG_NOSIGNAL);
  } while (n < 0 && errno == EINTR);
  if (n >= 0) {
    if (with_fds) out_fds_.pop_front();  // they went with the first byte
    sent_ += static_cast<std::size_t>(n);
    return true;
  }
  const int error = errno;
  if (error == EAGAIN || error == EWOULDBLOCK) {
    blocked_ = true;
  } else {
    Break(KJ_EXCEPTION(DISCONNECTED, "send", piece.iov_len, ::strerror(error)));
  }
  return false;
}

kj::Maybe<int> MessageSocket::getSendBufferSize() {
  int bytes = 0;
  socklen_t length = sizeof(bytes);
  if (::getsockopt(socket_, SOL_SOCKET, SO_SNDBUF, &bytes, &length) != 0) return nullptr;
  return bytes;
}

kj::Promise<void> MessageSocket::end() {
  Flush();
  if (sent_ == out_.size()) {
    ::shutdown(socket_, SHUT_WR);
  } else {
    ending_ = true;  // Flush shuts down behind the last byte
  }
  return kj::READY_NOW;
}

}  // namespace kvant::wire
