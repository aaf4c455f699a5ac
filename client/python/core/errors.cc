#include "client/python/core/errors.h"

#include <map>
#include <string>

namespace nb = nanobind;

namespace kvant::python {
namespace {

struct Kind {
  ErrorCode code;
  const char* name;
  const char* also;  // of Python's own exceptions; null for none
  const char* doc;
};

constexpr Kind kKinds[] = {
    {ErrorCode::kInvalidArgument, "InvalidArgumentError", "ValueError", "The call can never succeed as written."},
    {ErrorCode::kOutOfRange, "OutOfRangeError", "IndexError", "An index, offset or length lies outside the object named."},
    {ErrorCode::kNotFound, "NotFoundError", "LookupError", "No object of that name or id."},
    {ErrorCode::kIdentityMismatch, "IdentityMismatchError", "ValueError", "A store of that name has another identity."},
    {ErrorCode::kStoreFull, "StoreFullError", "MemoryError",
     "The budget has no room and nothing can be evicted; the sequence stays usable."},
    {ErrorCode::kTailFull, "TailFullError", "MemoryError",
     "The tail has no free rows: advance, release the mark, or open with a larger tail."},
    {ErrorCode::kNotFinite, "NotFiniteError", "ArithmeticError", "A row, a query or a result holds NaN or infinity."},
    {ErrorCode::kUnsupported, "UnsupportedError", "NotImplementedError",
     "Known, but not offered for this shape, codec or placement."},
    {ErrorCode::kVersionMismatch, "VersionMismatchError", "ConnectionError", "The daemon speaks another protocol version."},
    {ErrorCode::kDisconnected, "DaemonGoneError", "ConnectionError",
     "The daemon is gone or was never there: connect again and reopen."},
    {ErrorCode::kStaleDaemon, "StaleDaemonError", "ConnectionError",
     "The object belongs to an earlier daemon process: reopen it."},
    {ErrorCode::kDeadlineExceeded, "DeadlineError", "TimeoutError",
     "No answer in time; the call may or may not have taken effect."},
    {ErrorCode::kPermissionDenied, "PermissionDeniedError", "PermissionError", "This peer may not do that."},
    {ErrorCode::kCorrupt, "CorruptError", "ValueError", "Bytes from a file or another process fail their checks."},
    {ErrorCode::kWrongThread, "WrongThreadError", "RuntimeError",
     "A client and all it opened belong to the thread that connected."},
    {ErrorCode::kSystem, "SystemCallError", "OSError", "The operating system refused."},
    {ErrorCode::kInternal, "InternalError", "RuntimeError", "A broken invariant of kvant's: please report it."},
    {ErrorCode::kUnavailable, "UnavailableError", "RuntimeError", "Not now, and nothing was changed."},
};

/// The classes by code. Never freed: exceptions may be raised until the interpreter ends.
std::map<ErrorCode, PyObject*>& Classes() {
  static auto* const classes = new std::map<ErrorCode, PyObject*>();
  return *classes;
}

void Raise(const std::exception_ptr& thrown, void*) {
  try {
    std::rethrow_exception(thrown);
  } catch (const Failure& failure) {
    const auto found = Classes().find(failure.error().code);
    PyErr_SetString(found == Classes().end() ? PyExc_RuntimeError : found->second, failure.what());
  }
}

}  // namespace

void AddErrors(nb::module_& module) {
  const std::string prefix = "kvant._core.";  // where the type stubs have them, too
  PyObject* const base = PyErr_NewExceptionWithDoc(
      (prefix + "Error").c_str(),
      "What kvant refuses. `code` is the outcome's name, for example \"store_full\"; the message names the operation, "
      "the object and the value.",
      PyExc_Exception, nullptr);
  if (base == nullptr) throw nb::python_error();
  module.attr("Error") = nb::borrow(base);
  nb::borrow(base).attr("code") = "unknown";
  const nb::module_ builtins = nb::module_::import_("builtins");
  for (const Kind& kind : kKinds) {
    const nb::object also = builtins.attr(kind.also);
    const nb::tuple bases = nb::make_tuple(nb::borrow(base), also);
    PyObject* const made = PyErr_NewExceptionWithDoc((prefix + kind.name).c_str(), kind.doc, bases.ptr(), nullptr);
    if (made == nullptr) throw nb::python_error();
    nb::borrow(made).attr("code") = std::string(ErrorCodeName(kind.code)).c_str();
    module.attr(kind.name) = nb::borrow(made);
    Classes()[kind.code] = made;
  }
  nb::register_exception_translator(Raise, nullptr);
}

}  // namespace kvant::python
