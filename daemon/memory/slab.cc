#include "daemon/memory/slab.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <string>
#include <utility>

#include "daemon/memory/check.h"
#include "protocol/block_format.h"
#include "protocol/system_error.h"

namespace kvant::daemon {
namespace {

using protocol::kPageBytes;

constexpr std::size_t kRecordBytes = 512;  // of the object, its mapping and its place in our tables

std::size_t PageCount(std::uint64_t slot_bytes, std::uint32_t slot_count) {
  return (slot_bytes * slot_count + kPageBytes - 1) / kPageBytes;
}

/// Makes the pages of [begin, begin + bytes) present.
Result<void> PopulatePages(std::byte* begin, std::size_t bytes, std::uint32_t slab) {
  while (::madvise(begin, bytes, MADV_POPULATE_WRITE) != 0) {
    if (errno == EINTR) continue;
    if (errno == EINVAL) break;  // a kernel before 5.14: pages come with the first touch
    return protocol::SystemError("populate " + std::to_string(bytes) + " bytes of slab " + std::to_string(slab), errno);
  }
  return {};
}

}  // namespace

std::size_t Slab::RecordBytes(std::uint64_t slot_bytes, std::uint32_t slot_count) noexcept {
  return kRecordBytes + slot_count * (sizeof(State) + sizeof(std::uint32_t) + sizeof(std::atomic<bool>)) + slot_count / 8 +
         PageCount(slot_bytes, slot_count) * sizeof(std::uint16_t);
}

Result<std::shared_ptr<Slab>> Slab::Create(const Shape& shape, Charge header_charge, Charge record) {
  protocol::SlabHeader header{};
  header.magic = protocol::kSlabMagic;
  header.layout_version = protocol::kSegmentLayoutVersion;
  header.slab_index = shape.index;
  header.slab_bytes = kHeaderBytes + PageCount(shape.slot_bytes, shape.slot_count) * kPageBytes;
  header.slot_bytes = shape.slot_bytes;
  header.slot_count = shape.slot_count;
  header.block_tokens = shape.block_tokens;
  header.identity = shape.identity;
  header.boot_token = shape.boot_token;
  header.owner = shape.owner;

  Result<protocol::UniqueFd> fd = protocol::CreateSealedMemfd("kvant-slab", header.slab_bytes);
  if (!fd) return fd.error();
  Result<protocol::UniqueFd> read_only = protocol::ReopenReadOnly(fd->get());
  if (!read_only) return read_only.error();
  Result<protocol::MappedSegment> segment = protocol::MapWhole(fd->get(), protocol::Access::kReadWrite);
  if (!segment) return segment.error();
  if (Result<void> ready = PopulatePages(segment->data(), kHeaderBytes, shape.index); !ready) return ready.error();
  std::memcpy(segment->data(), &header, sizeof header);
  // Private constructor: make_shared cannot reach it.
  return std::shared_ptr<Slab>(
      new Slab(header, std::move(*read_only), std::move(*segment), std::move(header_charge), std::move(record)));
}

Slab::Slab(const protocol::SlabHeader& header, protocol::UniqueFd read_only_fd, protocol::MappedSegment segment, Charge charge,
           Charge record)
    : header_(header),
      read_only_fd_(std::move(read_only_fd)),
      segment_(std::move(segment)),
      charge_(std::move(charge)),
      record_(std::move(record)),
      states_(header.slot_count),
      missing_pages_(header.slot_count),
      holders_(PageCount(header.slot_bytes, header.slot_count)),
      populating_(header.slot_count),
      present_(std::make_unique<std::atomic<bool>[]>(header.slot_count)) {}

Result<std::shared_ptr<Slab>> Slab::Adopt(int fd, const protocol::SlabHeader& header, std::uint64_t boot_token,
                                          Charge header_charge, Charge record) {
  const std::string path = "/proc/self/fd/" + std::to_string(fd);
  const protocol::UniqueFd writable(::open(path.c_str(), O_RDWR | O_CLOEXEC));
  if (!writable.valid()) return protocol::SystemError("adopt slab " + std::to_string(header.slab_index), errno);
  Result<protocol::UniqueFd> read_only = protocol::ReopenReadOnly(writable.get());
  if (!read_only) return read_only.error();
  Result<protocol::MappedSegment> segment = protocol::MapWhole(writable.get(), protocol::Access::kReadWrite);
  if (!segment) return segment.error();
  protocol::SlabHeader ours = header;
  ours.boot_token = boot_token;
  // Before any slot is written: whoever still reads here under the old token finds it gone afterwards, and so its result.
  auto* const token = &reinterpret_cast<protocol::SlabHeader*>(segment->data())->boot_token;
  std::atomic_ref<std::uint64_t>(*token).store(boot_token, std::memory_order_seq_cst);
  std::shared_ptr<Slab> slab(
      new Slab(ours, std::move(*read_only), std::move(*segment), std::move(header_charge), std::move(record)));
  slab->NoteShared();  // there may be pages that no slot of ours holds
  return slab;
}

std::vector<Slab::PresentSlot> Slab::PresentSlots() const {
  std::vector<PresentSlot> slots;
  for (off_t data = kHeaderBytes; (data = ::lseek(read_only_fd_.get(), data, SEEK_DATA)) >= 0;) {
    const off_t hole = ::lseek(read_only_fd_.get(), data, SEEK_HOLE);
    if (hole <= data) break;
    const auto begin = static_cast<std::uint64_t>(std::max<off_t>(data, kHeaderBytes)) - kHeaderBytes;
    const auto end = static_cast<std::uint64_t>(std::max<off_t>(hole, kHeaderBytes)) - kHeaderBytes;
    auto slot = static_cast<std::uint32_t>((begin + header_.slot_bytes - 1) / header_.slot_bytes);
    for (; slot * header_.slot_bytes < end && slot < header_.slot_count; ++slot) {
      slots.push_back({slot, std::min(header_.slot_bytes, end - slot * header_.slot_bytes)});
    }
    data = hole;
  }
  return slots;
}

std::size_t Slab::resident_bytes() const noexcept {
  struct stat status {};
  if (!read_only_fd_.valid() || ::fstat(read_only_fd_.get(), &status) != 0) return 0;
  return static_cast<std::size_t>(status.st_blocks) * 512;
}

std::optional<std::uint32_t> Slab::FindFrom(std::uint32_t& lowest, State state) noexcept {
  while (lowest < states_.size() && states_[lowest] != state) ++lowest;
  if (lowest == states_.size()) return std::nullopt;
  return lowest;
}

std::optional<std::uint32_t> Slab::FindWarm() noexcept {
  if (warm_ == 0) return std::nullopt;
  return FindFrom(lowest_warm_, State::kWarm);
}

std::optional<std::uint32_t> Slab::FindCold() noexcept {
  if (used_ + warm_ == header_.slot_count) return std::nullopt;
  return FindFrom(lowest_cold_, State::kCold);
}

Slab::Pages Slab::PagesOf(std::uint32_t slot, std::uint64_t bytes) const noexcept {
  const std::uint64_t begin = slot * header_.slot_bytes;
  return {begin / kPageBytes, (begin + bytes + kPageBytes - 1) / kPageBytes};
}

Slab::Pages Slab::HeldPagesOf(std::uint32_t slot) const noexcept {
  Pages pages = PagesOf(slot, header_.slot_bytes);
  pages.end -= missing_pages_[slot];
  return pages;
}

std::size_t Slab::BytesToWarm(std::uint32_t slot, std::uint64_t bytes_of_slot) const {
  const Pages pages = PagesOf(slot, bytes_of_slot);
  std::size_t bytes = 0;
  for (std::size_t page = pages.begin; page < pages.end; ++page) bytes += holders_[page] == 0 ? kPageBytes : 0;
  return bytes;
}

void Slab::Warm(std::uint32_t slot, Charge charge, std::uint64_t bytes) {
  KVANT_CHECK(states_[slot] == State::kCold && charge.bytes() == BytesToWarm(slot, bytes), slot, charge.bytes());
  const Pages pages = PagesOf(slot, bytes);
  missing_pages_[slot] = static_cast<std::uint32_t>(PagesOf(slot, header_.slot_bytes).end - pages.end);
  for (std::size_t page = pages.begin; page < pages.end; ++page) ++holders_[page];
  charge_.Merge(std::move(charge));
  states_[slot] = State::kWarm;
  ++warm_;
  lowest_warm_ = std::min(lowest_warm_, slot);
}

void Slab::Use(std::uint32_t slot) {
  KVANT_CHECK(states_[slot] == State::kWarm, slot, static_cast<unsigned>(states_[slot]));
  states_[slot] = State::kUsed;
  --warm_;
  ++used_;
}

void Slab::Free(std::uint32_t slot) {
  KVANT_CHECK(states_[slot] == State::kUsed, slot, static_cast<unsigned>(states_[slot]));
  if (present_[slot].load(std::memory_order_acquire)) protocol::ClearSlot(this->slot(slot));
  states_[slot] = State::kWarm;
  --used_;
  ++warm_;
  lowest_warm_ = std::min(lowest_warm_, slot);
}

std::size_t Slab::Cool(std::uint32_t slot) {
  KVANT_CHECK(states_[slot] == State::kWarm && !populating_[slot], slot, static_cast<unsigned>(states_[slot]));
  states_[slot] = State::kCold;
  present_[slot].store(false, std::memory_order_relaxed);
  --warm_;
  lowest_cold_ = std::min(lowest_cold_, slot);
  const std::size_t bytes = LetGo(HeldPagesOf(slot));
  missing_pages_[slot] = 0;
  return bytes;
}

std::size_t Slab::Trim(std::uint32_t slot, std::uint64_t bytes) {
  KVANT_CHECK(states_[slot] == State::kUsed && bytes <= header_.slot_bytes, slot, bytes);
  Pages pages = HeldPagesOf(slot);
  pages.begin = PagesOf(slot, bytes).end;
  if (pages.begin >= pages.end || populating_[slot]) return 0;
  missing_pages_[slot] += static_cast<std::uint32_t>(pages.end - pages.begin);
  return LetGo(pages);
}

/// A slot no longer lies in these pages: gives back those that nothing else holds.
std::size_t Slab::LetGo(Pages pages) {
  for (std::size_t page = pages.begin; page < pages.end; ++page) {
    KVANT_CHECK(holders_[page] != 0, page);
    --holders_[page];
  }
  // Only the first and the last page can be shared with other slots.
  while (pages.begin < pages.end && holders_[pages.begin] != 0) ++pages.begin;
  while (pages.begin < pages.end && holders_[pages.end - 1] != 0) --pages.end;
  const std::size_t bytes = (pages.end - pages.begin) * kPageBytes;
  if (bytes != 0) Punch(pages);
  charge_.GiveBack(bytes);
  return bytes;
}

void Slab::Punch(Pages pages) {
  // A hole in the file: for us and for everybody who maps it. It cannot fail for a shared, writable mapping of whole pages that
  // are not locked.
  const int outcome = ::madvise(segment_->data() + kHeaderBytes + pages.begin * kPageBytes,
                                (pages.end - pages.begin) * kPageBytes, MADV_REMOVE);
  KVANT_CHECK(outcome == 0, errno, pages.begin, pages.end);
}

Result<void> Slab::Populate(std::uint32_t slot) {
  if (present_[slot].load(std::memory_order_acquire)) return {};
  // Two threads may do the same pages: harmless, the second finds them present.
  const Pages pages = HeldPagesOf(slot);
  Result<void> done = PopulatePages(segment_->data() + kHeaderBytes + pages.begin * kPageBytes,
                                    (pages.end - pages.begin) * kPageBytes, header_.slab_index);
  if (done) present_[slot].store(true, std::memory_order_release);
  return done;
}

void Slab::BeginPopulating(std::uint32_t slot) {
  populating_[slot] = true;
  ++populating_slots_;
}

void Slab::EndPopulating(std::uint32_t slot) {
  populating_[slot] = false;
  --populating_slots_;
  if (retiring_ && populating_slots_ == 0) Retire();
}

bool Slab::DropStrayPages() {
  if (!shared_ || resident_bytes() <= held_bytes()) return false;
  for (Pages holes; holes.begin < holders_.size(); holes.begin = holes.end + 1) {
    holes.end = holes.begin;
    while (holes.end < holders_.size() && holders_[holes.end] == 0) ++holes.end;
    if (holes.end != holes.begin) Punch(holes);
  }
  return true;
}

void Slab::Retire() {
  retiring_ = true;
  if (populating_slots_ != 0 || !segment_) return;
  const int outcome = ::madvise(segment_->data(), bytes(), MADV_REMOVE);
  KVANT_CHECK(outcome == 0, errno, bytes());
  segment_.reset();
  read_only_fd_ = protocol::UniqueFd();
  charge_ = Charge();
}

}  // namespace kvant::daemon
