#include "protocol/buffered_stream.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include <kj/debug.h>

namespace kvant::wire {
namespace {

/// Most messages are a few hundred bytes; larger ones are read past the buffer.
constexpr std::size_t kReadAheadBytes = 16384;

}  // namespace

BufferedStream::BufferedStream(kj::AsyncCapabilityStream& inner, std::function<void()> on_bytes)
    : inner_(inner), on_bytes_(std::move(on_bytes)), ahead_(std::make_unique<kj::byte[]>(kReadAheadBytes)) {}

kj::Promise<size_t> BufferedStream::tryRead(void* buffer, size_t min_bytes, size_t max_bytes) {
  const std::size_t have = std::min(max_bytes, ahead_end_ - ahead_begin_);
  std::memcpy(buffer, ahead_.get() + ahead_begin_, have);
  ahead_begin_ += have;
  if (have >= min_bytes) return have;
  auto* rest = static_cast<kj::byte*>(buffer) + have;
  if (min_bytes - have > kReadAheadBytes) {
    return inner_.tryRead(rest, min_bytes - have, max_bytes - have).then([this, have](size_t read) {
      if (read > 0 && on_bytes_) on_bytes_();
      return have + read;
    });
  }
  ahead_begin_ = ahead_end_ = 0;
  return inner_.tryRead(ahead_.get(), min_bytes - have, kReadAheadBytes).then([this, rest, have, room = max_bytes - have](size_t read) {
    if (read > 0 && on_bytes_) on_bytes_();
    const std::size_t taken = std::min(room, read);
    std::memcpy(rest, ahead_.get(), taken);
    ahead_begin_ = taken;
    ahead_end_ = read;
    return have + taken;
  });
}

kj::Promise<BufferedStream::ReadResult> BufferedStream::tryReadWithFds(void* buffer, size_t min_bytes, size_t max_bytes,
                                                                       kj::AutoCloseFd*, size_t) {
  // A read without room for control messages makes the kernel close descriptors that came.
  return tryRead(buffer, min_bytes, max_bytes).then([](size_t read) { return ReadResult{read, 0}; });
}

kj::Promise<void> BufferedStream::write(const void* buffer, size_t size) {
  Gather(kj::arrayPtr(static_cast<const kj::byte*>(buffer), size));
  return Gathered();
}

kj::Promise<void> BufferedStream::write(kj::ArrayPtr<const kj::ArrayPtr<const kj::byte>> pieces) {
  for (auto piece : pieces) Gather(piece);
  return Gathered();
}

kj::Promise<void> BufferedStream::writeWithFds(kj::ArrayPtr<const kj::byte> data,
                                               kj::ArrayPtr<const kj::ArrayPtr<const kj::byte>> more,
                                               kj::ArrayPtr<const int> fds) {
  if (fds.size() == 0) {
    Gather(data);
    for (auto piece : more) Gather(piece);
    return Gathered();
  }
  // Descriptors travel with the first byte of their message, so everything before it must be out. Cap'n Proto writes nothing
  // else, and keeps data and descriptors, until this promise resolves.
  kj::Promise<void> before = kj::READY_NOW;
  if (scheduled_) {
    auto pair = kj::newPromiseAndFulfiller<void>();
    when_written_ = kj::mv(pair.fulfiller);
    before = kj::mv(pair.promise);
  }
  return before.then([this, data, more, fds]() -> kj::Promise<void> {
    KJ_IF_MAYBE (exception, broken_) return kj::cp(*exception);
    return inner_.writeWithFds(data, more, fds);
  });
}

void BufferedStream::Gather(kj::ArrayPtr<const kj::byte> piece) {
  gathered_.insert(gathered_.end(), piece.begin(), piece.end());
}

kj::Promise<void> BufferedStream::Gathered() {
  if (broken_ == nullptr && gathered_.size() > kMaxUnsentBytes) {
    broken_ = KJ_EXCEPTION(DISCONNECTED, "the peer does not read its answers", gathered_.size());
  }
  KJ_IF_MAYBE (exception, broken_) {
    gathered_.clear();
    return kj::cp(*exception);
  }
  if (!scheduled_) {
    scheduled_ = true;
    // Twice later: after the events that are ready now, among them those that write the rest of this answer.
    flush_ = kj::evalLater([this] { return kj::evalLater([this] { return WriteOut(); }); })
                 .eagerlyEvaluate([this](kj::Exception&& exception) {
                   broken_ = kj::mv(exception);
                   Written();
                 });
  }
  return kj::READY_NOW;
}

kj::Promise<void> BufferedStream::WriteOut() {
  std::swap(gathered_, writing_);
  gathered_.clear();
  return inner_.write(writing_.data(), writing_.size()).then([this]() -> kj::Promise<void> {
    if (!gathered_.empty()) return WriteOut();
    Written();  // here and not one event later, or what is gathered in between would wait for the next write
    return kj::READY_NOW;
  });
}

void BufferedStream::Written() {
  scheduled_ = false;
  if (auto waiter = kj::mv(when_written_); waiter.get() != nullptr) waiter->fulfill();
}

kj::Promise<void> BufferedStream::writeWithStreams(kj::ArrayPtr<const kj::byte>,
                                                   kj::ArrayPtr<const kj::ArrayPtr<const kj::byte>>,
                                                   kj::Array<kj::Own<kj::AsyncCapabilityStream>>) {
  return KJ_EXCEPTION(UNIMPLEMENTED, "streams are not passed on this connection");
}

kj::Promise<BufferedStream::ReadResult> BufferedStream::tryReadWithStreams(void* buffer, size_t min_bytes, size_t max_bytes,
                                                                           kj::Own<kj::AsyncCapabilityStream>*, size_t) {
  return tryReadWithFds(buffer, min_bytes, max_bytes, nullptr, 0);
}

}  // namespace kvant::wire
