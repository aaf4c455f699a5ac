// Sequences of the C interface.
#include <algorithm>
#include <cstdint>
#include <optional>
#include <span>

#include "client/c_support.h"

namespace kvant::c {

Result<SequenceOptions> Options(const kvant_sequence_options* options, const char* operation) {
  kvant_sequence_options given = {};
  kvant_sequence_options_init(&given, sizeof(given));
  if (options != nullptr && !ReadStruct(options, given)) {
    kvant_error error;
    static_cast<void>(BadStruct(operation, "kvant_sequence_options", &error));
    return Error{ErrorCode::kInvalidArgument, error.message};
  }
  return SequenceOptions{.placement = static_cast<Placement>(given.placement),
                         .recent_tokens = given.recent_tokens,
                         .max_step_tokens = given.max_step_tokens,
                         .tail_type = static_cast<ElementType>(given.tail_type),
                         .label = Text(given.label),
                         .unnamed_tokens = given.unnamed_tokens,
                         .want_state = given.want_state != 0,
                         .priority = static_cast<std::uint8_t>(std::min(given.priority, 255U)),
                         .policy = Text(given.policy)};
}

}  // namespace kvant::c

using namespace kvant::c;  // NOLINT(google-build-using-namespace): this file implements one interface

namespace {

/// Calls `body` with the sequence; a null one is refused.
template <typename Body>
kvant_code With(kvant_sequence* sequence, const char* operation, kvant_error* error, Body&& body) noexcept {
  return Guarded(operation, error, [&]() -> kvant_code {
    if (sequence == nullptr) return Refuse(std::string(operation) + ": sequence is null", error);
    return body(sequence->sequence);
  });
}

}  // namespace

void kvant_sequence_options_init(kvant_sequence_options* options, size_t struct_size) {
  const kvant::SequenceOptions defaults;
  kvant_sequence_options values = {};
  values.placement = static_cast<kvant_placement>(defaults.placement);
  values.recent_tokens = defaults.recent_tokens;
  values.max_step_tokens = defaults.max_step_tokens;
  values.tail_type = static_cast<kvant_element_type>(defaults.tail_type);
  WriteStruct(values, options, struct_size);
}

kvant_code kvant_sequence_open(kvant_store* store, const kvant_token* tokens, size_t count,
                               const kvant_sequence_options* options, kvant_sequence** sequence, kvant_error* error) {
  return Guarded("open sequence", error, [&] {
    if (store == nullptr || sequence == nullptr) return Refuse("open sequence: store or sequence is null", error);
    if (tokens == nullptr && count > 0) return Refuse("open sequence: tokens is null", error);
    auto wanted = Options(options, "open sequence");
    if (!wanted) return Refuse(wanted.error(), error);
    return Give(store->store.Open(std::span(tokens, count), *wanted), sequence, error);
  });
}

void kvant_sequence_close(kvant_sequence* sequence) { delete sequence; }

uint64_t kvant_sequence_id(const kvant_sequence* sequence) { return sequence == nullptr ? 0 : sequence->sequence.id(); }

uint64_t kvant_sequence_length(const kvant_sequence* sequence) { return sequence == nullptr ? 0 : sequence->sequence.length(); }

uint64_t kvant_sequence_unnamed(const kvant_sequence* sequence) {
  return sequence == nullptr ? 0 : sequence->sequence.unnamed();
}

uint64_t kvant_sequence_prefix_hit_tokens(const kvant_sequence* sequence) {
  return sequence == nullptr ? 0 : sequence->sequence.prefix_hit_tokens();
}

uint64_t kvant_sequence_kept(const kvant_sequence* sequence) { return sequence == nullptr ? 0 : sequence->sequence.kept(); }

size_t kvant_sequence_reservable(const kvant_sequence* sequence) {
  return sequence == nullptr ? 0 : sequence->sequence.reservable();
}

kvant_code kvant_sequence_get_counters(const kvant_sequence* sequence, kvant_sequence_counters* counters, kvant_error* error) {
  return Guarded("counters", error, [&] {
    if (sequence == nullptr || counters == nullptr) return Refuse("counters: sequence or counters is null", error);
    const kvant::SequenceCounters now = sequence->sequence.counters();
    kvant_sequence_counters values = {};
    values.attend_calls = now.attend_calls;
    values.tokens_advanced = now.tokens_advanced;
    values.bytes_copied = now.bytes_copied;
    values.bytes_zero_copy = now.bytes_zero_copy;
    WriteStruct(values, counters, counters->struct_size);
    return KVANT_OK;
  });
}

kvant_code kvant_sequence_reserve(kvant_sequence* sequence, size_t tokens, kvant_error* error) {
  return With(sequence, "reserve", error, [&](kvant::Sequence& of) {
    auto rows = of.Reserve(tokens);
    if (!rows) return Refuse(rows.error(), error);
    sequence->rows = *rows;
    return KVANT_OK;
  });
}

kvant_code kvant_sequence_rows(const kvant_sequence* sequence, size_t layer, kvant_tensor* keys, kvant_tensor* values,
                               kvant_error* error) {
  return Guarded("rows", error, [&] {
    if (sequence == nullptr || keys == nullptr || values == nullptr) {
      return Refuse("rows: sequence, keys or values is null", error);
    }
    if (sequence->rows.tokens() == 0) return Refuse("rows: none are reserved; call kvant_sequence_reserve first", error);
    if (layer >= sequence->rows.layers()) {
      return Refuse(kvant::Error{kvant::ErrorCode::kOutOfRange,
                                 "rows: layer " + std::to_string(layer) + " of " + std::to_string(sequence->rows.layers())},
                    error);
    }
    *keys = Tensor(sequence->rows.Keys(layer));
    *values = Tensor(sequence->rows.Values(layer));
    return KVANT_OK;
  });
}

kvant_code kvant_sequence_append(kvant_sequence* sequence, size_t layer, const kvant_const_tensor* keys,
                                 const kvant_const_tensor* values, kvant_error* error) {
  return With(sequence, "append", error, [&](kvant::Sequence& of) {
    if (keys == nullptr || values == nullptr) return Refuse("append: keys or values is null", error);
    return Answer(of.Append(layer, View(*keys), View(*values)), error);
  });
}

void kvant_attend_args_init(kvant_attend_args* args, size_t struct_size) {
  WriteStruct(kvant_attend_args{}, args, struct_size);
}

kvant_code kvant_sequence_attend(kvant_sequence* sequence, size_t layer, const kvant_attend_args* args, kvant_error* error) {
  return With(sequence, "attend", error, [&](kvant::Sequence& of) {
    if (args == nullptr) return Refuse("attend: args is null", error);
    kvant_attend_args given = {};
    if (!ReadStruct(args, given)) return BadStruct("attend", "kvant_attend_args", error);
    return Answer(of.Attend(layer, {.q = View(given.q),
                                    .out = View(given.out),
                                    .lse = given.lse,
                                    .sink_logits = given.sink_logits,
                                    .scale = given.scale,
                                    .softcap = given.softcap,
                                    .window = given.window}),
                  error);
  });
}

kvant_code kvant_sequence_advance(kvant_sequence* sequence, const kvant_token* tokens, size_t count, kvant_error* error) {
  return With(sequence, "advance", error, [&](kvant::Sequence& of) {
    if (tokens == nullptr && count > 0) return Refuse("advance: tokens is null", error);
    const auto advanced = of.Advance(std::span(tokens, count));
    sequence->rows = {};
    return Answer(advanced, error);
  });
}

kvant_code kvant_sequence_advance_unnamed(kvant_sequence* sequence, size_t count, kvant_error* error) {
  return With(sequence, "advance", error, [&](kvant::Sequence& of) {
    const auto advanced = of.AdvanceUnnamed(count);
    sequence->rows = {};
    return Answer(advanced, error);
  });
}

kvant_code kvant_sequence_name(kvant_sequence* sequence, const kvant_token* tokens, size_t count, kvant_error* error) {
  return With(sequence, "name", error, [&](kvant::Sequence& of) {
    if (tokens == nullptr && count > 0) return Refuse("name: tokens is null", error);
    return Answer(of.Name(std::span(tokens, count)), error);
  });
}

kvant_code kvant_sequence_copy_rows(kvant_sequence* sequence, size_t layer, uint64_t first, size_t count,
                                    const kvant_tensor* keys, const kvant_tensor* values, kvant_error* error) {
  return With(sequence, "copy rows", error, [&](kvant::Sequence& of) {
    const auto wanted = [](const kvant_tensor* side) { return side == nullptr ? kvant::TensorView{} : View(*side); };
    return Answer(of.CopyRows(layer, first, count, wanted(keys), wanted(values)), error);
  });
}

kvant_code kvant_sequence_put_state(kvant_sequence* sequence, const void* state, size_t bytes, kvant_error* error) {
  return With(sequence, "put state", error, [&](kvant::Sequence& of) {
    if (state == nullptr && bytes > 0) return Refuse("put state: state is null", error);
    return Answer(of.PutState({static_cast<const std::byte*>(state), bytes}), error);
  });
}

kvant_code kvant_sequence_find_state(kvant_sequence* sequence, uint64_t* length, size_t* bytes, kvant_error* error) {
  return With(sequence, "find state", error, [&](kvant::Sequence& of) {
    if (length == nullptr || bytes == nullptr) return Refuse("find state: length or bytes is null", error);
    const auto found = of.FindState();
    if (!found) return Refuse(found.error(), error);
    *length = found->length;
    *bytes = found->bytes;
    return KVANT_OK;
  });
}

kvant_code kvant_sequence_copy_state(kvant_sequence* sequence, void* to, size_t bytes, kvant_error* error) {
  return With(sequence, "copy state", error, [&](kvant::Sequence& of) {
    if (to == nullptr && bytes > 0) return Refuse("copy state: to is null", error);
    return Answer(of.CopyState({static_cast<std::byte*>(to), bytes}), error);
  });
}

kvant_code kvant_sequence_trim(kvant_sequence* sequence, uint64_t length, kvant_error* error) {
  return With(sequence, "trim", error, [&](kvant::Sequence& of) {
    sequence->rows = {};
    return Answer(of.Trim(length), error);
  });
}

kvant_code kvant_sequence_set_mark(kvant_sequence* sequence, uint64_t* mark, kvant_error* error) {
  return With(sequence, "mark", error, [&](kvant::Sequence& of) {
    if (mark == nullptr) return Refuse("mark: mark is null", error);
    const auto set = of.SetMark();
    if (!set) return Refuse(set.error(), error);
    *mark = set->length;
    return KVANT_OK;
  });
}

kvant_code kvant_sequence_rewind(kvant_sequence* sequence, uint64_t mark, kvant_error* error) {
  return With(sequence, "rewind", error, [&](kvant::Sequence& of) {
    sequence->rows = {};
    return Answer(of.Rewind({.length = mark}), error);
  });
}

kvant_code kvant_sequence_release(kvant_sequence* sequence, uint64_t mark, kvant_error* error) {
  return With(sequence, "release", error, [&](kvant::Sequence& of) { return Answer(of.Release({.length = mark}), error); });
}

kvant_code kvant_sequence_fork(kvant_sequence* sequence, uint64_t length, kvant_sequence** fork, kvant_error* error) {
  return With(sequence, "fork", error, [&](kvant::Sequence& of) {
    if (fork == nullptr) return Refuse("fork: fork is null", error);
    const std::optional<std::uint64_t> at = length == KVANT_WHOLE_LENGTH ? std::nullopt : std::optional(length);
    return Give(of.Fork(at), fork, error);
  });
}
