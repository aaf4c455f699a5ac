// Codec specs and plans as clients write them. Lines: key spec, value spec, then the numbers of the shape.
#include <cstdint>
#include <string>

#include "quantizers/plan.h"
#include "quantizers/registry.h"
#include "tests/fuzz/fuzz_input.h"

namespace {

using namespace kvant;  // NOLINT(google-build-using-namespace)

void CheckSpec(const quantizers::Registry& registry, std::string_view text) {
  const auto parsed = registry.Parse(text);
  if (!parsed) {
    fuzz::Expect(!parsed.error().message.empty(), "an error without a message");
    return;
  }
  const std::string canonical = parsed->Canonical();
  const auto again = registry.Parse(canonical);
  fuzz::Expect(again.has_value() && again->Canonical() == canonical, "the canonical form does not mean itself");
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const quantizers::Registry registry = quantizers::Registry::Builtin();
  fuzz::Input input(data, size);
  StoreSpec spec;
  spec.name = spec.model = spec.tokenizer = "fuzz";
  spec.plan.keys = input.TakeLine();
  spec.plan.values = input.TakeLine();
  CheckSpec(registry, spec.plan.keys);
  CheckSpec(registry, spec.plan.values);

  spec.layers = input.Take<std::uint8_t>();
  spec.kv_heads = input.Take<std::uint8_t>();
  spec.head_dim = input.Take<std::uint16_t>();
  spec.block_tokens = input.Take<std::uint16_t>();
  spec.sink_tokens = input.Take<std::uint8_t>();
  const std::size_t overrides = input.Take<std::uint8_t>() % 4;
  for (std::size_t i = 0; i < overrides; ++i) {
    LayerPlan layers;
    layers.first_layer = input.Take<std::uint8_t>();
    layers.last_layer = input.Take<std::uint8_t>();
    layers.keys = input.TakeLine();
    layers.values = input.TakeLine();
    spec.plan.overrides.push_back(layers);
  }
  // Larger shapes are as legal and only take longer.
  if (std::size_t{spec.layers} * spec.kv_heads * spec.head_dim > 1U << 14) return 0;
  const auto plan = quantizers::Plan::Make(registry, spec);
  if (!plan) {
    fuzz::Expect(!plan.error().message.empty(), "an error without a message");
    return 0;
  }
  fuzz::Expect((*plan)->payload_bytes() > 0, "a plan without a payload");
  fuzz::Expect((*plan)->payload_bytes() <= std::uint64_t{spec.layers} * spec.kv_heads * 2 * spec.block_tokens *
                                                   (std::uint64_t{spec.head_dim} * 4 + 64) +
                                               std::uint64_t{spec.layers} * spec.kv_heads * 1024,
               "a payload larger than raw rows of f32");
  return 0;
}
