// A codec of both sides whose work on blocks stands in one class, `Blocks`: the calls that are the same for keys and values go
// there.
#pragma once

#include <cstddef>
#include <optional>
#include <utility>

#include "quantizers/codec.h"

namespace kvant::quantizers {

/// `Base` is KeyCodec or ValueCodec. `Blocks` has bytes(), memory_bytes(), traits(), form(), expected_error(), Encode and
/// Decode.
template <class Base, class Blocks>
class OfSharedBlocks : public Base {
 public:
  [[nodiscard]] std::size_t part_bytes(std::size_t) const noexcept override { return blocks_.bytes(); }
  [[nodiscard]] std::size_t memory_bytes() const noexcept override { return blocks_.memory_bytes(); }
  [[nodiscard]] CodecTraits traits() const noexcept override { return blocks_.traits(); }
  [[nodiscard]] CodeForm form() const noexcept override { return blocks_.form(); }
  [[nodiscard]] std::optional<double> expected_error(std::size_t) const override { return blocks_.expected_error(); }
  [[nodiscard]] Result<void> Encode(const EncodeArgs& args) const override { return blocks_.Encode(args); }
  void Decode(const DecodeArgs& args) const override { blocks_.Decode(args); }

 protected:
  explicit OfSharedBlocks(Blocks blocks) : blocks_(std::move(blocks)) {}

  Blocks blocks_;
};

}  // namespace kvant::quantizers
