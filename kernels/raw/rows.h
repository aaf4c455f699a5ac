// Rows of f32, f16 or bf16 numbers to and from floats.
#pragma once

#include <cstddef>

#include <kvant/tensor.h>

namespace kvant::kernels {

/// Widens `n` elements at `src` into `out`; each element is read once. Returns the largest magnitude, or a NaN or an infinity
/// if any element is one: a result `m` with `!(m <= FLT_MAX)` means that the row is not finite.
float LoadRow(const void* src, ElementType type, std::size_t n, float* out) noexcept;

/// Narrows `n` floats to `type`, rounding to nearest even; beyond the type's range gives infinity, NaN stays NaN.
/// The same bits on every target. `dst` may be aligned to its element only.
void StoreRow(const float* src, std::size_t n, ElementType type, void* dst) noexcept;

/// LoadRow and StoreRow at once: converts `n` elements from one type to another. Returns what LoadRow does.
float CopyRow(const void* src, ElementType from, std::size_t n, ElementType to, void* dst) noexcept;

/// Largest float that still rounds to a finite number of `type`.
[[nodiscard]] float LargestStorable(ElementType type) noexcept;

}  // namespace kvant::kernels
