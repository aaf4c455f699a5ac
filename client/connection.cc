#include "client/connection.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include <kvant/daemon.h>

#include "protocol/socket_address.h"
#include "protocol/system_error.h"

namespace kvant::client {
namespace {

constexpr std::string_view kEmbedded = "embedded:";
/// As good as none; more would not fit nanoseconds since the machine started.
constexpr std::chrono::hours kLongestDeadline{24 * 365};

struct IgnoreErrors final : kj::TaskSet::ErrorHandler {
  void taskFailed(kj::Exception&&) override {}
};

/// What /proc says this program is called.
std::string ProgramName() {
  char buffer[64] = {};
  const int fd = ::open("/proc/self/comm", O_RDONLY | O_CLOEXEC);
  if (fd < 0) return "unknown";
  const ssize_t n = ::read(fd, buffer, sizeof(buffer) - 1);
  ::close(fd);
  std::string name(buffer, n > 0 ? static_cast<std::size_t>(n) : 0);
  while (!name.empty() && name.back() == '\n') name.pop_back();
  return name.empty() ? "unknown" : name;
}

}  // namespace

/// What of Cap'n Proto lies over the socket.
struct Connection::Rpc {
  explicit Rpc(wire::MessageSocket& stream)
      : network(stream, wire::kMaxFdsPerMessage, capnp::rpc::twoparty::Side::CLIENT), system(capnp::makeRpcClient(network)) {}
  capnp::TwoPartyVatNetwork network;
  capnp::RpcSystem<capnp::rpc::twoparty::VatId> system;
};

Connection::Connection(std::shared_ptr<ThreadLoop> loop, Endpoint endpoint)
    : loop_(std::move(loop)),
      endpoint_(std::move(endpoint)),
      client_name_(endpoint_.options.name.empty() ? ProgramName() : endpoint_.options.name),
      deadline_(std::min<std::chrono::milliseconds>(endpoint_.options.deadline, kLongestDeadline)) {
  spin_ = std::min<std::chrono::nanoseconds>(endpoint_.options.spin, deadline_);  // looking out is part of the wait
}

Result<std::unique_ptr<Connection>> Connection::Connect(Endpoint endpoint) {
  auto loop = ThreadLoop::ForThisThread();
  if (!loop) return loop.error();
  std::unique_ptr<Connection> connection(new Connection(std::move(*loop), std::move(endpoint)));
  int fd = -1;
  if (connection->endpoint_.uri == kEmbedded) {
    std::shared_ptr<Daemon>& inside = connection->endpoint_.daemon;
    if (inside == nullptr) {
      DaemonOptions options;
      options.budget_bytes = connection->endpoint_.options.embedded_budget_bytes;
      auto daemon = Daemon::Start(std::move(options));
      if (!daemon) return daemon.error();
      inside = std::move(*daemon);
    }
    connection->peer_ = kEmbedded;
    auto socket = inside->Connect();
    if (!socket) return socket.error();
    fd = *socket;
  } else {
    auto path = protocol::ParseSocketPath(connection->endpoint_.uri);
    if (!path) return path.error();
    connection->peer_ = *path;
    auto socket = protocol::ConnectUnixSocket(*path, connection->deadline_);
    if (!socket) return socket.error();
    fd = socket->Release();
  }
  connection->socket_ = fd;
  const auto failure = kj::runCatchingExceptions([&] {
    connection->stream_ =
        kj::heap<wire::MessageSocket>(connection->loop_->events(), kj::AutoCloseFd(fd), wire::kMaxFdsPerMessage);
    connection->rpc_ = kj::heap<Rpc>(*connection->stream_);
    connection->ignore_errors_ = kj::heap<IgnoreErrors>();
    connection->forgotten_ = kj::heap<kj::TaskSet>(*connection->ignore_errors_);
  });
  KJ_IF_MAYBE (exception, failure) return connection->Failed(*exception, "connect");
  return connection;
}

Connection::~Connection() = default;

wire::Daemon::Client Connection::Bootstrap() {
  capnp::MallocMessageBuilder message(4);
  auto daemon = message.getRoot<capnp::rpc::twoparty::VatId>();
  daemon.setSide(capnp::rpc::twoparty::Side::SERVER);
  return rpc_->system.bootstrap(daemon).castAs<wire::Daemon>();
}

Result<void> Connection::Enter(std::string_view operation) {
  if (loop_->Inherited()) {
    return Error{ErrorCode::kDisconnected, std::string(operation) + ": the connection to the daemon at " + peer_ +
                                               " belongs to the process that this one was forked from; connect again from a "
                                               "new thread"};
  }
  if (!InThisThread()) {
    return Error{ErrorCode::kWrongThread,
                 std::string(operation) + ": this connection belongs to the thread that made it; connect from this thread too"};
  }
  loop_->DestroyLeft();
  if (dead_) return Dead(operation);
  return {};
}

Result<int> Connection::TakeFd(wire::Segment::Client segment, std::string_view operation) {
  const auto null_fd = [&] {
    return Error{ErrorCode::kInternal, std::string(operation) + ": the segment came without a file descriptor"};
  };
  std::optional<int> copy;
  int error = 0;
  bool answered = false;
  const auto failure = kj::runCatchingExceptions([&] {
    auto fd = segment.getFd().then([&](kj::Maybe<int> held) {
      KJ_IF_MAYBE (number, held) {
        copy = ::fcntl(*number, F_DUPFD_CLOEXEC, 0);
        error = errno;
      }
      answered = true;
    });
    const auto task = fd.eagerlyEvaluate(nullptr);
    Await([&] { return answered; });
  });
  KJ_IF_MAYBE (exception, failure) return Failed(*exception, operation);
  if (!answered) return Late(operation);
  if (!copy) return null_fd();
  if (*copy < 0) return protocol::SystemError(std::string(operation) + ": duplicate the segment's descriptor", error);
  return *copy;
}

void Connection::Abandon() noexcept {
  if (socket_ >= 0) ::shutdown(socket_, SHUT_RDWR);
}

Error Connection::Dead(std::string_view operation) const {
  return {dead_->code, std::string(operation) + ": " + dead_->message};
}

Error Connection::Late(std::string_view operation) const {
  return {ErrorCode::kDeadlineExceeded,
          std::string(operation) + ": no answer from the daemon at " + peer_ + " within " +
              std::to_string(std::chrono::duration_cast<std::chrono::milliseconds>(deadline_).count()) + " ms"};
}

Error Connection::Failed(const kj::Exception& exception, std::string_view operation) {
  Error error = wire::FromException(exception, operation, peer_);
  if (error.code == ErrorCode::kDisconnected && !dead_) {
    dead_ =
        Error{ErrorCode::kDisconnected, "the connection to the daemon at " + peer_ + " has ended; connect again and reopen"};
    return Dead(operation);
  }
  return error;
}

}  // namespace kvant::client
