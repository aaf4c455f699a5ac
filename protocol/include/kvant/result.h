// Result<T>: a value or an Error, spelled like std::expected (which g++ 12 has only under C++23).
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <variant>

namespace kvant {

/// What went wrong, by what the caller can do about it. Sent over the wire: do not renumber.
enum class ErrorCode : std::uint16_t {
  kInvalidArgument = 1,    ///< The call can never succeed as written; mend the argument named in the message.
  kOutOfRange = 2,         ///< An index, offset or length lies outside the object named; check it against the shape.
  kNotFound = 3,           ///< No object of that name or id; open or create it first.
  kIdentityMismatch = 4,   ///< A store of that name exists with another identity; the daemon's log names the fields.
  kStoreFull = 5,          ///< The budget has no room and nothing can be evicted; the sequence stays usable.
  kTailFull = 6,           ///< The tail has no free rows; advance, release the mark, or open with a larger tail.
  kNotFinite = 7,          ///< A row holds NaN or infinity (or a norm no codec can hold); nothing was stored.
  kUnsupported = 8,        ///< Known, but not offered for this shape, codec or placement; choose another.
  kVersionMismatch = 9,    ///< The peer speaks another protocol or segment layout version; upgrade one side.
  kDisconnected = 10,      ///< The daemon is gone or was never there; connect again and reopen.
  kStaleDaemon = 11,       ///< The object belongs to an earlier daemon process; reopen it.
  kDeadlineExceeded = 12,  ///< No answer in time; the call may or may not have taken effect.
  kPermissionDenied = 13,  ///< This peer may not do that.
  kCorrupt = 14,           ///< Bytes from a file or another process fail their checks.
  kWrongThread = 15,       ///< A client and all it opened belong to the thread that connected.
  kSystem = 16,            ///< The operating system refused; the message carries the call and errno.
  kInternal = 17,          ///< A broken invariant of ours; please report it.
  kUnavailable = 18,       ///< Not now, and nothing was changed: the daemon is ending, or what is to be dropped is in use.
};

/// A failed outcome. The message names the operation, the object and the value.
struct Error {
  ErrorCode code = ErrorCode::kInternal;
  std::string message;
};

/// A `T` or an `Error`. Move-only values are fine. Accessing the wrong side is a bug of the caller's (std::get throws).
template <typename T>
class [[nodiscard]] Result {
 public:
  Result(T value) : state_(std::in_place_index<0>, std::move(value)) {}      // NOLINT(google-explicit-constructor)
  Result(Error error) : state_(std::in_place_index<1>, std::move(error)) {}  // NOLINT(google-explicit-constructor)

  [[nodiscard]] bool has_value() const noexcept { return state_.index() == 0; }
  explicit operator bool() const noexcept { return has_value(); }

  [[nodiscard]] T& value() & { return std::get<0>(state_); }
  [[nodiscard]] const T& value() const& { return std::get<0>(state_); }
  [[nodiscard]] T&& value() && { return std::get<0>(std::move(state_)); }
  T& operator*() & { return value(); }
  const T& operator*() const& { return value(); }
  T&& operator*() && { return std::move(*this).value(); }
  T* operator->() { return &value(); }
  const T* operator->() const { return &value(); }

  [[nodiscard]] const Error& error() const& { return std::get<1>(state_); }
  [[nodiscard]] Error&& error() && { return std::get<1>(std::move(state_)); }

 private:
  std::variant<T, Error> state_;
};

/// Success without a value.
template <>
class [[nodiscard]] Result<void> {
 public:
  Result() = default;
  Result(Error error) : state_(std::in_place_index<1>, std::move(error)) {}  // NOLINT(google-explicit-constructor)

  [[nodiscard]] bool has_value() const noexcept { return state_.index() == 0; }
  explicit operator bool() const noexcept { return has_value(); }
  void value() const { static_cast<void>(std::get<0>(state_)); }
  [[nodiscard]] const Error& error() const& { return std::get<1>(state_); }
  [[nodiscard]] Error&& error() && { return std::get<1>(std::move(state_)); }

 private:
  std::variant<std::monostate, Error> state_;
};

/// The code's name as users meet it, for example "store_full".
inline std::string_view ErrorCodeName(ErrorCode code) noexcept {
  switch (code) {
    case ErrorCode::kInvalidArgument: return "invalid_argument";
    case ErrorCode::kOutOfRange: return "out_of_range";
    case ErrorCode::kNotFound: return "not_found";
    case ErrorCode::kIdentityMismatch: return "identity_mismatch";
    case ErrorCode::kStoreFull: return "store_full";
    case ErrorCode::kTailFull: return "tail_full";
    case ErrorCode::kNotFinite: return "not_finite";
    case ErrorCode::kUnsupported: return "unsupported";
    case ErrorCode::kVersionMismatch: return "version_mismatch";
    case ErrorCode::kDisconnected: return "disconnected";
    case ErrorCode::kStaleDaemon: return "stale_daemon";
    case ErrorCode::kDeadlineExceeded: return "deadline_exceeded";
    case ErrorCode::kPermissionDenied: return "permission_denied";
    case ErrorCode::kCorrupt: return "corrupt";
    case ErrorCode::kWrongThread: return "wrong_thread";
    case ErrorCode::kSystem: return "system";
    case ErrorCode::kInternal: return "internal";
    case ErrorCode::kUnavailable: return "unavailable";
  }
  return "unknown";
}

}  // namespace kvant
