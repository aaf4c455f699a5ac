// A safetensors image with a header of one's own choice, true or false.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

namespace kvant::quantizers::test {

std::vector<std::byte> SafetensorsImage(const std::string& header, const std::vector<std::byte>& data);

}  // namespace kvant::quantizers::test
