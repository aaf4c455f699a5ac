// Which channels of a row are its strongest ones, and a row taken apart by that and put together again.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

namespace kvant::quantizers {

/// Channels of a row in two parts, `hot` and `rest`, both in ascending order.
class ChannelSplit {
 public:
  static constexpr std::size_t kMaxDim = 1024;

  /// The `hot` channels of the largest energies; of equal ones the lower channel. NaN counts as 0.
  static ChannelSplit Largest(const float* energies, std::size_t dim, std::size_t hot) noexcept;

  /// Bytes of the hot channels as stored with a block: one number each, of 16 bits where dim exceeds 256.
  [[nodiscard]] static constexpr std::size_t StoredBytes(std::size_t dim, std::size_t hot) noexcept {
    return dim > 256 ? 2 * hot : hot;
  }
  void Store(std::byte* to) const noexcept;
  /// Reads what may be any bytes: numbers that are no channel, or one named before, are replaced by the lowest channels left.
  static ChannelSplit Load(const std::byte* from, std::size_t dim, std::size_t hot) noexcept;

  [[nodiscard]] std::size_t dim() const noexcept { return dim_; }
  [[nodiscard]] std::size_t hot() const noexcept { return hot_; }
  [[nodiscard]] std::size_t rest() const noexcept { return dim_ - hot_; }
  /// The i-th channel: hot ones first.
  [[nodiscard]] std::size_t channel(std::size_t i) const noexcept { return channels_[i]; }

  /// A row of dim() floats into its parts.
  void Take(const float* row, float* hot_part, float* rest_part) const noexcept;
  /// And back, or added.
  void Put(const float* hot_part, const float* rest_part, bool add, float* row) const noexcept;

 private:
  ChannelSplit(std::size_t dim, std::size_t hot) noexcept : dim_(dim), hot_(hot) {}
  /// Fills channels_ from marks of the hot ones.
  void Order(const std::array<bool, kMaxDim>& is_hot) noexcept;

  std::size_t dim_;
  std::size_t hot_;
  std::array<std::uint16_t, kMaxDim> channels_{};  ///< hot, then rest
};

/// The mean energy of the `hot` strongest of `dim` channels whose energies are means of `tokens` squares of N(0, 1).
[[nodiscard]] double LargestEnergy(std::size_t dim, std::size_t hot, std::size_t tokens);

}  // namespace kvant::quantizers
