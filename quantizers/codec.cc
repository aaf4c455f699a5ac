#include "quantizers/codec.h"

namespace kvant::quantizers {
namespace {

Error NotOffered(const Codec& codec, const char* side) {
  return Error{ErrorCode::kUnsupported, "codec " + std::string(codec.name) + " is not offered for " + side};
}

}  // namespace

Result<std::unique_ptr<KeyCodec>> MakeKeys(const ParsedSpec& spec, CodecConfig config) {
  if (spec.codec->make_keys == nullptr) return NotOffered(*spec.codec, "keys");
  config.side = Side::kKeys;
  config.params = spec.params;
  return spec.codec->make_keys(config);
}

Result<std::unique_ptr<ValueCodec>> MakeValues(const ParsedSpec& spec, CodecConfig config) {
  if (spec.codec->make_values == nullptr) return NotOffered(*spec.codec, "values");
  config.side = Side::kValues;
  config.params = spec.params;
  return spec.codec->make_values(config);
}

Example ExampleOf(const ParsedSpec& spec, CodecConfig config) {
  if (spec.codec->example == nullptr) return {};
  config.params = spec.params;
  return spec.codec->example(config);
}

std::size_t HeadBytes(const ParsedSpec& spec, std::uint32_t head_dim) {
  std::size_t bytes =
      spec.codec->head_bytes == nullptr ? kHeadBytesPerNumber * head_dim : spec.codec->head_bytes(spec.params, head_dim);
  for (std::size_t i = 0; i < spec.params.size(); ++i) {
    if (spec.codec->params[i].kind == ParamKind::kSpec) bytes += HeadBytes(Params(spec.params).Spec(i), head_dim);
  }
  return bytes;
}

std::uint32_t BlockMultiple(const ParsedSpec& spec) {
  return spec.codec->block_multiple == nullptr ? 1 : spec.codec->block_multiple(spec.params);
}

}  // namespace kvant::quantizers
