#include "daemon/serve/copy_job.h"

#include <algorithm>
#include <exception>
#include <string>
#include <utility>

namespace kvant::daemon {

CopyJob::CopyJob(std::vector<std::shared_ptr<const Arena>> arenas, const Sequence& sequence, std::uint64_t unnamed,
                 const quantizers::RowsRequest& request)
    : arenas_(std::move(arenas)), pinned_(sequence, unnamed), request_(request), decoder_(pinned_.plan()) {}

std::size_t CopyJob::scratch_bytes() const noexcept {
  const StoreSpec& spec = pinned_.plan().spec();
  return pinned_.plan().decode_scratch() + std::size_t{spec.block_tokens} * spec.head_dim * sizeof(float);
}

bool CopyJob::Continue(quantizers::Executor&, const std::function<bool()>& pause) {
  try {
    while (outcome_ && done_ < request_.count) {
      if (cancelled()) {
        outcome_ = Error{ErrorCode::kUnavailable, "copy rows: the daemon is ending"};
        return true;
      }
      if (pause()) return false;
      const std::size_t block_tokens = pinned_.plan().spec().block_tokens;
      const std::size_t to_block_end = block_tokens - static_cast<std::size_t>((request_.first + done_) % block_tokens);
      const std::size_t count = std::min(request_.count - done_, to_block_end);
      outcome_ = quantizers::ReadRows(decoder_, pinned_.cache(), quantizers::Piece(request_, done_, count));
      done_ += count;
    }
  } catch (const std::exception& failure) {
    outcome_ = Error{ErrorCode::kSystem, std::string("copy rows: ") + failure.what()};
  }
  return true;
}

}  // namespace kvant::daemon
