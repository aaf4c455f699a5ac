#include "protocol/snapshot/index.h"

#include <span>

#include "protocol/digest.h"

namespace kvant::snapshot {
namespace {

using quantizers::TensorToWrite;
using quantizers::TensorType;

template <typename Element>
std::span<const std::byte> BytesOf(const std::vector<Element>& elements) {
  return std::as_bytes(std::span(elements));
}

}  // namespace

std::string TensorName(std::size_t store, std::string_view column) {
  return "store." + std::to_string(store) + "." + std::string(column);
}

std::vector<TensorToWrite> Tensors(const std::vector<StoreTables>& stores) {
  // Wide elements first, so that all of them are aligned in memory where the whole index is.
  std::vector<TensorToWrite> wide;
  std::vector<TensorToWrite> tokens;
  std::vector<TensorToWrite> narrow;
  std::vector<TensorToWrite> payload;
  for (std::size_t i = 0; i < stores.size(); ++i) {
    const StoreTables& store = stores[i];
    const std::size_t blocks = store.positions.size();
    const auto name = [&](std::string_view column) { return TensorName(i, column); };
    wide.push_back({name("positions"), TensorType::kU64, {blocks}, BytesOf(store.positions)});
    wide.push_back({name("parents"), TensorType::kI64, {blocks}, BytesOf(store.parents)});
    wide.push_back({name("checksums"), TensorType::kU64, {blocks}, BytesOf(store.checksums)});
    wide.push_back({name("bytes"), TensorType::kU64, {blocks}, BytesOf(store.bytes)});
    wide.push_back({name("parts"), TensorType::kU64, {store.parts.size(), kPartColumns}, BytesOf(store.parts)});
    tokens.push_back({name("tokens"), TensorType::kU32, {blocks, store.spec.block_tokens}, BytesOf(store.tokens)});
    narrow.push_back({name("chains"), TensorType::kU8, {blocks, sizeof(protocol::Digest)}, BytesOf(store.chains)});
    narrow.push_back({name("identity"), TensorType::kU8, {store.identity.size()}, std::as_bytes(std::span(store.identity))});
    narrow.push_back({name("tenant"), TensorType::kU8, {store.tenant.size()}, std::as_bytes(std::span(store.tenant))});
    narrow.push_back({name("spec"), TensorType::kU8, {store.spec_message.size()}, store.spec_message});
    narrow.push_back({name("plan"), TensorType::kU8, {store.plan.size()}, std::as_bytes(std::span(store.plan))});
    const auto& artifact = store.spec.plan.artifact;
    narrow.push_back({name("artifact"), TensorType::kU8, {artifact.size()}, BytesOf(artifact)});
    payload.push_back({name("codes"), TensorType::kU8, {static_cast<std::size_t>(store.codes_bytes)}, {}});
    payload.push_back({name("extra"), TensorType::kU8, {static_cast<std::size_t>(store.extra_bytes)}, {}});
  }
  payload.push_back({"digest", TensorType::kU8, {sizeof(protocol::Digest)}, {}});
  for (auto* group : {&tokens, &narrow, &payload}) wide.insert(wide.end(), group->begin(), group->end());
  return wide;
}

std::map<std::string, std::string> Metadata(const std::vector<StoreTables>& stores, std::string_view writer) {
  std::map<std::string, std::string> metadata = {{"format", std::string(kFormatName)},
                                                 {"version", std::to_string(kFormatVersion)},
                                                 {"minimum_reader", std::to_string(kMinimumReader)},
                                                 {"writer", std::string(writer)},
                                                 {"stores", std::to_string(stores.size())}};
  for (std::size_t i = 0; i < stores.size(); ++i) {
    const StoreTables& store = stores[i];
    metadata[TensorName(i, "name")] = store.spec.name;
    metadata[TensorName(i, "model")] = store.spec.model;
    metadata[TensorName(i, "identity")] = protocol::DigestHex(store.identity);
  }
  return metadata;
}

}  // namespace kvant::snapshot
