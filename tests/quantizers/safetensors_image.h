// Builds safetensors images in memory.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "quantizers/codec.h"

namespace kvant::quantizers::test {

using NamedTensor = ExampleTensor;

/// An image of f32 tensors.
std::vector<std::byte> SafetensorsImage(const std::vector<NamedTensor>& tensors);

/// An image with a header of one's own choice, true or false.
std::vector<std::byte> SafetensorsImage(const std::string& header, const std::vector<std::byte>& data);

}  // namespace kvant::quantizers::test
