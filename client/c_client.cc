// Connections and memory of the C interface.
#include <chrono>
#include <cstdio>

#include "client/c_support.h"

namespace kvant::c {
namespace {

/// Both of C's tensors have the same fields; of the one for reading, data is const.
template <typename To, typename From>
To ViewOf(const From& tensor) noexcept {
  return {
      tensor.data,       static_cast<ElementType>(tensor.type), tensor.tokens, tensor.heads, tensor.dim, tensor.token_stride,
      tensor.head_stride};
}

}  // namespace

kvant_code Refuse(const Error& error, kvant_error* to) noexcept {
  if (to != nullptr) {
    to->code = static_cast<kvant_code>(error.code);
    const std::size_t length = std::min(error.message.size(), sizeof(to->message) - 1);
    std::memcpy(to->message, error.message.data(), length);
    to->message[length] = '\0';
  }
  return static_cast<kvant_code>(error.code);
}

TensorView View(const kvant_tensor& tensor) noexcept { return ViewOf<TensorView>(tensor); }

ConstTensorView View(const kvant_const_tensor& tensor) noexcept { return ViewOf<ConstTensorView>(tensor); }

kvant_tensor Tensor(const TensorView& view) noexcept {
  return {view.data,       static_cast<kvant_element_type>(view.type), view.tokens, view.heads, view.dim, view.token_stride,
          view.head_stride};
}

}  // namespace kvant::c

using namespace kvant::c;  // NOLINT(google-build-using-namespace): this file implements one interface

const char* kvant_code_name(kvant_code code) {
  if (code == KVANT_OK) return "ok";
  return kvant::ErrorCodeName(static_cast<kvant::ErrorCode>(code)).data();  // literals, so they end with a zero
}

void kvant_client_options_init(kvant_client_options* options, size_t struct_size) {
  const kvant::ClientOptions defaults;
  kvant_client_options values = {};
  values.deadline_ms = static_cast<std::uint32_t>(defaults.deadline.count());
  values.spin_us = static_cast<std::uint32_t>(defaults.spin.count());
  values.arena_bytes = defaults.arena_bytes;
  values.threads = defaults.threads;
  values.embedded_budget_bytes = defaults.embedded_budget_bytes;
  WriteStruct(values, options, struct_size);
}

kvant_code kvant_client_connect(const char* uri, const kvant_client_options* options, kvant_client** client,
                                kvant_error* error) {
  return Guarded("connect", error, [&] {
    if (uri == nullptr || client == nullptr) return Refuse("connect: uri or client is null", error);
    kvant_client_options given = {};
    kvant_client_options_init(&given, sizeof(given));
    if (options != nullptr && !ReadStruct(options, given)) return BadStruct("connect", "kvant_client_options", error);
    kvant::ClientOptions wanted;
    wanted.name = Text(given.name);
    wanted.deadline = std::chrono::milliseconds(given.deadline_ms);
    wanted.spin = std::chrono::microseconds(given.spin_us);
    wanted.arena_bytes = given.arena_bytes;
    wanted.threads = given.threads;
    wanted.embedded_budget_bytes = given.embedded_budget_bytes;
    auto connected = kvant::Client::Connect(uri, wanted);
    if (!connected) return Refuse(connected.error(), error);
    *client = new kvant_client{std::move(*connected)};
    return KVANT_OK;
  });
}

kvant_code kvant_client_for_this_thread(const kvant_client* client, kvant_client** made, kvant_error* error) {
  return Guarded("connect", error, [&] {
    if (client == nullptr || made == nullptr) return Refuse("connect: client or made is null", error);
    auto another = client->client.ForThisThread();
    if (!another) return Refuse(another.error(), error);
    *made = new kvant_client{std::move(*another)};
    return KVANT_OK;
  });
}

kvant_code kvant_client_reconnect(kvant_client* client, kvant_error* error) {
  return Guarded("reconnect", error, [&] {
    if (client == nullptr) return Refuse("reconnect: client is null", error);
    auto connected = client->client.Reconnect();
    return connected ? KVANT_OK : Refuse(connected.error(), error);
  });
}

void kvant_client_close(kvant_client* client) { delete client; }

kvant_code kvant_client_ping(kvant_client* client, uint64_t* nanoseconds, kvant_error* error) {
  return Guarded("ping", error, [&] {
    if (client == nullptr || nanoseconds == nullptr) return Refuse("ping: client or nanoseconds is null", error);
    const auto took = client->client.Ping();
    if (!took) return Refuse(took.error(), error);
    *nanoseconds = static_cast<std::uint64_t>(took->count());
    return KVANT_OK;
  });
}

kvant_code kvant_client_counters(const kvant_client* client, kvant_counters* counters, kvant_error* error) {
  return Guarded("counters", error, [&] {
    if (client == nullptr || counters == nullptr) return Refuse("counters: client or counters is null", error);
    const kvant::ClientCounters now = client->client.counters();
    WriteStruct(kvant_counters{sizeof(kvant_counters), now.rpc_calls, now.attend_calls, now.tokens_advanced, now.bytes_copied,
                               now.bytes_zero_copy},
                counters, counters->struct_size);
    return KVANT_OK;
  });
}

kvant_code kvant_buffer_allocate(kvant_client* client, size_t tokens, size_t heads, size_t dim, kvant_element_type type,
                                 kvant_buffer** buffer, kvant_error* error) {
  return Guarded("allocate", error, [&] {
    if (client == nullptr || buffer == nullptr) return Refuse("allocate: client or buffer is null", error);
    auto tensor = client->client.Allocate(tokens, heads, dim, static_cast<kvant::ElementType>(type));
    if (!tensor) return Refuse(tensor.error(), error);
    *buffer = new kvant_buffer{std::move(*tensor)};
    return KVANT_OK;
  });
}

kvant_tensor kvant_buffer_tensor(const kvant_buffer* buffer) {
  return buffer == nullptr ? kvant_tensor{} : Tensor(buffer->tensor.view());
}

void kvant_buffer_close(kvant_buffer* buffer) { delete buffer; }
