// The rows that are measured with: random ones, or those of a real model reading real text, whose attention is sparse.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include <kvant/result.h>

namespace kvant::tools {

/// The attention shape of an 8-billion-parameter Llama: 32 query heads in groups of 4.
inline constexpr std::size_t kHeadDim = 128;
inline constexpr std::size_t kKvHeads = 8;
inline constexpr std::size_t kGroup = 4;
inline constexpr std::size_t kBlockTokens = 128;
/// Layers share a slot, as in the daemon: reading one layer of a sequence strides over the slots.
inline constexpr std::size_t kLayers = 2;

/// Rows of kLayers x kKvHeads heads ("lanes"), and what they are asked. A cache of any length repeats these tokens at different
/// addresses.
struct SampleRows {
  std::string name;
  std::size_t tokens = 0;  ///< a multiple of kBlockTokens
  std::size_t query_tokens = 0;
  std::vector<float> keys;     ///< [lanes, tokens, kHeadDim]
  std::vector<float> values;   ///< as keys
  std::vector<float> queries;  ///< [query_tokens, lanes, kGroup, kHeadDim]: those of the text's last tokens

  static constexpr std::size_t kLanes = kLayers * kKvHeads;
  [[nodiscard]] const float* Keys(std::size_t lane) const { return &keys[lane * tokens * kHeadDim]; }
  [[nodiscard]] const float* Values(std::size_t lane) const { return &values[lane * tokens * kHeadDim]; }
  [[nodiscard]] const float* Queries(std::size_t query_token, std::size_t lane) const {
    return &queries[(query_token * kLanes + lane) * kGroup * kHeadDim];
  }
};

/// Standard normal rows: attention is spread as evenly as it can be.
SampleRows NormalSample(std::size_t tokens, std::size_t query_tokens);

/// What `model` (a folder of Llama architecture with heads of 128) keeps and asks while it reads `text_file`. Its heads are
/// dealt out to the lanes in turn; where its groups have fewer than kGroup query heads, the tokens before lend theirs. The
/// text's first block is left out: it holds the sinks, which an engine keeps raw. kInvalidArgument if the text is too short.
Result<SampleRows> ModelSample(const std::string& model, const std::string& text_file, std::size_t tokens,
                               std::size_t query_tokens);

/// Standard normal numbers from a fixed generator, the same on every machine.
std::vector<float> NormalRows(std::size_t count, std::uint64_t seed);

}  // namespace kvant::tools
