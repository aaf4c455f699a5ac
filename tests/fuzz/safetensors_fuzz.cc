// Calibration artifacts as clients send them: a safetensors image of any bytes. Whatever is accepted can be read to its end.
#include <cstdint>
#include <string>

#include "quantizers/artifact.h"
#include "tests/fuzz/fuzz_input.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const auto artifact = kvant::quantizers::Artifact::Make({reinterpret_cast<const std::byte*>(data), size});
  if (!artifact) {
    // Errors quote what they refuse: not all of it.
    kvant::fuzz::Expect(!artifact.error().message.empty() && artifact.error().message.size() < 4096,
                        "an error without measure");
    return 0;
  }
  for (const char* name : {"means", "layers.0.keys.mean", "a", ""}) {
    for (const std::size_t cols : {1U, 2U, 8U}) {
      const auto found = (*artifact)->Find(name, 1, cols);
      if (!found) continue;
      kvant::fuzz::Expect(found->size() == cols, "a tensor of another size");
      float sum = 0;
      for (const float number : *found) sum += number;  // every element is there, and finite
      kvant::fuzz::Expect(sum == sum || found->size() > 1, "NaN in a tensor that counts as finite");
    }
  }
  return 0;
}
