#include "tools/kvantctl/rows/rows_plan.h"

#include <cstdint>
#include <utility>

namespace kvant::tools {

Result<std::unique_ptr<const quantizers::Plan>> PlanForRows(const quantizers::Registry& registry, const RowsShape& shape,
                                                            const std::string& plan, std::vector<std::byte> artifact) {
  StoreSpec spec;
  spec.name = "rows";
  spec.model = "rows";  // seeds of rotations come from it: any text does
  spec.tokenizer = "none";
  spec.dtype = ElementType::kF32;  // what `exact` keeps
  spec.layers = static_cast<std::uint32_t>(shape.layers);
  spec.kv_heads = static_cast<std::uint32_t>(shape.kv_heads);
  spec.head_dim = static_cast<std::uint32_t>(shape.head_dim);
  const std::size_t slash = plan.find('/');
  spec.plan.keys = plan.substr(0, slash);
  spec.plan.values = slash == std::string::npos ? plan : plan.substr(slash + 1);
  spec.plan.artifact = std::move(artifact);
  auto made = quantizers::Plan::Make(registry, spec);
  if (!made) return Error{made.error().code, plan + ": " + made.error().message};
  if (shape.tokens < 2 * std::size_t{(*made)->spec().block_tokens}) {
    return Error{ErrorCode::kOutOfRange,
                 plan + ": rows of " + std::to_string(shape.tokens) + " tokens, at least 256 tokens are wanted"};
  }
  if (shape.q_heads / shape.kv_heads > quantizers::kMaxQueries) {
    return Error{ErrorCode::kOutOfRange, plan + ": rows of " + std::to_string(shape.q_heads / shape.kv_heads) +
                                             " query heads for a KV head, at most 64 are served"};
  }
  return std::unique_ptr<const quantizers::Plan>(*std::move(made));
}

}  // namespace kvant::tools
