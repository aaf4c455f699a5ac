// One connection to a daemon: the socket, Cap'n Proto over it, and how a call waits for its answer: spin, then sleep, then give
// up at the deadline. Knows nothing of sessions or administration.
#pragma once

#include <capnp/capability.h>
#include <capnp/rpc-twoparty.h>

#include <chrono>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include <kvant/client.h>
#include <kvant/kvant.capnp.h>
#include <kvant/result.h>

#include "client/thread_loop.h"
#include "protocol/message_socket.h"
#include "protocol/wire.h"

namespace kvant {
class Daemon;
}

namespace kvant::client {

/// A call on its way. Its answer may be waited for again after a deadline has passed. Pinned: the loop points to it.
template <typename Results>
class Inflight {
 public:
  explicit Inflight(kj::Promise<capnp::Response<Results>> answer)
      : task_(answer
                  .then(
                      [this](capnp::Response<Results>&& response) {
                        response_ = kj::mv(response);
                        Wake();
                      },
                      [this](kj::Exception&& exception) {
                        exception_ = kj::mv(exception);
                        Wake();
                      })
                  .eagerlyEvaluate(nullptr)) {}
  Inflight(const Inflight&) = delete;
  Inflight& operator=(const Inflight&) = delete;

  [[nodiscard]] bool done() const noexcept { return done_; }

  /// Resolves when done() becomes true. One waiter at a time.
  kj::Promise<void> WhenDone() {
    if (done_) return kj::READY_NOW;
    auto pair = kj::newPromiseAndFulfiller<void>();
    waker_ = kj::mv(pair.fulfiller);
    return kj::mv(pair.promise);
  }

  /// After done().
  [[nodiscard]] kj::Maybe<kj::Exception>& exception() noexcept { return exception_; }
  [[nodiscard]] capnp::Response<Results> TakeResponse() { return kj::mv(KJ_ASSERT_NONNULL(response_)); }

 private:
  void Wake() {
    done_ = true;
    if (waker_.get() != nullptr) waker_->fulfill();
  }

  bool done_ = false;
  kj::Maybe<capnp::Response<Results>> response_;
  kj::Maybe<kj::Exception> exception_;
  kj::Own<kj::PromiseFulfiller<void>> waker_;
  kj::Promise<void> task_;  // last: runs over the others
};

/// Whom to connect to, and how.
struct Endpoint {
  std::string uri;
  ClientOptions options;
  std::shared_ptr<Daemon> daemon;  ///< of `embedded:`, shared by all connections to it; null: started by the first
};

/// Belongs to the thread that connected; only InThisThread, Abandon and endpoint may be called elsewhere.
class Connection {
 public:
  /// kDisconnected names the path and errno if nobody answers there, or that the daemon stayed in the process that this one was
  /// forked from.
  static Result<std::unique_ptr<Connection>> Connect(Endpoint endpoint);
  ~Connection();
  Connection(const Connection&) = delete;
  Connection& operator=(const Connection&) = delete;

  /// What every public call begins with: kWrongThread, kDisconnected in a forked child, or the error that ended the
  /// connection. Destroys what other threads left.
  [[nodiscard]] Result<void> Enter(std::string_view operation);

  [[nodiscard]] wire::Daemon::Client Bootstrap();
  /// What another thread needs for a connection of its own.
  [[nodiscard]] const Endpoint& endpoint() const noexcept { return endpoint_; }
  [[nodiscard]] const std::string& peer() const noexcept { return peer_; }
  [[nodiscard]] const std::string& client_name() const noexcept { return client_name_; }
  [[nodiscard]] ThreadLoop& loop() noexcept { return *loop_; }
  [[nodiscard]] bool InThisThread() const noexcept { return loop_->InThisThread(); }
  [[nodiscard]] std::uint64_t calls() const noexcept { return calls_; }
  [[nodiscard]] bool dead() const noexcept { return dead_.has_value(); }

  /// Sends and waits.
  template <typename Params, typename Results>
  [[nodiscard]] Result<capnp::Response<Results>> Call(capnp::Request<Params, Results>& request, std::string_view operation) {
    auto inflight = Send(request, operation);
    if (!inflight) return inflight.error();
    return Wait(**inflight, operation);
  }

  /// Sends only.
  template <typename Params, typename Results>
  [[nodiscard]] Result<kj::Own<Inflight<Results>>> Send(capnp::Request<Params, Results>& request, std::string_view operation) {
    if (dead_) return Dead(operation);
    ++calls_;
    kj::Own<Inflight<Results>> inflight;
    const auto failure = kj::runCatchingExceptions([&] { inflight = kj::heap<Inflight<Results>>(request.send()); });
    KJ_IF_MAYBE (exception, failure) return Failed(*exception, operation);
    return inflight;
  }

  /// Waits for the answer; kDeadlineExceeded leaves `inflight` fit to be waited for again.
  template <typename Results>
  [[nodiscard]] Result<capnp::Response<Results>> Wait(Inflight<Results>& inflight, std::string_view operation) {
    const auto failure = kj::runCatchingExceptions([&] { Await([&] { return inflight.done(); }); });
    KJ_IF_MAYBE (exception, failure) return Failed(*exception, operation);
    if (!inflight.done()) return Late(operation);
    KJ_IF_MAYBE (exception, inflight.exception()) return Failed(*exception, operation);
    return inflight.TakeResponse();
  }

  /// The file descriptor that came with `segment`, duplicated; the caller owns it.
  [[nodiscard]] Result<int> TakeFd(wire::Segment::Client segment, std::string_view operation);

  /// Keeps a call whose answer nobody waits for. `then` is called with it when it is done; it is destroyed, called or not, when
  /// the connection ends.
  template <typename Results, typename Then>
  void Forget(kj::Own<Inflight<Results>> call, Then then) {
    Inflight<Results>& held = *call;
    forgotten_->add(held.WhenDone().then([&held, then = kj::mv(then)]() mutable { then(held); }).attach(kj::mv(call)));
  }

  /// Lets what has been sent leave now. Messages leave when the loop turns, so without this they would stay here until the
  /// engine next waits for something. Not from within a turn.
  void Push() { loop_->events().wait_scope().poll(); }

  /// Ends the connection without touching kj: for the last handle of a thread that is gone. Thread-safe.
  void Abandon() noexcept;

 private:
  Connection(std::shared_ptr<ThreadLoop> loop, Endpoint endpoint);

  /// Turns the loop until `done()` or the deadline.
  template <typename Done>
  void Await(Done done) {
    loop_->events().set_spin(spin_);  // the thread's connections share the loop
    static_cast<void>(loop_->events().RunUntil(done, std::chrono::steady_clock::now() + deadline_));
  }

  [[nodiscard]] Error Dead(std::string_view operation) const;
  [[nodiscard]] Error Late(std::string_view operation) const;
  [[nodiscard]] Error Failed(const kj::Exception& exception, std::string_view operation);

  std::shared_ptr<ThreadLoop> loop_;  // shared by the thread's connections; outlives all below
  Endpoint endpoint_;                 // not changed once connected
  std::string peer_;                  // the socket's path, or "embedded:"
  std::string client_name_;
  std::chrono::nanoseconds spin_{};
  std::chrono::nanoseconds deadline_;
  std::uint64_t calls_ = 0;
  std::optional<Error> dead_;
  int socket_ = -1;  // owned by stream_
  kj::Own<wire::MessageSocket> stream_;
  struct Rpc;
  kj::Own<Rpc> rpc_;
  kj::Own<kj::TaskSet::ErrorHandler> ignore_errors_;
  kj::Own<kj::TaskSet> forgotten_;
};

}  // namespace kvant::client
