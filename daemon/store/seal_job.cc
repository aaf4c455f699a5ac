#include "daemon/store/seal_job.h"

#include <cstring>
#include <string>

#include "protocol/segment_layout.h"
#include "quantizers/attention/aligned_buffer.h"
#include "quantizers/sequence/rows.h"

namespace kvant::daemon {
namespace {

std::string Where(const SealJob& job, std::size_t layer, std::size_t side, std::size_t head) {
  return "seal block at position " + std::to_string(job.info.first_position) + ": layer " + std::to_string(layer) + ", " +
         (side == 0 ? "keys" : "values") + " of head " + std::to_string(head) + ": ";
}

}  // namespace

Result<void> SealJob::Run() {
  const std::uint32_t block_tokens = plan->spec().block_tokens;
  const std::size_t payload_offset = protocol::PayloadOffset(block_tokens);
  if (Result<void> ready = codes.slab->Populate(codes.slot); !ready) return ready;
  std::byte* slot = codes.slab->slot(codes.slot);
  if (Result<void> encoded = EncodeCodes(slot + payload_offset); !encoded) return encoded;
  if (cancelled.load(std::memory_order_relaxed)) return {};

  if (sinks) {
    if (Result<void> ready = sinks->slab->Populate(sinks->slot); !ready) return ready;
    std::byte* sink_slot = sinks->slab->slot(sinks->slot);
    if (Result<void> copied = CopySinks(sink_slot + payload_offset); !copied) return copied;
    protocol::BlockInfo sink_info = info;
    sink_info.kind = protocol::BlockKind::kSinks;
    sink_info.element_type = static_cast<std::uint32_t>(tail.layout.type);
    protocol::FinishSlot(sink_slot, block_tokens, sink_info, std::span(tokens).first(plan->spec().sink_tokens),
                         sinks->payload_bytes);
  }
  protocol::FinishSlot(slot, block_tokens, info, tokens, codes.payload_bytes);
  return {};
}

Result<void> SealJob::EncodeCodes(std::byte* payload) {
  const StoreSpec& spec = plan->spec();
  // The ring's capacity is a multiple of block_tokens: a block's rows are adjacent.
  const std::uint64_t first_row = info.first_position % tail.layout.capacity;
  // A thread keeps its scratch from block to block: fresh memory would cost a page fault for every 4 KiB of it, each time.
  thread_local quantizers::AlignedBuffer scratch;
  scratch.Reserve(plan->encode_scratch());
  key_means.assign(std::size_t{spec.layers} * spec.kv_heads, {});
  for (std::size_t layer = 0; layer < spec.layers; ++layer) {
    for (std::size_t head = 0; head < spec.kv_heads; ++head) {
      if (cancelled.load(std::memory_order_relaxed)) return {};
      for (const quantizers::Side side : {quantizers::Side::kKeys, quantizers::Side::kValues}) {
        const auto side_index = static_cast<std::size_t>(side);
        const RowsView rows{tail.Ring(layer, side_index, head) + first_row * tail.layout.row_bytes(), tail.layout.type,
                            spec.block_tokens, spec.head_dim, spec.head_dim};
        const quantizers::Place at = plan->place(layer, head, side);
        const quantizers::BlockView block = at.In(payload);
        Result<void> encoded = plan->codec(layer, head, side)
                                   .Encode({.head = head,
                                            .first_position = info.first_position,
                                            .rows = rows,
                                            .block = block,
                                            .scratch = scratch.data()});
        if (!encoded) return Error{encoded.error().code, Where(*this, layer, side_index, head) + encoded.error().message};
        if (side == quantizers::Side::kKeys) key_means[layer * spec.kv_heads + head].Sample(rows);
        // Zero what lies between blocks: a slot's bytes must not depend on what was in it before.
        for (std::size_t p = 0; p < block.parts; ++p) std::memset(block.part[p] + at.bytes[p], 0, at.room[p] - at.bytes[p]);
      }
    }
  }
  return {};
}

Result<void> SealJob::CopySinks(std::byte* payload) {
  // Checked, although the block has been encoded: the client may have changed the rows since then.
  const quantizers::SinkLayout layout{.kv_heads = tail.layout.kv_heads,
                                      .head_dim = tail.layout.head_dim,
                                      .tokens = plan->spec().sink_tokens,
                                      .type = tail.layout.type};
  auto copied = quantizers::CopySinks(tail, layout, payload);
  if (!copied) return Error{copied.error().code, "seal the sinks: " + copied.error().message};
  return {};
}

}  // namespace kvant::daemon
