// Inputs shared by the tests of the Lloyd kernels: rotations, rows and 64-byte aligned memory with canaries behind it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <random>
#include <vector>

#include "kernels/lloyd/query.h"
#include "kernels/rotation/hadamard.h"
#include "tests/kernels/query_counts.h"

namespace kvant::kernels {

inline std::vector<std::uint32_t> RandomSigns(const HadamardShape& shape, std::size_t rounds, std::mt19937& random) {
  std::vector<std::uint32_t> signs(shape.sign_words(rounds));
  for (auto& sign : signs) sign = static_cast<std::uint32_t>(random() & 1u) << 31;
  return signs;
}

/// What a map's other forms point to.
struct MapTables {
  std::vector<std::uint32_t> quarter;
  std::vector<std::int16_t> turns;
};

inline HadamardMap MapOf(const HadamardShape& shape, std::size_t rounds, const std::vector<std::uint32_t>& signs,
                         MapTables& tables) {
  tables.quarter.resize(HasQuarters(shape) ? signs.size() : 0);
  if (!tables.quarter.empty()) QuarterSigns(shape, rounds, signs.data(), tables.quarter.data());
  tables.turns.resize(HasQueryTurns(shape, rounds) ? (rounds - 1) * shape.dim : 0);
  if (!tables.turns.empty()) QueryTurns(shape, rounds, signs.data(), tables.turns.data());
  return {shape, rounds, signs.data(), tables.quarter.empty() ? nullptr : tables.quarter.data(),
          tables.turns.empty() ? nullptr : tables.turns.data()};
}

inline std::vector<float> RandomNormal(std::size_t n, std::mt19937& random) {
  std::normal_distribution<float> normal;
  std::vector<float> values(n);
  for (auto& value : values) value = normal(random);
  return values;
}

/// Rows with a stride beyond `dim`; NaN lies between them, so that a read outside a row shows.
inline std::vector<float> PaddedRows(std::size_t count, std::size_t dim, std::size_t stride, std::mt19937& random) {
  std::vector<float> rows(count * stride, std::numeric_limits<float>::quiet_NaN());
  const std::vector<float> values = RandomNormal(count * dim, random);
  for (std::size_t r = 0; r < count; ++r) std::memcpy(&rows[r * stride], &values[r * dim], dim * sizeof(float));
  return rows;
}

/// `size` bytes on a 64-byte boundary, followed by bytes that nobody may write.
class GuardedBytes {
 public:
  explicit GuardedBytes(std::size_t size) : size_(size), bytes_(size + 192, kCanary) {}
  [[nodiscard]] std::uint8_t* data() {
    const auto address = reinterpret_cast<std::uintptr_t>(bytes_.data());
    return bytes_.data() + (64 - address % 64) % 64;
  }
  [[nodiscard]] std::byte* raw() { return reinterpret_cast<std::byte*>(data()); }
  [[nodiscard]] std::vector<std::uint8_t> Copy() { return {data(), data() + size_}; }
  [[nodiscard]] bool Intact() {
    for (std::size_t i = 0; i < 64; ++i) {
      if (data()[size_ + i] != kCanary) return false;
    }
    return true;
  }

 private:
  static constexpr std::uint8_t kCanary = 0xA5;
  std::size_t size_;
  std::vector<std::uint8_t> bytes_;
};

}  // namespace kvant::kernels
