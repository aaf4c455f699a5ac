// Calibration artifacts as clients send them: a safetensors image of any bytes. Whatever is accepted lies inside the image,
// shares no bytes, and reads back the same after it is written; the artifact made of it has every number that it promises.
#include <algorithm>
#include <cstdint>
#include <functional>
#include <numeric>
#include <string>
#include <vector>

#include "quantizers/artifact.h"
#include "quantizers/safetensors.h"
#include "tests/fuzz/fuzz_input.h"

namespace {

using namespace kvant;              // NOLINT(google-build-using-namespace)
using namespace kvant::quantizers;  // NOLINT(google-build-using-namespace)

/// Errors quote what they refuse, but not all of it.
void CheckError(const Error& error) {
  fuzz::Expect(!error.message.empty() && error.message.size() < 4096, "an error without measure");
}

void CheckTensors(std::span<const std::byte> image, const Safetensors& read) {
  std::size_t bytes = 0;
  std::vector<TensorToWrite> again;
  for (const auto& [name, tensor] : read.tensors()) {
    const std::size_t elements = std::accumulate(tensor.shape.begin(), tensor.shape.end(), std::size_t{1}, std::multiplies<>());
    fuzz::Expect(elements == tensor.elements, "a shape of another size");
    fuzz::Expect(tensor.bytes.size() == elements * TensorTypeBytes(tensor.type), "bytes of another size");
    fuzz::Expect(tensor.bytes.empty() || (tensor.bytes.data() >= image.data() &&
                                          tensor.bytes.data() + tensor.bytes.size() <= image.data() + image.size()),
                 "a tensor outside the image");
    bytes += tensor.bytes.size();
    again.push_back({name, tensor.type, tensor.shape, tensor.bytes});
  }
  fuzz::Expect(bytes <= image.size(), "tensors share bytes");
  const std::vector<std::byte> written = WriteSafetensors(again);
  const auto reread = Safetensors::Read(written, "again");
  fuzz::Expect(reread.has_value() && reread->tensors().size() == again.size(), "what is written cannot be read");
  for (const TensorToWrite& tensor : again) {
    const StoredTensor* found = reread->Find(tensor.name);
    fuzz::Expect(found != nullptr && found->shape == tensor.shape && found->type == tensor.type &&
                     std::equal(found->bytes.begin(), found->bytes.end(), tensor.bytes.begin(), tensor.bytes.end()),
                 "a tensor that was written reads back as another");
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::span<const std::byte> image(reinterpret_cast<const std::byte*>(data), size);
  const auto read = Safetensors::Read(image, "image");
  if (read) {
    CheckTensors(image, *read);
  } else {
    CheckError(read.error());
  }
  const auto artifact = Artifact::Make(image);
  if (!artifact) {
    CheckError(artifact.error());
    return 0;
  }
  fuzz::Expect(read.has_value(), "an artifact from an image that cannot be read");
  for (const auto& [name, tensor] : read->tensors()) {
    if (tensor.shape.size() != 2) continue;
    const auto found = (*artifact)->Find(name, {tensor.shape[0], tensor.shape[1]});
    if (!found) continue;
    fuzz::Expect(found->size() == tensor.elements, "numbers of another count");
    for (const float number : *found) fuzz::Expect(number - number == 0.0f, "a number that is not finite");
  }
  return 0;
}
