#include "client/restored_blocks.h"

#include <algorithm>
#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "protocol/snapshot/verify.h"
#include "protocol/wire.h"

namespace kvant::client {
namespace {

constexpr std::string_view kOperation = "restore snapshot";
/// Bytes of a piece, unless a single block is larger.
constexpr std::size_t kPieceBytes = std::size_t{4} << 20;
/// An offer of so many blocks of 128 tokens is some 150 KB.
constexpr std::size_t kOfferedAtOnce = 256;

/// A block that the daemon wants.
struct Wanted {
  const snapshot::StoredStore* store = nullptr;
  std::size_t block = 0;     // in the file
  std::uint64_t number = 0;  // as it was offered
  std::size_t first_part = 0;
  std::size_t parts = 0;
  std::uint64_t bytes = 0;
};

/// One half of the way: memory in the arena, and the call that the daemon copies it in.
struct Piece {
  ArenaMemory memory;
  std::size_t used = 0;
  std::vector<std::pair<const Wanted*, std::size_t>> blocks;  // and where their bytes begin
  kj::Own<Inflight<wire::Status>> call;
};

class Restorer {
 public:
  Restorer(Session& session, const snapshot::SnapshotReader& reader, const SnapshotProgress& progress)
      : session_(session), reader_(reader), progress_(progress), restore_(nullptr) {}

  Result<RestoreReport> Run(std::span<const StoreToRestore> stores) {
    auto request = session_.remote().restoreRequest();
    auto answer = session_.connection().Call(request, kOperation);
    if (!answer) return answer.error();
    if (answer->isError()) return wire::ReadError(answer->getError());
    restore_ = answer->getOk();
    for (const StoreToRestore& store : stores) {
      if (auto offered = Offer(store); !offered) return offered.error();
    }
    auto reserve = restore_.reserveRequest();
    auto reserved = session_.connection().Call(reserve, kOperation);
    if (!reserved) return reserved.error();
    if (auto ok = wire::ReadStatus(*reserved); !ok) return ok.error();
    if (auto put = PutAll(); !put) return put.error();
    auto commit = restore_.commitRequest();
    auto committed = session_.connection().Call(commit, kOperation);
    if (!committed) return committed.error();
    if (committed->isError()) return wire::ReadError(committed->getError());
    return RestoreReport{
        .stores = stores.size(), .restored = committed->getOk().getRestored(), .present = committed->getOk().getPresent()};
  }

 private:
  Result<void> Offer(const StoreToRestore& store) {
    const snapshot::StoredStore& from = *store.from;
    const std::uint64_t first_number = offered_;
    std::size_t part = 0;
    const std::size_t blocks = std::min(from.blocks(), store.blocks);
    for (std::size_t first = 0; first < blocks; first += kOfferedAtOnce) {
      const std::size_t count = std::min(kOfferedAtOnce, blocks - first);
      auto request = restore_.offerRequest();
      request.setStore(store.to->id());
      auto list = request.initBlocks(static_cast<unsigned>(count));
      std::vector<Wanted> offers;
      for (unsigned i = 0; i < count; ++i) {
        const std::size_t block = first + i;
        const auto tokens = from.TokensOf(block);
        auto to = list[i];
        auto ids = to.initTokens(static_cast<unsigned>(tokens.size()));
        for (unsigned t = 0; t < tokens.size(); ++t) ids.set(t, tokens[t]);
        const std::int64_t parent = from.parents[block];
        to.setParent(parent == snapshot::kNoParent ? ~std::uint64_t{0} : first_number + static_cast<std::uint64_t>(parent));
        to.setCodesBytes(from.bytes[block]);
        Wanted offer{
            .store = &from, .block = block, .number = offered_++, .first_part = part, .parts = 0, .bytes = from.bytes[block]};
        for (; part < from.parts.size() && from.parts[part].block == block; ++part, ++offer.parts) {
          const snapshot::PartRow& row = from.parts[part];
          offer.bytes += row.bytes;
          if (row.kind == static_cast<std::uint64_t>(protocol::BlockKind::kState))
            to.setStateBytes(row.bytes);
          else
            to.setSinkType(wire::WriteElementType(static_cast<ElementType>(row.element_type)));
        }
        offers.push_back(offer);
      }
      auto answer = session_.connection().Call(request, kOperation);
      if (!answer) return answer.error();
      if (answer->isError()) return wire::ReadError(answer->getError());
      const auto wanted = answer->getOk();
      for (std::size_t i = 0; i < count && i < wanted.size(); ++i) {
        if (wanted[i] == 0) continue;
        wanted_.push_back(offers[i]);
        all_bytes_ += offers[i].bytes;
      }
    }
    return {};
  }

  Result<void> PutAll() {
    if (wanted_.empty()) return {};
    const std::uint64_t largest = std::ranges::max_element(wanted_, {}, &Wanted::bytes)->bytes;
    if (largest > snapshot::kMaxPieceBytes) {
      return Error{ErrorCode::kOutOfRange, reader_.name() + ": a block of " + std::to_string(largest) + " bytes, at most " +
                                               std::to_string(snapshot::kMaxPieceBytes) + " are read"};
    }
    std::array<Piece, 2> pieces;
    for (Piece& piece : pieces) {
      auto memory = session_.Allocate(std::max<std::size_t>(kPieceBytes, largest), "a piece of a snapshot");
      if (!memory) return memory.error();
      piece.memory = *std::move(memory);
    }
    std::size_t next = 0;
    for (std::size_t turn = 0; next < wanted_.size(); ++turn) {
      Piece& piece = pieces[turn % pieces.size()];
      if (auto done = Finish(piece); !done) return done;
      piece.used = 0;
      piece.blocks.clear();
      for (; next < wanted_.size() && piece.blocks.size() < wire::MAX_BATCH &&
             piece.used + wanted_[next].bytes <= piece.memory.bytes();
           ++next) {
        if (auto read = Read(wanted_[next], piece); !read) return read;
      }
      if (auto sent = Send(piece); !sent) return sent;
      if (progress_ && !progress_(done_bytes_, all_bytes_)) return Error{ErrorCode::kUnavailable, "restore: cancelled"};
    }
    for (Piece& piece : pieces) {
      if (auto done = Finish(piece); !done) return done;
    }
    if (progress_) progress_(all_bytes_, all_bytes_);
    return {};
  }

  Result<void> Read(const Wanted& wanted, Piece& piece) {
    const std::span<std::byte> room(piece.memory.data(), piece.memory.bytes());
    piece.blocks.emplace_back(&wanted, piece.used);
    if (auto read = reader_.ReadCodes(*wanted.store, wanted.block, room.subspan(piece.used)); !read) return read;
    piece.used += wanted.store->bytes[wanted.block];
    for (std::size_t i = 0; i < wanted.parts; ++i) {
      const std::size_t part = wanted.first_part + i;
      if (auto read = reader_.ReadPart(*wanted.store, part, room.subspan(piece.used)); !read) return read;
      piece.used += wanted.store->parts[part].bytes;
    }
    return {};
  }

  void Place(const Piece& piece, std::size_t begin, std::uint64_t bytes, wire::Range::Builder to) {
    to.setArena(session_.arena_id());
    to.setOffset(*session_.ArenaOffset(piece.memory.data() + begin, bytes));
    to.setBytes(bytes);
  }

  Result<void> Send(Piece& piece) {
    auto request = restore_.putRequest();
    auto list = request.initPayloads(static_cast<unsigned>(piece.blocks.size()));
    for (unsigned i = 0; i < piece.blocks.size(); ++i) {
      auto [wanted, at] = piece.blocks[i];
      list[i].setBlock(wanted->number);
      Place(piece, at, wanted->store->bytes[wanted->block], list[i].initCodes());
      list[i].setCodesChecksum(wanted->store->checksums[wanted->block]);
      at += wanted->store->bytes[wanted->block];
      for (std::size_t p = 0; p < wanted->parts; ++p) {
        const snapshot::PartRow& part = wanted->store->parts[wanted->first_part + p];
        if (part.kind == static_cast<std::uint64_t>(protocol::BlockKind::kState)) {
          Place(piece, at, part.bytes, list[i].initState());
          list[i].setStateChecksum(part.checksum);
        } else {
          Place(piece, at, part.bytes, list[i].initSinks());
          list[i].setSinksChecksum(part.checksum);
        }
        at += part.bytes;
      }
    }
    auto call = session_.connection().Send(request, kOperation);
    if (!call) return call.error();
    piece.call = *std::move(call);
    session_.connection().Push();  // the next piece is read while this one is copied
    return {};
  }

  Result<void> Finish(Piece& piece) {
    if (piece.call.get() == nullptr) return {};
    auto answer = session_.connection().Wait(*piece.call, kOperation);
    if (!answer) return answer.error();
    piece.call = nullptr;
    done_bytes_ += piece.used;
    auto copied = wire::ReadStatus(*answer);
    if (!copied) return Error{copied.error().code, reader_.name() + ": " + copied.error().message};
    return {};
  }

  Session& session_;
  const snapshot::SnapshotReader& reader_;
  const SnapshotProgress& progress_;
  wire::Restore::Client restore_;
  std::uint64_t offered_ = 0;
  std::vector<Wanted> wanted_;
  std::uint64_t all_bytes_ = 0;
  std::uint64_t done_bytes_ = 0;
};

}  // namespace

Result<RestoreReport> RestoreBlocks(Session& session, const snapshot::SnapshotReader& reader,
                                    std::span<const StoreToRestore> stores, const SnapshotProgress& progress) {
  return Restorer(session, reader, progress).Run(stores);
}

}  // namespace kvant::client
