#include "quantizers/artifact.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "protocol/digest.h"
#include "quantizers/safetensors.h"

namespace kvant::quantizers {
namespace {

constexpr std::string_view kWhat = "codec plan artifact";

}  // namespace

Result<std::unique_ptr<const Artifact>> Artifact::Make(std::span<const std::byte> image) {
  const auto file = Safetensors::Read(image, kWhat);
  if (!file) return file.error();
  std::unique_ptr<Artifact> artifact(new Artifact);
  for (const auto& [name, stored] : file->tensors()) {
    std::vector<float> values(stored.elements);
    if (!WidenTensor(stored, values)) {
      return Error{ErrorCode::kUnsupported, std::string(kWhat) + ": tensor \"" + name + "\" has dtype " +
                                                std::string(TensorTypeName(stored.type)) + "; use F32, F16, BF16, I8 or U8"};
    }
    const bool finite = std::ranges::all_of(values, [](float x) { return std::isfinite(x); });
    artifact->tensors_.emplace(name, Tensor{stored.shape, std::move(values), finite});
  }
  artifact->digest_ = protocol::DigestHex(protocol::DigestOf(image));
  return std::unique_ptr<const Artifact>(std::move(artifact));
}

bool Artifact::Has(std::string_view name) const { return tensors_.find(name) != tensors_.end(); }

Result<std::span<const float>> Artifact::Find(std::string_view name, std::initializer_list<std::size_t> shape) const {
  const std::string text = std::string(kWhat) + ": tensor \"" + std::string(name) + "\"";
  const auto it = tensors_.find(name);
  if (it == tensors_.end()) return Error{ErrorCode::kNotFound, text + " is missing"};
  const Tensor& tensor = it->second;
  if (!std::ranges::equal(tensor.shape, shape)) {
    return Error{ErrorCode::kInvalidArgument, text + " has shape " + ShapeText(tensor.shape) + ", want " +
                                                  ShapeText(std::span(shape.begin(), shape.size()))};
  }
  if (!tensor.finite) return Error{ErrorCode::kNotFinite, text + " holds NaN or infinity"};
  return std::span<const float>(tensor.values);
}

std::vector<std::byte> ArtifactImage(std::span<const ExampleTensor> tensors) {
  std::vector<TensorToWrite> to_write;
  for (const ExampleTensor& tensor : tensors) {
    to_write.push_back({tensor.name, TensorType::kF32, tensor.shape, std::as_bytes(std::span(tensor.values))});
  }
  return WriteSafetensors(to_write);
}

}  // namespace kvant::quantizers
