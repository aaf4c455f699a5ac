// Tensors as the wire names them: places in the arena. Those that lie elsewhere are staged through the session's scratch.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>

#include <kvant/kvant.capnp.h>
#include <kvant/result.h>
#include <kvant/tensor.h>

#include "client/session.h"

namespace kvant::client {

/// Bytes from a view's first element to the end of its last; nothing if that overflows, or the view is empty or has no memory.
[[nodiscard]] std::optional<std::size_t> ExtentBytes(const ConstTensorView& view) noexcept;

/// Bytes of the elements themselves.
[[nodiscard]] std::size_t PayloadBytes(const ConstTensorView& view) noexcept;

/// kInvalidArgument, naming the tensor (`name`, "q") and the fault, if the view cannot be read as [tokens, heads, dim].
[[nodiscard]] Result<void> CheckView(const ConstTensorView& view, const char* name);

/// Copies elements of one type from view to view; same shape and type.
void CopyElements(const ConstTensorView& from, const TensorView& to) noexcept;

/// The place of an input in the arena, copied there if need be (counted).
[[nodiscard]] Result<void> PlaceInput(Session& session, const ConstTensorView& view, wire::Tensor::Builder to);

/// An output on its way: where the daemon writes it, and where the caller wants it.
struct PlacedOutput {
  TensorView wanted;
  TensorView staged;  ///< data null: the daemon writes in place
};
[[nodiscard]] Result<PlacedOutput> PlaceOutput(Session& session, const TensorView& view, wire::Tensor::Builder to);
void FinishOutput(Session& session, const PlacedOutput& output);

}  // namespace kvant::client
