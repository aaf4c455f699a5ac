#include <kvant/client.h>

#include <chrono>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "client/attend.h"
#include "client/guard.h"
#include "client/sequence.h"
#include "client/session.h"
#include "client/store.h"
#include "kernels/rope_frequencies.h"

namespace kvant {

Result<RopeFrequencies> ComputeRopeFrequencies(const RopeSpec& spec, std::uint32_t head_dim) {
  return kernels::ComputeRopeFrequencies(spec, head_dim);
}

using client::Guard;
using client::MovedFrom;

Tensor::Tensor(std::shared_ptr<client::ArenaTensor> state) : state_(std::move(state)) {}
Tensor::Tensor(Tensor&&) noexcept = default;

Tensor& Tensor::operator=(Tensor&& other) noexcept {
  std::swap(state_, other.state_);
  return *this;
}

Tensor::~Tensor() {
  if (!state_) return;
  client::Connection& connection = state_->session->connection();
  client::Dispose(connection, std::shared_ptr<void>(std::move(state_)));
}

const TensorView& Tensor::view() const noexcept {
  static constexpr TensorView kNone{};
  return state_ ? state_->view : kNone;
}

float* Tensor::f32() noexcept {
  return state_ && state_->view.type == ElementType::kF32 ? static_cast<float*>(state_->view.data) : nullptr;
}

Client::Client(std::shared_ptr<client::Session> session) : session_(std::move(session)) {}
Client::Client(Client&&) noexcept = default;

Client& Client::operator=(Client&& other) noexcept {
  std::swap(session_, other.session_);
  return *this;
}

Client::~Client() {
  if (!session_) return;
  client::Connection& connection = session_->connection();
  client::Dispose(connection, std::shared_ptr<void>(std::move(session_)));
}

Result<Client> Client::Connect(std::string_view uri, const ClientOptions& options) {
  return Guard("connect", [&]() -> Result<Client> {
    auto session = client::Session::Open({.uri = std::string(uri), .options = options, .daemon = nullptr});
    if (!session) return session.error();
    return Client(std::move(*session));
  });
}

Result<Client> Client::ForThisThread() const {
  return Guard("connect", [&]() -> Result<Client> {
    if (!session_) return MovedFrom("connect");
    client::Connection& connection = session_->connection();
    if (connection.loop().Inherited() && connection.endpoint().daemon != nullptr) {
      return Error{ErrorCode::kDisconnected,
                   "connect: the daemon runs in the process that this one was forked from; connect to one of its own"};
    }
    auto session = client::Session::Open(connection.endpoint());
    if (!session) return session.error();
    return Client(std::move(*session));
  });
}

Result<void> Client::Reconnect() {
  return Guard("reconnect", [&]() -> Result<void> {
    if (!session_) return MovedFrom("reconnect");
    client::Connection& connection = session_->connection();
    if (!connection.loop().Inherited() && !connection.InThisThread()) {
      return Error{ErrorCode::kWrongThread, "reconnect: this client belongs to the thread that connected"};
    }
    constexpr std::chrono::milliseconds kPause{20};
    const auto end = std::chrono::steady_clock::now() + connection.endpoint().options.deadline;
    for (;;) {
      auto session = client::Session::Open(connection.endpoint());
      if (session) {
        Client fresh(std::move(*session));
        std::swap(session_, fresh.session_);
        return {};
      }
      const bool may_come = session.error().code == ErrorCode::kDisconnected && !connection.loop().Inherited();
      if (!may_come || std::chrono::steady_clock::now() + kPause > end) return session.error();
      std::this_thread::sleep_for(kPause);
    }
  });
}

const DaemonInfo& Client::daemon() const noexcept {
  static const DaemonInfo kNone;
  return session_ ? session_->daemon() : kNone;
}

Result<std::chrono::nanoseconds> Client::Ping() {
  return Guard("ping", [&]() -> Result<std::chrono::nanoseconds> {
    if (!session_) return MovedFrom("ping");
    client::Connection& connection = session_->connection();
    if (auto entered = connection.Enter("ping"); !entered) return entered.error();
    const auto begin = std::chrono::steady_clock::now();
    auto request = session_->remote().pingRequest();
    if (auto answer = connection.Call(request, "ping"); !answer) return answer.error();
    return std::chrono::steady_clock::now() - begin;
  });
}

Result<Store> Client::OpenStore(const StoreSpec& spec) {
  return Guard("open store", [&]() -> Result<Store> {
    if (!session_) return MovedFrom("open store");
    if (auto entered = session_->connection().Enter("open store"); !entered) return entered.error();
    auto state = client::Store::Open(session_, spec);
    if (!state) return state.error();
    return Store(std::move(*state));
  });
}

Result<Tensor> Client::Allocate(std::size_t tokens, std::size_t heads, std::size_t dim, ElementType type) {
  return Guard("allocate", [&]() -> Result<Tensor> {
    if (!session_) return MovedFrom("allocate");
    if (auto entered = session_->connection().Enter("allocate"); !entered) return entered.error();
    const std::string shape =
        "a tensor [" + std::to_string(tokens) + ", " + std::to_string(heads) + ", " + std::to_string(dim) + "]";
    std::size_t rows = 0;
    std::size_t elements = 0;
    std::size_t bytes = 0;
    if (tokens == 0 || heads == 0 || dim == 0 || static_cast<unsigned>(type) > static_cast<unsigned>(ElementType::kBF16) ||
        __builtin_mul_overflow(tokens, heads, &rows) || __builtin_mul_overflow(rows, dim, &elements) ||
        __builtin_mul_overflow(elements, ElementBytes(type), &bytes)) {
      return Error{ErrorCode::kInvalidArgument, "allocate " + shape + " of element type " +
                                                    std::to_string(static_cast<unsigned>(type)) +
                                                    ": empty, larger than memory or of no known type"};
    }
    auto memory = session_->Allocate(bytes, shape);
    if (!memory) return memory.error();
    std::byte* const data = memory->data();
    return Tensor(std::make_shared<client::ArenaTensor>(
        client::ArenaTensor{session_, std::move(*memory), {data, type, tokens, heads, dim, heads * dim, dim}}));
  });
}

Result<void> Client::AttendBatch(std::size_t layer, std::span<const AttendBatchItem> items) {
  return Guard("attend", [&]() -> Result<void> {
    if (!session_) return MovedFrom("attend");
    if (auto entered = session_->connection().Enter("attend"); !entered) return entered;
    std::vector<client::AttendCall> requests;
    requests.reserve(items.size());
    for (const AttendBatchItem& item : items) {
      if (item.sequence == nullptr || !item.sequence->state_) {
        return Error{ErrorCode::kInvalidArgument, "attend: item " + std::to_string(requests.size()) + " has no sequence"};
      }
      client::Sequence& sequence = *item.sequence->state_;
      if (&sequence.session() != session_.get()) {
        return Error{ErrorCode::kInvalidArgument,
                     "attend: item " + std::to_string(requests.size()) + " is a sequence of another client"};
      }
      requests.push_back({&sequence, &item.args});
    }
    return client::Attend(layer, requests);
  });
}

ClientCounters Client::counters() const noexcept {
  if (!session_) return {};
  ClientCounters counters = session_->counters();
  counters.rpc_calls = session_->connection().calls();
  return counters;
}

}  // namespace kvant
