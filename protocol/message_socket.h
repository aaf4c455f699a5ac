// Cap'n Proto messages over a unix socket with few system calls: all that one turn of the event loop writes leaves together,
// and one read takes all that is there.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <vector>

#include <capnp/serialize-async.h>
#include <kj/async-unix.h>
#include <kj/io.h>
#include <kj/vector.h>
#include <sys/socket.h>

#include "protocol/event_loop.h"
#include "protocol/message_memory.h"

namespace kvant::wire {

// kj's interfaces have no virtual destructors: their owners know the real type.
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wnon-virtual-dtor"

/// One end of a connection. Belongs to the thread of its loop, which outlives it. One reader at a time.
///
/// A message with descriptors leaves in a send of its own: the kernel hands descriptors out with the last bytes of a read, so
/// the reader knows that they belong to the message that those bytes are of.
class MessageSocket final : public capnp::MessageStream, private Source {
 public:
  /// A peer that leaves more than this unread is cut off: the connection ends.
  static constexpr std::size_t kMaxUnsentBytes = std::size_t{64} << 20;

  /// `socket` is a stream socket. Of descriptors that come with one message at most `max_fds` are kept; with 0 the kernel
  /// closes all of them. `account`: what it holds in messages counts there, and it is what is cut off; null: nobody counts.
  MessageSocket(EventLoop& loop, kj::AutoCloseFd socket, std::size_t max_fds,
                std::shared_ptr<MessageMemory::Account> account = nullptr);
  ~MessageSocket() noexcept(false);
  MessageSocket(const MessageSocket&) = delete;
  MessageSocket& operator=(const MessageSocket&) = delete;

  /// `check` sees each message that comes in before anybody else; where it throws, the connection ends.
  void SetCheck(std::function<void(capnp::MessageReader&)> check) { check_ = std::move(check); }

  using capnp::MessageStream::tryReadMessage;
  using capnp::MessageStream::writeMessage;
  using capnp::MessageStream::writeMessages;
  kj::Promise<kj::Maybe<capnp::MessageReaderAndFds>> tryReadMessage(kj::ArrayPtr<kj::AutoCloseFd> fd_space,
                                                                    capnp::ReaderOptions options,
                                                                    kj::ArrayPtr<capnp::word> scratch) override;
  /// Gathers; the loop sends when it has nothing else to do. What cannot be sent ends the connection, both ways; later writes
  /// fail.
  kj::Promise<void> writeMessage(kj::ArrayPtr<const int> fds,
                                 kj::ArrayPtr<const kj::ArrayPtr<const capnp::word>> segments) override;
  kj::Promise<void> writeMessages(kj::ArrayPtr<kj::ArrayPtr<const kj::ArrayPtr<const capnp::word>>> messages) override;
  kj::Maybe<int> getSendBufferSize() override;
  kj::Promise<void> end() override;

 private:
  using Message = kj::Maybe<capnp::MessageReaderAndFds>;
  struct Reader {
    kj::Own<kj::PromiseFulfiller<Message>> fulfiller;
    kj::ArrayPtr<kj::AutoCloseFd> fd_space;
    capnp::ReaderOptions options;
  };
  /// Descriptors that came with the bytes before `end`, counted from the first byte of the connection.
  struct ReceivedFds {
    std::uint64_t end = 0;
    kj::Vector<kj::AutoCloseFd> fds;
  };
  /// A message in `out_`, from its first byte to behind its last, that descriptors go with.
  struct SentFds {
    std::size_t begin = 0;
    std::size_t end = 0;
    kj::Vector<kj::AutoCloseFd> fds;
  };

  /// A buffer that grew beyond this is given back once it is empty.
  static constexpr std::size_t kKeptBytes = std::size_t{32} << 10;

  void Flush() override;
  bool Receive() override;

  kj::Promise<void> WatchReadable();
  kj::Promise<void> WatchWritable();
  /// Reads until there is a message, or nothing more.
  Message ReadMessage(Reader& reader);
  void ReceiveSome(std::size_t frame_bytes);
  void MakeRoom(std::size_t frame_bytes);
  void TakeFds(const msghdr& header);
  [[nodiscard]] std::size_t FrameWords(const capnp::ReaderOptions& options) const;
  capnp::MessageReaderAndFds TakeFrame(std::size_t words, Reader& reader);
  /// Sends one stretch of `out_`; false if the kernel takes no more for now, or never again.
  bool SendSome();
  kj::Exception Break(kj::Exception&& why);
  void DropSent();
  void Recount();
  void Cut();

  EventLoop& loop_;
  const std::shared_ptr<MessageMemory::Account> account_;  // shared with messages that are being served; null: nobody counts
  std::function<void(capnp::MessageReader&)> check_;       // null: nobody looks
  std::size_t counted_ = 0;                                // there, of the buffers
  const kj::AutoCloseFd socket_;
  const std::size_t max_fds_;
  kj::UnixEventPort::FdObserver observer_;

  kj::Array<capnp::word> in_;  // received: bytes [in_begin_, in_end_); in_begin_ is a multiple of a word
  std::size_t in_begin_ = 0;
  std::size_t in_end_ = 0;
  std::uint64_t received_ = 0;  // bytes since the connection began
  bool drained_ = false;        // nothing more was there at the last read
  bool ended_ = false;          // by the peer
  std::deque<ReceivedFds> in_fds_;
  std::vector<kj::byte> control_;
  kj::Maybe<Reader> reader_;

  std::vector<kj::byte> out_;
  std::size_t sent_ = 0;  // of out_
  std::deque<SentFds> out_fds_;
  bool blocked_ = false;  // the kernel takes no more
  bool watching_writable_ = false;
  bool ending_ = false;  // no more after what is in out_
  kj::Maybe<kj::Exception> broken_;

  kj::Promise<void> writable_ = kj::READY_NOW;
  kj::Promise<void> readable_ = kj::READY_NOW;  // last: these run over the others
};

#pragma GCC diagnostic pop

}  // namespace kvant::wire
