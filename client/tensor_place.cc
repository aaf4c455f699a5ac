#include "client/tensor_place.h"

#include <cstring>
#include <string>

#include "protocol/wire.h"

namespace kvant::client {
namespace {

bool FitsU32(std::size_t n) noexcept { return n <= UINT32_MAX; }

void WriteTensor(const Session& session, const ConstTensorView& view, std::uint64_t offset, wire::Tensor::Builder to) {
  to.setArena(session.arena_id());
  to.setElementType(wire::WriteElementType(view.type));
  to.setOffset(offset);
  to.setTokens(static_cast<std::uint32_t>(view.tokens));
  to.setHeads(static_cast<std::uint32_t>(view.heads));
  to.setDim(static_cast<std::uint32_t>(view.dim));
  to.setTokenStride(view.token_stride);
  to.setHeadStride(view.head_stride);
}

/// [tokens, heads, dim] adjacent at `data`.
TensorView Adjacent(const ConstTensorView& shape, void* data) noexcept {
  return {data, shape.type, shape.tokens, shape.heads, shape.dim, shape.heads * shape.dim, shape.dim};
}

}  // namespace

std::optional<std::size_t> ExtentBytes(const ConstTensorView& view) noexcept {
  if (view.data == nullptr || view.tokens == 0 || view.heads == 0 || view.dim == 0) return std::nullopt;
  std::size_t tokens = 0;
  std::size_t heads = 0;
  std::size_t elements = 0;
  std::size_t bytes = 0;
  if (__builtin_mul_overflow(view.tokens - 1, view.token_stride, &tokens) ||
      __builtin_mul_overflow(view.heads - 1, view.head_stride, &heads) || __builtin_add_overflow(tokens, heads, &elements) ||
      __builtin_add_overflow(elements, view.dim, &elements) ||
      __builtin_mul_overflow(elements, ElementBytes(view.type), &bytes)) {
    return std::nullopt;
  }
  if (bytes > SIZE_MAX - reinterpret_cast<std::uintptr_t>(view.data)) return std::nullopt;
  return bytes;
}

std::size_t PayloadBytes(const ConstTensorView& view) noexcept {
  return view.tokens * view.heads * view.dim * ElementBytes(view.type);
}

Result<void> CheckView(const ConstTensorView& view, const char* name) {
  const auto bad = [&](const std::string& what) { return Error{ErrorCode::kInvalidArgument, std::string(name) + ": " + what}; };
  if (view.data == nullptr) return bad("null data");
  if (view.type != ElementType::kF32 && view.type != ElementType::kF16 && view.type != ElementType::kBF16) {
    return bad("element type " + std::to_string(static_cast<unsigned>(view.type)) + " is unknown");
  }
  if (reinterpret_cast<std::uintptr_t>(view.data) % ElementBytes(view.type) != 0) {
    return bad("data is not aligned to its " + std::string(ElementTypeName(view.type)) + " elements");
  }
  if (view.tokens == 0 || view.heads == 0 || view.dim == 0 || !FitsU32(view.tokens) || !FitsU32(view.heads) ||
      !FitsU32(view.dim) || !ExtentBytes(view)) {
    return bad("shape [" + std::to_string(view.tokens) + ", " + std::to_string(view.heads) + ", " + std::to_string(view.dim) +
               "] with strides " + std::to_string(view.token_stride) + ", " + std::to_string(view.head_stride) +
               " is empty or larger than memory");
  }
  return {};
}

void CopyElements(const ConstTensorView& from, const TensorView& to) noexcept {
  const std::size_t size = ElementBytes(from.type);
  const auto* source = static_cast<const std::byte*>(from.data);
  auto* target = static_cast<std::byte*>(to.data);
  for (std::size_t t = 0; t < from.tokens; ++t) {
    for (std::size_t h = 0; h < from.heads; ++h) {
      std::memcpy(target + (t * to.token_stride + h * to.head_stride) * size,
                  source + (t * from.token_stride + h * from.head_stride) * size, from.dim * size);
    }
  }
}

Result<void> PlaceInput(Session& session, const ConstTensorView& view, wire::Tensor::Builder to) {
  if (const auto offset = session.ArenaOffset(view.data, *ExtentBytes(view))) {
    WriteTensor(session, view, *offset, to);
    session.counters().bytes_zero_copy += PayloadBytes(view);
    return {};
  }
  const std::size_t bytes = PayloadBytes(view);
  auto place = session.Scratch(bytes);
  if (!place) return place.error();
  const TensorView staged = Adjacent(view, *place);
  CopyElements(view, staged);
  session.counters().bytes_copied += bytes;
  WriteTensor(session, AsConst(staged), *session.ArenaOffset(*place, bytes), to);
  return {};
}

Result<PlacedOutput> PlaceOutput(Session& session, const TensorView& view, wire::Tensor::Builder to) {
  const std::size_t bytes = PayloadBytes(AsConst(view));
  if (const auto offset = session.ArenaOffset(view.data, *ExtentBytes(AsConst(view)))) {
    WriteTensor(session, AsConst(view), *offset, to);
    return PlacedOutput{.wanted = view, .staged = {}};
  }
  auto place = session.Scratch(bytes);
  if (!place) return place.error();
  const TensorView staged = Adjacent(AsConst(view), *place);
  WriteTensor(session, AsConst(staged), *session.ArenaOffset(*place, bytes), to);
  return PlacedOutput{.wanted = view, .staged = staged};
}

void FinishOutput(Session& session, const PlacedOutput& output) {
  if (output.staged.data == nullptr) return;
  CopyElements(AsConst(output.staged), output.wanted);
  session.counters().bytes_copied += PayloadBytes(AsConst(output.wanted));
}

}  // namespace kvant::client
