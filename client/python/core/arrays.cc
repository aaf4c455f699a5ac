#include "client/python/core/arrays.h"

#include <cstdint>
#include <string>

#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include "client/python/core/errors.h"

namespace nb = nanobind;

namespace kvant::python {
namespace {

ElementType TypeOf(nb::dlpack::dtype type, const char* name) {
  using Code = nb::dlpack::dtype_code;
  if (type.lanes == 1 && type.code == static_cast<std::uint8_t>(Code::Float) && type.bits == 32) return ElementType::kF32;
  if (type.lanes == 1 && type.code == static_cast<std::uint8_t>(Code::Float) && type.bits == 16) return ElementType::kF16;
  if (type.lanes == 1 && type.code == static_cast<std::uint8_t>(Code::Bfloat) && type.bits == 16) return ElementType::kBF16;
  Refuse(std::string(name) + ": float32, float16 or bfloat16 is wanted, the array has " + std::to_string(type.bits) +
         "-bit elements of another kind");
}

nb::dlpack::dtype TypeOf(ElementType type) {
  using Code = nb::dlpack::dtype_code;
  const Code code = type == ElementType::kBF16 ? Code::Bfloat : Code::Float;
  return {static_cast<std::uint8_t>(code), static_cast<std::uint8_t>(8 * ElementBytes(type)), 1};
}

template <typename View, typename Array>
View Read(const Array& array, const char* name) {
  if (array.device_type() != nb::device::cpu::value) {
    throw Failure({ErrorCode::kUnsupported,
                   std::string(name) + ": the array is not in the CPU's memory; kvant attends on CPUs (not on GPUs yet)"});
  }
  if (array.shape(2) > 1 && array.stride(2) != 1) Refuse(std::string(name) + ": the last axis must be adjacent in memory");
  if (array.stride(0) < 0 || array.stride(1) < 0) Refuse(std::string(name) + ": strides must not be negative");
  return {array.data(),
          TypeOf(array.dtype(), name),
          array.shape(0),
          array.shape(1),
          array.shape(2),
          static_cast<std::size_t>(array.stride(0)),
          static_cast<std::size_t>(array.stride(1))};
}

}  // namespace

ConstTensorView ReadView(const ReadArray& array, const char* name) { return Read<ConstTensorView>(array, name); }

TensorView WriteView(const WriteArray& array, const char* name) { return Read<TensorView>(array, name); }

nb::object MakeArray(const TensorView& view, nb::handle owner) {
  const std::size_t shape[3] = {view.tokens, view.heads, view.dim};
  const std::int64_t strides[3] = {static_cast<std::int64_t>(view.token_stride), static_cast<std::int64_t>(view.head_stride),
                                   1};
  return nb::cast(nb::ndarray<nb::array_api>(view.data, 3, shape, owner, strides, TypeOf(view.type)));
}

std::vector<TokenId> Tokens(nb::handle tokens) {
  nb::ndarray<const std::int64_t, nb::ndim<1>, nb::device::cpu> array;
  if (nb::try_cast(tokens, array)) {
    std::vector<TokenId> ids(array.shape(0));
    for (std::size_t i = 0; i < ids.size(); ++i) ids[i] = array.data()[static_cast<std::int64_t>(i) * array.stride(0)];
    return ids;
  }
  if (nb::hasattr(tokens, "tolist")) return nb::cast<std::vector<TokenId>>(tokens.attr("tolist")());
  return nb::cast<std::vector<TokenId>>(tokens);
}

ElementType ParseElementType(const std::string& name) {
  if (name == "f32" || name == "float32") return ElementType::kF32;
  if (name == "f16" || name == "float16") return ElementType::kF16;
  if (name == "bf16" || name == "bfloat16") return ElementType::kBF16;
  Refuse("element type \"" + name + "\" is unknown: f32, f16 or bf16");
}

}  // namespace kvant::python
