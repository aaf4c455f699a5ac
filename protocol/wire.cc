#include "protocol/wire.h"

#include <algorithm>
#include <string>
#include <utility>

namespace kvant::wire {
namespace {

std::string Str(capnp::Text::Reader text) { return {text.begin(), text.size()}; }

capnp::Text::Reader Txt(const std::string& text) { return {text.c_str(), text.size()}; }

/// Codes of a newer peer count as internal.
ErrorCode ReadErrorCode(std::uint16_t code) noexcept {
  const auto known = static_cast<ErrorCode>(code);
  return ErrorCodeName(known) == "unknown" ? ErrorCode::kInternal : known;
}

}  // namespace

capnp::ReaderOptions ReaderOptionsOfPeer() noexcept {
  capnp::ReaderOptions options;
  options.traversalLimitInWords = kTraversalLimitWords;
  return options;
}

kvant::Error ReadError(Error::Reader from) { return {ReadErrorCode(from.getCode()), Str(from.getMessage())}; }

void WriteError(const kvant::Error& error, Error::Builder to) {
  to.setCode(static_cast<std::uint16_t>(error.code));
  to.setMessage(Txt(error.message));
}

kvant::Result<void> ReadStatus(Status::Reader from) {
  if (from.isOk()) return {};
  if (from.isError()) return ReadError(from.getError());
  return kvant::Error{ErrorCode::kInternal, "the peer answered with an outcome this version does not know"};
}

void WriteStatus(const kvant::Result<void>& result, Status::Builder to) {
  if (result) {
    to.setOk();
  } else {
    WriteError(result.error(), to.initError());
  }
}

kvant::Result<kvant::ElementType> ReadElementType(ElementType from) {
  switch (from) {
    case ElementType::F32: return kvant::ElementType::kF32;
    case ElementType::F16: return kvant::ElementType::kF16;
    case ElementType::BF16: return kvant::ElementType::kBF16;
  }
  return kvant::Error{ErrorCode::kInvalidArgument, "element type " + std::to_string(static_cast<unsigned>(from)) +
                                                       " is unknown (f32 = 0, f16 = 1, bf16 = 2)"};
}

ElementType WriteElementType(kvant::ElementType type) noexcept {
  switch (type) {
    case kvant::ElementType::kF32: return ElementType::F32;
    case kvant::ElementType::kF16: return ElementType::F16;
    case kvant::ElementType::kBF16: return ElementType::BF16;
  }
  return ElementType::F32;
}

namespace {

/// What a spec may hold, before any of it is copied: texts are kept as long as the store lives, and an empty entry of a list
/// costs a sender nothing.
kvant::Result<void> CheckLengths(StoreSpec::Reader from) {
  const auto check = [](const char* field, std::size_t length, std::size_t most) -> kvant::Result<void> {
    if (length <= most) return {};
    return kvant::Error{kvant::ErrorCode::kInvalidArgument, "open store: " + std::string(field) + " has a length of " +
                                                                std::to_string(length) + ", at most " + std::to_string(most)};
  };
  kvant::Result<void> checked = check("name", from.getName().size(), MAX_NAME_BYTES);
  if (checked) checked = check("model", from.getModel().size(), MAX_TEXT_BYTES);
  if (checked) checked = check("tokenizer", from.getTokenizer().size(), MAX_TEXT_BYTES);
  if (checked) checked = check("adapter", from.getAdapter().size(), MAX_TEXT_BYTES);
  if (checked) checked = check("salt", from.getSalt().size(), MAX_TEXT_BYTES);
  if (checked) checked = check("plan.keys", from.getKeys().size(), MAX_CODEC_SPEC_BYTES);
  if (checked) checked = check("plan.values", from.getValues().size(), MAX_CODEC_SPEC_BYTES);
  if (!checked) return checked;
  if (from.getOverrides().size() > kMaxOverrides) return {};  // refused below
  for (const auto layer_plan : from.getOverrides()) {
    checked = check("plan.overrides.keys", layer_plan.getKeys().size(), MAX_CODEC_SPEC_BYTES);
    if (checked) checked = check("plan.overrides.values", layer_plan.getValues().size(), MAX_CODEC_SPEC_BYTES);
    if (!checked) return checked;
  }
  return check("plan.artifact", from.getArtifact().getBytes(), MAX_ARTIFACT_BYTES);
}

}  // namespace

kvant::Result<kvant::StoreSpec> ReadStoreSpec(StoreSpec::Reader from) {
  if (auto checked = CheckLengths(from); !checked) return checked.error();
  kvant::StoreSpec spec;
  spec.name = Str(from.getName());
  spec.model = Str(from.getModel());
  spec.tokenizer = Str(from.getTokenizer());
  spec.adapter = Str(from.getAdapter());
  spec.salt = Str(from.getSalt());
  switch (from.getRopePairing()) {
    case RopePairing::NONE: spec.rope.pairing = kvant::RopePairing::kNone; break;
    case RopePairing::HALF_SPLIT: spec.rope.pairing = kvant::RopePairing::kHalfSplit; break;
    case RopePairing::ADJACENT: spec.rope.pairing = kvant::RopePairing::kAdjacent; break;
    default:
      return kvant::Error{ErrorCode::kInvalidArgument, "open store \"" + spec.name + "\": rope pairing " +
                                                           std::to_string(static_cast<unsigned>(from.getRopePairing())) +
                                                           " is unknown (none = 0, halfSplit = 1, adjacent = 2)"};
  }
  spec.rope.theta = from.getRopeTheta();
  spec.rope.rotary_dims = from.getRotaryDims();
  spec.layers = from.getLayers();
  spec.kv_heads = from.getKvHeads();
  spec.head_dim = from.getHeadDim();
  auto dtype = ReadElementType(from.getDtype());
  if (!dtype) return kvant::Error{dtype.error().code, "open store \"" + spec.name + "\": dtype: " + dtype.error().message};
  spec.dtype = *dtype;
  spec.block_tokens = from.getBlockTokens();
  spec.sink_tokens = from.getSinkTokens();
  spec.plan.keys = Str(from.getKeys());
  spec.plan.values = Str(from.getValues());
  const auto overrides = from.getOverrides();
  if (overrides.size() > kMaxOverrides) {
    return kvant::Error{ErrorCode::kInvalidArgument, "open store \"" + spec.name + "\": plan.overrides has " +
                                                         std::to_string(overrides.size()) + " entries, at most " +
                                                         std::to_string(kMaxOverrides)};
  }
  for (const auto entry : overrides) {
    spec.plan.overrides.push_back({.first_layer = entry.getFirstLayer(),
                                   .last_layer = entry.getLastLayer(),
                                   .keys = Str(entry.getKeys()),
                                   .values = Str(entry.getValues()),
                                   .first_head = entry.getFirstHead(),
                                   .last_head = entry.getLastHead()});
  }
  return spec;
}

void WriteStoreSpec(const kvant::StoreSpec& spec, StoreSpec::Builder to) {
  to.setName(Txt(spec.name));
  to.setModel(Txt(spec.model));
  to.setTokenizer(Txt(spec.tokenizer));
  to.setAdapter(Txt(spec.adapter));
  to.setSalt(Txt(spec.salt));
  switch (spec.rope.pairing) {
    case kvant::RopePairing::kNone: to.setRopePairing(RopePairing::NONE); break;
    case kvant::RopePairing::kHalfSplit: to.setRopePairing(RopePairing::HALF_SPLIT); break;
    case kvant::RopePairing::kAdjacent: to.setRopePairing(RopePairing::ADJACENT); break;
  }
  to.setRopeTheta(spec.rope.theta);
  to.setRotaryDims(spec.rope.rotary_dims);
  to.setLayers(spec.layers);
  to.setKvHeads(spec.kv_heads);
  to.setHeadDim(spec.head_dim);
  to.setDtype(WriteElementType(spec.dtype));
  to.setBlockTokens(spec.block_tokens);
  to.setSinkTokens(spec.sink_tokens);
  to.setKeys(Txt(spec.plan.keys));
  to.setValues(Txt(spec.plan.values));
  auto overrides = to.initOverrides(static_cast<unsigned>(spec.plan.overrides.size()));
  for (unsigned i = 0; i < overrides.size(); ++i) {
    const kvant::LayerPlan& layer_plan = spec.plan.overrides[i];
    overrides[i].setFirstLayer(layer_plan.first_layer);
    overrides[i].setLastLayer(layer_plan.last_layer);
    overrides[i].setFirstHead(layer_plan.first_head);
    overrides[i].setLastHead(layer_plan.last_head);
    overrides[i].setKeys(Txt(layer_plan.keys));
    overrides[i].setValues(Txt(layer_plan.values));
  }
}

kvant::Error FromException(const kj::Exception& exception, std::string_view operation, std::string_view peer) {
  const std::string where = std::string(operation) + ": ";
  const std::string what(exception.getDescription().begin(), exception.getDescription().size());
  switch (exception.getType()) {
    case kj::Exception::Type::DISCONNECTED:
      return {ErrorCode::kDisconnected, where + "the daemon at " + std::string(peer) + " is gone (" + what + ")"};
    case kj::Exception::Type::UNIMPLEMENTED:
      return {ErrorCode::kVersionMismatch,
              where + "the daemon at " + std::string(peer) + " does not know this call (" + what + ")"};
    case kj::Exception::Type::OVERLOADED:
    case kj::Exception::Type::FAILED: break;
  }
  return {ErrorCode::kInternal, where + "the daemon at " + std::string(peer) + " failed: " + what};
}

}  // namespace kvant::wire
