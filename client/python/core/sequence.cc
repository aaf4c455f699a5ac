// kvant._core.Sequence.
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include <nanobind/nanobind.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <kvant/client.h>

#include "client/python/core/handles.h"

namespace kvant::python {

using namespace nb::literals;

namespace {

/// Memory of any elements, without gaps.
using Bytes = nb::ndarray<nb::ro, nb::c_contig, nb::device::cpu>;
using WritableBytes = nb::ndarray<nb::c_contig, nb::device::cpu>;

using LogSumArray = std::optional<nb::ndarray<float, nb::c_contig>>;

/// Where the log-sum-exp of each query goes; null if it is not wanted.
float* LogSums(const LogSumArray& lse, const ConstTensorView& q) {
  if (!lse) return nullptr;
  if (lse->size() != q.tokens * q.heads) {
    Refuse("lse: " + std::to_string(lse->size()) + " numbers, " + std::to_string(q.tokens * q.heads) +
           " are wanted, [tokens, q_heads]");
  }
  return lse->data();
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

}  // namespace

AttendArgs Args(const ReadArray& q, const WriteArray& out, float scale, const SinkLogits& sink_logits, float softcap,
                std::uint32_t window) {
  AttendArgs args;
  args.q = ReadView(q, "q");
  args.out = WriteView(out, "out");
  args.scale = scale;
  args.softcap = softcap;
  args.window = window;
  if (sink_logits) {
    if (sink_logits->shape(0) != args.q.heads) {
      Refuse("sink_logits: " + std::to_string(sink_logits->shape(0)) + " numbers for " + std::to_string(args.q.heads) +
             " query heads");
    }
    args.sink_logits = sink_logits->data();
  }
  return args;
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
          "kept", [](PySequence& self) { return self.Open("kept").kept(); },
          "How many of `length` tokens are attended under the policy, mean over layers and KV heads.")
      .def(
          "apply_policy",
          [](PySequence& self) {
            Sequence& sequence = self.Open("apply_policy");
            Take(Unlocked([&] { return sequence.ApplyPolicy(); }));
          },
          "Drops tokens as open()'s policy says: call it when a prompt has been read. Other sequences keep them.")
      .def(
          "kept_tokens",
          [](PySequence& self, std::size_t layer, std::size_t kv_head) {
            return Take(self.Open("kept_tokens").KeptTokens(layer, kv_head));
          },
          "layer"_a, "kv_head"_a, "Positions that a KV head attends, ascending.")
      .def(
          "keep",
          [](PySequence& self, std::size_t layer, std::size_t kv_head, const std::vector<std::uint64_t>& positions) {
            Sequence& sequence = self.Open("keep");
            Take(Unlocked([&] { return sequence.Keep(layer, kv_head, positions); }));
          },
          "layer"_a, "kv_head"_a, "positions"_a,
          "An engine's own choice: of the tokens there are, a KV head attends only these (ascending) of those that it did.")
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
             const LogSumArray& lse, const SinkLogits& sink_logits, float softcap, std::uint32_t window) {
            Sequence& sequence = self.Open("attend");
            AttendArgs args = Args(q, out, scale, sink_logits, softcap, window);
            args.lse = LogSums(lse, args.q);
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
             const WriteArray& out, float scale, const SinkLogits& sink_logits, float softcap, std::uint32_t window) {
            Sequence& sequence = self.Open("step");
            const ConstTensorView k = ReadView(keys, "keys"), v = ReadView(values, "values");
            const AttendArgs args = Args(q, out, scale, sink_logits, softcap, window);
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

}  // namespace kvant::python
