#include "quantizers/sequence/decode.h"

#include <algorithm>
#include <string>

#include "kernels/raw/rows.h"

namespace kvant::quantizers {
namespace {

Result<void> CheckTensor(const StoreSpec& spec, const RowsRequest& request, const TensorView& tensor, const char* name) {
  if (tensor.data == nullptr) return {};
  if (tensor.tokens == request.count && tensor.heads == spec.kv_heads && tensor.dim == spec.head_dim) return {};
  return Error{ErrorCode::kInvalidArgument, std::string("copy rows: ") + name + " are [" + std::to_string(tensor.tokens) +
                                                ", " + std::to_string(tensor.heads) + ", " + std::to_string(tensor.dim) +
                                                "], the rows are [" + std::to_string(request.count) + ", " +
                                                std::to_string(spec.kv_heads) + ", " + std::to_string(spec.head_dim) + "]"};
}

/// One head of a tensor, row by row.
class RowWriter {
 public:
  RowWriter(const TensorView& to, std::size_t head)
      : to_(to), at_(static_cast<std::byte*>(to.data) + head * to.head_stride * ElementBytes(to.type)) {}

  /// False if a number of the row is not finite in the tensor's element type.
  [[nodiscard]] bool Write(const void* row, ElementType type) noexcept {
    const float magnitude = kernels::CopyRow(row, type, to_.dim, to_.type, at_);
    at_ += to_.token_stride * ElementBytes(to_.type);
    return magnitude <= kernels::LargestStorable(to_.type);
  }

 private:
  const TensorView& to_;
  std::byte* at_;
};

Error Beyond(const RowsRequest& request, Side side, std::size_t head, std::uint64_t position, ElementType type) {
  return {ErrorCode::kNotFinite, std::string("copy rows: the ") + (side == Side::kKeys ? "key" : "value") + " row of layer " +
                                     std::to_string(request.layer) + ", KV head " + std::to_string(head) + ", position " +
                                     std::to_string(position) + " holds a number beyond " + ElementTypeName(type)};
}

/// One head's rows of one side.
Result<void> ReadHead(BlockDecoder& decoder, const CachedSequence& sequence, const RowsRequest& request, Side side,
                      std::size_t head) {
  const StoreSpec& spec = decoder.plan().spec();
  const TensorView& to = side == Side::kKeys ? request.keys : request.values;
  RowWriter writer(to, head);
  const std::uint64_t end = request.first + request.count;
  std::uint64_t position = request.first;
  while (position < end && position / spec.block_tokens < sequence.blocks.size()) {
    const std::uint64_t block = position / spec.block_tokens;
    const std::uint64_t begin = position % spec.block_tokens;
    const std::uint64_t rows = std::min<std::uint64_t>(spec.block_tokens - begin, end - position);
    const float* decoded = decoder.Decode({.payload = sequence.blocks[block],
                                           .sections = sequence.sections[block],
                                           .first_position = block * spec.block_tokens,
                                           .sinks = block == 0 ? sequence.sinks : Sinks{},
                                           .layer = request.layer,
                                           .head = head,
                                           .side = side,
                                           .begin = static_cast<std::size_t>(begin),
                                           .end = static_cast<std::size_t>(begin + rows)});
    for (const std::uint64_t behind = position + rows; position < behind; ++position, decoded += spec.head_dim) {
      if (!writer.Write(decoded, ElementType::kF32)) return Beyond(request, side, head, position, to.type);
    }
  }
  for (; position < end; ++position) {
    const std::byte* row = sequence.tail.Row(request.layer, static_cast<std::size_t>(side), head, position);
    if (!writer.Write(row, sequence.tail.layout.type)) return Beyond(request, side, head, position, to.type);
  }
  return {};
}

}  // namespace

const float* BlockDecoder::Decode(const BlockRows& rows) {
  const std::size_t dim = plan_.spec().head_dim;
  scratch_.Reserve(plan_.decode_scratch());
  rows_.Reserve((rows.end - rows.begin) * dim * sizeof(float));
  plan_.codec(rows.layer, rows.head, rows.side)
      .Decode({.head = rows.head,
               .first_position = rows.first_position,
               .block = plan_.place(rows.layer, rows.head, rows.side).In<const std::byte>(rows.payload, rows.sections),
               .begin = rows.begin,
               .end = rows.end,
               .rows = rows_.Floats(),
               .row_stride = dim,
               .scratch = scratch_.data()});
  if (rows.sinks.data == nullptr) return rows_.Floats();
  const SinkLayout& layout = rows.sinks.layout;
  const std::byte* const sinks = rows.sinks.data + layout.Offset(rows.layer, static_cast<std::size_t>(rows.side), rows.head);
  for (std::size_t i = rows.begin; i < std::min<std::size_t>(rows.end, layout.tokens); ++i) {
    kernels::LoadRow(sinks + i * layout.row_bytes(), layout.type, dim, rows_.Floats() + (i - rows.begin) * dim);
  }
  return rows_.Floats();
}

Result<void> CheckRowsRequest(const StoreSpec& spec, std::uint64_t length, const RowsRequest& request) {
  if (request.layer >= spec.layers) {
    return Error{ErrorCode::kOutOfRange,
                 "copy rows: layer " + std::to_string(request.layer) + " of " + std::to_string(spec.layers)};
  }
  if (request.count == 0) return Error{ErrorCode::kInvalidArgument, "copy rows: 0 rows"};
  if (request.first > length || request.count > length - request.first) {
    return Error{ErrorCode::kOutOfRange, "copy rows: " + std::to_string(request.count) + " rows from position " +
                                             std::to_string(request.first) + " on, the sequence has " + std::to_string(length) +
                                             " tokens"};
  }
  if (request.keys.data == nullptr && request.values.data == nullptr) {
    return Error{ErrorCode::kInvalidArgument, "copy rows: neither keys nor values are wanted"};
  }
  if (auto good = CheckTensor(spec, request, request.keys, "keys"); !good) return good;
  return CheckTensor(spec, request, request.values, "values");
}

RowsRequest Piece(const RowsRequest& request, std::size_t begin, std::size_t count) noexcept {
  const auto part = [&](TensorView tensor) {
    if (tensor.data == nullptr) return tensor;
    tensor.data = static_cast<std::byte*>(tensor.data) + begin * tensor.token_stride * ElementBytes(tensor.type);
    tensor.tokens = count;
    return tensor;
  };
  return {.layer = request.layer,
          .first = request.first + begin,
          .count = count,
          .keys = part(request.keys),
          .values = part(request.values)};
}

Result<void> ReadRows(BlockDecoder& decoder, const CachedSequence& sequence, const RowsRequest& request) {
  for (const Side side : {Side::kKeys, Side::kValues}) {
    if ((side == Side::kKeys ? request.keys : request.values).data == nullptr) continue;
    for (std::size_t head = 0; head < decoder.plan().spec().kv_heads; ++head) {
      if (auto read = ReadHead(decoder, sequence, request, side, head); !read) return read;
    }
  }
  return {};
}

}  // namespace kvant::quantizers
