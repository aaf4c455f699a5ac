// Calls of a hostile client: any method with any parameters, on a daemon that runs in this process and on a session with an
// arena, a store and a sequence. Every call is answered, and the daemon lives.
// Input: interface (0 Daemon, 1 Session, 2 Admin), method, then the parameters as a flat Cap'n Proto message. A word of it that
// is kTheSequence becomes the number of the sequence, which differs from daemon to daemon.
#include <cstdint>
#include <cstring>
#include <memory>

#include <capnp/any.h>
#include <capnp/rpc-twoparty.h>
#include <capnp/serialize.h>
#include <kj/async-io.h>
#include <kvant/daemon.h>
#include <kvant/kvant.capnp.h>

#include "protocol/segment_layout.h"
#include "protocol/wire.h"
#include "tests/fuzz/fuzz_input.h"

namespace {

using namespace kvant;  // NOLINT(google-build-using-namespace)

constexpr std::uint64_t kTheSequence = 0x5E90E4CE5E90E4CE;
constexpr kj::Duration kPatience = 20 * kj::SECONDS;  // nothing below works so long, on any machine

class Peer {
 public:
  Peer(kj::AsyncIoContext& io, int fd)
      : io_(io),
        stream_(io.lowLevelProvider->wrapUnixSocketFd(fd, kj::LowLevelAsyncIoProvider::TAKE_OWNERSHIP)),
        client_(*stream_, wire::kMaxFdsPerMessage),
        daemon_(client_.bootstrap().castAs<wire::Daemon>()) {}

  template <typename Results>
  capnp::Response<Results> Wait(capnp::RemotePromise<Results>&& answer) {
    return io_.provider->getTimer().timeoutAfter(kPatience, kj::mv(answer)).wait(io_.waitScope);
  }

  struct Opened {
    wire::Session::Client session;
    std::uint64_t sequence;
  };
  /// Arena 1 (numbers count stores too), store 2, a sequence whose tail lies behind the arena's header page.
  Opened Open() {
    auto hello = daemon_.helloRequest();
    hello.initHello().setProtocolVersion(wire::kProtocolVersion);
    hello.getHello().setSegmentLayoutVersion(protocol::kSegmentLayoutVersion);
    auto session = Wait(hello.send()).getOk().getSession();
    auto arena = session.createArenaRequest();
    arena.setBytes(1 << 20);
    Wait(arena.send());
    auto store = session.openStoreRequest();
    StoreSpec spec;
    spec.name = spec.model = spec.tokenizer = "fuzz";
    spec.layers = 2;
    spec.kv_heads = 2;
    spec.head_dim = 16;
    spec.block_tokens = 16;
    spec.plan.keys = spec.plan.values = "f32";
    wire::WriteStoreSpec(spec, store.initSpec());
    Wait(store.send());
    auto open = session.openSequenceRequest();
    open.setStore(2);
    open.initOptions().setMaxStepTokens(16);
    auto tail = open.getOptions().initTail();
    tail.setArena(1);
    tail.setElementType(wire::ElementType::F32);
    tail.setCapacityTokens(64);
    tail.setOffset(4096);
    const std::uint64_t sequence = Wait(open.send()).getOk().getSequence();
    return {kj::mv(session), sequence};
  }

  wire::Admin::Client Admin() {
    auto request = daemon_.adminRequest();
    request.initHello().setProtocolVersion(wire::kProtocolVersion);
    request.getHello().setSegmentLayoutVersion(protocol::kSegmentLayoutVersion);
    return Wait(request.send()).getOk().getAdmin();
  }

  void Call(capnp::Capability::Client on, std::uint64_t interface_id, std::uint16_t method,
            capnp::AnyPointer::Reader parameters) {
    auto request = on.typelessRequest(interface_id, method, nullptr);
    request.set(parameters);
    bool late = false;
    auto answer = request.send().ignoreResult().exclusiveJoin(
        io_.provider->getTimer().afterDelay(kPatience).then([&late] { late = true; }));
    kj::runCatchingExceptions([&] { answer.wait(io_.waitScope); });  // a refusal is an answer, and so is a closed connection
    fuzz::Expect(!late, "a call without an answer");
  }

  [[nodiscard]] wire::Daemon::Client& daemon() { return daemon_; }

 private:
  kj::AsyncIoContext& io_;
  kj::Own<kj::AsyncCapabilityStream> stream_;
  capnp::TwoPartyClient client_;
  wire::Daemon::Client daemon_;
};

struct Process {
  kj::AsyncIoContext io = kj::setupAsyncIo();
  std::unique_ptr<Daemon> daemon = [] {
    DaemonOptions options;
    options.budget_bytes = std::size_t{8} << 20;
    options.arena_limit_bytes = std::size_t{4} << 20;
    options.workers = 1;
    return Daemon::Start(options).value();
  }();
  Peer watcher{io, daemon->Connect().value()};
  wire::Admin::Client admin = watcher.Admin();
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static auto* const process = new Process;  // never destroyed: kj's loop must outlive nothing else
  if (size < 2) return 0;
  kj::Array<capnp::word> words = kj::heapArray<capnp::word>((size - 2) / sizeof(capnp::word));
  if (words.size() == 0) return 0;
  std::memcpy(static_cast<void*>(words.begin()), data + 2, words.size() * sizeof(capnp::word));
  kj::runCatchingExceptions([&] {
    Peer peer(process->io, process->daemon->Connect().value());
    const auto call = [&](capnp::Capability::Client on, std::uint64_t interface_id) {
      capnp::FlatArrayMessageReader message(words, wire::ReaderOptionsOfPeer());
      peer.Call(kj::mv(on), interface_id, data[1], message.getRoot<capnp::AnyPointer>());
    };
    if (data[0] % 3 == 0) {
      call(peer.daemon(), capnp::typeId<wire::Daemon>());
    } else if (data[0] % 3 == 2) {
      call(peer.Admin(), capnp::typeId<wire::Admin>());
    } else {
      Peer::Opened opened = peer.Open();
      for (capnp::word& word : words) {
        if (std::memcmp(&word, &kTheSequence, sizeof(word)) == 0)
          std::memcpy(static_cast<void*>(&word), &opened.sequence, sizeof(word));
      }
      call(kj::mv(opened.session), capnp::typeId<wire::Session>());
    }
  });
  process->watcher.Wait(process->admin.pingRequest().send());  // throws, and so ends the process, if nobody answers
  return 0;
}
