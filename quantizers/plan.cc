#include "quantizers/plan.h"

#include <algorithm>
#include <cmath>
#include <iterator>
#include <map>
#include <string_view>
#include <utility>

#include "kernels/rope_frequencies.h"
#include "quantizers/plan_choices.h"
#include "quantizers/presets.h"

namespace kvant::quantizers {
namespace {

// Numbers of one token over all layers, keys or values: 128 layers of 128 KV heads of 128.
constexpr std::uint64_t kMaxNumbersPerToken = std::uint64_t{1} << 21;
constexpr std::size_t kAlignment = 64;

Error Invalid(std::string message) { return Error{ErrorCode::kInvalidArgument, "store spec: " + std::move(message)}; }

std::size_t AlignUp(std::size_t bytes) { return (bytes + kAlignment - 1) / kAlignment * kAlignment; }

Result<void> CheckRange(const char* field, std::uint64_t value, std::uint64_t min, std::uint64_t max,
                        std::uint64_t multiple = 1) {
  if (value >= min && value <= max && value % multiple == 0) return {};
  std::string text = std::string(field) + " " + std::to_string(value) + " is not ";
  if (multiple != 1) text += "a multiple of " + std::to_string(multiple) + " ";
  return Invalid(text + "in " + std::to_string(min) + ".." + std::to_string(max));
}

Result<void> CheckName(const std::string& name) {
  constexpr std::string_view kPunctuation = "._/:=,-";
  if (name.empty() || name.size() > 128) return Invalid("name has " + std::to_string(name.size()) + " characters, want 1..128");
  for (const char c : name) {
    const bool letter = (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9');
    if (!letter && kPunctuation.find(c) == std::string_view::npos) {
      return Invalid("name holds a character outside [A-Za-z0-9._/:=,-] (code " +
                     std::to_string(static_cast<unsigned char>(c)) + ")");
    }
  }
  return {};
}

/// Rotary positions, and that keys before them can exist.
Result<void> CheckRope(const StoreSpec& spec) {
  if (auto rope = kernels::ComputeRopeFrequencies(spec.rope, spec.head_dim); !rope) return Invalid(rope.error().message);
  if (KeyStageName(spec.key_stage) == "unknown") {
    return Invalid("key_stage " + std::to_string(static_cast<unsigned>(spec.key_stage)) + " is unknown");
  }
  if (spec.key_stage == KeyStage::kBeforeRope && spec.rope.pairing == RopePairing::kNone) {
    return Invalid("key_stage before_rope needs rotary positions, but rope.pairing is none");
  }
  return {};
}

float NegligibleWeight(const ValueCodec& codec) {
  const double error = codec.expected_error(codec.parts()).value_or(0.0);
  return static_cast<float>(0.01 * std::sqrt(std::clamp(error, 0.0, 1.0)));
}

/// Collects the distinct codecs of one side, in the order in which they come.
class UsedCodecs {
 public:
  explicit UsedCodecs(Side side) : side_(side) {}
  void Use(const std::string& spec, const BlockCodec& codec, std::size_t heads) {
    const auto [at, added] = known_.emplace(spec, used_.size());
    if (added) used_.push_back({side_, spec, &codec, 0});
    used_[at->second].heads += heads;
  }
  [[nodiscard]] std::vector<UsedCodec> Take() && { return std::move(used_); }

 private:
  Side side_;
  std::vector<UsedCodec> used_;
  std::map<std::string_view, std::size_t> known_;  // by specs, which outlive this
};

}  // namespace

Result<void> CheckStoreSpec(const StoreSpec& spec) {
  if (auto ok = CheckName(spec.name); !ok) return ok;
  if (spec.model.empty()) return Invalid("model is empty; give a digest of the weights");
  if (spec.tokenizer.empty()) return Invalid("tokenizer is empty; give its digest or name");
  if (auto ok = CheckRange("layers", spec.layers, 1, 1024); !ok) return ok;
  if (auto ok = CheckRange("kv_heads", spec.kv_heads, 1, 1024); !ok) return ok;
  if (auto ok = CheckRange("head_dim", spec.head_dim, 8, 1024, 8); !ok) return ok;
  if (auto ok = CheckRange("block_tokens", spec.block_tokens, 16, 1024, 16); !ok) return ok;
  if (auto ok = CheckRange("sink_tokens", spec.sink_tokens, 0, spec.block_tokens); !ok) return ok;
  if (spec.dtype != ElementType::kF32 && spec.dtype != ElementType::kF16 && spec.dtype != ElementType::kBF16) {
    return Invalid("dtype " + std::to_string(static_cast<unsigned>(spec.dtype)) + " is unknown");
  }
  const std::uint64_t numbers = std::uint64_t{spec.layers} * spec.kv_heads * spec.head_dim;
  if (numbers > kMaxNumbersPerToken) {
    return Invalid("layers * kv_heads * head_dim is " + std::to_string(numbers) + ", at most " +
                   std::to_string(kMaxNumbersPerToken));
  }
  return CheckRope(spec);
}

namespace {

// Of what a plan takes beside its codecs' memory. Per run of heads with the same codecs: the working codecs, their places, and
// a line of text as fields of the identity. Per head: the sums of its keys that the store keeps.
constexpr std::size_t kRunBytes = 1536;
constexpr std::size_t kHeadBytes = 32;
constexpr std::size_t kRopeBytes = 128;  // per number of a row: cosines and sines
constexpr std::size_t kOverrideBytes = 256;

std::size_t FixedBytes(const StoreSpec& spec, std::size_t runs, std::size_t canonical_bytes) {
  const std::size_t heads = std::size_t{spec.layers} * spec.kv_heads;
  return 2 * SpecBytes(spec) + 3 * canonical_bytes + runs * kRunBytes + heads * kHeadBytes + spec.head_dim * kRopeBytes;
}

}  // namespace

std::size_t SpecBytes(const StoreSpec& spec) {
  std::size_t bytes = spec.name.size() + spec.model.size() + spec.tokenizer.size() + spec.adapter.size() + spec.salt.size() +
                      spec.plan.keys.size() + spec.plan.values.size();
  for (const LayerPlan& entry : spec.plan.overrides) bytes += kOverrideBytes + entry.keys.size() + entry.values.size();
  return bytes;
}

std::size_t PlanBytes(const Registry& registry, const StoreSpec& spec) {
  const std::size_t heads = std::size_t{spec.layers} * spec.kv_heads;
  std::size_t longest = 0;
  std::size_t runs = spec.layers;
  std::size_t key_bytes = kHeadBytesPerNumber * spec.head_dim, value_bytes = key_bytes;
  const auto count = [&](std::size_t& most, const std::string& text, Side side) {
    const auto named = ResolveText(text, side, spec);
    const std::string resolved = named ? *named : text;
    const auto parsed = registry.Parse(resolved);
    if (parsed) most = std::max(most, HeadBytes(*parsed, spec.head_dim));
    return resolved.size();
  };
  const auto count_both = [&](const auto& entry) {
    const std::size_t keys = count(key_bytes, entry.keys, Side::kKeys);
    longest = std::max(longest, keys + count(value_bytes, entry.values, Side::kValues));
  };
  count_both(spec.plan);
  for (const LayerPlan& entry : spec.plan.overrides) {
    count_both(entry);
    if (entry.first_layer <= entry.last_layer && entry.last_layer < spec.layers) {
      runs += 2 * (entry.last_layer - entry.first_layer + 1);  // it may cut a run in three
    }
  }
  runs = std::min({runs, heads, spec.layers + 2 * kMaxOverrideLayers});
  constexpr std::size_t kLineBytes = 128;  // beside the specs: what they leave at its default stands there, too
  const std::size_t canonical = std::min(runs * (kLineBytes + longest), kMaxPlanText + kLineBytes + longest);
  return FixedBytes(spec, runs, canonical) + heads * (256 + key_bytes + value_bytes);
}

std::size_t Plan::memory_bytes() const noexcept {
  std::size_t runs = 0, codecs = 0;
  for (const auto& layer : layers_) {
    runs += layer.size();
    for (const HeadCodecs& heads : layer) codecs += heads.keys->memory_bytes() + heads.values->memory_bytes();
  }
  return FixedBytes(spec_, runs, canonical_.size()) + codecs;
}

Result<std::unique_ptr<const Plan>> Plan::Make(const Registry& registry, const StoreSpec& spec) {
  if (auto ok = CheckStoreSpec(spec); !ok) return ok.error();
  Specs keys(registry, spec, Side::kKeys);
  Specs values(registry, spec, Side::kValues);
  const auto choices = ChooseCodecs(spec, keys, values);
  if (!choices) return choices.error();
  auto text = PlanText(*choices, keys, values);
  if (!text) return text.error();

  std::unique_ptr<Plan> plan(new Plan(spec));
  if (!spec.plan.artifact.empty()) {
    auto artifact = Artifact::Make(spec.plan.artifact);
    if (!artifact) return artifact.error();
    plan->artifact_ = *std::move(artifact);
    plan->canonical_ = "artifact " + plan->artifact_->digest() + "\n";
  }
  plan->canonical_ += *text;

  // The expected error is slow to compute, so it is asked once for each spec, of the first layer that it serves.
  std::map<std::size_t, float> negligible;
  UsedCodecs key_list(Side::kKeys), value_list(Side::kValues);
  for (std::uint32_t layer = 0; layer < spec.layers; ++layer) {
    std::vector<HeadCodecs>& heads = plan->layers_.emplace_back();
    for (const Choice& choice : (*choices)[layer]) {
      const CodecConfig config{.layer = layer,
                               .kv_heads = spec.kv_heads,
                               .head_begin = choice.begin,
                               .head_end = choice.end,
                               .head_dim = spec.head_dim,
                               .block_tokens = spec.block_tokens,
                               .exact_rows = spec.sink_tokens,
                               .model = plan->spec_.model,
                               .rope = plan->spec_.rope,
                               .artifact = plan->artifact_.get(),
                               .registry = &registry};
      auto key_codec = MakeKeys(keys.parsed(choice.keys), config);
      if (!key_codec) return key_codec.error();
      auto value_codec = MakeValues(values.parsed(choice.values), config);
      if (!value_codec) return value_codec.error();
      key_list.Use(keys.canonical(choice.keys), **key_codec, choice.end - choice.begin);
      value_list.Use(values.canonical(choice.values), **value_codec, choice.end - choice.begin);
      HeadCodecs& made = heads.emplace_back();
      made.begin = choice.begin;
      made.end = choice.end;
      made.keys = *std::move(key_codec);
      made.values = *std::move(value_codec);
      const auto known = negligible.find(choice.values);
      made.negligible_weight = known != negligible.end()
                                   ? known->second
                                   : negligible.emplace(choice.values, NegligibleWeight(*made.values)).first->second;
      const KeyStage wanted = made.keys->pre_rope() ? KeyStage::kBeforeRope : KeyStage::kAfterRope;
      if (wanted != spec.key_stage) {
        return Invalid("layer " + std::to_string(layer) + " keys: codec " + keys.canonical(choice.keys) + " needs key_stage " +
                       std::string(KeyStageName(wanted)) + ", the store has " + std::string(KeyStageName(spec.key_stage)));
      }
    }
  }
  plan->used_codecs_ = std::move(key_list).Take();
  std::ranges::move(std::move(value_list).Take(), std::back_inserter(plan->used_codecs_));
  plan->LayOut();
  return std::unique_ptr<const Plan>(std::move(plan));
}

void Plan::LayOut() {
  for (const auto& layer : layers_) {
    for (const HeadCodecs& heads : layer) {
      const Needs keys = heads.keys->needs(0), values = heads.values->needs(0);
      encode_scratch_ = std::max({encode_scratch_, keys.encode, values.encode});
      decode_scratch_ = std::max({decode_scratch_, keys.decode, values.decode});
      sections_ = std::max({sections_, heads.keys->parts(), heads.values->parts()});
    }
  }
  std::size_t end = 0;
  for (std::size_t section = 0; section < sections_; ++section) {
    const auto put = [&](Place& place, const BlockCodec& codec) -> std::size_t {
      place.parts = codec.parts();
      if (section >= codec.parts()) return 0;
      place.offset[section] = end;
      place.bytes[section] = codec.part_bytes(section);
      place.room[section] = AlignUp(codec.part_bytes(section));
      end += place.room[section];
      return place.room[section];
    };
    for (auto& layer : layers_) {
      for (HeadCodecs& heads : layer) {
        const std::size_t keys_room = put(heads.first_keys, *heads.keys);
        heads.head_stride[section] = keys_room + put(heads.first_values, *heads.values);
        end += (heads.end - heads.begin - 1) * heads.head_stride[section];
      }
    }
    section_end_[section] = end;
  }
}

const HeadCodecs& Plan::codecs(std::size_t layer, std::size_t kv_head) const {
  const std::vector<HeadCodecs>& heads = layers_[layer];
  std::size_t i = 0;
  while (kv_head >= heads[i].end) ++i;
  return heads[i];
}

const BlockCodec& Plan::codec(std::size_t layer, std::size_t kv_head, Side side) const {
  const HeadCodecs& heads = codecs(layer, kv_head);
  if (side == Side::kKeys) return *heads.keys;
  return *heads.values;
}

Place Plan::place(std::size_t layer, std::size_t kv_head, Side side) const {
  const HeadCodecs& heads = codecs(layer, kv_head);
  Place place = side == Side::kKeys ? heads.first_keys : heads.first_values;
  for (std::size_t p = 0; p < place.parts; ++p) place.offset[p] += (kv_head - heads.begin) * heads.head_stride[p];
  return place;
}

std::size_t Plan::SectionsOf(std::uint64_t payload_bytes) const noexcept {
  for (std::size_t sections = 1; sections <= sections_; ++sections) {
    if (section_end_[sections - 1] == payload_bytes) return sections;
  }
  return 0;
}

std::size_t Plan::logical_bytes() const noexcept {
  return std::size_t{2} * 2 * spec_.block_tokens * spec_.layers * spec_.kv_heads * spec_.head_dim;
}

double Plan::bits_per_element(Side side) const noexcept {
  double bits = 0;
  for (const auto& layer : layers_) {
    for (const HeadCodecs& heads : layer) {
      const BlockCodec& codec = side == Side::kKeys ? static_cast<const BlockCodec&>(*heads.keys) : *heads.values;
      bits += 8.0 * static_cast<double>(codec.block_bytes()) * (heads.end - heads.begin);
    }
  }
  return bits / (static_cast<double>(spec_.layers) * spec_.kv_heads * spec_.block_tokens * spec_.head_dim);
}

}  // namespace kvant::quantizers
