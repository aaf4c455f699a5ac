// Working turboquant_mse codecs and what their tests do with them.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "quantizers/artifact.h"
#include "quantizers/codec.h"
#include "quantizers/registry.h"

namespace kvant::quantizers {

/// 64-byte aligned bytes.
class AlignedBytes {
 public:
  explicit AlignedBytes(std::size_t size) : size_(size), bytes_(size + 64) {}
  [[nodiscard]] std::byte* data() {
    const auto address = reinterpret_cast<std::uintptr_t>(bytes_.data());
    return bytes_.data() + (64 - address % 64) % 64;
  }
  [[nodiscard]] std::vector<std::byte> Copy() { return {data(), data() + size_}; }

 private:
  std::size_t size_;
  std::vector<std::byte> bytes_;
};

struct TurboQuant {
  std::string spec = "turboquant_mse:bits=4";
  std::uint32_t head_dim = 128;
  std::uint32_t block_tokens = 128;
  std::uint32_t kv_heads = 1;
  std::uint32_t layer = 0;
  std::string model = "test";
  const Artifact* artifact = nullptr;

  [[nodiscard]] CodecConfig Config(Side side, const std::vector<std::int64_t>& params) const {
    return {.side = side,
            .layer = layer,
            .kv_heads = kv_heads,
            .head_dim = head_dim,
            .block_tokens = block_tokens,
            .model = model,
            .rope = {},
            .params = params,
            .artifact = artifact};
  }
  [[nodiscard]] Result<std::unique_ptr<KeyCodec>> TryKeys() const {
    const auto parsed = Registry::Builtin().Parse(spec).value();
    return parsed.codec->make_keys(Config(Side::kKeys, parsed.params));
  }
  [[nodiscard]] Result<std::unique_ptr<ValueCodec>> TryValues() const {
    const auto parsed = Registry::Builtin().Parse(spec).value();
    return parsed.codec->make_values(Config(Side::kValues, parsed.params));
  }
  [[nodiscard]] std::unique_ptr<KeyCodec> Keys() const { return std::move(TryKeys()).value(); }
  [[nodiscard]] std::unique_ptr<ValueCodec> Values() const { return std::move(TryValues()).value(); }
  /// What the codec declares.
  [[nodiscard]] double Declared(Side side) const {
    const auto parsed = Registry::Builtin().Parse(spec).value();
    return parsed.codec->gaussian_error(side, head_dim, parsed.params);
  }
};

inline std::string TurboSpec(std::uint32_t bits, const std::string& more = "") {
  return "turboquant_mse:bits=" + std::to_string(bits) + more;
}

inline RowsView RowsOf(const std::vector<float>& rows, std::size_t dim) {
  return {rows.data(), ElementType::kF32, rows.size() / dim, dim, dim};
}

inline std::vector<float> NormalNumbers(std::size_t n, std::mt19937& random) {
  std::normal_distribution<float> normal;
  std::vector<float> values(n);
  for (auto& value : values) value = normal(random);
  return values;
}

/// Encodes and decodes one block.
inline std::vector<float> RoundTrip(const BlockCodec& codec, std::size_t head, const std::vector<float>& rows,
                                    std::size_t dim) {
  AlignedBytes block(codec.block_bytes());
  codec.Encode(head, 0, RowsOf(rows, dim), block.data()).value();
  std::vector<float> out(rows.size());
  codec.Decode(head, 0, block.data(), 0, rows.size() / dim, out.data());
  return out;
}

inline double Dot(const float* a, const float* b, std::size_t n) {
  double sum = 0.0;
  for (std::size_t i = 0; i < n; ++i) sum += static_cast<double>(a[i]) * b[i];
  return sum;
}

/// |a - b|^2 / |a|^2.
inline double RelativeError(const std::vector<float>& a, const std::vector<float>& b) {
  double error = 0.0, square = 0.0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    error += (static_cast<double>(a[i]) - b[i]) * (static_cast<double>(a[i]) - b[i]);
    square += static_cast<double>(a[i]) * a[i];
  }
  return error / square;
}

}  // namespace kvant::quantizers
