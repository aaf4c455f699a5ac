#include "tests/quantizers/safetensors_image.h"

#include <cstdint>
#include <cstring>

namespace kvant::quantizers::test {

std::vector<std::byte> SafetensorsImage(const std::string& header, const std::vector<std::byte>& data) {
  std::vector<std::byte> image(8 + header.size() + data.size());
  const std::uint64_t length = header.size();
  std::memcpy(image.data(), &length, 8);
  std::memcpy(image.data() + 8, header.data(), header.size());
  if (!data.empty()) std::memcpy(image.data() + 8 + header.size(), data.data(), data.size());
  return image;
}

}  // namespace kvant::quantizers::test
