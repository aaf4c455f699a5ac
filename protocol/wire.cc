#include "protocol/wire.h"

#include <algorithm>
#include <string>
#include <utility>

namespace kvant::wire {
namespace {

std::string Str(capnp::Text::Reader text) { return {text.begin(), text.size()}; }

capnp::Text::Reader Txt(const std::string& text) { return {text.c_str(), text.size()}; }

Result<kvant::RopePairing> ReadPairing(RopePairing from) {
  switch (from) {
    case RopePairing::NONE: return kvant::RopePairing::kNone;
    case RopePairing::HALF_SPLIT: return kvant::RopePairing::kHalfSplit;
    case RopePairing::ADJACENT: return kvant::RopePairing::kAdjacent;
  }
  return kvant::Error{ErrorCode::kInvalidArgument, "rope pairing " + std::to_string(static_cast<unsigned>(from)) +
                                                       " is unknown (none = 0, halfSplit = 1, adjacent = 2)"};
}

/// The length is checked before anything is copied.
Result<std::vector<double>> ReadFactors(capnp::List<double>::Reader from, const char* name) {
  if (from.size() > MAX_ROPE_FACTORS) {
    return kvant::Error{ErrorCode::kInvalidArgument, std::string("rope.") + name + " has " + std::to_string(from.size()) +
                                                         " entries, at most " + std::to_string(MAX_ROPE_FACTORS)};
  }
  std::vector<double> factors;
  factors.reserve(from.size());
  for (const double factor : from) factors.push_back(factor);
  return factors;
}

void WriteFactors(const std::vector<double>& from, capnp::List<double>::Builder to) {
  for (unsigned i = 0; i < to.size(); ++i) to.set(i, from[i]);
}

Result<RopeScaling> ReadScaling(Rope::Scaling::Reader from) {
  switch (from.which()) {
    case Rope::Scaling::NONE: return RopeScaling{};
    case Rope::Scaling::LINEAR: return RopeScaling{kvant::RopeLinear{.factor = from.getLinear().getFactor()}};
    case Rope::Scaling::DYNAMIC: {
      const auto dynamic = from.getDynamic();
      return RopeScaling{kvant::RopeDynamic{.factor = dynamic.getFactor(),
                                            .original_positions = dynamic.getOriginalPositions(),
                                            .context_tokens = dynamic.getContextTokens()}};
    }
    case Rope::Scaling::YARN: {
      const auto yarn = from.getYarn();
      return RopeScaling{kvant::RopeYarn{.factor = yarn.getFactor(),
                                         .original_positions = yarn.getOriginalPositions(),
                                         .beta_fast = yarn.getBetaFast(),
                                         .beta_slow = yarn.getBetaSlow(),
                                         .truncate = yarn.getTruncate(),
                                         .attention_factor = yarn.getAttentionFactor()}};
    }
    case Rope::Scaling::LLAMA3: {
      const auto llama3 = from.getLlama3();
      return RopeScaling{kvant::RopeLlama3{.factor = llama3.getFactor(),
                                           .original_positions = llama3.getOriginalPositions(),
                                           .low_freq_factor = llama3.getLowFreqFactor(),
                                           .high_freq_factor = llama3.getHighFreqFactor()}};
    }
    case Rope::Scaling::LONG: {
      const auto longrope = from.getLong();
      auto short_factors = ReadFactors(longrope.getShortFactors(), "short_factors");
      if (!short_factors) return short_factors.error();
      auto long_factors = ReadFactors(longrope.getLongFactors(), "long_factors");
      if (!long_factors) return long_factors.error();
      return RopeScaling{kvant::RopeLong{.factor = longrope.getFactor(),
                                         .original_positions = longrope.getOriginalPositions(),
                                         .context_tokens = longrope.getContextTokens(),
                                         .short_factors = *std::move(short_factors),
                                         .long_factors = *std::move(long_factors),
                                         .attention_factor = longrope.getAttentionFactor()}};
    }
  }
  return kvant::Error{ErrorCode::kInvalidArgument,
                      "rope scaling " + std::to_string(static_cast<unsigned>(from.which())) + " is unknown"};
}

/// One overload per alternative of RopeScaling.
struct WriteScaling {
  Rope::Scaling::Builder to;

  void operator()(std::monostate) { to.setNone(); }
  void operator()(const kvant::RopeLinear& linear) { to.initLinear().setFactor(linear.factor); }
  void operator()(const kvant::RopeDynamic& from) {
    auto dynamic = to.initDynamic();
    dynamic.setFactor(from.factor);
    dynamic.setOriginalPositions(from.original_positions);
    dynamic.setContextTokens(from.context_tokens);
  }
  void operator()(const kvant::RopeYarn& from) {
    auto yarn = to.initYarn();
    yarn.setFactor(from.factor);
    yarn.setOriginalPositions(from.original_positions);
    yarn.setBetaFast(from.beta_fast);
    yarn.setBetaSlow(from.beta_slow);
    yarn.setTruncate(from.truncate);
    yarn.setAttentionFactor(from.attention_factor);
  }
  void operator()(const kvant::RopeLlama3& from) {
    auto llama3 = to.initLlama3();
    llama3.setFactor(from.factor);
    llama3.setOriginalPositions(from.original_positions);
    llama3.setLowFreqFactor(from.low_freq_factor);
    llama3.setHighFreqFactor(from.high_freq_factor);
  }
  void operator()(const kvant::RopeLong& from) {
    auto longrope = to.initLong();
    longrope.setFactor(from.factor);
    longrope.setOriginalPositions(from.original_positions);
    longrope.setContextTokens(from.context_tokens);
    WriteFactors(from.short_factors, longrope.initShortFactors(static_cast<unsigned>(from.short_factors.size())));
    WriteFactors(from.long_factors, longrope.initLongFactors(static_cast<unsigned>(from.long_factors.size())));
    longrope.setAttentionFactor(from.attention_factor);
  }
};

Result<RopeSpec> ReadRope(Rope::Reader from) {
  RopeSpec rope;
  auto pairing = ReadPairing(from.getPairing());
  if (!pairing) return pairing.error();
  rope.pairing = *pairing;
  rope.theta = from.getTheta();
  rope.rotary_dims = from.getRotaryDims();
  auto scaling = ReadScaling(from.getScaling());
  if (!scaling) return scaling.error();
  rope.scaling = *std::move(scaling);
  return rope;
}

void WriteRope(const RopeSpec& rope, Rope::Builder to) {
  switch (rope.pairing) {
    case kvant::RopePairing::kNone: to.setPairing(RopePairing::NONE); break;
    case kvant::RopePairing::kHalfSplit: to.setPairing(RopePairing::HALF_SPLIT); break;
    case kvant::RopePairing::kAdjacent: to.setPairing(RopePairing::ADJACENT); break;
  }
  to.setTheta(rope.theta);
  to.setRotaryDims(rope.rotary_dims);
  std::visit(WriteScaling{to.getScaling()}, rope.scaling);
}

/// Whether the texts and lists of a spec are short enough to hold. Nothing is copied before.
Result<void> CheckTexts(StoreSpec::Reader from) {
  const auto refuse = [](const std::string& what, std::size_t size, const char* unit, std::size_t limit) {
    return kvant::Error{ErrorCode::kInvalidArgument, "open store: " + what + " has " + std::to_string(size) + " " + unit +
                                                         ", at most " + std::to_string(limit)};
  };
  const std::pair<const char*, capnp::Text::Reader> identity[] = {{"name", from.getName()},
                                                                  {"model", from.getModel()},
                                                                  {"tokenizer", from.getTokenizer()},
                                                                  {"adapter", from.getAdapter()},
                                                                  {"salt", from.getSalt()}};
  for (const auto& [field, text] : identity) {
    if (text.size() > MAX_IDENTITY_TEXT) return refuse(field, text.size(), "bytes", MAX_IDENTITY_TEXT);
  }
  const auto overrides = from.getOverrides();
  if (overrides.size() > kMaxOverrides) return refuse("plan.overrides", overrides.size(), "entries", kMaxOverrides);
  std::size_t codecs = from.getKeys().size() + from.getValues().size();
  for (const auto entry : overrides) codecs += entry.getKeys().size() + entry.getValues().size();
  if (codecs > MAX_CODEC_TEXT) return refuse("the text of all codec specs", codecs, "bytes", MAX_CODEC_TEXT);
  return {};
}

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

kvant::Result<kvant::KeyStage> ReadKeyStage(KeyStage from) {
  switch (from) {
    case KeyStage::AFTER_ROPE: return kvant::KeyStage::kAfterRope;
    case KeyStage::BEFORE_ROPE: return kvant::KeyStage::kBeforeRope;
  }
  return kvant::Error{ErrorCode::kInvalidArgument, "key stage " + std::to_string(static_cast<unsigned>(from)) +
                                                       " is unknown (afterRope = 0, beforeRope = 1)"};
}

KeyStage WriteKeyStage(kvant::KeyStage stage) noexcept {
  return stage == kvant::KeyStage::kBeforeRope ? KeyStage::BEFORE_ROPE : KeyStage::AFTER_ROPE;
}

kvant::Result<kvant::StoreSpec> ReadStoreSpec(StoreSpec::Reader from) {
  if (auto ok = CheckTexts(from); !ok) return ok.error();
  kvant::StoreSpec spec;
  spec.name = Str(from.getName());
  spec.model = Str(from.getModel());
  spec.tokenizer = Str(from.getTokenizer());
  spec.adapter = Str(from.getAdapter());
  spec.salt = Str(from.getSalt());
  const auto refuse = [&](const kvant::Error& error) {
    return kvant::Error{error.code, "open store \"" + spec.name + "\": " + error.message};
  };
  auto rope = ReadRope(from.getRope());
  if (!rope) return refuse(rope.error());
  spec.rope = *std::move(rope);
  auto key_stage = ReadKeyStage(from.getKeyStage());
  if (!key_stage) return refuse(key_stage.error());
  spec.key_stage = *key_stage;
  spec.layers = from.getLayers();
  spec.kv_heads = from.getKvHeads();
  spec.head_dim = from.getHeadDim();
  auto dtype = ReadElementType(from.getDtype());
  if (!dtype) return refuse({dtype.error().code, "dtype: " + dtype.error().message});
  spec.dtype = *dtype;
  spec.block_tokens = from.getBlockTokens();
  spec.sink_tokens = from.getSinkTokens();
  spec.plan.keys = Str(from.getKeys());
  spec.plan.values = Str(from.getValues());
  for (const auto entry : from.getOverrides()) {
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
  WriteRope(spec.rope, to.initRope());
  to.setKeyStage(WriteKeyStage(spec.key_stage));
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
