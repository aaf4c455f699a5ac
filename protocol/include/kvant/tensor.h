// Non-owning views of rows in memory. A row is `head_dim` adjacent numbers: one token, one head.
#pragma once

#include <cstddef>
#include <cstdint>

namespace kvant {

/// How one number is stored. Sent over the wire and hashed into identities: do not renumber.
enum class ElementType : std::uint8_t { kF32 = 0, kF16 = 1, kBF16 = 2 };

constexpr std::size_t ElementBytes(ElementType type) noexcept { return type == ElementType::kF32 ? 4 : 2; }

constexpr const char* ElementTypeName(ElementType type) noexcept {
  return type == ElementType::kF32 ? "f32" : type == ElementType::kF16 ? "f16" : "bf16";
}

/// `count` rows of `dim` numbers; row i starts `i * stride` elements after `data`.
struct RowsView {
  const void* data = nullptr;
  ElementType type = ElementType::kF32;
  std::size_t count = 0;
  std::size_t dim = 0;
  std::size_t stride = 0;  ///< elements between the starts of adjacent rows
};

/// [tokens, heads, dim], the last axis adjacent; the two strides (in elements) say which of [tokens, heads, dim] and
/// [heads, tokens, dim] it is, or anything else an engine uses. `Byte` is `void` (writable) or `const void`.
template <typename Byte>
struct BasicTensorView {
  Byte* data = nullptr;
  ElementType type = ElementType::kF32;
  std::size_t tokens = 0;
  std::size_t heads = 0;
  std::size_t dim = 0;
  std::size_t token_stride = 0;
  std::size_t head_stride = 0;

  /// The rows of one head, in token order.
  [[nodiscard]] RowsView Head(std::size_t head) const noexcept {
    const auto* base = static_cast<const unsigned char*>(data) + head * head_stride * ElementBytes(type);
    return {base, type, tokens, dim, token_stride};
  }
};

using TensorView = BasicTensorView<void>;
using ConstTensorView = BasicTensorView<const void>;

inline ConstTensorView AsConst(const TensorView& v) noexcept {
  return {v.data, v.type, v.tokens, v.heads, v.dim, v.token_stride, v.head_stride};
}

}  // namespace kvant
