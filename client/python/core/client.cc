// kvant._core.Client.
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include <nanobind/nanobind.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <kvant/client.h>

#include "client/python/core/handles.h"
#include "client/python/core/spec.h"

namespace kvant::python {

using namespace nb::literals;

void AddClient(nb::module_& module) {
  nb::class_<PyClient>(module, "Client",
                       "A connection to a daemon, or a daemon inside this process. It belongs to the thread that made it.")
      .def(
          "__init__",
          [](PyClient* self, const std::string& uri, const std::string& name, double deadline, std::size_t arena_bytes,
             std::size_t threads, std::size_t embedded_budget) {
            if (!(deadline > 0 && deadline < 1e6)) Refuse("connect: deadline of " + std::to_string(deadline) + " seconds");
            ClientOptions options;
            options.name = name;
            options.deadline = std::chrono::milliseconds(static_cast<std::int64_t>(deadline * 1000));
            options.arena_bytes = arena_bytes;
            options.threads = threads;
            options.embedded_budget_bytes = embedded_budget;
            new (self) PyClient{Take(Unlocked([&] { return Client::Connect(uri, options); }))};
          },
          "uri"_a = "embedded:", nb::kw_only(), "name"_a = "", "deadline"_a = 30.0, "arena_bytes"_a = std::size_t{256} << 20,
          "threads"_a = 1, "embedded_budget"_a = std::size_t{512} << 20,
          "uri: \"unix:PATH\" or PATH for a daemon's socket, \"embedded:\" for a daemon inside this process. deadline in "
          "seconds, sizes in "
          "bytes.")
      .def(
          "for_this_thread",
          [](PyClient& self) {
            Client& client = self.Open("for_this_thread");
            return PyClient{Take(Unlocked([&] { return client.ForThisThread(); }))};
          },
          "A new client of the same daemon (\"embedded:\" included) for the calling thread. May be called in any thread.")
      .def(
          "reconnect",
          [](PyClient& self) {
            Client& client = self.Open("reconnect");
            Take(Unlocked([&] { return client.Reconnect(); }));
          },
          "After Disconnected: connects to the daemon that answers at the same address now, trying until the deadline. Stores "
          "and sequences opened before stay disconnected: open them again, and what was sealed is there.")
      .def("__enter__", [](nb::handle self) { return nb::borrow(self); })
      .def("__exit__", [](PyClient& self, nb::args) { Unlocked([&] { self.client.reset(); }); })
      .def(
          "close", [](PyClient& self) { Unlocked([&] { self.client.reset(); }); },
          "Stores and sequences that are open keep the connection.")
      .def(
          "ping",
          [](PyClient& self) {
            Client& client = self.Open("ping");
            return 1e-9 * static_cast<double>(Take(Unlocked([&] { return client.Ping(); })).count());
          },
          "Seconds of one round trip to the daemon.")
      .def_prop_ro("daemon",
                   [](PyClient& self) {
                     const DaemonInfo& info = self.Open("daemon").daemon();
                     nb::dict dict;
                     dict["version"] = info.version;
                     dict["pid"] = info.pid;
                     dict["budget_bytes"] = info.budget_bytes;
                     dict["protocol_version"] = info.protocol_version;
                     return dict;
                   })
      .def_prop_ro(
          "counters",
          [](PyClient& self) {
            const ClientCounters counters = self.Open("counters").counters();
            nb::dict dict;
            dict["rpc_calls"] = counters.rpc_calls;
            dict["attend_calls"] = counters.attend_calls;
            dict["tokens_advanced"] = counters.tokens_advanced;
            dict["bytes_copied"] = counters.bytes_copied;
            dict["bytes_zero_copy"] = counters.bytes_zero_copy;
            return dict;
          },
          "What this client did since it connected. bytes_copied: tensor bytes copied by the library or, for it, by the "
          "daemon.")
      .def(
          "open_store",
          [](PyClient& self, nb::handle spec) {
            Client& client = self.Open("open_store");
            const StoreSpec wanted = ReadSpec(spec);
            return PyStore{Take(Unlocked([&] { return client.OpenStore(wanted); }))};
          },
          "spec"_a, "Opens the store of a kvant.StoreSpec; creates it if nobody has.")
      .def(
          "attend_batch",
          [](PyClient& self, std::size_t layer, const std::vector<std::tuple<PySequence*, ReadArray, WriteArray>>& calls,
             float scale, const SinkLogits& sink_logits, float softcap, std::uint32_t window) {
            Client& client = self.Open("attend_batch");
            std::vector<AttendBatchItem> items;
            items.reserve(calls.size());
            for (const auto& [sequence, q, out] : calls) {
              if (sequence == nullptr) Refuse("attend_batch: call " + std::to_string(items.size()) + " has no sequence");
              items.push_back({&sequence->Open("attend_batch"), Args(q, out, scale, sink_logits, softcap, window)});
            }
            Take(Unlocked([&] { return client.AttendBatch(layer, items); }));
          },
          "layer"_a, "calls"_a, "scale"_a, nb::kw_only(), "sink_logits"_a = nb::none(), "softcap"_a = 0.0f, "window"_a = 0,
          "Sequence.attend() of one layer for several sequences of this client and of one placement in one call. calls: "
          "(sequence, q, out) of each. Blocks that they share are read once.");
}

}  // namespace kvant::python
