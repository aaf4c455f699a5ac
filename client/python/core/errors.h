// Errors of the client library as Python's exceptions.
#pragma once

#include <exception>
#include <utility>

#include <nanobind/nanobind.h>

#include <kvant/result.h>

namespace kvant::python {

/// An Error on its way to Python.
class Failure : public std::exception {
 public:
  explicit Failure(Error error) : error_(std::move(error)) {}
  [[nodiscard]] const Error& error() const noexcept { return error_; }
  [[nodiscard]] const char* what() const noexcept override { return error_.message.c_str(); }

 private:
  Error error_;
};

template <typename T>
T Take(Result<T> result) {
  if (!result) throw Failure(std::move(result).error());
  return std::move(result).value();
}

inline void Take(Result<void> result) {
  if (!result) throw Failure(std::move(result).error());
}

[[noreturn]] inline void Refuse(std::string message) { throw Failure({ErrorCode::kInvalidArgument, std::move(message)}); }

/// Adds the exception classes: kvant.Error with `code`, and a class for each code that also is what Python programs catch for
/// such a fault (ValueError, TimeoutError, ...).
void AddErrors(nanobind::module_& module);

}  // namespace kvant::python
