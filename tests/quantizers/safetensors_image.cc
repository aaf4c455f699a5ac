#include "tests/quantizers/safetensors_image.h"

#include <cstdint>
#include <cstring>

#include <nlohmann/json.hpp>

namespace kvant::quantizers::test {

std::vector<std::byte> SafetensorsImage(const std::string& header, const std::vector<std::byte>& data) {
  std::vector<std::byte> image(8 + header.size() + data.size());
  const std::uint64_t length = header.size();
  std::memcpy(image.data(), &length, 8);
  std::memcpy(image.data() + 8, header.data(), header.size());
  if (!data.empty()) std::memcpy(image.data() + 8 + header.size(), data.data(), data.size());
  return image;
}

std::vector<std::byte> SafetensorsImage(const std::vector<NamedTensor>& tensors) {
  nlohmann::json header = nlohmann::json::object();
  std::vector<std::byte> data;
  for (const NamedTensor& tensor : tensors) {
    const std::size_t begin = data.size();
    data.resize(begin + tensor.values.size() * sizeof(float));
    std::memcpy(data.data() + begin, tensor.values.data(), data.size() - begin);
    header[tensor.name] = {{"dtype", "F32"}, {"shape", tensor.shape}, {"data_offsets", {begin, data.size()}}};
  }
  return SafetensorsImage(header.dump(), data);
}

}  // namespace kvant::quantizers::test
