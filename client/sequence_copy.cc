// Rows read back, for engines that keep a cache of their own.
#include <algorithm>
#include <string>

#include "client/sequence.h"
#include "client/tensor_place.h"
#include "protocol/wire.h"
#include "quantizers/sequence/decode.h"

namespace kvant::client {
namespace {

/// Numbers of one side in one call to the daemon: rows that do not lie in the arena are staged there.
constexpr std::size_t kPieceNumbers = std::size_t{1} << 20;

Result<void> CheckOutput(const TensorView& tensor, const char* name) {
  return tensor.data == nullptr ? Result<void>() : CheckView(AsConst(tensor), name);
}

}  // namespace

Result<void> Sequence::CopyRows(const quantizers::RowsRequest& request) {
  if (auto ready = Ready("copy rows"); !ready) return ready;
  if (auto good = CheckOutput(request.keys, "copy rows: keys"); !good) return good;
  if (auto good = CheckOutput(request.values, "copy rows: values"); !good) return good;
  // A reader's length is the owner's affair; the daemon knows it.
  const std::uint64_t length = read_only_ ? UINT64_MAX : this->length();
  if (auto good = quantizers::CheckRowsRequest(store_->spec(), length, request); !good) return good;
  auto copied = local() ? CopyRowsHere(request) : CopyRowsInService(request);
  if (!copied) return copied;
  for (const TensorView* const side : {&request.keys, &request.values}) {
    if (side->data != nullptr) session().counters().bytes_copied += PayloadBytes(AsConst(*side));
  }
  return {};
}

Result<void> Sequence::CopyRowsHere(const quantizers::RowsRequest& request) {
  auto plan = store_->plan();
  if (!plan) return plan.error();
  quantizers::BlockDecoder decoder(**plan);
  auto copied = quantizers::ReadRows(decoder, Cache(), request);
  if (auto held = store_->CheckHeld("copy rows"); !held) return held;
  return copied;
}

Result<void> Sequence::CopyRowsInService(const quantizers::RowsRequest& request) {
  if (auto arena = session().GetArena(); !arena) return arena.error();  // a reader's session may have none yet
  const std::size_t numbers_of_token = std::size_t{store_->spec().kv_heads} * store_->spec().head_dim;
  const std::size_t most = std::max<std::size_t>(1, kPieceNumbers / numbers_of_token);
  for (std::size_t done = 0; done < request.count; done += most) {
    const quantizers::RowsRequest piece = quantizers::Piece(request, done, std::min(most, request.count - done));
    session().ResetScratch();
    auto call = session().remote().copyRowsRequest();
    call.setSequence(id_);
    call.setLayer(static_cast<std::uint32_t>(piece.layer));
    call.setFirst(piece.first);
    call.setUnnamed(static_cast<std::uint32_t>(unnamed_));
    PlacedOutput keys, values;
    if (piece.keys.data != nullptr) {
      auto placed = PlaceOutput(session(), piece.keys, call.initKeys());
      if (!placed) return Error{placed.error().code, "copy rows: " + placed.error().message};
      keys = *placed;
    }
    if (piece.values.data != nullptr) {
      auto placed = PlaceOutput(session(), piece.values, call.initValues());
      if (!placed) return Error{placed.error().code, "copy rows: " + placed.error().message};
      values = *placed;
    }
    auto answer = session().Call(call, "copy rows", [](auto&&) {});
    if (!answer) return answer.error();
    if (auto copied = wire::ReadStatus(*answer); !copied) return copied;
    FinishOutput(session(), keys);
    FinishOutput(session(), values);
  }
  return {};
}

}  // namespace kvant::client
