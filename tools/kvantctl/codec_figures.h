// What `kvantctl codecs` says of one codec: sizes of real encoded blocks and, if asked, measured speed and error.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include <kvant/admin.h>

#include "quantizers/registry.h"

namespace kvant::tools {

struct CodecShape {
  std::uint32_t head_dim = 128;
  std::uint32_t block_tokens = 128;
  bool measure = false;
};

struct CodecMeasurement {
  double encode_ns = 0;           ///< per row
  double attend_ns = 0;           ///< per token and 4 queries: scores of keys, weighted sums of values
  double score_error = 0;         ///< keys: mean square, relative to |query|^2 |key|^2 / head_dim; normal rows
  double biased_score_error = 0;  ///< the same rows with a common part of norm 605, which is no part of what it is relative to
};

/// One side of one codec spec.
struct CodecFigures {
  double bits_per_element = 0.0;
  double bytes_per_row = 0.0;
  std::optional<double> expected_error;
  bool calibrated = false;  ///< it cannot be made without tensors from calibration
  bool pre_rope = false;
  bool rows_alone = true;
  CodecForm form;
  std::optional<CodecMeasurement> measured;  ///< not of codecs whose example wants rows around a mean of its own
};

/// Nothing where no codec can be made of it. Calibrated codecs are made with their own example.
[[nodiscard]] std::optional<CodecFigures> FiguresOf(const quantizers::Registry& registry, const std::string& spec,
                                                    quantizers::Side side, const CodecShape& shape);

}  // namespace kvant::tools
