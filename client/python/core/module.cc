// kvant._core: the client library for Python. kvant/__init__.py is what users import.
//
// Every call that may wait or compute gives up the interpreter's lock. A client and what it opened belong to the thread that
// connected, as in C++; the library itself refuses calls from another.
#include <chrono>
#include <cstddef>
#include <optional>
#include <span>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include <nanobind/nanobind.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <kvant/client.h>

#include "client/python/core/arrays.h"
#include "client/python/core/errors.h"
#include "client/python/core/spec.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace kvant::python {
namespace {

/// Runs a call of the library without the interpreter's lock.
template <typename Call>
auto Unlocked(Call&& call) {
  nb::gil_scoped_release release;
  return call();
}

SequenceOptions Options(const std::string& placement, std::uint32_t recent_tokens, std::uint32_t max_step_tokens,
                        const std::string& tail, const std::string& label, std::uint32_t unnamed_tokens) {
  SequenceOptions options;
  if (placement == "local") {
    options.placement = Placement::kLocal;
  } else if (placement != "service") {
    Refuse("placement \"" + placement + "\" is unknown: local or service");
  }
  options.recent_tokens = recent_tokens;
  options.max_step_tokens = max_step_tokens;
  options.tail_type = ParseElementType(tail);
  options.label = label;
  options.unnamed_tokens = unnamed_tokens;
  return options;
}

/// Memory of any elements, without gaps.
using Bytes = nb::ndarray<nb::ro, nb::c_contig, nb::device::cpu>;
using WritableBytes = nb::ndarray<nb::c_contig, nb::device::cpu>;

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

AttendArgs Args(const ReadArray& q, const WriteArray& out, float scale,
                const std::optional<nb::ndarray<float, nb::c_contig>>& lse,
                const std::optional<nb::ndarray<const float, nb::ndim<1>, nb::c_contig>>& sink_logits, float softcap,
                std::uint32_t window) {
  AttendArgs args;
  args.q = ReadView(q, "q");
  args.out = WriteView(out, "out");
  args.scale = scale;
  args.softcap = softcap;
  args.window = window;
  if (lse) {
    if (lse->size() != args.q.tokens * args.q.heads) {
      Refuse("lse: " + std::to_string(lse->size()) + " numbers, " + std::to_string(args.q.tokens * args.q.heads) +
             " are wanted, [tokens, q_heads]");
    }
    args.lse = lse->data();
  }
  if (sink_logits) {
    if (sink_logits->shape(0) != args.q.heads) {
      Refuse("sink_logits: " + std::to_string(sink_logits->shape(0)) + " numbers for " + std::to_string(args.q.heads) +
             " query heads");
    }
    args.sink_logits = sink_logits->data();
  }
  return args;
}

/// The reserved rows of a layer's keys or values, as an array that keeps the sequence.
nb::object ReservedRows(nb::handle self, std::size_t layer, TensorView (NewRows::*side)(std::size_t) const, const char* name) {
  const NewRows& rows = nb::cast<PySequence&>(self).rows;
  if (layer >= rows.layers()) {
    throw Failure({ErrorCode::kOutOfRange,
                   std::string(name) + ": layer " + std::to_string(layer) + " of " + std::to_string(rows.layers())});
  }
  return MakeArray((rows.*side)(layer), self);
}

void AddSequence(nb::module_& module) {
  nb::class_<PySequence>(module, "Sequence",
                         "Tokens of one conversation: sealed blocks shared with others, and a tail of its own.")
      .def_prop_ro(
          "id", [](PySequence& self) { return self.Open("id").id(); }, "Names the live sequence across processes.")
      .def_prop_ro(
          "length", [](PySequence& self) { return self.Open("length").length(); }, "Tokens held.")
      .def("__len__", [](PySequence& self) { return self.Open("length").length(); })
      .def_prop_ro(
          "cached_tokens", [](PySequence& self) { return self.Open("cached_tokens").prefix_hit_tokens(); },
          "Tokens that were found sealed when the sequence was opened: they need not be computed.")
      .def_prop_ro(
          "counters",
          [](PySequence& self) {
            const SequenceCounters counters = self.Open("counters").counters();
            nb::dict dict;
            dict["attend_calls"] = counters.attend_calls;
            dict["tokens_advanced"] = counters.tokens_advanced;
            dict["bytes_copied"] = counters.bytes_copied;
            dict["bytes_zero_copy"] = counters.bytes_zero_copy;
            return dict;
          },
          "What the calls on this sequence did, as Client.counters.")
      .def_prop_ro(
          "reservable", [](PySequence& self) { return self.Open("reservable").reservable(); },
          "The most tokens that reserve() gives now.")
      .def(
          "reserve",
          [](PySequence& self, std::size_t tokens) {
            Sequence& sequence = self.Open("reserve");
            self.rows = Take(Unlocked([&] { return sequence.Reserve(tokens); }));
          },
          "tokens"_a,
          "Rows for exactly the next `tokens` tokens, of every layer. OutOfRangeError beyond max_step_tokens, TailFullError "
          "where there is no "
          "room.")
      .def(
          "keys", [](nb::handle self, std::size_t layer) { return ReservedRows(self, layer, &NewRows::Keys, "keys"); },
          "layer"_a,
          "The reserved rows of a layer's keys, [tokens, kv_heads, head_dim]: write into them. A view of shared memory "
          "(DLPack).")
      .def(
          "values", [](nb::handle self, std::size_t layer) { return ReservedRows(self, layer, &NewRows::Values, "values"); },
          "layer"_a, "The reserved rows of a layer's values, as keys().")
      .def(
          "append",
          [](PySequence& self, std::size_t layer, const ReadArray& keys, const ReadArray& values) {
            Sequence& sequence = self.Open("append");
            const ConstTensorView k = ReadView(keys, "keys"), v = ReadView(values, "values");
            Take(Unlocked([&] { return sequence.Append(layer, k, v); }));
          },
          "layer"_a, "keys"_a, "values"_a,
          "Copies keys and values [tokens, kv_heads, head_dim] of the reserved tokens into their rows.")
      .def(
          "attend",
          [](PySequence& self, std::size_t layer, const ReadArray& q, const WriteArray& out, float scale,
             const std::optional<nb::ndarray<float, nb::c_contig>>& lse,
             const std::optional<nb::ndarray<const float, nb::ndim<1>, nb::c_contig>>& sink_logits, float softcap,
             std::uint32_t window) {
            Sequence& sequence = self.Open("attend");
            const AttendArgs args = Args(q, out, scale, lse, sink_logits, softcap, window);
            Take(Unlocked([&] { return sequence.Attend(layer, args); }));
          },
          "layer"_a, "q"_a, "out"_a, "scale"_a, nb::kw_only(), "lse"_a = nb::none(), "sink_logits"_a = nb::none(),
          "softcap"_a = 0.0f, "window"_a = 0,
          "Attention of the reserved tokens' queries q [tokens, q_heads, head_dim] over all that is cached and the rows just "
          "written, into "
          "out of the same shape. lse [tokens, q_heads] float32 receives the natural log of the softmax denominator.")
      .def(
          "step",
          [](PySequence& self, std::size_t layer, const ReadArray& keys, const ReadArray& values, const ReadArray& q,
             const WriteArray& out, float scale,
             const std::optional<nb::ndarray<const float, nb::ndim<1>, nb::c_contig>>& sink_logits, float softcap,
             std::uint32_t window) {
            Sequence& sequence = self.Open("step");
            const ConstTensorView k = ReadView(keys, "keys"), v = ReadView(values, "values");
            const AttendArgs args = Args(q, out, scale, std::nullopt, sink_logits, softcap, window);
            Take(Unlocked([&] { return sequence.Step(layer, k, v, args); }));
          },
          "layer"_a, "keys"_a, "values"_a, "q"_a, "out"_a, "scale"_a, nb::kw_only(), "sink_logits"_a = nb::none(),
          "softcap"_a = 0.0f, "window"_a = 0, "append() and attend() in one call.")
      .def(
          "advance",
          [](PySequence& self, nb::handle tokens) {
            Sequence& sequence = self.Open("advance");
            const std::vector<TokenId> ids = Tokens(tokens);
            self.rows = {};
            Take(Unlocked([&] { return sequence.Advance(ids); }));
          },
          "tokens"_a, "Makes reserved tokens part of the sequence; every layer's rows must be written.")
      .def_prop_ro(
          "unnamed", [](PySequence& self) { return self.Open("unnamed").unnamed(); },
          "The newest tokens, whose ids are not known yet: len() counts them.")
      .def(
          "advance_unnamed",
          [](PySequence& self, std::size_t tokens) {
            Sequence& sequence = self.Open("advance_unnamed");
            self.rows = {};
            Take(Unlocked([&] { return sequence.AdvanceUnnamed(tokens); }));
          },
          "tokens"_a,
          "Makes so many reserved tokens part of the sequence whose ids are not known yet. They are attended, trimmed and "
          "forked like others, but stay raw and unseen by others until name(). open() makes room for unnamed_tokens of them.")
      .def(
          "name",
          [](PySequence& self, nb::handle tokens) {
            Sequence& sequence = self.Open("name");
            const std::vector<TokenId> ids = Tokens(tokens);
            Take(Unlocked([&] { return sequence.Name(ids); }));
          },
          "tokens"_a, "Gives the oldest unnamed tokens their ids; blocks are sealed as by advance().")
      .def(
          "put_state",
          [](PySequence& self, const Bytes& state) {
            Sequence& sequence = self.Open("put_state");
            const std::span bytes(static_cast<const std::byte*>(state.data()), state.nbytes());
            Take(Unlocked([&] { return sequence.PutState(bytes); }));
          },
          "state"_a,
          "Keeps an engine's private bytes (any contiguous buffer or array) at the present length, a positive multiple of "
          "block_tokens: forks, and whoever opens the prefix with want_state, find them. Where a state stands already it "
          "stays.")
      .def(
          "find_state",
          [](PySequence& self) -> nb::object {
            Sequence& sequence = self.Open("find_state");
            auto found = Unlocked([&] { return sequence.FindState(); });
            if (!found && found.error().code == ErrorCode::kNotFound) return nb::none();
            const StateInfo info = Take(std::move(found));
            return nb::make_tuple(info.length, info.bytes);
          },
          "(tokens behind which the newest state stands, its bytes); None if the sequence holds none.")
      .def(
          "copy_state",
          [](PySequence& self, const WritableBytes& to) {
            Sequence& sequence = self.Open("copy_state");
            const std::span bytes(static_cast<std::byte*>(to.data()), to.nbytes());
            Take(Unlocked([&] { return sequence.CopyState(bytes); }));
          },
          "to"_a, "Copies the newest state to a contiguous array of its bytes.")
      .def(
          "copy_rows",
          [](PySequence& self, std::size_t layer, std::uint64_t first, std::size_t count, const std::optional<WriteArray>& keys,
             const std::optional<WriteArray>& values) {
            Sequence& sequence = self.Open("copy_rows");
            const TensorView k = keys ? WriteView(*keys, "keys") : TensorView{};
            const TensorView v = values ? WriteView(*values, "values") : TensorView{};
            Take(Unlocked([&] { return sequence.CopyRows(layer, first, count, k, v); }));
          },
          "layer"_a, "first"_a, "count"_a, "keys"_a.none() = nb::none(), "values"_a.none() = nb::none(),
          "Copies the rows of positions first .. first + count of one layer to `keys` and `values`, writable arrays [count, "
          "kv_heads, head_dim] of float32, float16 or bfloat16; None for a side that is not wanted. Raw rows and sinks come as "
          "they were written, those that attention reads as codes decoded. OutOfRangeError beyond the sequence.")
      .def(
          "trim",
          [](PySequence& self, std::uint64_t length) {
            Sequence& sequence = self.Open("trim");
            self.rows = {};
            Take(Unlocked([&] { return sequence.Trim(length); }));
          },
          "length"_a, "Drops tokens from the end; `length` stay.")
      .def(
          "set_mark",
          [](PySequence& self) {
            Sequence& sequence = self.Open("set_mark");
            return Take(Unlocked([&] { return sequence.SetMark(); })).length;
          },
          "Marks the present length, which is returned. While a mark is held nothing newer is sealed, so rewind() restores "
          "this point exactly.")
      .def(
          "rewind",
          [](PySequence& self, std::uint64_t mark) {
            Sequence& sequence = self.Open("rewind");
            self.rows = {};
            Take(Unlocked([&] { return sequence.Rewind({.length = mark}); }));
          },
          "mark"_a)
      .def(
          "release",
          [](PySequence& self, std::uint64_t mark) {
            Sequence& sequence = self.Open("release");
            Take(Unlocked([&] { return sequence.Release({.length = mark}); }));
          },
          "mark"_a, "Lets go of a mark.")
      .def(
          "fork",
          [](PySequence& self, std::optional<std::uint64_t> length) {
            Sequence& sequence = self.Open("fork");
            return PySequence{Take(Unlocked([&] { return sequence.Fork(length); })), {}};
          },
          "length"_a = nb::none(),
          "A copy-on-write copy at `length` tokens (all of them): blocks are shared, tail rows copied.")
      .def(
          "close", [](PySequence& self) { Unlocked([&] { self.sequence.reset(); }); },
          "Gives the blocks back to the store, where they stay for others.");
}

void AddStore(nb::module_& module) {
  nb::class_<PyStore>(module, "Store", "An open store: the keys and values of one identity.")
      .def_prop_ro(
          "info",
          [](PyStore& self) {
            const StoreInfo& info = self.Open("info").info();
            nb::dict dict;
            dict["name"] = info.name;
            dict["identity"] = info.identity;
            dict["created"] = info.created;
            dict["relabelled"] = info.relabelled;
            dict["block_bytes"] = info.block_bytes;
            dict["logical_block_bytes"] = info.logical_block_bytes;
            dict["key_bits_per_element"] = info.key_bits_per_element;
            dict["value_bits_per_element"] = info.value_bits_per_element;
            dict["warning"] = info.warning;
            return dict;
          },
          "Names, digest and sizes, side information included; `warning` is what the daemon has found wrong with the store so "
          "far.")
      .def(
          "open",
          [](PyStore& self, nb::handle tokens, const std::string& placement, std::uint32_t recent_tokens,
             std::uint32_t max_step_tokens, const std::string& tail, const std::string& label, std::uint32_t unnamed_tokens,
             bool want_state) {
            Store& store = self.Open("open");
            const std::vector<TokenId> ids = Tokens(tokens);
            SequenceOptions options = Options(placement, recent_tokens, max_step_tokens, tail, label, unnamed_tokens);
            options.want_state = want_state;
            return PySequence{Take(Unlocked([&] { return store.Open(ids, options); })), {}};
          },
          "tokens"_a = nb::make_tuple(), nb::kw_only(), "placement"_a = "local", "recent_tokens"_a = 64,
          "max_step_tokens"_a = 512, "tail"_a = "f16", "label"_a = "", "unnamed_tokens"_a = 0, "want_state"_a = false,
          "A sequence that already holds the longest sealed prefix of `tokens`. To get the logits of the last prompt token an "
          "engine "
          "passes all tokens but the last. want_state: the longest such prefix at whose end a state stands (put_state).")
      .def(
          "fork",
          [](PyStore& self, SequenceId source, std::optional<std::uint64_t> length, const std::string& placement,
             std::uint32_t recent_tokens, std::uint32_t max_step_tokens, const std::string& tail, const std::string& label,
             std::uint32_t unnamed_tokens) {
            Store& store = self.Open("fork");
            const SequenceOptions options = Options(placement, recent_tokens, max_step_tokens, tail, label, unnamed_tokens);
            return PySequence{Take(Unlocked([&] { return store.Fork(source, length, options); })), {}};
          },
          "source"_a, "length"_a = nb::none(), nb::kw_only(), "placement"_a = "local", "recent_tokens"_a = 64,
          "max_step_tokens"_a = 512, "tail"_a = "f16", "label"_a = "", "unnamed_tokens"_a = 0,
          "A copy-on-write copy of a live sequence of any process that has this store open.")
      .def("close", [](PyStore& self) { Unlocked([&] { self.store.reset(); }); });
}

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
             float scale, const std::optional<nb::ndarray<const float, nb::ndim<1>, nb::c_contig>>& sink_logits, float softcap,
             std::uint32_t window) {
            Client& client = self.Open("attend_batch");
            std::vector<AttendBatchItem> items;
            items.reserve(calls.size());
            for (const auto& [sequence, q, out] : calls) {
              if (sequence == nullptr) Refuse("attend_batch: call " + std::to_string(items.size()) + " has no sequence");
              items.push_back(
                  {&sequence->Open("attend_batch"), Args(q, out, scale, std::nullopt, sink_logits, softcap, window)});
            }
            Take(Unlocked([&] { return client.AttendBatch(layer, items); }));
          },
          "layer"_a, "calls"_a, "scale"_a, nb::kw_only(), "sink_logits"_a = nb::none(), "softcap"_a = 0.0f, "window"_a = 0,
          "Sequence.attend() of one layer for several sequences of this client and of one placement in one call. calls: "
          "(sequence, q, out) of each. Blocks that they share are read once.");
}

}  // namespace

NB_MODULE(_core, module) {
  // Caches live in module globals of their engines, and those are not always taken down before the interpreter ends.
  nb::set_leak_warnings(false);
  AddErrors(module);
  AddSequence(module);
  AddStore(module);
  AddClient(module);
  module.def(
      "rope_frequencies",
      [](nb::handle rope, std::uint32_t head_dim) {
        const RopeFrequencies frequencies = Take(ComputeRopeFrequencies(ReadRope(rope), head_dim));
        nb::list list;
        for (const double radians : frequencies.radians_per_token) list.append(radians);
        return nb::make_tuple(list, frequencies.attention_factor);
      },
      "rope"_a, "head_dim"_a, "(radians per token of each pair, attention factor) of a kvant.Rope.");
}

}  // namespace kvant::python
