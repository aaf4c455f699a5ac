// What Python's Client, Store and Sequence hold, and how their methods call the library.
//
// Every call that may wait or compute gives up the interpreter's lock. A client and what it opened belong to the thread that
// connected, as in C++; the library itself refuses calls from another.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include <nanobind/nanobind.h>

#include <kvant/client.h>

#include "client/python/core/arrays.h"
#include "client/python/core/errors.h"

namespace kvant::python {

namespace nb = nanobind;

/// Runs a call of the library without the interpreter's lock.
template <typename Call>
auto Unlocked(Call&& call) {
  nb::gil_scoped_release release;
  return call();
}

/// What a handle holds until it is closed.
template <typename T>
T& Held(std::optional<T>& held, const char* operation, const char* what) {
  if (!held) Refuse(std::string(operation) + ": the " + what + " is closed");
  return *held;
}

/// A sequence and its reserved rows. Closed: empty.
struct PySequence {
  std::optional<Sequence> sequence;
  NewRows rows;

  Sequence& Open(const char* operation) { return Held(sequence, operation, "sequence"); }
};

struct PyStore {
  std::optional<Store> store;

  Store& Open(const char* operation) { return Held(store, operation, "store"); }
};

struct PyClient {
  std::optional<Client> client;

  Client& Open(const char* operation) { return Held(client, operation, "client"); }
};

/// One number for each query head, or none.
using SinkLogits = std::optional<nb::ndarray<const float, nb::ndim<1>, nb::c_contig>>;

/// Arguments of a call of attention, lse left out. Refuses shapes that do not fit.
[[nodiscard]] AttendArgs Args(const ReadArray& q, const WriteArray& out, float scale, const SinkLogits& sink_logits,
                              float softcap, std::uint32_t window);

void AddSequence(nb::module_& module);
void AddStore(nb::module_& module);
void AddClient(nb::module_& module);
void AddPromptCache(nb::module_& module);

}  // namespace kvant::python
