// What rotates queries (kernels/cuda/query.h), as the host hands it over.
#pragma once

#include <cstdint>

namespace kvant::kernels::cuda {

/// The constants of a rotation in integers (kernels/lloyd/query.h: QueryRotation, QueryToLogit).
struct QueryMap {
  int rounds = 0;
  float limit = 0;
  std::int32_t turn = 0;
  float to_logit = 0;
};

}  // namespace kvant::kernels::cuda
