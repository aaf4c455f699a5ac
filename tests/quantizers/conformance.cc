#include "tests/quantizers/conformance.h"

#include <algorithm>
#include <utility>

#include <gtest/gtest.h>

#include "tests/quantizers/conformance_calls.h"

namespace kvant::quantizers::test {

namespace {

constexpr std::uint32_t kHeads = 3;
constexpr std::uint32_t kFirstHead = 1;  // the codec serves the last two: one that counts from 0 must not pass by luck

CodecConfig Config(const Registry& registry, std::uint32_t kv_heads, std::size_t head_dim, std::size_t tokens) {
  return {.layer = 0,
          .kv_heads = kv_heads,
          .head_begin = 0,
          .head_end = kv_heads,
          .head_dim = static_cast<std::uint32_t>(head_dim),
          .block_tokens = static_cast<std::uint32_t>(tokens),
          .model = "model",
          .registry = &registry};
}

Example ExampleFor(const ParsedSpec& parsed, CodecConfig config, Side side) {
  if (side == Side::kKeys ? parsed.codec->make_keys == nullptr : parsed.codec->make_values == nullptr) return {};
  config.side = side;
  return ExampleOf(parsed, config);
}

std::string SideName(Side side) { return side == Side::kKeys ? "keys" : "values"; }

}  // namespace

std::vector<std::string> CoveringSpecs(const Registry& registry) {
  std::vector<std::string> specs;
  for (const Codec* codec : registry.codecs()) {
    const std::string name(codec->name);
    specs.push_back(name);
    for (const ParamSpec& param : codec->params) {
      std::vector<std::string> values;
      if (param.kind == ParamKind::kSpec) continue;
      for (const std::string_view choice : param.choices) values.emplace_back(choice);
      for (const std::int64_t value : param.allowed) values.push_back(std::to_string(value));
      if (values.empty() && param.kind == ParamKind::kInteger) {
        for (const double end : {param.min, param.max}) values.push_back(std::to_string(static_cast<std::int64_t>(end)));
      }
      if (values.empty()) values = {std::to_string(param.min), std::to_string(param.max)};
      for (const std::string& value : values) {
        if (value != param.default_value) specs.push_back(name + ":" + std::string(param.name) + "=" + value);
      }
    }
  }
  return specs;
}

std::vector<std::byte> ExampleArtifact(const Registry& registry, const std::string& spec, std::uint32_t kv_heads,
                                       std::size_t head_dim) {
  const ParsedSpec parsed = registry.Parse(spec).value();
  std::vector<ExampleTensor> tensors;
  for (const Side side : {Side::kKeys, Side::kValues}) {
    for (ExampleTensor& tensor : ExampleFor(parsed, Config(registry, kv_heads, head_dim, 128), side).tensors) {
      const bool known =
          std::any_of(tensors.begin(), tensors.end(), [&](const ExampleTensor& other) { return other.name == tensor.name; });
      if (!known) tensors.push_back(std::move(tensor));
    }
  }
  return tensors.empty() ? std::vector<std::byte>() : ArtifactImage(tensors);
}

ConformanceCase::ConformanceCase(const Registry& registry, const std::string& spec, std::size_t head_dim, const RopeSpec& rope)
    : spec_(spec), dim_(head_dim), rope_(rope) {
  const ParsedSpec parsed = registry.Parse(spec).value();
  while (tokens_ % BlockMultiple(parsed) != 0) tokens_ += 16;
  if (const auto image = ExampleArtifact(registry, spec, kHeads, dim_); !image.empty()) {
    artifact_ = std::move(Artifact::Make(image)).value();
  }
  CodecConfig config = Config(registry, kHeads, dim_, tokens_);
  for (const Side side : {Side::kKeys, Side::kValues}) {
    std::vector<float>& mean = means_[static_cast<std::size_t>(side)];
    const Example example = ExampleFor(parsed, config, side);
    mean.assign(dim_, 0.0f);
    if (!example.mean.empty())
      std::copy_n(example.mean.begin() + static_cast<std::ptrdiff_t>(kHead * dim_), dim_, mean.begin());
  }
  config.head_begin = kFirstHead;
  config.rope = rope_;
  config.artifact = artifact_.get();
  if (parsed.codec->make_keys != nullptr) {
    auto made = MakeKeys(parsed, config);
    if (made) keys_ = *std::move(made);
    if (!made) {
      EXPECT_EQ(made.error().code, ErrorCode::kUnsupported) << made.error().message;
    }
  }
  if (parsed.codec->make_values != nullptr) {
    auto made = MakeValues(parsed, config);
    if (made) values_ = *std::move(made);
    if (!made) {
      EXPECT_EQ(made.error().code, ErrorCode::kUnsupported) << made.error().message;
    }
  }
}

const BlockCodec& ConformanceCase::codec(Side side) const {
  if (side == Side::kKeys) return *keys_;
  return *values_;
}

/// A block of independent rows of N(mean, 1): what the codec is made for.
std::vector<float> ConformanceCase::NormalRows(Side side, std::uint64_t seed) const {
  auto rows = Gaussian(tokens_ * dim_, seed);
  for (std::size_t i = 0; i < rows.size(); ++i) rows[i] += means_[static_cast<std::size_t>(side)][i % dim_];
  return rows;
}

std::vector<float> ConformanceCase::Decode(Side side, std::uint64_t position, const ConstBlockView& block) const {
  std::vector<float> rows(tokens_ * dim_);
  DecodeInto(codec(side), position, block, {.begin = 0, .end = tokens_, .row_stride = dim_}, rows.data());
  return rows;
}

void ConformanceCase::CheckAll() const {
  for (const Side side : {Side::kKeys, Side::kValues}) {
    if (side == Side::kKeys ? keys_ == nullptr : values_ == nullptr) continue;
    SCOPED_TRACE(spec_ + " " + SideName(side) + " head_dim " + std::to_string(dim_) + " block_tokens " +
                 std::to_string(tokens_));
    ASSERT_GE(codec(side).parts(), 1u);
    ASSERT_LE(codec(side).parts(), kMaxParts);
    CheckRoundTrip(side);
    CheckDecodeOfRanges(side);
    CheckInputForms(side);
    CheckFewerParts(side);
    CheckRowsAlone(side);
    CheckRefusals(side);
    CheckSpecialRows(side);
  }
  SCOPED_TRACE(spec_ + " head_dim " + std::to_string(dim_) + " block_tokens " + std::to_string(tokens_));
  if (keys_ != nullptr) CheckScores();
  if (values_ != nullptr) CheckSums();
}

}  // namespace kvant::quantizers::test
