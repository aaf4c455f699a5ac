// Rotary positions (RoPE, arXiv 2104.09864): how a model turns keys and queries, with the scalings that models in use were
// trained or extended with.
#pragma once

#include <cstdint>
#include <variant>
#include <vector>

namespace kvant {

/// Which numbers of a row RoPE turns together. Stored: do not renumber.
enum class RopePairing : std::uint8_t {
  kNone = 0,       ///< no rotary positions
  kHalfSplit = 1,  ///< (i, i + rotary_dims/2): Llama as Hugging Face stores it, GPT-NeoX
  kAdjacent = 2,   ///< (2i, 2i+1): GPT-J, Llama as GGUF stores it
};

// The scalings. Formulas are those of `modeling_rope_utils` in Hugging Face transformers; D is the number of rotary dims, f_p
// the unscaled frequency theta^(-2p/D) of pair p, ln the natural logarithm. A factor is a number in 1..2^20.

/// Position interpolation (arXiv 2306.15595): f_p / factor.
struct RopeLinear {
  double factor = 1.0;
};

/// Dynamic NTK: theta becomes theta * (factor * L/original_positions - (factor - 1))^(D/(D-2)), where L is the larger of
/// context_tokens and original_positions. Transformers lets L grow with the sequence, so that a cached key's angle depends on
/// when it was computed. A shared cache needs keys that depend on the tokens before them alone: an engine fixes context_tokens
/// to the longest sequence it serves (as vLLM does) and computes all keys with it.
struct RopeDynamic {
  double factor = 1.0;
  std::uint32_t original_positions = 0;  ///< the context the model was trained with
  std::uint32_t context_tokens = 0;
};

/// YaRN (arXiv 2309.00071): pairs that turn more than beta_fast times over original_positions keep f_p, those that turn less
/// than beta_slow times get f_p / factor, and a ramp over the pairs joins the two.
struct RopeYarn {
  double factor = 1.0;
  std::uint32_t original_positions = 0;
  double beta_fast = 32.0;
  double beta_slow = 1.0;
  bool truncate = true;           ///< the ramp begins and ends at whole pairs
  double attention_factor = 0.0;  ///< multiplies cosines and sines; 0: 0.1 ln(factor) + 1
};

/// Llama 3.1: wavelengths 2 pi / f_p below original_positions/high_freq_factor keep f_p, those above
/// original_positions/low_freq_factor get f_p / factor, and in between the two are mixed, linearly in the frequency.
struct RopeLlama3 {
  double factor = 1.0;
  std::uint32_t original_positions = 0;
  double low_freq_factor = 1.0;
  double high_freq_factor = 4.0;
};

/// LongRoPE (arXiv 2402.13753): f_p divided by a number of its own: long_factors[p] if context_tokens is above
/// original_positions, else short_factors[p]. context_tokens is fixed for all keys, as in RopeDynamic.
struct RopeLong {
  double factor = 1.0;  ///< how much longer the extended context is than the original
  std::uint32_t original_positions = 0;
  std::uint32_t context_tokens = 0;
  std::vector<double> short_factors{};  ///< [D/2], each in 2^-6..2^20
  std::vector<double> long_factors{};   ///< [D/2]
  double attention_factor = 0.0;        ///< multiplies cosines and sines; 0: sqrt(1 + ln(factor) / ln(original_positions))
};

/// std::monostate: the frequencies as they are.
using RopeScaling = std::variant<std::monostate, RopeLinear, RopeDynamic, RopeYarn, RopeLlama3, RopeLong>;

/// Rotary positions of a model. Pair p of a row at token t is multiplied, as a complex number, by a * exp(i t w_p): w_p is the
/// scaled frequency, a the attention factor (1 unless the scaling says otherwise). Rows of which only a part is rotary have it
/// in front: the dims from rotary_dims on stay as they are.
struct RopeSpec {
  RopePairing pairing = RopePairing::kNone;
  double theta = 10000.0;         ///< at least 1
  std::uint32_t rotary_dims = 0;  ///< even; 0: all of head_dim
  RopeScaling scaling = {};
};

/// What a RopeSpec comes to.
struct RopeFrequencies {
  std::vector<double> radians_per_token;  ///< [pairs]; empty for RopePairing::kNone
  double attention_factor = 1.0;
};

}  // namespace kvant
