// What a plan's codes do to the attention of a layer, on rows of a model. Nothing feeds forward: every layer sees exact rows.
#pragma once

#include <cstddef>
#include <vector>

#include <kvant/result.h>

#include "quantizers/plan.h"
#include "tools/kvantctl/rows/rows_file.h"

namespace kvant::tools {

/// What one side of one KV head loses when it alone is coded: |o - o'|^2 / |o|^2, o the outputs of all the layer's heads.
struct HeadLoss {
  double keys = 0.0;
  double values = 0.0;
};

struct LayerLoss {
  double logit_error = 0.0;   ///< root mean square over coded keys of what a logit is off, softmax scale included
  double attention_kl = 0.0;  ///< mean KL(p || p') of a query's weights, in nats
  double output_error = 0.0;  ///< |o - o'|^2 / |o|^2 over all queries
  double key_cosine = 0.0;    ///< mean cosine of coded rows and what their codes decode to
  double value_cosine = 0.0;
  std::vector<HeadLoss> heads;  ///< of each KV head
};

/// Queries at `positions` positions, evenly over the last three quarters of the tokens, see what a decoding step there would:
/// the codes of the blocks that have left the recent window, raw rows of sinks and of what is newer. Logits come from the
/// codec's own scoring of its codes. Requires: rows of plan's shape, at least two blocks of tokens, positions > 0.
[[nodiscard]] Result<LayerLoss> MeasureLayer(const quantizers::Plan& plan, std::size_t layer, const RowsShape& shape,
                                             const LayerRows& rows, std::size_t positions);

}  // namespace kvant::tools
