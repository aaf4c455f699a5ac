// Arrays of Python's frameworks as tensor views, and rows of the tail as arrays. Nothing here copies.
#pragma once

#include <vector>

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <kvant/client.h>
#include <kvant/tensor.h>

namespace kvant::python {

/// [tokens, heads, dim] of float32, float16 or bfloat16 on the CPU, the last axis adjacent; other strides are free. From
/// anything that speaks DLPack or the buffer protocol.
using ReadArray = nanobind::ndarray<nanobind::ro, nanobind::ndim<3>>;
using WriteArray = nanobind::ndarray<nanobind::ndim<3>>;

/// `name` stands in the error. Negative strides, other types and other devices are refused.
[[nodiscard]] ConstTensorView ReadView(const ReadArray& array, const char* name);
[[nodiscard]] TensorView WriteView(const WriteArray& array, const char* name);

/// A view in Python: speaks DLPack and, for f32 and f16, the buffer protocol. `owner` lives as long as the array.
[[nodiscard]] nanobind::object MakeArray(const TensorView& view, nanobind::handle owner);

/// Token ids from any sequence of integers or an integer array of one axis.
[[nodiscard]] std::vector<TokenId> Tokens(nanobind::handle tokens);

[[nodiscard]] ElementType ParseElementType(const std::string& name);

}  // namespace kvant::python
