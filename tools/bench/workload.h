// What is measured: a store's blocks as the daemon lays them out, filled with encoded normal rows, and the answers that a plain
// computation gives for them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "quantizers/attention.h"
#include "quantizers/plan.h"

namespace kvant::tools {

/// The attention shape of an 8-billion-parameter Llama: 32 query heads in groups of 4.
inline constexpr std::size_t kHeadDim = 128;
inline constexpr std::size_t kKvHeads = 8;
inline constexpr std::size_t kQueryHeads = 32;
inline constexpr std::size_t kBlockTokens = 128;
/// Layers share a slot, as in the daemon: reading one layer of a sequence strides over the slots.
inline constexpr std::size_t kLayers = 2;
/// Blocks with different contents; a cache of any length repeats them at different addresses.
inline constexpr std::size_t kDistinctBlocks = 8;

/// `bytes` of zeroed shared memory (as the daemon's slabs), page aligned.
class SharedMemory {
 public:
  explicit SharedMemory(std::size_t bytes);
  ~SharedMemory();
  SharedMemory(const SharedMemory&) = delete;
  SharedMemory& operator=(const SharedMemory&) = delete;
  [[nodiscard]] std::span<std::byte> bytes() const noexcept { return {data_, size_}; }

 private:
  std::byte* data_;
  std::size_t size_;
};

/// One codec spec on both sides, and `slots` filled blocks in memory.
class Workload {
 public:
  /// Uses the front of `memory`: as many slots as fit. The memory outlives this.
  static Result<std::unique_ptr<Workload>> Make(const quantizers::Registry& registry, const std::string& spec,
                                                std::span<std::byte> memory);

  [[nodiscard]] const quantizers::Plan& plan() const noexcept { return *plan_; }
  [[nodiscard]] const std::string& spec() const noexcept { return spec_; }
  [[nodiscard]] std::size_t slots() const noexcept { return slots_.size(); }
  /// The payloads of `tokens` tokens starting at slot `first`.
  [[nodiscard]] std::span<const std::byte* const> Blocks(std::size_t first, std::size_t tokens) const {
    return std::span(slots_).subspan(first, tokens / kBlockTokens);
  }
  /// [kQueryHeads, kHeadDim] standard normal.
  [[nodiscard]] std::span<const float> queries() const noexcept { return queries_; }
  /// Encoded bytes that attention reads for one token of one layer, all heads.
  [[nodiscard]] std::size_t token_bytes() const noexcept;

  /// softmax(scale q K^T) V by plain loops in double over the decoded rows of `tokens` tokens: [kQueryHeads, kHeadDim].
  [[nodiscard]] std::vector<double> Reference(std::size_t layer, std::size_t tokens, double scale) const;

 private:
  Workload() = default;
  Result<void> Encode(std::span<std::byte> memory);
  std::string spec_;
  std::unique_ptr<const quantizers::Plan> plan_;
  std::vector<const std::byte*> slots_;
  std::vector<float> queries_;
};

/// The workload in use. The codecs' workloads share the memory, so asking for another spec fills it anew.
class Workloads {
 public:
  Workloads(const quantizers::Registry& registry, std::span<std::byte> memory) : registry_(registry), memory_(memory) {}
  const Workload& Get(const std::string& spec);
  /// What the codec declares for normal rows.
  [[nodiscard]] double GaussianError(const std::string& spec, quantizers::Side side) const;

 private:
  const quantizers::Registry& registry_;
  std::span<std::byte> memory_;
  std::unique_ptr<Workload> current_;
};

/// Standard normal numbers from a fixed generator, the same on every machine.
std::vector<float> NormalRows(std::size_t count, std::uint64_t seed);

/// sqrt(sum (a-b)^2 / sum b^2).
double RelativeRms(std::span<const float> a, std::span<const double> b);

/// The most that scoring from codes may differ from decoding first, as RelativeRms: integer queries and weights may hide at
/// most 5 % of the codec's own squared error (`gaussian_error`), and floating point adds a little.
double HiddenLossBound(double gaussian_error);

/// Ends the program with a message: a wrong result must not get a time.
[[noreturn]] void Abort(const std::string& message);

}  // namespace kvant::tools
