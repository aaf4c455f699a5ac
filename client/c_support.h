// What the files of the C interface (kvant/c.h) share: outcomes, structs of other sizes, handles.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <exception>
#include <string>
#include <utility>

#include <kvant/c.h>
#include <kvant/client.h>

struct kvant_client {
  kvant::Client client;
};
struct kvant_buffer {
  kvant::Tensor tensor;
};
struct kvant_store {
  kvant::Store store;
  std::string warning;  // as kvant_store_get_info last answered
};
struct kvant_sequence {
  kvant::Sequence sequence;
  kvant::NewRows rows;  // as last reserved; none if its tokens() is 0
};

namespace kvant::c {

/// Writes the error, if it is wanted, and answers its code.
kvant_code Refuse(const Error& error, kvant_error* to) noexcept;

inline kvant_code Refuse(std::string message, kvant_error* to) noexcept {
  return Refuse(Error{ErrorCode::kInvalidArgument, std::move(message)}, to);
}

inline kvant_code Answer(const Result<void>& outcome, kvant_error* to) noexcept {
  return outcome ? KVANT_OK : Refuse(outcome.error(), to);
}

/// Runs `body`, which answers a kvant_code; what it throws (memory that is not there) becomes an error.
template <typename Body>
kvant_code Guarded(const char* operation, kvant_error* error, Body&& body) noexcept {
  try {
    return body();
  } catch (const std::exception& failure) {
    kvant_error ignored;
    kvant_error& to = error != nullptr ? *error : ignored;
    to.code = KVANT_SYSTEM;
    std::snprintf(to.message, sizeof(to.message), "%s: %s", operation, failure.what());
    return KVANT_SYSTEM;
  }
}

/// Hands out a handle made of what a call answered.
template <typename Handle, typename Value>
kvant_code Give(Result<Value> made, Handle** to, kvant_error* error) {
  if (!made) return Refuse(made.error(), error);
  *to = new Handle{std::move(made).value(), {}};
  return KVANT_OK;
}

/// Sets the defaults `from` in a struct of the caller's, which may be shorter or longer than ours.
template <typename Struct>
void WriteStruct(const Struct& from, Struct* to, std::size_t struct_size) noexcept {
  if (to == nullptr || struct_size < sizeof(std::size_t)) return;
  std::memset(to, 0, struct_size);
  std::memcpy(to, &from, std::min(struct_size, sizeof(Struct)));
  std::memcpy(to, &struct_size, sizeof(struct_size));
}

/// Reads the fields that the caller's struct has over the defaults in `to`. False for a struct without a size, or one with
/// fields that this library does not know and that are set.
template <typename Struct>
[[nodiscard]] bool ReadStruct(const Struct* from, Struct& to) noexcept {
  std::size_t size = 0;
  std::memcpy(&size, from, sizeof(size));
  if (size < sizeof(std::size_t) || size > 65536) return false;
  const auto* bytes = reinterpret_cast<const unsigned char*>(from);
  if (std::any_of(bytes + std::min(size, sizeof(Struct)), bytes + size, [](unsigned char byte) { return byte != 0; }))
    return false;
  std::memcpy(&to, from, std::min(size, sizeof(Struct)));
  return true;
}

/// The refusal of a struct that ReadStruct did not take.
inline kvant_code BadStruct(const char* operation, const char* name, kvant_error* error) noexcept {
  return Refuse(std::string(operation) + ": struct_size of " + name + " is not what " + name +
                    "_init sets, or fields are set that this library does not know",
                error);
}

inline std::string Text(const char* text) { return text == nullptr ? std::string() : std::string(text); }

[[nodiscard]] TensorView View(const kvant_tensor& tensor) noexcept;
[[nodiscard]] ConstTensorView View(const kvant_const_tensor& tensor) noexcept;
[[nodiscard]] kvant_tensor Tensor(const TensorView& view) noexcept;
[[nodiscard]] Result<SequenceOptions> Options(const kvant_sequence_options* options, const char* operation);

}  // namespace kvant::c
