// Random numbers that are the same on every machine: what stored bytes depend on may not go through a library's logarithm.
#pragma once

#include <bit>
#include <cstdint>

namespace kvant::quantizers {

/// The splitmix64 sequence (Steele, Lea, Flood 2014).
constexpr std::uint64_t NextSplitMix(std::uint64_t& state) noexcept {
  state += 0x9E3779B97F4A7C15u;
  std::uint64_t z = state;
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
  return z ^ (z >> 31);
}

/// The next number of mean 0 and variance 1: how many of 256 bits are set, less 128, plus a uniform number of +-1/2, over the
/// root of 64 + 1/12. Normal but for its fourth moment, 2.992 instead of 3. Takes five numbers of the sequence.
constexpr float NextNormal(std::uint64_t& state) noexcept {
  int bits = 0;
  for (int word = 0; word < 4; ++word) bits += std::popcount(NextSplitMix(state));
  const double within = static_cast<double>(NextSplitMix(state) >> 11) * 0x1p-53 - 0.5;
  return static_cast<float>((static_cast<double>(bits - 128) + within) * 0.12491869917839092);
}

}  // namespace kvant::quantizers
