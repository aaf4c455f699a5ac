#include <kvant/client.h>

#include <chrono>
#include <string>
#include <utility>
#include <vector>

#include "client/attend.h"
#include "client/guard.h"
#include "client/handles.h"
#include "kernels/rope_frequencies.h"

namespace kvant {

Result<RopeFrequencies> ComputeRopeFrequencies(const RopeSpec& spec, std::uint32_t head_dim) {
  return kernels::ComputeRopeFrequencies(spec, head_dim);
}

using client::Guard;
using client::MovedFrom;

Tensor::Tensor(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Tensor::Tensor(Tensor&&) noexcept = default;

Tensor& Tensor::operator=(Tensor&& other) noexcept {
  std::swap(impl_, other.impl_);
  return *this;
}

Tensor::~Tensor() {
  if (!impl_) return;
  client::Connection& connection = impl_->session->connection();
  client::Dispose(connection, std::shared_ptr<void>(std::move(impl_)));
}

const TensorView& Tensor::view() const noexcept {
  static constexpr TensorView kNone{};
  return impl_ ? impl_->view : kNone;
}

float* Tensor::f32() noexcept {
  return impl_ && impl_->view.type == ElementType::kF32 ? static_cast<float*>(impl_->view.data) : nullptr;
}

Client::Client(std::shared_ptr<Impl> impl) : impl_(std::move(impl)) {}
Client::Client(Client&&) noexcept = default;

Client& Client::operator=(Client&& other) noexcept {
  std::swap(impl_, other.impl_);
  return *this;
}

Client::~Client() {
  if (!impl_) return;
  client::Connection& connection = impl_->session->connection();
  client::Dispose(connection, std::shared_ptr<void>(std::move(impl_)));
}

Result<Client> Client::Connect(std::string_view uri, const ClientOptions& options) {
  return Guard("connect", [&]() -> Result<Client> {
    auto session = client::Session::Open(uri, options);
    if (!session) return session.error();
    return Client(std::make_shared<Impl>(Impl{std::move(*session)}));
  });
}

const DaemonInfo& Client::daemon() const noexcept {
  static const DaemonInfo kNone;
  return impl_ ? impl_->session->daemon() : kNone;
}

Result<std::chrono::nanoseconds> Client::Ping() {
  return Guard("ping", [&]() -> Result<std::chrono::nanoseconds> {
    if (!impl_) return MovedFrom("ping");
    client::Connection& connection = impl_->session->connection();
    if (auto entered = connection.Enter("ping"); !entered) return entered.error();
    const auto begin = std::chrono::steady_clock::now();
    auto request = impl_->session->remote().pingRequest();
    if (auto answer = connection.Call(request, "ping"); !answer) return answer.error();
    return std::chrono::steady_clock::now() - begin;
  });
}

Result<Store> Client::OpenStore(const StoreSpec& spec) {
  return Guard("open store", [&]() -> Result<Store> {
    if (!impl_) return MovedFrom("open store");
    if (auto entered = impl_->session->connection().Enter("open store"); !entered) return entered.error();
    auto state = client::StoreState::Open(impl_->session, spec);
    if (!state) return state.error();
    return Store(std::make_shared<Store::Impl>(Store::Impl{std::move(*state)}));
  });
}

Result<Tensor> Client::Allocate(std::size_t tokens, std::size_t heads, std::size_t dim, ElementType type) {
  return Guard("allocate", [&]() -> Result<Tensor> {
    if (!impl_) return MovedFrom("allocate");
    if (auto entered = impl_->session->connection().Enter("allocate"); !entered) return entered.error();
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
    auto memory = impl_->session->Allocate(bytes, shape);
    if (!memory) return memory.error();
    auto impl = std::make_unique<Tensor::Impl>();
    impl->session = impl_->session;
    impl->memory = std::move(*memory);
    impl->view = {impl->memory.data(), type, tokens, heads, dim, heads * dim, dim};
    return Tensor(std::move(impl));
  });
}

Result<void> Client::AttendBatch(std::size_t layer, std::span<const AttendBatchItem> items) {
  return Guard("attend", [&]() -> Result<void> {
    if (!impl_) return MovedFrom("attend");
    if (auto entered = impl_->session->connection().Enter("attend"); !entered) return entered;
    std::vector<client::AttendCall> requests;
    requests.reserve(items.size());
    for (const AttendBatchItem& item : items) {
      if (item.sequence == nullptr || !item.sequence->impl_) {
        return Error{ErrorCode::kInvalidArgument, "attend: item " + std::to_string(requests.size()) + " has no sequence"};
      }
      client::Sequence& sequence = *item.sequence->impl_->state;
      if (&sequence.session() != impl_->session.get()) {
        return Error{ErrorCode::kInvalidArgument,
                     "attend: item " + std::to_string(requests.size()) + " is a sequence of another client"};
      }
      requests.push_back({&sequence, &item.args});
    }
    return client::Attend(layer, requests);
  });
}

ClientCounters Client::counters() const noexcept {
  if (!impl_) return {};
  ClientCounters counters = impl_->session->counters();
  counters.rpc_calls = impl_->session->connection().calls();
  return counters;
}

}  // namespace kvant
