#include "protocol/snapshot/reader.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <cstring>
#include <optional>
#include <utility>

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "protocol/block_format.h"
#include "protocol/digest.h"
#include "protocol/spec_message.h"
#include "protocol/system_error.h"

namespace kvant::snapshot {
namespace {

using protocol::Digest;
using quantizers::SafetensorsHeader;
using quantizers::TensorPlace;
using quantizers::TensorType;

constexpr std::size_t kMaxStores = 4096;

std::optional<unsigned> NumberOf(const SafetensorsHeader& header, std::string_view key) {
  const auto found = header.metadata().find(key);
  unsigned number = 0;
  if (found == header.metadata().end()) return std::nullopt;
  const char* const end = found->second.data() + found->second.size();
  const auto parsed = std::from_chars(found->second.data(), end, number);
  if (parsed.ec != std::errc{} || parsed.ptr != end) return std::nullopt;
  return number;
}

/// The tables of one store, found by name and checked against each other.
class StoreReader {
 public:
  StoreReader(std::string file, std::size_t store, const SafetensorsHeader& header, std::span<const std::byte> index)
      : file_(std::move(file)), store_(store), header_(header), index_(index) {}

  Result<StoredStore> Read() {
    StoredStore store;
    const auto spec = Bytes("spec"), plan = Bytes("plan"), artifact = Bytes("artifact"), identity = Bytes("identity");
    const auto tenant = Bytes("tenant");
    store.positions = Column<std::uint64_t>("positions", TensorType::kU64, {});
    const std::size_t blocks = store.positions.size();
    store.parents = Column<std::int64_t>("parents", TensorType::kI64, {});
    store.checksums = Column<std::uint64_t>("checksums", TensorType::kU64, {});
    store.bytes = Column<std::uint64_t>("bytes", TensorType::kU64, {});
    store.parts = Column<PartRow>("parts", TensorType::kU64, {kPartColumns});
    store.chains = Column<Digest>("chains", TensorType::kU8, {sizeof(Digest)});
    if (fault_) return *fault_;
    auto read = wire::ReadSpecMessage(spec, file_ + ": " + TensorName(store_, "spec"));
    if (!read) return read.error();
    store.spec = *std::move(read);
    store.spec.plan.artifact.assign(artifact.begin(), artifact.end());
    store.plan.assign(reinterpret_cast<const char*>(plan.data()), plan.size());
    store.tenant.assign(reinterpret_cast<const char*>(tenant.data()), tenant.size());
    if (identity.size() != store.identity.size()) return Fault("identity", "it is no digest");
    std::memcpy(store.identity.data(), identity.data(), identity.size());
    const std::uint32_t block_tokens = store.spec.block_tokens;
    if (block_tokens == 0) return Fault("spec", "blocks of no tokens");
    store.tokens = Column<std::uint32_t>("tokens", TensorType::kU32, {block_tokens});
    const TensorPlace* codes = Find("codes", TensorType::kU8);
    const TensorPlace* extra = Find("extra", TensorType::kU8);
    if (fault_) return *fault_;
    if (store.parents.size() != blocks || store.checksums.size() != blocks || store.bytes.size() != blocks ||
        store.chains.size() != blocks || store.tokens.size() / block_tokens != blocks) {
      return Fault("positions", "its tables have different numbers of blocks");
    }
    store.codes_begin = codes->begin;
    store.codes_bytes = codes->end - codes->begin;
    store.extra_begin = extra->begin;
    store.extra_bytes = extra->end - extra->begin;
    if (auto ok = CheckChains(store); !ok) return ok.error();
    if (auto ok = CheckCodes(store); !ok) return ok.error();
    if (auto ok = CheckParts(store); !ok) return ok.error();
    return store;
  }

 private:
  Error Fault(std::string_view column, const std::string& why) const {
    return {ErrorCode::kCorrupt, file_ + ": " + TensorName(store_, column) + ": " + why};
  }

  const TensorPlace* Find(std::string_view column, TensorType type) {
    const TensorPlace* place = header_.Find(TensorName(store_, column));
    if (place != nullptr && place->type == type && !place->shape.empty()) return place;
    if (!fault_) fault_ = Fault(column, place == nullptr ? "it is missing" : "its type or shape is not the format's");
    return nullptr;
  }

  /// A table of the index: rows of `row` numbers each, an Element a row, or a number if `row` is the same for all.
  template <typename Element>
  std::span<const Element> Column(std::string_view column, TensorType type, std::vector<std::size_t> row) {
    const TensorPlace* place = Find(column, type);
    if (place == nullptr) return {};
    if (!std::ranges::equal(std::span(place->shape).subspan(1), row)) {
      if (!fault_) fault_ = Fault(column, "its shape is " + quantizers::ShapeText(place->shape));
      return {};
    }
    if (place->elements == 0) return {};
    if (place->end > index_.size() || place->begin % alignof(Element) != 0) {
      if (!fault_) fault_ = Fault(column, "it lies behind payloads, or is not aligned");
      return {};
    }
    return {reinterpret_cast<const Element*>(index_.data() + place->begin), (place->end - place->begin) / sizeof(Element)};
  }
  std::span<const std::byte> Bytes(std::string_view column) { return Column<std::byte>(column, TensorType::kU8, {}); }

  Result<void> CheckChains(const StoredStore& store) const {
    for (std::size_t i = 0; i < store.blocks(); ++i) {
      const std::int64_t parent = store.parents[i];
      if (parent != kNoParent && (parent < 0 || static_cast<std::size_t>(parent) >= i)) {
        return Fault("parents", "block " + std::to_string(i) + " follows block " + std::to_string(parent));
      }
      const auto at = static_cast<std::size_t>(parent);
      const bool first = parent == kNoParent;
      const std::uint64_t position = first ? 0 : store.positions[at] + store.spec.block_tokens;
      const Digest& before = first ? store.identity : store.chains[at];
      if (store.positions[i] != position || store.chains[i] != protocol::ChainDigest(before, store.TokensOf(i))) {
        return Fault("chains", "block " + std::to_string(i) + " does not follow from its parent and its tokens");
      }
    }
    return {};
  }

  Result<void> CheckCodes(StoredStore& store) const {
    std::uint64_t offset = 0;
    for (std::size_t i = 0; i < store.blocks(); ++i) {
      if (store.bytes[i] == 0 || store.bytes[i] > store.codes_bytes - offset) {
        return Fault("bytes", "block " + std::to_string(i) + " has " + std::to_string(store.bytes[i]) + " bytes of codes, " +
                                  std::to_string(store.codes_bytes - offset) + " are left");
      }
      store.code_offsets.push_back(offset);
      offset += store.bytes[i];
    }
    if (offset != store.codes_bytes) return Fault("codes", "it has bytes that belong to no block");
    return {};
  }

  Result<void> CheckParts(StoredStore& store) const {
    using protocol::BlockKind;
    std::uint64_t offset = 0;
    for (std::size_t i = 0; i < store.parts.size(); ++i) {
      const PartRow& part = store.parts[i];
      const auto kind = static_cast<BlockKind>(part.kind);
      const bool known = part.kind == static_cast<std::uint64_t>(BlockKind::kSinks) ||
                         part.kind == static_cast<std::uint64_t>(BlockKind::kState);
      const bool ordered = i == 0 || store.parts[i - 1].block < part.block ||
                           (store.parts[i - 1].block == part.block && store.parts[i - 1].kind < part.kind);
      if (!known || !ordered || part.block >= store.blocks() || part.bytes == 0 || part.bytes > store.extra_bytes - offset ||
          (kind == BlockKind::kSinks && store.positions[part.block] != 0) ||
          part.element_type > static_cast<std::uint64_t>(ElementType::kBF16)) {
        return Fault("parts", "row " + std::to_string(i) + " is none of this store's blocks");
      }
      store.part_offsets.push_back(offset);
      offset += part.bytes;
    }
    if (offset != store.extra_bytes) return Fault("extra", "it has bytes that belong to no block");
    return {};
  }

  const std::string file_;
  const std::size_t store_;
  const SafetensorsHeader& header_;
  const std::span<const std::byte> index_;
  std::optional<Error> fault_;  // the first
};

}  // namespace

std::string StoredStore::NameOf(std::size_t block) const {
  return "store " + spec.name + ", block " + protocol::DigestHex(chains[block]) + " at position " +
         std::to_string(positions[block]);
}

Result<SnapshotReader> SnapshotReader::Open(const std::string& path) {
  // Never waits: what looks like a file may be a pipe.
  protocol::UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (!fd.valid()) {
    const int error = errno;
    Error failed = protocol::SystemError("read snapshot " + path, error);
    if (error == ENOENT) failed.code = ErrorCode::kNotFound;
    return failed;
  }
  return Read(std::move(fd), path);
}

Result<SnapshotReader> SnapshotReader::Read(protocol::UniqueFd fd, const std::string& name) {
  SnapshotReader reader(std::move(fd), name);
  if (auto read = reader.ReadIndex(); !read) return read.error();
  return reader;
}

Result<void> SnapshotReader::ReadAt(std::uint64_t offset, std::span<std::byte> to) const {
  while (!to.empty()) {
    const ssize_t got = ::pread(fd_.get(), to.data(), to.size(), static_cast<off_t>(offset));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return protocol::SystemError("read snapshot " + name_ + " at byte " + std::to_string(offset), errno);
    if (got == 0) return Error{ErrorCode::kCorrupt, name_ + ": it ends at byte " + std::to_string(offset)};
    to = to.subspan(static_cast<std::size_t>(got));
    offset += static_cast<std::uint64_t>(got);
  }
  return {};
}

Result<void> SnapshotReader::ReadIndex() {
  const auto corrupt = [&](const std::string& why) { return Error{ErrorCode::kCorrupt, name_ + ": " + why}; };
  struct stat status {};
  if (::fstat(fd_.get(), &status) != 0) return protocol::SystemError("read snapshot " + name_ + ": fstat", errno);
  if (!S_ISREG(status.st_mode)) return Error{ErrorCode::kInvalidArgument, "read snapshot " + name_ + ": it is no file"};
  bytes_ = static_cast<std::uint64_t>(status.st_size);

  std::array<std::byte, SafetensorsHeader::kLengthBytes> length{};
  if (bytes_ < length.size()) return corrupt("shorter than its 8-byte header length");
  if (auto read = ReadAt(0, length); !read) return read;
  auto head_bytes = SafetensorsHeader::Bytes(length, bytes_, name_);
  if (!head_bytes) return head_bytes.error();
  std::vector<std::byte> head(*head_bytes);
  if (auto read = ReadAt(0, head); !read) return read;
  auto header = SafetensorsHeader::Read(head, bytes_, name_);
  if (!header) return header.error();
  const auto format = header->metadata().find("format");
  if (format == header->metadata().end() || format->second != kFormatName) return corrupt("it is no snapshot of kvant's");
  const auto version = NumberOf(*header, "version"), reader = NumberOf(*header, "minimum_reader");
  const auto stores = NumberOf(*header, "stores");
  if (!version || !reader || !stores || *stores > kMaxStores) return corrupt("its metadata has no version or no stores");
  if (*reader > kFormatVersion) {
    return Error{ErrorCode::kVersionMismatch, name_ + ": it wants a reader of snapshot format " + std::to_string(*reader) +
                                                  " or later, this one reads up to " + std::to_string(kFormatVersion)};
  }
  version_ = *version;
  if (const auto writer = header->metadata().find("writer"); writer != header->metadata().end()) writer_ = writer->second;

  // The index is all that stands before the first payload.
  const TensorPlace* digest = header->Find("digest");
  if (digest == nullptr || digest->type != TensorType::kU8 || digest->elements != sizeof(Digest) || digest->end != bytes_) {
    return corrupt("it does not end with its digest");
  }
  std::uint64_t index_bytes = digest->begin;
  for (std::size_t i = 0; i < *stores; ++i) {
    for (const std::string_view column : {"codes", "extra"}) {
      const TensorPlace* place = header->Find(TensorName(i, column));
      if (place == nullptr) return corrupt(TensorName(i, column) + ": it is missing");
      index_bytes = std::min(index_bytes, place->begin);
    }
  }
  if (index_bytes < head.size() || index_bytes > kMaxIndexBytes) {
    return Error{ErrorCode::kOutOfRange, name_ + ": an index of " + std::to_string(index_bytes) + " bytes, at most " +
                                             std::to_string(kMaxIndexBytes) + " are read"};
  }
  index_.resize((index_bytes + 7) / 8);
  const auto index = std::as_writable_bytes(std::span(index_)).first(index_bytes);
  if (auto read = ReadAt(0, index); !read) return read;
  Digest expected{};
  if (auto read = ReadAt(digest->begin, std::as_writable_bytes(std::span(expected))); !read) return read;
  if (protocol::DigestOf(std::span<const std::byte>(index)) != expected) return corrupt("its index does not match its digest");
  for (std::size_t i = 0; i < *stores; ++i) {
    auto store = StoreReader(name_, i, *header, index).Read();
    if (!store) return store.error();
    stores_.push_back(*std::move(store));
  }
  return {};
}

Result<void> SnapshotReader::ReadCodes(const StoredStore& store, std::size_t block, std::span<std::byte> to) const {
  return ReadAt(store.codes_begin + store.code_offsets[block], to.first(store.bytes[block]));
}

Result<void> SnapshotReader::ReadPart(const StoredStore& store, std::size_t part, std::span<std::byte> to) const {
  return ReadAt(store.extra_begin + store.part_offsets[part], to.first(store.parts[part].bytes));
}

}  // namespace kvant::snapshot
