// Reading a snapshot, which may be damaged or hostile. SNAPSHOT.md has the format.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <kvant/result.h>
#include <kvant/store_spec.h>

#include "protocol/memfd.h"
#include "protocol/segment_layout.h"
#include "protocol/snapshot/index.h"

namespace kvant::snapshot {

/// A store in a file. Spans point into the reader.
struct StoredStore {
  StoreSpec spec;  ///< artifact included
  std::string plan;
  protocol::Digest identity{};
  std::string tenant;  ///< whose it was where it was saved; empty: nobody's
  std::span<const std::uint64_t> positions;
  std::span<const std::int64_t> parents;  ///< each smaller than its own index, or kNoParent
  std::span<const std::uint64_t> checksums;
  std::span<const std::uint64_t> bytes;  ///< of each block's codes
  std::span<const protocol::Digest> chains;
  std::span<const std::uint32_t> tokens;
  std::span<const PartRow> parts;           ///< by block, ascending
  std::vector<std::uint64_t> code_offsets;  ///< of each block, within `codes`
  std::vector<std::uint64_t> part_offsets;  ///< of each part, within `extra`
  std::uint64_t codes_begin = 0;            ///< in the file
  std::uint64_t codes_bytes = 0;
  std::uint64_t extra_begin = 0;
  std::uint64_t extra_bytes = 0;

  [[nodiscard]] std::size_t blocks() const noexcept { return positions.size(); }
  [[nodiscard]] std::span<const std::uint32_t> TokensOf(std::size_t block) const {
    return tokens.subspan(block * spec.block_tokens, spec.block_tokens);
  }
  /// "store NAME, block CHAIN at position N".
  [[nodiscard]] std::string NameOf(std::size_t block) const;
};

/// The file may be of any origin: sizes are checked before anything is allocated for them, what is read into memory is bounded
/// (kMaxIndexBytes), nothing is mapped, so a file that shrinks meanwhile is a read error. Movable. Read* may be called by one
/// thread at a time, which may be another than the one that opened it.
class SnapshotReader {
 public:
  /// Checks everything but payloads: the header, the format's version, the digest over the index, each store's spec, and that
  /// blocks form chains of their tokens. kCorrupt or kVersionMismatch name the path and what is wrong; kSystem (kNotFound for a
  /// missing file) names errno. Whether the plan can be built as it was is for who builds it.
  static Result<SnapshotReader> Open(const std::string& path);
  /// The same of an open file; `name` begins errors.
  static Result<SnapshotReader> Read(protocol::UniqueFd fd, const std::string& name);

  [[nodiscard]] const std::string& name() const noexcept { return name_; }
  [[nodiscard]] std::uint64_t bytes() const noexcept { return bytes_; }
  [[nodiscard]] unsigned version() const noexcept { return version_; }
  [[nodiscard]] const std::string& writer() const noexcept { return writer_; }  ///< as it calls itself: any text
  [[nodiscard]] const std::vector<StoredStore>& stores() const noexcept { return stores_; }

  /// The codes of one block. Their checksum is the caller's to compare. kSystem, or kCorrupt at the file's end.
  Result<void> ReadCodes(const StoredStore& store, std::size_t block, std::span<std::byte> to) const;
  /// Bytes of one part.
  Result<void> ReadPart(const StoredStore& store, std::size_t part, std::span<std::byte> to) const;

 private:
  SnapshotReader(protocol::UniqueFd fd, std::string name) : fd_(std::move(fd)), name_(std::move(name)) {}
  Result<void> ReadAt(std::uint64_t offset, std::span<std::byte> to) const;
  Result<void> ReadIndex();

  protocol::UniqueFd fd_;
  std::string name_;
  std::uint64_t bytes_ = 0;
  unsigned version_ = 0;
  std::string writer_;
  std::vector<std::uint64_t> index_;  // of the file's first bytes, aligned
  std::vector<StoredStore> stores_;
};

}  // namespace kvant::snapshot
