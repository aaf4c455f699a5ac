// The rows of one KV head as matrices.
#pragma once

#include <Eigen/Core>
#include <cstddef>
#include <vector>

#include "tools/kvantctl/rows/rows_file.h"

namespace kvant::tools {

using Matrix = Eigen::MatrixXd;
using Rows = Eigen::Map<const Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>>;

/// [tokens, head_dim] each; what they are made of outlives them.
struct HeadRows {
  std::vector<Rows> queries;  ///< of the heads of the KV head's group
  Rows keys;
  Rows values;
};

[[nodiscard]] inline HeadRows RowsOfHead(const RowsShape& shape, const LayerRows& rows, std::size_t kv_head) {
  const auto of = [&](const std::vector<float>& numbers, std::size_t head) {
    return Rows(numbers.data() + head * shape.tokens * shape.head_dim, static_cast<Eigen::Index>(shape.tokens),
                static_cast<Eigen::Index>(shape.head_dim));
  };
  HeadRows head{{}, of(rows.keys, kv_head), of(rows.values, kv_head)};
  const std::size_t group = shape.q_heads / shape.kv_heads;
  for (std::size_t g = 0; g < group; ++g) head.queries.push_back(of(rows.queries, kv_head * group + g));
  return head;
}

}  // namespace kvant::tools
