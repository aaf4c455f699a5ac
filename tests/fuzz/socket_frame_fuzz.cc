// Bytes of a hostile peer on the socket, cut into pieces anyhow: MessageSocket finds the messages that Cap'n Proto's own reader
// finds in the same bytes, then the end or an error where that has one; it never waits for more than was promised.
// Input: a byte that says how the bytes are cut, then the bytes.
#include <algorithm>
#include <cstdint>
#include <cstring>
#include <optional>
#include <vector>

#include <capnp/serialize.h>
#include <kj/io.h>
#include <sys/socket.h>
#include <unistd.h>

#include "protocol/message_socket.h"
#include "protocol/wire.h"
#include "tests/fuzz/fuzz_input.h"

namespace {

using namespace kvant;  // NOLINT(google-build-using-namespace)
using Segments = std::vector<std::vector<std::uint8_t>>;

/// Up to the last that is not empty: a reader does not tell an empty segment from one that is not there.
Segments SegmentsOf(capnp::MessageReader& message) {
  constexpr unsigned kMostSegments = 512;
  Segments segments;
  for (unsigned i = 0; i < kMostSegments; ++i) {
    const auto bytes = message.getSegment(i).asBytes();
    if (bytes.size() == 0) continue;
    segments.resize(i + 1);
    segments.back().assign(bytes.begin(), bytes.end());
  }
  return segments;
}

/// The next message in `stream`, or nothing at its end or at the first fault.
std::optional<Segments> Reference(kj::BufferedInputStream& stream) {
  std::optional<Segments> segments;
  const auto failure = kj::runCatchingExceptions([&] {
    const auto rest = stream.tryGetReadBuffer();
    if (rest == nullptr) return;
    // 2^32 segments: Cap'n Proto's reader counts them in 32 bits and takes the message for an empty one. MessageSocket refuses.
    constexpr std::uint32_t kWraps = 0xFFFFFFFF;
    if (rest.size() >= sizeof(kWraps) && std::memcmp(rest.begin(), &kWraps, sizeof(kWraps)) == 0) return;
    capnp::InputStreamMessageReader message(stream, wire::ReaderOptionsOfPeer());
    segments = SegmentsOf(message);
  });  // the reader reads what is left of the message when it ends
  if (failure != nullptr) return std::nullopt;
  return segments;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static wire::EventLoop loop;
  if (size < 1 || size > 1U << 16) return 0;  // more than a socket holds would have to be written in turns
  const std::size_t piece = 1 + data[0] * std::size_t{37};
  const std::uint8_t* const bytes = data + 1;
  size -= 1;

  int ends[2];
  if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) != 0) fuzz::Found("socketpair failed");
  wire::MessageSocket socket(loop, kj::AutoCloseFd(ends[0]), 0);
  std::size_t sent = 0;
  const auto send_some = [&] {
    const std::size_t count = std::min(piece, size - sent);
    if (count > 0 && ::send(ends[1], bytes + sent, count, MSG_NOSIGNAL) != static_cast<ssize_t>(count)) {
      fuzz::Found("a short write");
    }
    sent += count;
    if (sent == size) ::shutdown(ends[1], SHUT_WR);
  };

  kj::ArrayInputStream stream(kj::arrayPtr(bytes, size));
  for (;;) {
    std::optional<Segments> got;
    const auto failure = kj::runCatchingExceptions([&] {
      auto reading = socket.tryReadMessage(nullptr, wire::ReaderOptionsOfPeer(), nullptr);
      while (!reading.poll(loop.wait_scope()) && sent < size) send_some();
      if (!reading.poll(loop.wait_scope())) send_some();  // the end, if the last piece was there before
      fuzz::Expect(reading.poll(loop.wait_scope()), "everything was sent, and the reader still waits");
      auto message = reading.wait(loop.wait_scope());
      KJ_IF_MAYBE (found, message) got = SegmentsOf(*found->reader);
    });
    fuzz::Expect(got == Reference(stream), "not the messages that are in the bytes");
    if (!got || failure != nullptr) break;
  }
  ::close(ends[1]);
  return 0;
}
