#include "daemon/metrics/metrics_server.h"

#include <exception>
#include <future>
#include <thread>
#include <utility>

#include <kj/async-io.h>
#include <kj/compat/http.h>

namespace kvant::daemon {
namespace {

/// Scrapers come one at a time; more than this are closed at once.
constexpr unsigned kMostConnections = 16;
/// How long an answer may wait for the loop thread, and a peer for its own request.
constexpr kj::Duration kPatience = 5 * kj::SECONDS;
constexpr kj::Duration kAcceptPause = 100 * kj::MILLISECONDS;  // when descriptors have run out

class Pages final : public kj::HttpService {
 public:
  Pages(const MetricsServer::Callbacks& callbacks, const kj::HttpHeaderTable& table, kj::Timer& timer)
      : callbacks_(callbacks), table_(table), timer_(timer) {}

  kj::Promise<void> request(kj::HttpMethod method, kj::StringPtr url, const kj::HttpHeaders& /*headers*/,
                            kj::AsyncInputStream& /*body*/, Response& response) override {
    if (url != "/metrics") return response.sendError(404, "Not Found", table_);
    if (method != kj::HttpMethod::GET && method != kj::HttpMethod::HEAD) {
      return response.sendError(405, "Method Not Allowed", table_);
    }
    using Write = std::function<std::string()>;
    auto collected = kj::newPromiseAndCrossThreadFulfiller<kj::Own<Write>>();
    // std::function wants to be copied.
    auto fulfiller = std::make_shared<kj::Own<kj::CrossThreadPromiseFulfiller<kj::Own<Write>>>>(kj::mv(collected.fulfiller));
    callbacks_.post([collect = callbacks_.collect, fulfiller] { (*fulfiller)->fulfill(kj::heap<Write>(collect())); });
    return timer_.timeoutAfter(kPatience, kj::mv(collected.promise))
        .then([this, method, &response](kj::Own<Write> write) { return Send(response, method, (*write)()); },
              [this, &response](kj::Exception&&) { return response.sendError(503, "Service Unavailable", table_); });
  }

 private:
  kj::Promise<void> Send(Response& response, kj::HttpMethod method, std::string text) {
    kj::HttpHeaders headers(table_);
    headers.set(kj::HttpHeaderId::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8");
    auto stream = response.send(200, "OK", headers, text.size());
    if (method == kj::HttpMethod::HEAD) return kj::READY_NOW;
    auto held = kj::heap<std::string>(std::move(text));
    auto written = timer_.timeoutAfter(kPatience, stream->write(held->data(), held->size()));
    return written.attach(kj::mv(stream), kj::mv(held));
  }

  const MetricsServer::Callbacks& callbacks_;
  const kj::HttpHeaderTable& table_;
  kj::Timer& timer_;
};

/// Lives on the server's thread. An answer ends its connection: kj would keep it for the next request, whatever was asked.
class Acceptor final : private kj::TaskSet::ErrorHandler, private kj::HttpServerErrorHandler, private kj::HttpServerCallbacks {
 public:
  Acceptor(kj::AsyncIoContext& io, int fd, const MetricsServer::Callbacks& callbacks)
      : timer_(io.provider->getTimer()),
        pages_(callbacks, *table_, timer_),
        server_(timer_, *table_, pages_, Settings()),
        port_(io.lowLevelProvider->wrapListenSocketFd(fd, kj::LowLevelAsyncIoProvider::NetworkFilter::getAllAllowed())),
        connections_(static_cast<kj::TaskSet::ErrorHandler&>(*this)) {}

  /// Never ends by itself.
  kj::Promise<void> Run() {
    return port_->accept().then(
        [this](kj::Own<kj::AsyncIoStream> stream) {
          if (open_ < kMostConnections) {
            ++open_;
            connections_.add(server_.listenHttp(kj::mv(stream)).attach(kj::defer([this] { --open_; })));
          }
          return Run();
        },
        [this](kj::Exception&&) { return timer_.afterDelay(kAcceptPause).then([this] { return Run(); }); });
  }

 private:
  kj::HttpServerSettings Settings() {
    kj::HttpServerSettings settings;
    settings.headerTimeout = kPatience;
    settings.pipelineTimeout = 0 * kj::SECONDS;  // kj says that it closes, and then waits this long for another request
    settings.errorHandler = *this;
    settings.callbacks = *this;
    return settings;
  }
  bool shouldClose() override { return true; }
  // A peer that went away, or does not read what it asked for: its connection ends, and nobody else cares.
  kj::Promise<void> handleApplicationError(kj::Exception, kj::Maybe<kj::HttpService::Response&>) override {
    return kj::READY_NOW;
  }
  void taskFailed(kj::Exception&&) override {}

  const kj::Own<kj::HttpHeaderTable> table_ = kj::HttpHeaderTable::Builder().build();
  kj::Timer& timer_;
  Pages pages_;
  kj::HttpServer server_;
  kj::Own<kj::ConnectionReceiver> port_;
  unsigned open_ = 0;
  kj::TaskSet connections_;  // last: these run over the others
};

}  // namespace

struct MetricsServer::Impl {
  Impl(MetricsSocket socket_, Callbacks callbacks_) : socket(std::move(socket_)), callbacks(std::move(callbacks_)) {}

  /// The server's thread. `started` gets what ends it.
  void Main(std::promise<kj::Own<kj::CrossThreadPromiseFulfiller<void>>> started) {
    try {
      auto io = kj::setupAsyncIo();
      auto end = kj::newPromiseAndCrossThreadFulfiller<void>();
      started.set_value(kj::mv(end.fulfiller));
      Acceptor acceptor(io, socket.fd(), callbacks);
      acceptor.Run().exclusiveJoin(kj::mv(end.promise)).wait(io.waitScope);
    } catch (const kj::Exception& exception) {
      callbacks.failed(exception.getDescription().cStr());
    } catch (const std::exception& exception) {
      callbacks.failed(exception.what());
    }
  }

  const MetricsSocket socket;
  const Callbacks callbacks;
  kj::Own<kj::CrossThreadPromiseFulfiller<void>> stop;
  std::thread thread;
};

MetricsServer::MetricsServer(MetricsSocket socket, Callbacks callbacks)
    : impl_(std::make_unique<Impl>(std::move(socket), std::move(callbacks))) {
  std::promise<kj::Own<kj::CrossThreadPromiseFulfiller<void>>> promise;
  auto stop = promise.get_future();
  impl_->thread = std::thread([impl = impl_.get(), promise = std::move(promise)]() mutable { impl->Main(std::move(promise)); });
  impl_->stop = stop.get();  // throws if the thread ended before
}

MetricsServer::~MetricsServer() {
  impl_->stop->fulfill();
  impl_->thread.join();
}

const std::string& MetricsServer::address() const noexcept { return impl_->socket.address(); }

}  // namespace kvant::daemon
