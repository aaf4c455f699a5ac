#include "quantizers/rotation.h"

#include <string>

#include <xxhash.h>

#include "kernels/lloyd/query.h"
#include "quantizers/random_numbers.h"

namespace kvant::quantizers {
namespace {

void AppendNumber(std::string& text, std::uint32_t number) {
  for (int shift = 0; shift < 32; shift += 8) text += static_cast<char>(number >> shift & 0xFFu);
}

void AppendText(std::string& text, std::string_view part) {
  AppendNumber(text, static_cast<std::uint32_t>(part.size()));
  text += part;
}

}  // namespace

std::uint64_t RotationSeed(const RotationKey& key) {
  std::string text = "kvant.rotation";
  AppendText(text, key.codec);
  AppendText(text, key.model);
  AppendNumber(text, key.version);
  AppendNumber(text, key.layer);
  AppendNumber(text, key.kv_head);
  AppendNumber(text, static_cast<std::uint32_t>(key.side));
  if (key.stream != 0) AppendNumber(text, key.stream);
  return XXH3_64bits(text.data(), text.size());
}

Rotation::Rotation(std::uint32_t head_dim, std::size_t rounds, std::uint64_t seed)
    : shape_(kernels::HadamardShape::For(head_dim)), rounds_(rounds), signs_(shape_.sign_words(rounds)) {
  std::uint64_t bits = 0;
  for (std::size_t i = 0; i < signs_.size(); ++i) {
    if (i % 64 == 0) bits = NextSplitMix(seed);
    signs_[i] = (bits >> (i % 64) & 1u) != 0 ? 0x80000000u : 0u;
  }
  if (kernels::HasQuarters(shape_)) {
    quarter_signs_.resize(signs_.size());
    kernels::QuarterSigns(shape_, rounds_, signs_.data(), quarter_signs_.data());
  }
  if (kernels::HasQueryTurns(shape_, rounds_)) {
    query_turns_.resize((rounds_ - 1) * head_dim);
    kernels::QueryTurns(shape_, rounds_, signs_.data(), query_turns_.data());
  }
}

HeadRotations::HeadRotations(std::string_view codec, std::uint32_t version, const CodecConfig& config)
    : first_head_(config.head_begin) {
  rotations_.reserve(config.head_end - config.head_begin);
  for (std::uint32_t head = config.head_begin; head < config.head_end; ++head) {
    const RotationKey key{codec, version, config.model, config.layer, head, config.side, config.stream};
    rotations_.emplace_back(config.head_dim, RotationRounds(config.head_dim), RotationSeed(key));
  }
}

std::size_t HeadRotations::memory_bytes() const noexcept {
  std::size_t bytes = rotations_.capacity() * sizeof(Rotation);
  for (const Rotation& each : rotations_) bytes += each.memory_bytes();
  return bytes;
}

}  // namespace kvant::quantizers
