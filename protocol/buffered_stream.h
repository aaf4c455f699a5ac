// A byte stream under Cap'n Proto that needs fewer system calls: reads ahead, and gathers what one turn of the event loop
// writes. Alone it saves about a quarter of a round trip.
#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <vector>

#include <kj/async-io.h>

namespace kvant::wire {

// kj's interfaces have no virtual destructors: its owners know the real type.
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wnon-virtual-dtor"

/// Descriptors are written, never read: those a peer sends are closed by the kernel. So this is the daemon's end of a connection.
/// Owned by the connection beside the stream it wraps (which must outlive it); belongs to the thread of its event loop.
class BufferedStream final : public kj::AsyncCapabilityStream {
 public:
  /// A peer that leaves more than this unread is cut off.
  static constexpr std::size_t kMaxUnsentBytes = std::size_t{64} << 20;

  /// `on_bytes` (may be empty) is called whenever bytes have come.
  BufferedStream(kj::AsyncCapabilityStream& inner, std::function<void()> on_bytes);
  BufferedStream(const BufferedStream&) = delete;
  BufferedStream& operator=(const BufferedStream&) = delete;

  kj::Promise<size_t> tryRead(void* buffer, size_t min_bytes, size_t max_bytes) override;
  kj::Promise<ReadResult> tryReadWithFds(void* buffer, size_t min_bytes, size_t max_bytes, kj::AutoCloseFd* fds,
                                         size_t max_fds) override;

  kj::Promise<void> write(const void* buffer, size_t size) override;
  kj::Promise<void> write(kj::ArrayPtr<const kj::ArrayPtr<const kj::byte>> pieces) override;
  kj::Promise<void> writeWithFds(kj::ArrayPtr<const kj::byte> data, kj::ArrayPtr<const kj::ArrayPtr<const kj::byte>> more,
                                 kj::ArrayPtr<const int> fds) override;
  using kj::AsyncCapabilityStream::writeWithFds;

  /// Streams are never passed.
  kj::Promise<void> writeWithStreams(kj::ArrayPtr<const kj::byte> data,
                                     kj::ArrayPtr<const kj::ArrayPtr<const kj::byte>> more,
                                     kj::Array<kj::Own<kj::AsyncCapabilityStream>> streams) override;
  kj::Promise<ReadResult> tryReadWithStreams(void* buffer, size_t min_bytes, size_t max_bytes,
                                             kj::Own<kj::AsyncCapabilityStream>* streams, size_t max_streams) override;

  kj::Promise<void> whenWriteDisconnected() override { return inner_.whenWriteDisconnected(); }
  void shutdownWrite() override { inner_.shutdownWrite(); }
  void abortRead() override { inner_.abortRead(); }
  void getsockopt(int level, int option, void* value, uint* length) override {
    inner_.getsockopt(level, option, value, length);
  }

 private:
  void Gather(kj::ArrayPtr<const kj::byte> piece);
  kj::Promise<void> Gathered();  // schedules the write of what was gathered
  kj::Promise<void> WriteOut();
  void Written();

  kj::AsyncCapabilityStream& inner_;
  std::function<void()> on_bytes_;

  std::unique_ptr<kj::byte[]> ahead_;  // kReadAheadBytes, of which [ahead_begin_, ahead_end_) are not handed out yet
  std::size_t ahead_begin_ = 0;
  std::size_t ahead_end_ = 0;

  std::vector<kj::byte> gathered_;
  std::vector<kj::byte> writing_;
  bool scheduled_ = false;
  kj::Maybe<kj::Exception> broken_;
  kj::Own<kj::PromiseFulfiller<void>> when_written_;
  kj::Promise<void> flush_ = kj::READY_NOW;  // last: runs over the others
};

#pragma GCC diagnostic pop

}  // namespace kvant::wire
